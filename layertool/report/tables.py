"""Tables of numbers that are not curves: tests of SpEAT, lexical metrics, and rows that no figure shows."""

from __future__ import annotations

import math

import pandas as pd

from layertool.figures.table import tidy
from layertool.report.choosing import EFFECT, basic, own_of_variant, p_text, pooling_of, stars
from layertool.report.spec import Table, against_chance, interval, number
from layertool.result_rows import (
    EVERYTHING,
    IMPOSSIBLE,
    LIKELIHOOD,
    SURPLUS,
    TAU,
    TOP_1,
    TOP_N,
    UNFINISHED,
    is_stimulus,
    metrics_of,
)

MOST_LINES = 2000  # of a table on the page; the saved rows have all
METRICS = (LIKELIHOOD, TOP_1, TOP_N, TAU, SURPLUS, IMPOSSIBLE, UNFINISHED)
CORRECTED = {"p": "p", "p (Benjamini-Hochberg)": "p, Benjamini and Hochberg", "p (Bonferroni)": "p, Bonferroni"}
STARS = "* p < .05, ** also after Benjamini and Hochberg, *** also after Bonferroni"


def bias(rows: pd.DataFrame) -> list[Table]:
    """Every test of SpEAT with its d, interval and p: a table for each aggregation over layers."""
    rows = tidy(rows)
    rows["measure"] = metrics_of(rows)
    rows = rows[rows["measure"].isin([EFFECT, *CORRECTED])]
    made = []
    for pooling, part in rows.assign(pooling=pooling_of(rows)).groupby("pooling", sort=False):
        lines = []
        context = part["variant"].str.split(", ").str[1:3].str.join(", ")
        for (target, curve, layer, _), mine in part.groupby(["target", "curve", "layer", context], sort=False):
            value = dict(zip(mine["measure"], mine["value"], strict=True))
            if EFFECT not in value or len(value) < len(mine):
                lines += [[target, curve, layer, number(row["value"]), row["variant"]] for _, row in mine.iterrows()]
                continue
            d = mine[mine["measure"] == EFFECT].iloc[0]
            count = 0
            if all(name in value for name in CORRECTED):
                corrected = not mine["variant"].str.endswith(", 1 test").any()
                plain_p, mild, strict = (value[name] for name in CORRECTED)
                count = stars(plain_p, mild, strict, corrected)
            p = [p_text(value[name]) if name in value and not math.isnan(value[name]) else "" for name in CORRECTED]
            n = "" if pd.isna(d["n"]) else number(float(d["n"]))
            lines.append([target, curve, layer, number(d["value"], 3), interval(d["ci_low"], d["ci_high"]), *p, "*" * count, n])  # fmt: skip
        whole = [line for line in lines if len(line) > 5]
        heads = ["target, attribute", "model", "layers", "d", "95 % interval", *CORRECTED.values(), "significance", "n"]
        if whole:
            made.append(Table(f"SpEAT, {pooling} ({STARS})", heads, whole, n_heads=3))
        if len(whole) < len(lines):
            heads = ["target, attribute", "model", "layers", "value", "variant"]
            rest = [line for line in lines if len(line) == 5]
            made.append(Table(f"SpEAT, {pooling}: numbers of several tests of one name", heads, rest, n_heads=3))
    return made


def lexical_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over stimuli, with ``metric``, and the model named with what is its own of the variant."""
    rows = rows[~is_stimulus(rows)]
    rows = rows.assign(metric=metrics_of(rows), how=rows["variant"].str.partition(", ")[2].map(basic))
    rows = rows[rows["metric"].isin(METRICS)]
    several = rows.groupby("model")["revision"].transform("nunique") > 1  # models of one name: told apart by weights
    rows["model"] = rows["model"].where(~several, rows["model"] + " " + rows["revision"].astype(str).str[:8])
    own = {
        (model, how): own_of_variant(how, list(dict.fromkeys(part["how"])))
        for model, part in rows.groupby("model", sort=False)
        for how in part["how"].unique()
    }  # fmt: skip
    names = [own[pair] for pair in zip(rows["model"], rows["how"], strict=True)]
    rows["model"] = [f"{model} ({name})" if name else model for model, name in zip(rows["model"], names, strict=True)]
    return rows


def lexical(rows: pd.DataFrame) -> list[Table]:
    """Models and maskers down, metrics across, each with its interval."""
    means = lexical_means(rows)
    if means.empty:
        return []
    metrics = [name for name in METRICS if (means["metric"] == name).any()]
    lines = []
    for (target, model), mine in means.groupby(["target", "model"], sort=False):
        cells = ["; ".join(_cell(row) for _, row in mine[mine["metric"] == name].iterrows()) for name in metrics]
        lines.append([target, model, number(float(mine["n"].max())), *cells])
    made = [Table("Means over stimuli [95 % interval]", ["stimuli", "model", "n", *metrics], lines, n_heads=2)]
    lucky = means[means["chance"].notna() & (means["target"] == EVERYTHING)].drop_duplicates(["metric", "chance"])
    if len(lucky):
        chance = [[row["metric"], row["model"], number(row["chance"])] for _, row in lucky.iterrows()]
        made.append(Table("Chance: a guess among the vocabulary", ["metric", "model", "chance"], chance))
    return made


def _cell(row: pd.Series) -> str:
    between = interval(row["ci_low"], row["ci_high"])
    return number(row["value"]) + (f" [{between}]" if between else "")


def plain(rows: pd.DataFrame, caption: str) -> Table:
    """Rows as they are, as many as a page holds."""
    rows = tidy(rows)
    heads = [
        "variant",
        "target",
        "model",
        "corpus",
        "unit",
        "layer",
        "value",
        "95 % interval",
        "chance",
        "against chance",
        "n",
    ]
    lines = [
        [row["variant"], row["target"], row["curve"], row["corpus"], row["unit"], row["layer"], number(row["value"]),
         interval(row["ci_low"], row["ci_high"]), number(row["chance"]), against_chance(row), "" if pd.isna(row["n"]) else number(float(row["n"]))]
        for _, row in rows.head(MOST_LINES).iterrows()
    ]  # fmt: skip
    more = f" (the first {MOST_LINES} of {len(rows)}; the saved rows have all)" if len(rows) > MOST_LINES else ""
    return Table(caption + more, heads, lines, n_heads=2)
