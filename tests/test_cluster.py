"""Ray as the engine: real local clusters of two workers, one of which is killed at work."""

import os
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import models
import pytest
import small
import torch

import layertool
from layertool.cluster import Cluster, _room, current
from layertool.errors import AudioError, LayertoolError, ModelError, UsageError
from layertool.extractors.extraction import Extraction
from layertool.extractors.on_cluster import Request, extract_on_cluster
from layertool.store import FeatureStore, verify

pytest.importorskip("ray")
pytestmark = pytest.mark.slow
OPTIONS = Extraction(units=("phone", "word", "utterance"), shard_seconds=0.1)  # a shard for every utterance


@pytest.fixture(scope="module")
def cluster():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        with Cluster.open(n_workers=2) as cluster:
            yield cluster


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus, a network, and the store that one process makes of them."""
    folder = tmp_path_factory.mktemp("made")
    corpus = small.corpus(folder, n_utterances=12)
    corpus.write(folder / "corpus")
    models.save("wav2vec2-base", folder / "net")
    with one_thread():
        layertool.extract(str(folder / "net"), corpus, folder / "store", OPTIONS.units, shard_seconds=0.1)
    return folder, corpus


@contextmanager
def one_thread():
    """As Ray gives a worker: sums of several threads differ in their last bits."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def request_of(model, **compute) -> Request:
    return Request(str(model), replace(OPTIONS, device="cpu", **compute))


def workers(title: bytes = b"ray::Worker") -> list[int]:
    """Processes of actors that extract, or that are at it just now."""
    out = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and title in (process / "cmdline").read_bytes():
                out.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return out


def test_the_cluster_is_the_current_one(cluster):
    assert current() is cluster
    assert cluster.n_workers == 2


def test_it_listens_to_this_machine_alone_and_demands_a_token(cluster):
    """A client of the cluster that has no token, or another one, is turned away; nothing was written into the home."""
    psutil = pytest.importorskip("psutil")
    list(cluster.each(str.upper, [("a",)]))  # so that workers listen, too
    listening = set()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        listening |= {one.laddr.ip for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN}
    assert listening
    assert all(ip.removeprefix("::ffff:").startswith("127.") for ip in listening)

    import ray

    code = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); print('let in')"
    for token, works in ((None, False), ("b" * 64, False), (os.environ["RAY_AUTH_TOKEN"], True)):
        given = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
        given |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
        done = subprocess.run(
            [sys.executable, "-c", code, ray.get_runtime_context().gcs_address],
            env=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert ("let in" in done.stdout) is works, done.stderr


def test_ray_that_knows_no_tokens_is_not_started(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.51.1")
    with pytest.raises(LayertoolError, match=r"Ray 2\.51\.1 lets everybody .*pip install -U"), Cluster.open():
        pass


@pytest.mark.parametrize(
    "error",
    [
        Exception("The current node timed out during startup. This could happen because"),
        TimeoutError("Timed out after 30 seconds while waiting for node to startup.\nmore\nlines"),
        RuntimeError("Failed to start GCS."),
    ],
)
def test_a_slow_start_is_one_sentence(cluster, monkeypatch, error):
    import ray

    def slow(**_options):
        raise error

    before = dict(os.environ)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(LayertoolError, match="Ray did not start on this machine") as caught, Cluster.open():
        pass
    assert "\n" not in str(caught.value)
    assert dict(os.environ) == before
    with pytest.raises(UsageError, match="no Ray cluster answers at here"), Cluster.open(address="here"):
        pass


def test_a_worker_is_killed(cluster, made, tmp_path):
    """SIGKILL to a worker in the midst: its shards are done by another, and the store is that of one process."""
    folder, corpus = made
    said, told, killed = [], [], []

    def progress(done, total):
        told.append((done, total))
        if done and not killed and (there := workers(b"ray::Worker.write")):
            os.kill(there[0], signal.SIGKILL)
            killed.append(there[0])

    store = extract_on_cluster(
        cluster, request_of(folder / "net"), corpus, tmp_path / "s", progress=progress, say=said.append
    )
    assert killed
    assert len(said) == 1
    assert "a worker died; shard" in said[0]
    assert small.contents(store.path) == small.contents(folder / "store")
    assert verify(store) == []
    assert {k: e["checksums"] for k, e in store.index.items()} == {
        k: e["checksums"] for k, e in FeatureStore(folder / "store").index.items()
    }
    assert told[0] == (0, pytest.approx(corpus.seconds))
    assert told[-1] == (pytest.approx(corpus.seconds), pytest.approx(corpus.seconds))
    assert workers() == []
    assert not list(store.path.rglob("*.part"))


def test_going_on_where_one_process_stopped(cluster, made, tmp_path):
    folder, corpus = made
    with one_thread():
        layertool.extract(
            str(folder / "net"), corpus, tmp_path / "s", OPTIONS.units, shard_seconds=0.1, nshard=2, rank=0
        )
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "s/shards").iterdir()}
    extract_on_cluster(cluster, request_of(folder / "net"), corpus, tmp_path / "s")
    assert {name: (tmp_path / "s/shards" / name).stat().st_mtime_ns for name in before} == before
    assert small.contents(tmp_path / "s") == small.contents(folder / "store")


