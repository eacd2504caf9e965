"""The analyses of stores and of Whisper, one file each; see ``analysis.Analysis``.

Commands and Python functions are made from this list, whose classes are imported only when they are called.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

ANALYSES = {  # the words of the command: the module and class that declare it
    "cca": "cca:CCA",
    "cka": "cka:CKA",
    "mi": "mi:MI",
    "probe discrimination": "discrimination:Discrimination",
    "probe similarity": "similarity:Similarity",
    "probe segmentation": "segmentation:Segmentation",
    "probe sentences": "sentences:Sentences",
    "probe neighbours": "neighbours:Neighbours",
    "speat": "speat:SpEAT",
    "lexical score": "lexical_score:LexicalScore",
    "lexical rank": "lexical_rank:LexicalRank",
    "lexical baselines": "lexical_baselines:LexicalBaselines",
    "lexical lens": "lexical_lens:LexicalLens",
}


def declared(command: str) -> Any:
    """The declaration of the analysis that a command names."""
    module, name = ANALYSES[command].split(":")
    return getattr(import_module(f"layertool.layerwise.{module}"), name)
