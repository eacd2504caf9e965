"""Many processes, one store: ranks of a job array side by side, then merged."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import small

import layertool
from layertool import folders
from layertool.errors import StoreError, UsageError
from layertool.extractors.ranks import part_of, part_of_job
from layertool.store import FeatureStore, StoreWriter, layout, verify
from layertool.store.concluding import merge
from layertool.store.writer import Part

ONE_EACH = {"units": ("phone", "word", "utterance"), "shard_seconds": 0.1}  # a shard for every utterance


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return small.corpus(tmp_path_factory.mktemp("corpus"), n_utterances=9)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "store"
    layertool.extract("mel", corpus, path, **ONE_EACH)
    return path


def files(store):
    """The bytes of every file that stays; of the index, what it says: a shard done again has a line at the end."""
    out = {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name not in (".lock", "index.jsonl")
    }
    return out | {"index": layout.read_index(store), "parts": [] if (store / "index.jsonl").exists() else None}


def rank(corpus, out, r, n, **options):
    return layertool.extract("mel", corpus, out, **ONE_EACH, nshard=n, rank=r, **options)


@pytest.mark.slow
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_ranks_write_what_one_process_writes(corpus, whole, tmp_path, order):
    out = tmp_path / "s"
    for r in order[:2]:
        assert not rank(corpus, out, r, 3).finished
        with pytest.raises(StoreError, match=r"is unfinished: .* then merge"):
            merge(out)
    last = rank(corpus, out, order[2], 3)
    assert last.finished
    assert not (out / "index.jsonl").exists()
    merged = merge(out)
    assert (merged.n_shards, merged.n_parts) == (9, 3)
    assert files(out) == files(whole)
    assert merge(out).n_parts == 0
    assert files(out) == files(whole)
    assert verify(FeatureStore(out)) == []


def test_another_number_of_ranks_goes_on(corpus, whole, tmp_path):
    out, told = tmp_path / "s", []
    rank(corpus, out, 0, 4)
    rank(corpus, out, 0, 2, progress=lambda done, total: told.append((done, total)))
    first = {path.name: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    assert sorted(first) == [f"{k:05}.h5" for k in (0, 2, 4, 6, 8)]
    assert told[0][0] > 0  # shard 4 is there
    assert told[-1][0] == pytest.approx(told[-1][1])
    layertool.extract("mel", corpus, out, **ONE_EACH)  # one process does what is left, and finishes
    assert {name: (out / "shards" / name).stat().st_mtime_ns for name in first} == first
    assert files(out) == files(whole)


def test_the_bar_of_a_rank_is_of_its_own_audio(corpus, tmp_path):
    told = []
    rank(corpus, tmp_path / "s", 2, 3, progress=lambda done, total: told.append((done, total)))
    mine = corpus.utterances["n_samples"].to_numpy()[2::3].sum() / 16000
    assert told[0] == (0, pytest.approx(mine))
    assert told[-1] == (pytest.approx(mine), pytest.approx(mine))


def test_a_shard_that_failed_is_done_again_by_whoever_comes(corpus, whole, tmp_path):
    """A rank's line about a failed utterance does not outlive the repair, by a rank or by one process."""
    for again in ({"nshard": 3, "rank": 1}, {}):
        out = tmp_path / f"s{len(again)}"
        path = corpus.utterances["audio"][4]
        there = open(path, "rb").read()  # noqa: SIM115
        open(path, "wb").write(b"no audio")  # noqa: SIM115
        for r in range(3):
            rank(corpus, out, r, 3, max_failures=1)
        open(path, "wb").write(there)  # noqa: SIM115
        assert [failure["utterance"] for failure in FeatureStore(out).failures] == ["u04"]
        layertool.extract("mel", corpus, out, **ONE_EACH, **again)
        merge(out)
        assert FeatureStore(out).failures == []
        assert files(out) == files(whole)


def test_a_part_is_one_process(corpus, tmp_path):
    out = tmp_path / "s"
    rank(corpus, out, 0, 3)
    with open(out / "parts/00001-of-00003.jsonl.lock", "a+") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match=r"rank 1 of 3 of .* is being written by another process"):
            rank(corpus, out, 1, 3)
        rank(corpus, out, 2, 3)  # others are not in its way
    with open(out / ".lock", "a+") as writing:
        fcntl.flock(writing, fcntl.LOCK_SH)  # a rank at work
        with pytest.raises(StoreError, match="still being written"):
            merge(out)
        with pytest.raises(StoreError, match="is being written by another layertool process"):
            layertool.extract("mel", corpus, out, **ONE_EACH)
        rank(corpus, out, 1, 3)


