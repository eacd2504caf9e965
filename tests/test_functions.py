"""The Python function of every analysis stands where a person looks for it, gives Results, and refuses in one sentence."""

from __future__ import annotations

import warnings

import planted
import pytest

import layertool
from layertool import Results
from layertool.errors import LayertoolWarning, UsageError, tell, telling_once
from layertool.functions import named
from layertool.layerwise import ANALYSES
from layertool.result_rows import Result


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
    with pytest.raises(AttributeError, match=rf"layertool\.{group} has no 'nothing'; the functions are "):
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
    with pytest.raises(UsageError, match="needs the option labels: "):
        layertool.mi(store)
    with pytest.raises(UsageError, match="--seed -1 cannot be"):
        layertool.mi(store, labels="phone", seed=-1)


ROW = Result(
    analysis="mi",
    variant="adjusted mi",
    model="a/b",
    corpus="corpus",
    unit="phone",
    layer="T1",
    layer_index=1,
    target="phone",
    value=0.5,
    store="one",
    metric="adjusted mi",
)


def test_what_results_are_asked(tmp_path):
    shown = Results([ROW])
    with pytest.raises(UsageError, match="no result file is named"):
        Results.read([])
    with pytest.raises(UsageError, match=r"is called 'name'; did you mean names\?"):
        shown.plot(name="a")
    with pytest.raises(UsageError, match="'dept' is no axis"):
        shown.text(x="dept")
    with pytest.raises(UsageError, match="--names has 2 labels for 1 store:"):
        shown.plot(names="a,b")
    with pytest.raises(UsageError, match=r"page\.pdf is no page: end it in \.html"):
        shown.report(tmp_path / "page.pdf")


def test_options_that_no_function_has(tmp_path):
    with pytest.raises(UsageError, match=r"layertool\.extract has no option 'unit'; did you mean units\?"):
        layertool.extract("mel", tmp_path, tmp_path / "store", unit="word")
    with pytest.raises(UsageError, match=r"layertool\.compare has no option 'sam_layer'; did you mean same_layer"):
        layertool.compare(["one", "two"], sam_layer=True)
    with pytest.raises(UsageError, match="'dept' is no axis"):
        layertool.compare(Results([ROW]), x="dept")
    with pytest.raises(UsageError, match="nothing is named to compare"):
        layertool.compare([])
    with pytest.raises(AttributeError, match="did you mean neighbours"):
        layertool.probe.neighbors  # noqa: B018


def test_a_note_is_told_once_and_at_the_line_of_the_program():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with telling_once():
            for text in ("a", "b", "a"):
                tell(text)
        tell("a")
    assert [str(one.message) for one in told] == ["a", "b", "a"]
    assert {one.category for one in told} == {LayertoolWarning}
    assert {one.filename for one in told} == {__file__}
