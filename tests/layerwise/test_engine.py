"""Layers side by side: in order, by so many threads, with errors that name the layer."""

from __future__ import annotations

import threading
import time

import planted
import pytest
from layertool.feed import parallel
from threadpoolctl import threadpool_info

from layertool.errors import FeatureError, UsageError
from layertool.layerwise.engine import each_layer

LAYERS = [f"T{k}" for k in range(6)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rows = {"utterance": {name: planted.matrix(2) for name in LAYERS}}
    return planted.store(tmp_path_factory.mktemp("layers") / "store", [1_000] * 2, rows=rows)


@pytest.mark.parametrize("n_workers", [None, 1, 2, 6, 50])
def test_results_are_in_the_order_of_the_layers(store, n_workers):
    """Whichever is done first."""

    def compute(layer):
        time.sleep(0.02 * (5 - int(layer[1])))
        return layer.lower()

    told = []
    found = each_layer(store, LAYERS, compute, n_workers, lambda done, total: told.append((done, total)))
    assert found == [name.lower() for name in LAYERS]
    assert told == [(k, 6) for k in range(1, 7)]


@pytest.mark.parametrize("n_workers", [1, 3])
def test_so_many_at_once(store, n_workers):
    now, most, lock = [0], [0], threading.Lock()

    def compute(_layer):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1

    each_layer(store, LAYERS, compute, n_workers)
    assert most[0] == n_workers


def test_cores_are_shared_out(store, monkeypatch):
    """Products of matrices of three layers at once get a third of the cores each; afterwards all is as it was."""
    before = [pool["num_threads"] for pool in threadpool_info()]
    monkeypatch.setattr(parallel, "n_cores", lambda: 3)
    found = each_layer(store, LAYERS[:3], lambda _: {pool["num_threads"] for pool in threadpool_info()}, 3)
    assert found == [{1}] * 3
    assert [pool["num_threads"] for pool in threadpool_info()] == before


@pytest.mark.parametrize("error", [FeatureError, UsageError])
def test_errors_name_store_and_layer(store, error):
    def compute(layer):
        if layer == "T3":
            raise error("it is bad: mend it")

    with pytest.raises(error) as caught:
        each_layer(store, LAYERS, compute, 2)
    assert str(caught.value) == f"{store.path}, layer T3: it is bad: mend it"
    assert type(caught.value) is error


def test_after_an_error_nothing_is_begun(store):
    begun = []

    def compute(layer):
        begun.append(layer)
        if layer == "T0":
            raise UsageError("bad")
        time.sleep(0.1)

    with pytest.raises(UsageError):
        each_layer(store, LAYERS, compute, 1)
    assert len(begun) <= 2


def test_other_errors_are_not_hidden(store):
    with pytest.raises(ZeroDivisionError):
        each_layer(store, LAYERS, lambda _: 1 / 0, 2)
