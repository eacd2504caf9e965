"""The analyses of stores and of Whisper, one file each; see ``analysis.Analysis``.

Commands and Python functions are made from this list, whose classes are imported only when they are called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layertool.layerwise.analysis import Metric

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
    "lexical score": "lexical:LexicalScore",
    "lexical rank": "lexical:LexicalRank",
    "lexical baselines": "lexical_baselines:LexicalBaselines",
    "lexical lens": "lexical:LexicalLens",
}


def declared(command: str) -> Any:
    """The declaration of the analysis that a command names."""
    module, name = ANALYSES[command].split(":")
    return getattr(import_module(f"layertool.layerwise.{module}"), name)


DECLARED: dict[
    str, Any
] = {}  # name of an analysis in rows: what declares it, of all that were imported, a user's own too


def of_rows(analysis: str) -> Any:
    """The declaration that makes the rows of an analysis; None for one that nobody declared.

    What has run is known; the others are imported only for what is not.
    """
    if analysis not in DECLARED:
        for command in ANALYSES:
            declared(command)
    return DECLARED.get(analysis)


def measure(analysis: str, metric: str) -> Metric:
    """What is known of a metric, of rows that may be of anybody: where nothing is, its name is its label."""
    from layertool.layerwise.analysis import Metric

    known = getattr(of_rows(analysis), "metrics", ())
    return next((one for one in known if one.name == metric), Metric(metric, metric, better="", is_share=True))
