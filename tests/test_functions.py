"""The Python function of every analysis stands where a person looks for it, and gives Results."""

from __future__ import annotations

import planted
import pytest

import layertool
from layertool import Results
from layertool.errors import UsageError
from layertool.functions import named
from layertool.layerwise import ANALYSES


@pytest.mark.parametrize("words", ANALYSES)
def test_functions_stand_where_their_commands_do(words):
    """``layertool probe neighbours`` is ``layertool.probe.neighbours``."""
    home = layertool
    *groups, name = words.split()
    for group in groups:
        assert group in dir(home)
        home = getattr(home, group)
    assert name in dir(home)
    call = getattr(home, name)
    assert call is named(words)
    assert call.__name__ == name
    assert "Options:" in call.__doc__


@pytest.mark.parametrize("group", ["probe", "lexical"])
def test_a_function_that_there_is_not(group):
    home = getattr(layertool, group)
    with pytest.raises(AttributeError, match=rf"layertool\.{group} has no 'nothing': it has "):
        _ = home.nothing
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = layertool.nothing


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    n = 12
    segments = [(k, "phone", 1_000 * i, 1_000 * (i + 1), "abc"[(k + i) % 3]) for k in range(n) for i in range(6)]
    rows = {"phone": {"T1": planted.matrix(6 * n)}}
    return planted.store(tmp_path_factory.mktemp("functions") / "store", [8_000] * n, segments, rows=rows)


def test_stores_are_paths_texts_and_open_ones(store, tmp_path):
    """And results are written, read and counted."""
    found = [
        layertool.probe.neighbours(stores, labels="phone", method="centroid").rows
        for stores in (store, store.path, str(store.path), [store, store.path])
    ]
    assert all(rows.equals(found[0]) for rows in found[1:])
    results = Results(found[0])
    assert len(results) == len(found[0]) == 2  # the layer, and the most frequent label
    results.write(tmp_path / "x.parquet")
    assert Results.read(str(tmp_path / "x.parquet")).rows["value"].equals(results.rows["value"])
    assert len(Results.read([tmp_path / "x.parquet", tmp_path / "x.parquet"])) == 4
    assert "T1" in repr(results)


def test_what_cannot_be_asked(store):
    with pytest.raises(UsageError, match="no store is named: give one or several"):
        layertool.mi([], labels="phone")
    with pytest.raises(TypeError, match="labels"):
        layertool.mi(store)
    with pytest.raises(UsageError, match="--seed -1 cannot be"):
        layertool.mi(store, labels="phone", seed=-1)