def test_other_configurations_and_overwriting_are_refused(corpus, tmp_path):
    out = tmp_path / "s"
    rank(corpus, out, 0, 3)
    with pytest.raises(UsageError, match="--overwrite would remove what the other ranks write"):
        rank(corpus, out, 1, 3, overwrite=True)
    with pytest.raises(StoreError, match="another configuration: "):
        layertool.extract("mfcc", corpus, out, **ONE_EACH, nshard=3, rank=1)
    with pytest.raises(StoreError, match="is not a feature store"):
        merge(tmp_path)


def test_merging_says_what_is_missing(corpus, tmp_path):
    out = tmp_path / "s"
    for r in range(3):
        rank(corpus, out, r, 3)
    (out / "shards/00004.h5").unlink()
    with pytest.raises(StoreError, match=r"1 of 9 shards are missing or damaged \(4\)"):
        merge(out)
    rank(corpus, out, 1, 3)
    merge(out)
    assert verify(FeatureStore(out)) == []


def test_a_file_system_without_locks(corpus, tmp_path, monkeypatch):
    def none(_file, _how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(folders.fcntl, "flock", none)
    with pytest.warns(UserWarning, match="has no locks"):
        rank(corpus, tmp_path / "s", 0, 3)


WRITE = """
import sys, layertool
corpus, out, r, n = sys.argv[1:]
units = ("phone", "word", "utterance")
layertool.extract("mel", corpus, out, units=units, shard_seconds=0.1, nshard=int(n), rank=int(r))
"""


@pytest.mark.slow
def test_processes_at_the_same_time_and_a_kill(corpus, whole, tmp_path):
    corpus.write(tmp_path / "corpus")
    out = tmp_path / "s"

    def start(r, n):
        return subprocess.Popen([sys.executable, "-c", WRITE, tmp_path / "corpus", out, str(r), str(n)])

    processes = [start(r, 3) for r in range(3)]
    while not list(out.glob("shards/*.h5")) and processes[1].poll() is None:
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGKILL)
    assert [process.wait() for process in processes][::2] == [0, 0]
    assert start(1, 3).wait() == 0
    merge(out)
    assert files(out) == files(whole)
    assert not list(out.rglob("*.part"))


# which part


def test_parts_share_the_shards_out():
    for n in (1, 2, 5):
        assert sorted(k for r in range(n) for k in range(11) if Part(r, n).has(k)) == list(range(11))
    assert part_of(None, None) is None
    assert part_of(1, 0) is None  # all of it
    for n, r in ((3, 3), (0, 0), (2, -1)):
        with pytest.raises(UsageError, match=rf"no rank {r} among {n}"):
            Part(r, n)
    for given in ((4, None), (None, 2)):
        with pytest.raises(UsageError, match="needs --"):
            part_of(*given)


def array(task, count, **more):
    return {
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_ARRAY_TASK_COUNT": str(count),
        **{k: str(v) for k, v in more.items()},
    }


LAUNCHED = {"RANK": "2", "WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("nshard", "rank", "environment", "expected"),
    [
        (None, None, {}, None),
        (8, 3, array(1, 2), Part(3, 8)),  # what is typed counts
        (1, None, array(1, 2), None),
        (1, 0, LAUNCHED, None),
        (None, None, array(2, 4), Part(2, 4)),
        (None, None, array(4, 4, SLURM_ARRAY_TASK_MIN=1, SLURM_ARRAY_TASK_MAX=4), Part(3, 4)),
        (
            None,
            None,
            array(30, 4, SLURM_ARRAY_TASK_MIN=10, SLURM_ARRAY_TASK_MAX=40, SLURM_ARRAY_TASK_STEP=10),
            Part(2, 4),
        ),
        (64, None, array(2, 4), Part(2, 64)),
        (None, None, LAUNCHED, Part(2, 4)),
        (None, None, {"RANK": "0", "WORLD_SIZE": "1"}, None),
        (None, None, array(0, 1), None),
        (None, None, array(0, 1) | LAUNCHED, Part(2, 4)),
        (None, None, {"RANK": "", "WORLD_SIZE": ""}, None),
    ],
)
def test_the_part_of_a_job(nshard, rank, environment, expected):
    part, source = part_of_job(nshard, rank, environment)
    assert part == expected
    assert (source is None) == (expected is None or rank is not None)


