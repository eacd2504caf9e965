"""What of a table of results becomes which figure: shared by the commands' figures and the report."""

from __future__ import annotations

import pandas as pd

from layertool.layerwise.layer_sets import OVER
from layertool.result_rows import metrics_of

SIGNIFICANT = 0.05
DRAWN_METRICS = ("F1", "R-value", "token F1")  # of segmentation, in a figure
EFFECT = "SpEAT d"


def drawn(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that make a figure: of word similarity the means, of segmentation the main metrics; of others all."""
    from layertool.feed import segmentation as words
    from layertool.feed import word_similarity as pairs

    means = table["target"].isin([pairs.MACRO, pairs.MICRO])
    main = metrics_of(table).isin(DRAWN_METRICS)
    kept = ((table["analysis"] != pairs.ANALYSIS) | means) & ((table["analysis"] != words.ANALYSIS) | main)
    # what a person has chosen is drawn, be it another
    left_out = ~kept & (table["variant"] != pairs.COVERAGE) & ~table["variant"].str.startswith(words.CHOSEN)
    gone = set(table["analysis"]) - set(table["analysis"][kept])
    return table[kept | (left_out & table["analysis"].isin(gone))]


def layer_by_layer(table: pd.DataFrame) -> pd.Series:
    """Which rows of SpEAT are of one layer, rather than of several put together."""
    return table["variant"].str.contains(", one layer, ", regex=False)


def pooling_of(table: pd.DataFrame) -> pd.Series:
    """What was made of the layers in rows of SpEAT, whichever they are: the second part of every variant."""
    return table["variant"].str.split(", ").str[1].str.split(OVER).str[0]


def one_of_each_model(effects: pd.DataFrame) -> pd.DataFrame:
    """One d of SpEAT for each model and target, over layers: models of any depth in one panel.

    Which layers were put together is said in the rows.
    """
    together = effects[~layer_by_layer(effects)]
    first = together[pooling_of(together) == pooling_of(together).iloc[0]] if len(together) else together
    return first.assign(variant=[f"{EFFECT}, {kind}" for kind in pooling_of(first)])


def stars(p: float, benjamini_hochberg: float, bonferroni: float, corrected: bool) -> int:
    """How many of the three say that a test of SpEAT is significant; one at most where nothing was corrected."""
    count = sum(number < SIGNIFICANT for number in (p, benjamini_hochberg, bonferroni))
    return count if corrected else min(count, 1)


def p_text(value: float) -> str:
    """p for a table: 0.012, 3e-05."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}".replace("e-0", "e-")


def basic(how: str) -> str:
    """What all lexical metrics of one model and variant have in common, of a variant without its metric."""
    return how.partition(", among ")[0].partition(", search of up to")[0].partition(", search ended after")[0]


def own_of_variant(how: str, others: list[str]) -> str:
    """The parts of one variant that not all of the ``others`` have."""
    parts = [other.split(", ") for other in others]
    return ", ".join(part for part in how.split(", ") if not all(part in other for other in parts))
