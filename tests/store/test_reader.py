"""Stores by paths and patterns, how a store shows itself, and what it says and gives from Python."""

from __future__ import annotations

import numpy as np
import pytest
import small

import layertool
from layertool.errors import StoreError, UsageError
from layertool.store import FeatureStore, matching
from layertool.store.account import account


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """step-2, step-10 and step-9, and two things that are no store."""
    place = tmp_path_factory.mktemp("series")
    corpus = small.corpus(place / "audio", 2, 8000)
    for step in (10, 2, 9):
        layertool.extract("mel", corpus, place / f"step-{step}", units=("utterance",))
    (place / "step-1").mkdir()
    (place / "step-notes.txt").touch()
    return place


def test_a_pattern_is_its_stores_in_natural_order(series):
    assert [path.name for path in matching([f"{series}/step-*"])] == ["step-2", "step-9", "step-10"]
    assert [path.name for path in matching(f"{series}/step-[29]")] == ["step-2", "step-9"]


def test_a_path_is_itself_once(series):
    assert matching([series / "step-9", f"{series}/*", "nowhere"]) == [
        series / "step-9",
        series / "step-2",
        series / "step-10",
        type(series)("nowhere"),
    ]


def test_a_path_that_looks_like_a_pattern(series):
    odd = series / "odd [1]"
    odd.mkdir()
    assert matching([odd]) == [odd]


def test_a_pattern_that_no_store_matches(series):
    with pytest.raises(StoreError, match=r"no feature store is called .*/step-note.*: check the pattern"):
        matching([f"{series}/step-note*"])


def test_a_store_shows_what_it_is(series):
    shown = repr(FeatureStore(series / "step-2"))
    assert shown == f"FeatureStore('{series}/step-2': mel on small, units utterance, layers mel)"


def test_a_store_is_exported_from_python(series, tmp_path):
    store = FeatureStore(series / "step-9")
    made = store.export(tmp_path / "arrays", "npz", units=["utterance"])
    assert made.lines == [f"{tmp_path}/arrays/utterance.npz"]
    assert np.array_equal(np.load(made.lines[0])["mel"], store.read("utterance", "mel"))
    with pytest.raises(UsageError, match="'mat' is no layout of files: choose npy, npz, fastabx"):
        store.export(tmp_path / "other", "mat")


def test_what_there_is_to_say_of_a_store(series):
    said = account(FeatureStore(series / "step-10"))
    facts = dict(said.facts)
    assert facts["model"].startswith("mel (acoustic")
    assert facts["state"] == "complete; left out: nothing"
    assert "parameters" not in facts
    assert said.tables[0].rows == [("utterance", "mel", 2, "80", "mean")]
    assert said.data["finished"] is True