@pytest.mark.parametrize(
    ("nshard", "environment", "message"),
    [
        (None, array(7, 3, SLURM_ARRAY_TASK_MIN=0, SLURM_ARRAY_TASK_MAX=7), "no clear rank"),  # --array=0,3,7
        (None, array(3, 3, SLURM_ARRAY_TASK_MIN=0, SLURM_ARRAY_TASK_MAX=7), "no clear rank"),
        (None, array(3, 3), "no clear rank"),
        (None, array(1, 4) | LAUNCHED, "both SLURM_ARRAY_TASK_ID and RANK"),
        (None, {"RANK": "a", "WORLD_SIZE": "2"}, "RANK='a' is no number"),
        (4, {}, "--nshard needs --rank"),
        (2, array(3, 4), "no rank 3 among 2"),
    ],
)
def test_jobs_that_have_no_part(nshard, environment, message):
    with pytest.raises(UsageError, match=message):
        part_of_job(nshard, None, environment)


def test_every_temporary_name_is_of_one_process(tmp_path):
    """Machines that share a disk may have processes of one number."""
    code = (
        "from pathlib import Path; from layertool import files; files.os.getpid = lambda: 7; "
        "print(files.temporary_path(Path('x')))"
    )
    names = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(names) == 2


def test_an_index_in_parts_is_read_as_one(corpus, whole, tmp_path):
    out = tmp_path / "s"
    for r in range(2):
        rank(corpus, out, r, 2)
    assert list(FeatureStore(out).index) == list(range(9))
    with open(out / "parts/00000-of-00002.jsonl", "ab") as file:
        file.write(b'{"shard": 1, "torn')
    assert FeatureStore(out).index == FeatureStore(whole).index
    lines = (out / "parts/00001-of-00002.jsonl").read_text().splitlines()
    assert [json.loads(line)["shard"] for line in lines] == [1, 3, 5, 7]
    assert os.path.getsize(out / "parts/00001-of-00002.jsonl.lock") == 0


def test_a_writer_lets_go_when_it_fails(corpus, tmp_path):
    with pytest.raises(TypeError):
        StoreWriter(tmp_path / "s", {"a": 1}, None, corpus.utterances, {})  # type: ignore[arg-type]
    with StoreWriter(tmp_path / "s", {"a": 1}, {"n_shards": 1}, corpus.utterances, {}) as writer:
        assert writer.finished == {}


def test_the_later_line_counts(corpus, whole, tmp_path):
    """A shard lost after the merge and written anew with a failure; and one repaired by another rank's file."""
    out = tmp_path / "s"
    options = {"units": ("phone", "word", "utterance"), "shard_seconds": 1.3}  # two utterances a shard
    for r in range(3):
        layertool.extract("mel", corpus, out, **options, nshard=3, rank=r)
    merge(out)
    n = len(FeatureStore(out).read("utterance", "mel"))
    (out / "shards/00001.h5").unlink()
    first = FeatureStore(out).index[1]["utterances"][0]
    path = corpus.utterances["audio"][first]
    there = open(path, "rb").read()  # noqa: SIM115
    open(path, "wb").write(b"no audio")  # noqa: SIM115
    layertool.extract("mel", corpus, out, **options, nshard=3, rank=1, max_failures=1)
    open(path, "wb").write(there)  # noqa: SIM115
    store = FeatureStore(out)
    assert len(store.failures) == 1
    assert len(store.read("utterance", "mel")) == len(store.row_table("utterance")) == n - 1
    merge(out)
    assert verify(FeatureStore(out)) == []
    assert "turn" not in (out / "index.jsonl").read_text()


def test_a_repair_by_another_rank_counts(corpus, tmp_path):
    """The name of its index sorts before that of the damaged line."""
    out = tmp_path / "s"
    for r in range(3):
        rank(corpus, out, r, 3)
    index = out / "parts/00001-of-00003.jsonl"
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    for line in lines:
        if line["shard"] == 4:
            line["checksums"] = dict.fromkeys(line["checksums"], "of other bits")
    index.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert verify(FeatureStore(out))
    rank(corpus, out, 0, 4)
    merge(out)
    assert verify(FeatureStore(out)) == []


def test_a_shard_with_other_rows_than_the_index_says(corpus, whole, tmp_path):
    out = tmp_path / "s"
    shutil.copytree(whole, out)
    line = layout.read_index(out)[2]
    line["rows"] = line["rows"] | {"utterance/rows": 2}
    lines = (out / "index.jsonl").read_text().splitlines(keepends=True)
    (out / "index.jsonl").write_text("".join([*lines[:2], json.dumps(line) + "\n", *lines[3:]]))
    with pytest.raises(StoreError, match="is not what the index says"):
        FeatureStore(out).read("utterance", "mel")
