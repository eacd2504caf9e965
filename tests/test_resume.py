"""Runs that are killed, or run out of room, and go on as if nothing had been."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import forking
import h5py
import models
import pytest
import small

from layertool.store import FeatureStore, layout, verify

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks and limits as Linux has them"),
]
SHARDS = 9
OPTIONS = ("--units", "frame,phone,word,utterance", "--shard-seconds", "1", "--batch-seconds", "1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """16 utterances in 9 shards."""
    folder = tmp_path_factory.mktemp("corpus")
    return small.corpus(folder, 16, 6500).write(folder)


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    return models.save("wav2vec2-base", tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def uninterrupted(forks, corpus, network, tmp_path_factory) -> dict[str, Path]:
    """A finished store of each model."""
    stores = {}
    for name, model in (("mel", "mel"), ("network", network)):
        stores[name] = tmp_path_factory.mktemp("whole") / name
        outcome = forks.run(["extract", model, corpus, "-o", stores[name], *OPTIONS])
        assert outcome.code == 0, outcome.stderr
        assert len(FeatureStore(stores[name]).index) == SHARDS
    return stores


def assert_equal(store: Path, whole: Path) -> None:
    """A store is sound, and no dataset, description or index line tells it from the uninterrupted one."""
    assert verify(FeatureStore(store)) == []
    assert small.contents(store) == small.contents(whole)
    assert layout.read_index(store) == layout.read_index(whole)
    files = {str(path.relative_to(whole)) for path in whole.glob("**/*")}
    assert {str(path.relative_to(store)) for path in store.glob("**/*")} == files
    for name in (*files - {"index.jsonl"},):  # its lines stand in the order in which shards were finished
        if (whole / name).is_file():
            assert (store / name).read_bytes() == (whole / name).read_bytes(), name


def assert_nothing_is_half(store: Path) -> set[int]:
    """Whatever has its final name is whole, whatever the index names is right. Returns the finished shards."""
    for path in store.glob("shards/[0-9]*.h5"):
        with h5py.File(path) as file:
            assert "utterance/rows" in file
    for name in ("labels.json", "store.json"):
        if (store / name).exists():
            json.loads((store / name).read_text())
    if not (store / "store.json").exists():
        assert not (store / "index.jsonl").exists()
        return set()
    if not (store / "utterances.parquet").exists():
        return set()
    state = FeatureStore(store, allow_unfinished=True)
    n_shards = state.about["n_shards"]
    waiting = {f"shard {n} of {n_shards} is not in the index" for n in range(n_shards) if n not in state.index}
    assert set(verify(state)) - waiting <= {
        "store.h5 is missing: run the same extract command again (or layertool store merge), it is written anew"
    }
    return set(state.index)


def test_two_runs_are_equal(forks, corpus, network, uninterrupted, tmp_path):
    for name, model in (("mel", "mel"), ("network", network)):
        again = tmp_path / name
        assert forks.run(["extract", model, corpus, "-o", again, *OPTIONS]).code == 0
        assert_equal(again, uninterrupted[name])
        assert (again / "index.jsonl").read_bytes() == (uninterrupted[name] / "index.jsonl").read_bytes()


def test_a_finished_store_is_left_alone(forks, corpus, uninterrupted, tmp_path):
    store = shutil.copytree(uninterrupted["mel"], tmp_path / "store")
    before = {path: path.stat().st_mtime_ns for path in store.glob("shards/*")}
    outcome = forks.run(["extract", "mel", corpus, "-o", store, *OPTIONS])
    assert outcome.code == 0
    assert {path: path.stat().st_mtime_ns for path in store.glob("shards/*")} == before
    assert_equal(store, uninterrupted["mel"])


@pytest.mark.parametrize("point", forking.POINTS)
def test_killed_at_every_step(forks, corpus, uninterrupted, tmp_path, point):
    """Twice at the same step of the same store, the second time further on."""
    store = tmp_path / "store"
    command = ["extract", "mel", corpus, "-o", store, *OPTIONS]
    assert forks.run(command, kill_at=(point, 1)).killed
    finished = assert_nothing_is_half(store)
    second = forks.run(command, kill_at=(point, 3 if point.split()[0] in ("shard", "index", "row") else 1))
    if not second.killed:  # what is written once only and was there already
        assert second.code == 0
        assert point in ("labels.json renamed", "store.json renamed")
    assert assert_nothing_is_half(store) >= finished
    assert forks.run(command).code == 0
    assert_equal(store, uninterrupted["mel"])


def test_killed_at_twenty_moments(forks, corpus, network, uninterrupted, tmp_path):
    """One store after another, each killed at random moments until a run gets to its end."""
    rng = random.Random(20)
    kills, stores = 0, 0
    while kills < 20:
        stores += 1
        name, model, longest = ("network", network, 1.2) if stores == 1 else ("mel", "mel", 0.6)
        store = tmp_path / f"store{stores}"
        finished: set[int] = set()
        while True:
            outcome = forks.run(
                ["extract", model, corpus, "-o", store, *OPTIONS], kill_after=rng.uniform(0.05, longest), pause=0.001
            )
            if not outcome.killed:
                assert outcome.code == 0, outcome.stderr
                break
            kills += 1
            longest *= 1.05  # a slow machine gets there too
            now = assert_nothing_is_half(store)
            assert now >= finished
            finished = now
        assert_equal(store, uninterrupted[name])


def test_killed_while_starting_again(forks, corpus, uninterrupted, tmp_path):
    """--overwrite leaves, at whatever moment, something that --overwrite can clear away."""
    store = shutil.copytree(uninterrupted["mel"], tmp_path / "store")
    command = ["extract", "fbank:static", corpus, "-o", store, *OPTIONS]
    assert forks.run(command).code == 1  # another configuration
    for point in ("labels.json renamed", "store.json before rename", "shard begun", "index line half written"):
        assert forks.run([*command, "--overwrite"], kill_at=(point, 1)).killed
    assert forks.run([*command, "--overwrite"]).code == 0
    assert verify(FeatureStore(store)) == []


# no room


def finishes(forks, command, store: Path, whole: Path) -> None:
    assert forks.run(command).code == 0
    assert_equal(store, whole)


def assert_says_no_room(outcome: forking.Outcome, store: Path) -> None:
    assert outcome.code == 1, outcome
    assert outcome.stdout == ""
    (line,) = outcome.stderr.splitlines()
    assert line.startswith(f"Error: {store}")
    assert line.endswith(
        " could not be written: the file-size limit is reached; free some room and run the same command again, "
        "what is finished is kept"
    )


def assert_only_whole_things(store: Path) -> None:
    """No temporary files, no shard that the index does not name, no index line without its newline."""
    assert [str(p) for p in store.glob("**/*.part")] == []
    finished = assert_nothing_is_half(store)
    assert {int(path.stem) for path in store.glob("shards/*")} == finished
    if (store / "index.jsonl").exists():
        assert (store / "index.jsonl").read_bytes().endswith(b"\n")


def biggest(whole: Path, pattern: str) -> int:
    return max(path.stat().st_size for path in whole.glob(pattern))


@pytest.mark.parametrize(
    "limit", [600, 2_000, 4_000, 8_000, 16_000, 24_000, 32_000, 40_000, 48_000, 56_000, 64_000, 72_000, 80_000]
)
def test_no_room(forks, corpus, uninterrupted, tmp_path, limit):
    """A limit on the size of files is a full disk that comes at a chosen byte."""
    whole, store = uninterrupted["mel"], tmp_path / "store"
    command = ["extract", "mel", corpus, "-o", store, *OPTIONS]
    outcome = forks.run(command, file_limit=limit)
    if limit > biggest(whole, "**/*"):
        assert outcome.code == 0
    else:
        assert_says_no_room(outcome, store)
        assert_only_whole_things(store)
    finishes(forks, command, store, whole)


@pytest.mark.parametrize("limit", [20_000, 60_000, 125_000])
def test_no_room_for_a_network(forks, corpus, network, uninterrupted, tmp_path, limit):
    whole, store = uninterrupted["network"], tmp_path / "store"
    assert limit < biggest(whole, "shards/*")
    command = ["extract", network, corpus, "-o", store, *OPTIONS]
    assert_says_no_room(forks.run(command, file_limit=limit), store)
    assert_only_whole_things(store)
    finishes(forks, command, store, whole)


@pytest.fixture(scope="module")
def many(forks, tmp_path_factory) -> tuple[list, Path, dict[str, int]]:
    """A store with more to say about its shards than is in them: command without -o, folder, sizes of its files."""
    corpus = tmp_path_factory.mktemp("many")
    small.corpus(corpus, 30, 8500).write(corpus)
    command = ["extract", "fbank:melhubert", corpus, "--units", "utterance", "--shard-seconds", "1"]
    store = tmp_path_factory.mktemp("whole") / "many"
    assert forks.run([*command, "-o", store]).code == 0
    return command, store, {str(p.relative_to(store)): p.stat().st_size for p in store.glob("**/*") if p.is_file()}


@pytest.mark.parametrize("name", ["index.jsonl", "store.h5"])
def test_no_room_for_what_comes_last(forks, many, tmp_path, name):
    """The index grows line by line; the view is written when every shard is there."""
    command, whole, sizes = many
    store = tmp_path / "store"
    later = {"index.jsonl": {"index.jsonl", "store.h5"}, "store.h5": {"store.h5"}}[name]
    limit = max(size for path, size in sizes.items() if path not in later) + 100
    assert limit < sizes[name]
    outcome = forks.run([*command, "-o", store], file_limit=limit)
    assert f"{store / name} could not be written: the file-size limit is reached" in outcome.stderr
    assert_says_no_room(outcome, store)
    assert_only_whole_things(store)
    assert (len(layout.read_index(store)) == 30) == (name == "store.h5")
    finishes(forks, [*command, "-o", store], store, whole)


NO_ROOM_FOR_A_MOMENT = """
import resource, sys
store, when = sys.argv[1:3]
sys.path[:0] = sys.argv[3:]
import numpy as np
import test_store as t
from layertool.store import writer as w

