"""Rows say what they are in columns; the words for people are written once and read by nothing; files of 0.1.0 are read."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from layertool.layerwise import ANALYSES, declared
from layertool.result_rows import CHOSEN, COLUMNS, FORMATS, LATER, Result, read, records, row, settings_of, table, write

OLD = Path(__file__).parent / "golden" / "rows_of_0.1.0.json"  # what that version wrote, a row for each metric
OF = {
    "analysis": "cca",
    "model": "m",
    "corpus": "c",
    "unit": "phone",
    "layer": "T1",
    "layer_index": 1,
    "target": "phone",
}


def made(settings: dict, **more) -> Result:
    return row("pwcca", settings, **OF, value=0.5, **more)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "pwcca"),
        ({"n_folds": 4, "sampling": "all rows"}, "pwcca, n folds 4, sampling all rows"),
        ({"eps": [1e-06, 0.01, 1.0], "unit": None}, "pwcca, eps 1e-06/0.01/1"),
        ({"biased": True, "cross_speaker": False, "where": []}, "pwcca, biased"),
        ({"share": 0.7, CHOSEN: {"eps": [1, 2]}}, "pwcca, share 0.7"),
    ],
)
def test_settings_are_written_as_json_and_for_people(settings, words):
    found = made(settings)
    assert found.metric == "pwcca"
    assert found.variant == words
    assert json.loads(found.settings) == {name: value for name, value in settings.items() if value is not None}


def test_settings_that_rows_share():
    """All but what was found for one of them alone."""
    rows = table([made({"n_folds": 4, CHOSEN: {"eps": [[1, k]]}}) for k in range(3)] + [made({"n_folds": 5})])
    assert settings_of(rows) == [{"n_folds": 4}] * 3 + [{"n_folds": 5}]
    assert settings_of(rows.assign(settings=None)) == [{}] * 4


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_empty_and_what_is_missing(suffix, tmp_path):
    """The layer of what is no layer is an empty text; a group that there is not is none."""
    rows = table(
        [made({}, n=3, group="SSN"), row("p", {}, **OF | {"layer": "", "target": ""}, value=float("-inf"), n=3)]
    )
    found = read([write(rows, tmp_path / f"rows{suffix}")])
    assert records(found) == records(rows)
    assert found["layer"].tolist() == ["T1", ""]
    assert found["group"].isna().tolist() == [False, True]


@pytest.fixture(scope="module")
def old() -> pd.DataFrame:
    return pd.DataFrame(json.loads(OLD.read_text(encoding="utf-8")))


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_of_the_first_version(old, suffix, tmp_path):
    """Their metrics are those of today's declarations, their numbers stay, and no two rows become alike."""
    assert not set(old.columns) & (set(LATER) - {"settings"})
    path = tmp_path / f"old{suffix}"
    if suffix == ".json":
        path.write_bytes(OLD.read_bytes())
    else:
        old.to_parquet(path) if suffix == ".parquet" else old.to_csv(path, index=False)
    found = read([path])
    assert list(found.columns) == COLUMNS
    for name in ("analysis", "variant", "model", "layer", "target"):
        assert found[name].tolist() == old[name].tolist()
    assert found["value"].tolist() == pytest.approx(old["value"].astype(float).tolist(), rel=1e-9, nan_ok=True)

    known = {metric.name for words in ANALYSES for metric in declared(words).metrics}
    assert {name for name in found["metric"] if not name.startswith("chosen ")} == known & set(found["metric"]) | {
        "parameters"
    }
    assert not found.duplicated(
        ["analysis", "metric", "group", "item", "settings", "model", "layer", "target", "unit"]
    ).any()


def test_what_the_first_version_said_in_words():
    rows = read([OLD])

    def one(analysis: str, variant: str, **where) -> tuple:
        mine = rows[(rows["analysis"] == analysis) & rows["variant"].str.startswith(variant)]
        for name, value in where.items():
            mine = mine[mine[name] == value]
        return mine.iloc[0]

    assert one("cca", "SVCCA (0.99 of the variance)")["metric"] == "svcca"
    assert one("cca", "mean CCA")["metric"] == "mean cca"
    assert {one("neighbours", words)["metric"] for words in ("5 nearest", "nearest centroid")} == {"accuracy"}
    assert one("neighbours", "5 nearest")["settings"] != one("neighbours", "nearest centroid")["settings"]
    assert one("mi", "MI/H(label)")["metric"] == "normalized mi"
    assert one("speat", "SpEAT d")["metric"] == "d"
    assert json.loads(one("cca", "pwcca, ")["settings"])[CHOSEN] == {"directions": 6, "eps": [[1.0, 1e-06]]}
    single, masker, whole = (one("lexical", "log-likelihood", target=target) for target in ("SSN: u7", "BAB4", "all"))
    assert (single["group"], single["item"]) == ("SSN", "u7")
    assert masker["group"] == "BAB4"
    assert pd.isna([masker["item"], whole["group"], whole["item"]]).all()
