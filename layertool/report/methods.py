"""The paragraph of methods: what was measured and how, as analyses are declared and as rows say in their settings."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence

import pandas as pd

from layertool.figures.specification import title_of
from layertool.layerwise import measure, of_rows
from layertool.outline import is_single
from layertool.report.inputs import Run
from layertool.report.provenance import Store
from layertool.report.references import cited
from layertool.result_rows import BASELINE, PARAMETERS
from layertool.tables import settings_in

MOST_NAMES = 8  # of models in a sentence
TRAINED = {
    "melhubert": cited("lin2022"),
    "hubert": cited("hsu2021"),
    "wav2vec2": cited("baevski2020"),
    "distillation": cited("chang2022"),
    "compression": cited("lin2024"),
    "CTC fine-tuning": cited("graves2006"),
    "lexical fine-tuning": cited("cuervo2024"),
}


def paragraph(rows: pd.DataFrame, stores: Sequence[Store], runs: Sequence[Run]) -> str:
    """What was done, ready for a paper: every setting in the tidy rows is named, and none that is not."""
    said = []
    if len(rows):
        said += _material(rows, stores)
        for analysis, part in rows.groupby("analysis", sort=False):
            said += _analysis(str(analysis), part)
        if rows["ci_low"].notna().any():
            said.append("Intervals are at 95 %.")
        seeds = sorted({int(seed) for seed in rows["seed"].dropna()})
        if seeds:
            said.append(
                f"Everything that is drawn at random is drawn from seed{'s' if len(seeds) > 1 else ''} "
                f"{', '.join(map(str, seeds))}."
            )
    said += _training(runs)
    return " ".join(said)


def _material(rows: pd.DataFrame, stores: Sequence[Store]) -> list[str]:
    versions = listed(sorted(rows["layertool"].dropna().astype(str).unique()))
    tool = f"layertool {versions}" if versions else "layertool"
    about = rows[(rows["layer"] != BASELINE) & (rows["analysis"].notna())].drop_duplicates(
        ["model", "revision", "step"]
    )
    names = [_model(row) for _, row in about.iterrows()]
    corpora = listed(list(dict.fromkeys(rows["corpus"].dropna().astype(str))))
    said = [f"We analysed {listed(names, MOST_NAMES)} on {corpora or 'an unnamed corpus'} with {tool}."]
    if any(store.about for store in stores):
        said.append(
            "Layers are named after where they are taken: C1, C2, … are outputs of the convolutions, T0 is the "
            "input of the first transformer block, Tl the output of block l."
        )
        pooled = {
            f"{unit} vectors ({how})"
            for store in stores
            if store.about
            for unit, how in ((store.about.get("configuration") or {}).get("units") or {}).items()
            if how != "none"
        }
        if pooled:
            said.append(f"Frames are pooled to {listed(sorted(pooled))}.")
    return said


def _model(row: pd.Series) -> str:
    more = [str(row["revision"])[:12]] if isinstance(row["revision"], str) and row["revision"] else []
    if not pd.isna(row["step"]) and not math.isinf(row["step"]):
        more.append(f"step {int(row['step'])}")
    return f"{row['model']} ({', '.join(more)})" if more else str(row["model"])


def _analysis(name: str, rows: pd.DataFrame) -> list[str]:
    """What an analysis does, as it is declared, with its citations; what of it is reported; and every setting."""
    known = of_rows(name)
    rows = rows[rows["metric"] != PARAMETERS]
    said = []
    if known is not None:
        source = f" {cited(*known.cites)}" if known.cites else ""
        said.append(f"{title_of(name)}{source}: {inspect.cleandoc(known.__doc__ or '').splitlines()[0]}")
    metrics = listed([measure(name, metric).label.replace("\n", " ") for metric in dict.fromkeys(rows["metric"])])
    layers = set(rows["layer"])
    targets = [
        target for target in dict.fromkeys(rows["target"][~is_single(rows)]) if target.rpartition(":")[2] not in layers
    ]
    units = listed(list(dict.fromkeys(filter(None, rows["unit"]))))
    about = "; ".join(filter(None, [f"{units} rows" if units else "", listed(targets, MOST_NAMES)]))
    settings = "; ".join(filter(None, [*settings_in(rows), *dict.fromkeys(rows["own"])])) or "none"
    said.append(f"We report {metrics} of {title_of(name)}{f' ({about})' if about else ''}; settings: {settings}.")
    return said


def _training(runs: Sequence[Run]) -> list[str]:
    said = []
    for run in runs:
        settings, corpus = run.record.get("settings"), run.record.get("corpus")
        about = [
            f"{settings['steps']} steps" if isinstance(settings, dict) and "steps" in settings else "",
            f"learning rate {settings['learning_rate']:g}"
            if isinstance(settings, dict) and isinstance(settings.get("learning_rate"), (int, float))
            else "",
            f"batches of {settings['batch_size']}" if isinstance(settings, dict) and "batch_size" in settings else "",
            f"on {corpus['name']}" if isinstance(corpus, dict) and "name" in corpus else "",
        ]
        model = run.record.get("model")
        model = model.get("id") if isinstance(model, dict) else model
        source = TRAINED.get(str(model) if run.kind == "pre-training" else run.kind, "")
        details = ", ".join(part for part in about if part)
        said.append(
            f"Run {run.folder.resolve().name}: "
            f"{run.kind}{f' of {model}' if model else ''}{f' {source}' if source else ''}"
            f"{f', {details}' if details else ''}."
        )
    return said


def listed(names: Sequence[str], most: int | None = None) -> str:
    """a, b and c."""
    if most is not None and len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
