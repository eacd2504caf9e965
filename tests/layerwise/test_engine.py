"""Pieces of work side by side: in order, by so many threads, with errors that name store and layer."""

from __future__ import annotations

import importlib
import threading
import time
from types import SimpleNamespace

import pytest
from threadpoolctl import threadpool_info

from layertool.errors import FeatureError, RowError, UsageError
from layertool.layerwise import engine
from layertool.layerwise.analysis import naming
from layertool.layerwise.engine import Watch, opened

PIECES = [(k, f"T{k}") for k in range(6)]


@pytest.mark.parametrize("at_once", [None, 1, 2, 6, 50])
def test_results_are_in_the_order_of_the_pieces(at_once):
    """Whichever is done first; progress tells how many are."""

    def compute(number, layer):
        time.sleep(0.02 * (5 - number))
        return layer.lower()

    told = []
    found = Watch(at_once, lambda done, total: told.append((done, total))).each(compute, PIECES)
    assert found == [name.lower() for _, name in PIECES]
    assert told == [(k, 6) for k in range(7)]


def test_no_piece_is_no_work():
    told = []
    assert Watch(None, lambda *share: told.append(share)).each(pytest.fail, []) == []
    assert told == []


@pytest.mark.parametrize("at_once", [1, 3])
def test_so_many_at_once(at_once):
    now, most, lock = [0], [0], threading.Lock()

    def compute(*_piece):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1

    Watch(at_once).each(compute, PIECES)
    assert most[0] == at_once


def test_cores_are_shared_out(monkeypatch):
    """Products of matrices of three layers at once get a third of the cores each; afterwards all is as it was."""
    importlib.import_module("torch")  # which has OpenMP of its own
    before = [pool["num_threads"] for pool in threadpool_info()]
    monkeypatch.setattr(engine, "n_cores", lambda: 3)
    found = Watch(3).each(lambda *_: {pool["num_threads"] for pool in threadpool_info()}, PIECES[:3])
    assert found == [{1}] * 3
    assert [pool["num_threads"] for pool in threadpool_info()] == before


@pytest.mark.parametrize("error", [FeatureError, UsageError])
def test_errors_name_store_and_layer(error):
    def compute(view):
        raise error("it is bad: mend it")

    compute = naming(SimpleNamespace(path="folder/store"), compute)
    for view, where in ((SimpleNamespace(layer="T3"), "folder/store, layer T3"), (object(), "folder/store")):
        with pytest.raises(error) as caught:
            Watch(2).each(compute, [(view,), (view,)])
        assert str(caught.value) == f"{where}: it is bad: mend it"
        assert type(caught.value) is error


def test_an_error_that_names_its_row_stays_as_it_is():
    def compute(_view):
        raise RowError("the row is named")

    with pytest.raises(RowError, match=r"^the row is named$"):
        naming(SimpleNamespace(path="store"), compute)(SimpleNamespace(layer="T3"))


@pytest.mark.parametrize("at_once", [1, 2])
def test_after_an_error_nothing_is_begun(at_once):
    begun = []

    def compute(number, layer):
        begun.append(layer)
        if layer == "T0":
            raise UsageError("bad")
        time.sleep(0.1)

    with pytest.raises(UsageError):
        Watch(at_once).each(compute, PIECES * 5)
    assert len(begun) <= 2 * at_once


def test_other_errors_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        Watch(2).each(lambda *_: 1 / 0, PIECES)


def test_progress_as_a_number_of_other_things():
    told = []
    watch = Watch(2, lambda done, total: told.append((done, total)))
    watch.counting(60).tell(1, 4)
    assert told == [(15, 60)]
    assert watch.counting(60).at_once == 2
    Watch(2).counting(60).tell(1, 4)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("cloud",), "'cloud' is no engine: choose local or ray"),
        (("local", "auto"), "--address is for Ray: add --engine ray"),
    ],
)
def test_engines_that_there_are_not(asked, says):
    with pytest.raises(UsageError, match=f"^{says}$"), opened(*asked):
        pass
