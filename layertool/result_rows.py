"""The one result schema: a row per number, with everything that says which number it is."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from layertool import __version__, columns
from layertool.errors import UsageError
from layertool.files import check_suffix, whole_file

_LAYER = re.compile(r"[CTD]\d+|final")
BASELINE = "baseline"  # the layer of rows of what is compared with all layers of models: a line across figures
PARAMETERS = "parameters"  # the metric of rows that say how large a model is
WORDS = "as"  # the key of settings of rows of 0.1.0, which said everything in one sentence
CHOSEN = "chosen"  # the key of settings that holds what was found for this number alone, e.g. its eps
# Metrics of association tests, and of those corrected for several tests, the milder one first.
EFFECT, P = "d", "p"
CORRECTED = ("p benjamini-hochberg", "p bonferroni")
FORMATS = (".csv", ".parquet", ".json")
# Metrics that 0.1.0 named otherwise, in the first part of its variants.
FORMERLY = {
    "SpEAT d": "d",
    "parameters that are not 0": PARAMETERS,
    "mean CCA": "mean cca",
    "mean squared CCA": "mean squared cca",
    "MI (nats)": "mi",
    "MI/H(label)": "normalized mi",
    "adjusted MI": "adjusted mi",
    "corrected MI (nats)": "corrected mi",
    "V-measure": "v-measure",
    "linear CKA": "linear cka",
    "RBF CKA": "rbf cka",
    "orthogonal Procrustes distance": "procrustes distance",
    "RSA": "rsa",
    "p (Bonferroni)": "p bonferroni",
    "p (Benjamini-Hochberg)": "p benjamini-hochberg",
}


@dataclass(frozen=True)
class Result:
    """One number, with everything that says which number it is.

    ``metric``: what it is; ``group``: the part of the data that it is of, None for all; ``item``: the one stimulus,
    word or task, None for a mean; ``settings``: JSON of everything that decides it; ``variant``: the same for people,
    made by ``row`` and read by nothing. ``chance``: what no information would give.
    """

    analysis: str
    variant: str
    model: str
    corpus: str
    unit: str
    layer: str
    layer_index: int
    target: str
    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    chance: float | None = None
    n: int | None = None
    seed: int | None = None
    store: str | None = None
    revision: str | None = None
    step: int | None = None
    layertool: str = __version__
    metric: str = ""
    group: str | None = None
    item: str | None = None
    settings: str = "{}"


COLUMNS = (
    "analysis variant model revision step corpus unit layer layer_index target value ci_low ci_high chance n "
    "seed store layertool"
    " metric group item settings"
).split()
LATER = ("metric", "group", "item", "settings")  # columns that files of 0.1.0 do not have
if set(COLUMNS) != {f.name for f in fields(Result)}:
    raise RuntimeError("the columns of results and the fields of Result differ")


def row(metric: str, settings: Mapping[str, Any], **of: Any) -> Result:
    """A result whose settings are written once as JSON and once for people. ``of``: the other fields of ``Result``."""
    known = {key: value for key, value in settings.items() if value is not None}
    words = ", ".join([metric, *phrases(known)])
    return Result(metric=metric, settings=json.dumps(known, default=str), variant=words, **of)


def phrases(settings: Mapping[str, Any]) -> list[str]:
    """Settings for people, one phrase each; what was chosen for one number alone is left out."""
    return list(filter(None, (_spoken(key, value) for key, value in settings.items() if key != CHOSEN)))


def _spoken(name: str, value: Any) -> str:
    if name == WORDS:
        return str(value)
    name = name.replace("_", " ")
    if value is True or value is False or value in ("", [], (), {}):
        return name if value is True else ""
    parts = value if isinstance(value, (list, tuple)) else [value]
    return f"{name} {'/'.join(f'{part:g}' if isinstance(part, float) else str(part) for part in parts)}"


def settings_of(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The settings of each row that it shares with the rows of other layers: all but what was chosen for it alone."""
    shared = {text: _shared(text) for text in dict.fromkeys(rows["settings"])}
    return [shared[text] for text in rows["settings"]]


def _shared(text: Any) -> dict[str, Any]:
    found = json.loads(text) if isinstance(text, str) and text else {}
    return {key: value for key, value in found.items() if key != CHOSEN}


def table(results: Iterable[Result]) -> pd.DataFrame:
    """Results as a DataFrame with the columns of the schema, in their order."""
    return pd.DataFrame([asdict(result) for result in results], columns=COLUMNS)


def records(rows: pd.DataFrame) -> list[dict]:
    """Results as plain dicts for JSON, with None for what is missing; JSON has no infinity, so it is text ("-inf")."""
    plain = rows.astype(object).where(rows.notna(), None).to_dict("records")
    for row in plain:
        row |= {name: str(value) for name, value in row.items() if isinstance(value, float) and math.isinf(value)}
    return plain