def room(n_bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))

put_in_place = w.put_in_place
w.put_in_place = lambda *places: (room(resource.RLIM_INFINITY), put_in_place(*places))
with t.opened(store) as writer:
    layers = {f"{u}/{n}": (t.WIDTHS[n], t.TABLE.get((u, n), "rows")) for u, n in t.datasets_of_layers()}
    part = writer.shard(0, t.tables_of(0), layers)
    try:
        for unit, layer in sorted(t.datasets_of_layers()):
            room(1000 if when == "put" else resource.RLIM_INFINITY)
            part.put(f"{unit}/{layer}", 0, t.values(0, unit, layer))
            room(resource.RLIM_INFINITY)
        room(100 if when == "finish" else resource.RLIM_INFINITY)
        part.finish((), utterances=[0, 2], seconds=2.0, failures=[])
        read = t.FeatureStore(store, allow_unfinished=True).read
        print("written", all(np.array_equal(read(u, n), t.values(0, u, n)) for u, n in t.datasets_of_layers()))
    except t.StoreError as error:
        part.abandon()
        print("refused", "the file-size limit is reached" in str(error))
"""


@pytest.mark.parametrize("when", ["put", "finish"])
def test_room_that_comes_back_does_not_hide_what_was_lost(tmp_path, when):
    """A disk that was full for a moment: rows that did not get there must not be taken for written."""
    here = Path(__file__).parent
    command = [sys.executable, "-c", NO_ROOM_FOR_A_MOMENT, tmp_path / "s", when, here / "store", here]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout in ("refused True\n", "written True\n")
    assert done.stderr == ""
    assert when == "put" or done.stdout.startswith("refused")
    assert not list((tmp_path / "s").glob("shards/*")) or done.stdout.startswith("written")
