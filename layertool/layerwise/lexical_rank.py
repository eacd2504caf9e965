"""Which words does a model hear?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from layertool.layerwise.lexical import Ranked

if TYPE_CHECKING:
    from layertool.layerwise.listener import Outcome


@dataclass(frozen=True, kw_only=True)
class LexicalRank(Ranked):
    """Which words does the model hear? Exact top words of a lexicon against the listeners' responses.

    Top-1 accuracy, top-n coverage (n: a stimulus's different responses), Kendall's tau-b, log-likelihood.
    Homophones match, by CMUdict.

    \b
    Examples:
      layertool lexical rank openai/whisper-small eccc --split test -o ranks.csv
    """

    command = "lexical rank"
    tables: ClassVar = {"words": "Write the ranked words, too (.csv, .parquet)."}

    def lines(self, model: str, outcome: Outcome) -> Iterator[dict[str, Any]]:
        """The ranked words."""
        for k, word in enumerate(outcome.top or (), 1):
            yield {"model": model, "utterance": outcome.stimulus.utterance, "rank": k, "word": word}
