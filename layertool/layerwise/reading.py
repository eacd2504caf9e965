"""How a model reads words: options of what hears listeners' stimuli, and of what learns from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from layertool.declared import Declared, option

if TYPE_CHECKING:
    from layertool.analysis.lexical.scorer import Variant


@dataclass(frozen=True, kw_only=True)
class Reading(Declared):
    """How a model reads words: what decides their probabilities."""

    end_token: bool = option(
        True,
        "Whether P(word) has the probability that the word ends there.",
    )
    surface: Literal["lower", "capitalised", "sentence", "marginal"] = option(
        "lower", "How words are written: drink, Drink, Drink., or the sum of the three."
    )
    timestamps: bool = option(False, "Leave <|notimestamps|> out of the prefix.")
    encoder_window: Literal["30s", "clip", "exact"] = option(
        "30s", "What encoder and decoder see: 30 s both; the encoder only; or both only the clip (fast, other numbers)."
    )
    language: str | None = option(None, "Language in the prefix of multilingual models.", usual="en")

    @property
    def variant(self) -> Variant:
        """How words are read."""
        from layertool.analysis.lexical.scorer import Variant

        return Variant(self.end_token, self.surface, self.timestamps, self.encoder_window, self.language)
