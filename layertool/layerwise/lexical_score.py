"""How likely does a model think what listeners said?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from layertool.layerwise.lexical import Lexical

if TYPE_CHECKING:
    from layertool.layerwise.listener import Outcome


@dataclass(frozen=True, kw_only=True)
class LexicalScore(Lexical):
    """How likely is what the listeners said? Log-likelihood of their responses, and Kendall's tau-b.

    \b
    Examples:
      layertool lexical score openai/whisper-small eccc -o zero_shot.csv
      layertool lexical score openai/whisper-small tuned eccc --split test
    """

    command = "lexical score"
    tables: ClassVar = {"responses": "Write the log-probability of each response, too (.csv, .parquet)."}

    def lines(self, model: str, outcome: Outcome) -> Iterator[dict[str, Any]]:
        """How often each response was given, and what the model thinks of it."""
        one = outcome.stimulus
        of = {"model": model, "utterance": one.utterance, "masker": one.group, "target": one.target}
        for word, k, log_p in zip(one.responses, one.counts, outcome.log_p, strict=True):
            yield of | {"response": word, "count": k, "log_p": float(log_p)}