def test_what_a_worker_cannot_open(cluster, made, tmp_path):
    """A worker without the model's file says so, as one process would; nothing is left behind."""
    _, corpus = made
    with pytest.raises(ModelError, match=r"a worker says: .*nowhere"):
        extract_on_cluster(cluster, request_of(tmp_path / "nowhere"), corpus, tmp_path / "s")
    with pytest.raises(UsageError, match=r"a worker says: --cmvn makes"):
        extract_on_cluster(cluster, request_of(made[0] / "net", cmvn=True), corpus, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_machines_with_other_models_are_refused(cluster, made, tmp_path, monkeypatch):
    """Under one name there may be other weights on another machine: no shard of theirs comes into the store."""
    folder, corpus = made
    from layertool.extractors import on_cluster

    first = on_cluster._first_word

    def other(actor, request):
        described = first(actor, request)
        model = described.configuration["model"] | {"sha256": "of other weights"}
        return replace(described, configuration=described.configuration | {"model": model})

    monkeypatch.setattr(on_cluster, "_first_word", other)
    with pytest.raises(ModelError, match=r"something else under the name .*model\.sha256 = of other weights"):
        extract_on_cluster(cluster, request_of(folder / "net"), corpus, tmp_path / "s")
    assert not list((tmp_path / "s/shards").iterdir())


@pytest.mark.parametrize(
    ("resources", "n_gpus", "expected"),
    [
        ({"CPU": 4.0}, 0, 4),
        ({"CPU": 4.0}, 1, 0),
        ({"CPU": 1.0, "GPU": 2.0}, 1, 1),
        ({"CPU": 8.0, "GPU": 2.0}, 0.6, 2),
        ({"CPU": 8.0, "GPU": 2.0}, 0.5, 4),
        ({"CPU": 8.0, "GPU": 3.0}, 2, 1),
        ({"GPU": 4.0}, 1, 0),
    ],
)
def test_room_on_a_machine(resources, n_gpus, expected):
    assert _room(resources, n_gpus) == expected


def test_what_no_cluster_has(cluster):
    for options, message in (
        ({"n_gpus": 1}, "no machine of the cluster has a core and 1 GPUs"),
        ({"n_gpus": 1.5}, "a whole number"),
        ({"address": "127.0.0.1:1"}, r"no Ray cluster answers at 127\.0\.0\.1:1"),
    ):
        with pytest.raises(UsageError, match=message), Cluster.open(**options):
            pass
    assert current() is cluster
    with Cluster.open(n_workers=1) as again:  # one that is there is used, and stays
        assert again.n_workers == 1
    assert sorted(cluster.each(str.upper, [("a",)])) == [(0, "A")]


def test_audio_that_cannot_be_read(cluster, tmp_path):
    corpus = small.corpus(tmp_path, n_utterances=6)
    for name in ("u02", "u04"):
        (tmp_path / "audio" / f"{name}.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError, match=r"u0[24]\.wav"):
        extract_on_cluster(cluster, request_of("mel"), corpus, tmp_path / "none")
    with pytest.raises(LayertoolError, match="2 utterances failed, 1 may"):
        extract_on_cluster(cluster, request_of("mel"), corpus, tmp_path / "one", max_failures=1)
    store = extract_on_cluster(cluster, request_of("mel"), corpus, tmp_path / "two", max_failures=2)
    assert [failure["utterance"] for failure in store.failures] == ["u02", "u04"]
    layertool.extract("mel", corpus, tmp_path / "alone", OPTIONS.units, shard_seconds=0.1, max_failures=2)
    assert small.contents(store.path) == small.contents(tmp_path / "alone")


def test_work_that_kills_and_work_that_refuses(cluster):
    def die_of(what: str) -> str:
        if what == "this":
            os.kill(os.getpid(), signal.SIGKILL)
        return what

    def refuse(what: str) -> str:
        raise UsageError(f"{what} cannot be")

    assert sorted(cluster.each(str.upper, [("a",), ("b",), ("c",)])) == [(0, "A"), (1, "B"), (2, "C")]
    with pytest.raises(LayertoolError, match=r"workers died of a deadly task"):
        list(cluster.each(die_of, [("that",), ("this",)], "a deadly task"))
    with pytest.raises(UsageError, match=r"^it cannot be$"):
        list(cluster.each(refuse, [("it",)]))


def test_out_of_memory_for_ever_ends(tmp_path):
    """Ray's own monitor kills each worker that takes this work; nothing but results stands on stdout."""
    code = """
import time
from layertool.cluster import Cluster
with Cluster.open(n_workers=1) as cluster:
    print("begun")
    list(cluster.each(time.sleep, [(60,)], "a layer"))
"""
    little = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | little, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 1
    assert done.stdout == "begun\n"
    assert "3 workers died of a layer" in done.stderr
