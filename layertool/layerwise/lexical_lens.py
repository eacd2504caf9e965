"""Where in Whisper do confusions arise? Words read from every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layertool.declared import option
from layertool.layers import select
from layertool.layerwise.lexical import Ranked

if TYPE_CHECKING:
    from layertool.analysis.lexical.scorer import WhisperScorer


@dataclass(frozen=True, kw_only=True)
class LexicalLens(Ranked):
    """Where in the network do human-like confusions arise? Words read from every layer.

    An encoder layer goes through the encoder's last norm to the unchanged decoder; a decoder layer through the
    decoder's last norm to the output. The last one of each is the model itself.

    \b
    Examples:
      layertool lexical lens openai/whisper-small eccc --split test -o lens.csv
    """

    layers: str = option("all", "Encoder T0 to TL and final, decoder D0 to DM, e.g. T0-T4,D4.", metavar="LAYERS")
    top_words: bool = option(True, "Top words of every layer, too.", decides=False)
    most_prefixes: int = option(
        200,
        "End the search for one stimulus after so many, and say so: what knows nothing opens all.",
        low=1,
        decides=False,
    )

    name = command = "lexical lens"
    items = False

    @property
    def searched(self) -> int:
        return self.most_prefixes if self.top_words else 0

    def layers_of(self, scorer: WhisperScorer, model: str) -> list[str]:
        return scorer.layers if self.layers == "all" else select(self.layers, scorer.layers, model)

    def of_layer(self, layer: str) -> dict[str, Any]:
        return {"read_by": "the output layer" if layer.startswith("D") else "the decoder"}
