"""Which figures and tables a table of results becomes: a section for each analysis, whatever is among the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from layertool import figures
from layertool.errors import UsageError
from layertool.figures.choices import stimuli_of
from layertool.figures.lexical import LABELS
from layertool.report import bars, curves, maps, tables
from layertool.report.choosing import EFFECT, drawn, layer_by_layer, one_of_each_model
from layertool.report.inputs import Run
from layertool.report.spec import Figure, Section
from layertool.result_rows import BASELINE, PARAMETERS, is_matrix

NAMES = {
    "cca": "Canonical correlation (CCA)", "cka": "Centered kernel alignment (CKA)", "rsa": "Representational similarity (RSA)",
    "procrustes": "Procrustes distance", "mi": "Mutual information", "speat": "Social bias (SpEAT)", "neighbours": "Nearest neighbours",
    "lexical": "Lexical responses", "lexical lens": "Lexical lens", "ctc": "CTC fine-tuning",
}  # fmt: skip


def of_results(rows: pd.DataFrame) -> list[Section]:
    """``rows``: the table of results with an index of its own; figures say by it which rows they show."""
    made = []
    for analysis, part in rows.groupby("analysis", sort=False):
        name = str(analysis)
        section = Section(NAMES.get(name, name[:1].upper() + name[1:]))
        {"speat": _bias, "lexical": _lexical, "lexical lens": _lens}.get(name, _any)(part, section)
        made.append(section)
    return made


def of_runs(runs: Sequence[Run]) -> tuple[list[Section], pd.DataFrame]:
    """Training curves, a figure for each kind of run and quantity, and their points: run, step, quantity, value."""
    points: list[tuple[str, int, str, float]] = []
    by_kind: dict[tuple[str, str], list[tuple[str, list[tuple[int, float]], list[int]]]] = {}
    for run, name in zip(runs, names_of(runs), strict=True):
        for quantity, pairs in run.curves.items():
            places = list(range(len(points), len(points) + len(pairs)))
            points += [(name, step, quantity, value) for step, value in pairs]
            by_kind.setdefault((run.kind, quantity), []).append((name, pairs, places))
    section = Section("Training curves")
    for (kind, quantity), own in by_kind.items():
        section.figures.append(curves.losses(kind[:1].upper() + kind[1:], own, quantity))
    silent = [name for run, name in zip(runs, names_of(runs), strict=True) if not run.curves]
    section.notes += [f"{name} has no losses: nothing was trained, or it has not begun." for name in silent]
    table = pd.DataFrame(points, columns=["run", "step", "quantity", "value"])
    return ([section] if runs else []), table


def names_of(runs: Sequence[Run]) -> list[str]:
    """A name for each run: as many last parts of its path as tell it from the others."""
    parts = [run.folder.resolve().parts for run in runs]
    for n in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-n:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(run.folder) for run in runs]


def _add(section: Section, make: Callable[[], Figure | Iterable[Figure]]) -> None:
    """Add what can be drawn; rows that contradict each other are said so, and stay in the tables."""
    try:
        made = make()
    except UsageError as error:
        section.notes.append(f"A figure is left out: {error}.")
        return
    section.figures += [made] if isinstance(made, Figure) else list(made)


def _leave_none(part: pd.DataFrame, section: Section, told: Iterable[int] = ()) -> None:
    """Rows that no figure and no table of the section shows."""
    shown = {k for figure in section.figures for k in figure.rows} | set(told)
    rest = part[~part.index.isin(shown)]
    if len(rest):
        section.tables.append(tables.plain(rest, "Rows that no figure shows" if section.figures else "Rows"))


def _any(part: pd.DataFrame, section: Section) -> None:
    """Maps, curves over layers and over checkpoints, and bars of what has no layers."""
    title = section.title
    shown = drawn(part)
    lines = []
    for _, own in shown.groupby("unit", sort=False, dropna=False):
        if is_matrix(own):
            _add(section, lambda own=own: maps.heatmaps(own, title))  # type: ignore[misc]
        else:
            lines.append(own)
    if lines:
        _lines(pd.concat(lines), section)
    _leave_none(part, section)


def _lines(rows: pd.DataFrame, section: Section) -> None:
    panel = ["variant", "unit", "target"]
    layers = rows[rows["layer"] != BASELINE].groupby([*panel, "model", "store"], dropna=False)["layer"].nunique()
    most = layers.groupby(panel, dropna=False).max()
    has_layers = pd.Series([most.get(key, 1) > 1 for key in rows[panel].itertuples(index=False, name=None)], rows.index)
    along, whole = rows[has_layers], rows[~has_layers]
    if len(along):
        _add(section, lambda: curves.over_layers(along, f"{section.title} over layers"))
        _checkpoints(along, section)
    if len(whole):
        _add(section, lambda: bars.bars(whole, section.title))
        _checkpoints(whole, section)


def _checkpoints(rows: pd.DataFrame, section: Section) -> None:
    """A figure over the steps, where there are at least two."""
    rows = rows[rows["step"].notna() & (rows["layer"] != BASELINE)]
    if rows["step"].nunique() > 1:
        _add(section, lambda: curves.over_checkpoints(rows, f"{section.title} over training"))


def _bias(part: pd.DataFrame, section: Section) -> None:
    effects = part[part["variant"].str.startswith(EFFECT)]
    alone, first = effects[layer_by_layer(effects)], one_of_each_model(effects)
    section.tables += tables.bias(part)
    if len(alone) and alone.groupby("store", dropna=False)["layer"].nunique().max() > 1:
        _add(section, lambda: curves.over_layers(alone, f"{section.title} over layers"))
        _checkpoints(alone, section)
    if len(first):
        _add(section, lambda: bars.bars(first.assign(layer="all layers"), f"{section.title} of whole models"))
        stepped = first[first["step"].notna()]
        if stepped["step"].nunique() > 1:
            folders = figures.families(stepped["store"].astype(str))
            line = folders if folders.nunique() > 1 else "all layers"
            _add(section, lambda: curves.over_checkpoints(stepped.assign(layer=line, store=""), f"{section.title} over training"))  # fmt: skip
    sizes = part[part["variant"] == PARAMETERS]
    sized = first[first["store"].isin(sizes["store"])]
    if len(sized) and sizes["value"].nunique() > 1:
        reference = str(sizes.loc[sizes["value"].idxmax(), "store"])  # nothing was removed from the largest
        both = pd.concat([sized, sizes])
        _add(section, lambda: curves.over_removed(both, f"{section.title} over parameters removed", reference))
    told = part.index[~part["variant"].str.startswith(PARAMETERS)]
    _leave_none(part, section, told)


def _lexical(part: pd.DataFrame, section: Section) -> None:
    section.tables += tables.lexical(part)
    means = tables.lexical_means(part)
    shown = means[means["metric"].isin(tables.METRICS[:5])]
    if len(shown):
        one_layer = shown.assign(variant=shown["metric"], layer="model", revision="", store="")
        _add(section, lambda: bars.bars(one_layer, f"{section.title}: means over stimuli"))
    own = part["variant"].str.split(", ").str[0].isin(LABELS) & ~part.index.isin(means.index)
    if own.any():
        singles = part[own]
        labels = {name: label for name, label in LABELS.items() if singles["variant"].str.startswith(name).any()}
        _add(section, lambda: bars.violins(stimuli_of(singles, labels), labels, f"{section.title}: single stimuli"))
    _leave_none(part, section, means.index)


def _lens(part: pd.DataFrame, section: Section) -> None:
    _add(section, lambda: curves.lens(part, f"{section.title}: words read from layers"))
    _leave_none(part, section)