def is_matrix(rows: pd.DataFrame) -> bool:
    """Whether rows hold a layer by layer table, rather than layers against one target or a few.

    Targets are layers ("T3", or "OTHER:T3") then: all of the store's own, or at least three, and a layer that is among
    the targets is compared with itself too, which no curve against one layer does.
    """
    if rows.empty:
        return False
    name = rows["target"].astype(str).str.rpartition(":")
    names = set(rows["layer"].astype(str))
    rows = rows.assign(_other=name[0], _of=name[2])[[n in names or bool(_LAYER.fullmatch(n)) for n in name[2]]]
    keys = [
        k
        for k in ("store", "model", "revision", "step", "analysis", "metric", "settings", "unit", "_other")
        if k in rows
    ]
    for _, part in rows.groupby(keys, dropna=False):
        layers, targets = set(part["layer"]), set(part["_of"])
        with_itself = bool((part["layer"] == part["_of"]).any()) or not layers & targets
        if with_itself and len(targets) > 1 and (layers <= targets or len(targets) >= 3):
            return True
    return False


def write(results: Iterable[Result] | pd.DataFrame, path: Path | str) -> Path:
    """Write results as .csv, .parquet or .json (records), whole or not at all. Raises UsageError for other suffixes."""
    path = Path(path)
    rows = results if isinstance(results, pd.DataFrame) else table(results)
    check_suffix(path, FORMATS)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        if path.suffix == ".parquet":
            rows.to_parquet(temporary, index=False)
        elif path.suffix == ".json":
            temporary.write_text(json.dumps(records(rows), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        else:
            columns.write_csv(rows, temporary)
    return path


def read(paths: Sequence[Path | str]) -> pd.DataFrame:
    """Read and join result files. Raises UsageError for a file that does not have the schema's columns."""
    parts = []
    for path in map(Path, paths):
        if path.suffix not in FORMATS or not path.exists():
            raise UsageError(f"{path} is no result file ({', '.join(FORMATS)}) that exists: check the path")
        try:
            part = _read(path)
        except (ValueError, OSError, RecursionError) as error:  # the parsers of all formats raise these
            reason = str(error).splitlines()[0]
            raise UsageError(f"{path} is no result file: it cannot be read as {path.suffix[1:]} ({reason})") from error
        missing = [column for column in COLUMNS if column not in part.columns and column not in LATER]
        if missing:
            raise UsageError(f"{path} is no result file: it has no column '{missing[0]}'")
        parts.append(_of_today(part).reindex(columns=COLUMNS))
    if not parts:
        raise UsageError("no result file is named: give one or several")
    return pd.concat(parts, ignore_index=True)


def _of_today(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of any version in the columns of this one: of 0.1.0, metric and settings stand in the variant's words."""
    if "metric" in rows:
        return rows
    parts = [_named_in(str(text), analysis) for text, analysis in zip(rows["variant"], rows["analysis"], strict=True)]
    own = rows["settings"] if "settings" in rows else [None] * len(rows)
    settings = [
        json.dumps(({WORDS: words} if words else {}) | ({CHOSEN: json.loads(text)} if isinstance(text, str) else {}))
        for (_, words), text in zip(parts, own, strict=True)
    ]
    rows = rows.assign(metric=[metric for metric, _ in parts], settings=settings)
    lexical = rows["analysis"].str.startswith("lexical", na=False)
    if lexical.any():  # "all", "SSN", "SSN: T_1"
        group, _, item = zip(*(str(text).partition(": ") for text in rows["target"]), strict=True)
        rows["group"] = [name if of and name != "all" else None for name, of in zip(group, lexical, strict=True)]
        rows["item"] = [name if of and name else None for name, of in zip(item, lexical, strict=True)]
    return rows


def _named_in(variant: str, analysis: str) -> tuple[str, str]:
    """Metric and the other words of a variant of 0.1.0."""
    if analysis == "neighbours":  # "5 nearest neighbours, accuracy, …"
        return "accuracy", variant
    first, _, rest = variant.partition(", ")
    if first.startswith("SVCCA"):  # "SVCCA (0.99 of the variance)"
        return "svcca", variant
    return FORMERLY.get(first, first), rest


def _read(path: Path) -> pd.DataFrame:
    """Rows with the very numbers that were written."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".csv":  # a model may be called 007, a word nan
        texts = {f.name: "str" for f in fields(Result) if str(f.type).startswith("str")}
        rows = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=[""])
        # the layer of what is no layer is an empty text, not a missing one
        there = [f.name for f in fields(Result) if f.type == "str" and f.name in rows and f.name not in LATER]
        return rows.fillna(dict.fromkeys(there, ""))
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ValueError("it holds no list of records")
    table = pd.DataFrame(found)
    for column in ("value", "ci_low", "ci_high"):  # "-inf"
        if column in table:
            table[column] = pd.to_numeric(table[column])
    return table
