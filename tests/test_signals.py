"""Ctrl-C and SIGTERM: the shard in work is dropped, the state is clean, the exit code says which it was, the command goes on."""

import signal
import subprocess
import sys
import time

import models
import pytest
import small

from layertool.store import FeatureStore, verify

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    small.corpus(folder, n_utterances=120).write(folder / "corpus")
    models.save("wav2vec2-base", folder / "net")
    command = [
        sys.executable,
        "-m",
        "layertool.cli",
        "extract",
        "net",
        "corpus",
        "--shard-seconds",
        "1",
        "--device",
        "cpu",
    ]
    subprocess.run([*command, "-o", "whole", "-q"], cwd=folder, check=True, timeout=120)
    return folder, command


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_signal_in_the_midst(made, tmp_path, number, code, engine):
    folder, command = made
    out = tmp_path / "store"
    command = [*command, "-o", str(out)]
    if engine == "ray":
        pytest.importorskip("ray")
        command += ["--engine", "ray", "--workers", "1"]
    running = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    begun = time.monotonic()
    index = out / "index.jsonl"
    while not index.exists() or index.read_bytes().count(b"\n") < 2:  # the second line may still be taken back
        assert running.poll() is None, running.stderr.read()
        assert time.monotonic() - begun < 120
        time.sleep(0.005)
    running.send_signal(number)
    _, said = running.communicate(timeout=60)
    assert running.returncode == code, said
    assert "Stopped. Stores and runs that were begun are kept" in said
    assert "Traceback" not in said
    # a worker of Ray that is killed in the midst of a shard leaves what the next run sweeps
    assert engine == "ray" or not list(out.rglob("*.part"))
    state = FeatureStore(out, allow_unfinished=True)
    assert 0 < len(state.index) < state.about["n_shards"]
    # a worker of Ray may have finished a shard that nobody was told of: it is written again
    left = {path.name for path in (out / "shards").iterdir()} - {f"{k:05}.h5" for k in state.index}
    assert len(left) <= (engine == "ray")
    subprocess.run([*command, "-q"], cwd=folder, check=True, timeout=120)
    assert not list(out.rglob("*.part"))
    assert verify(FeatureStore(out)) == []
    if engine == "local":
        assert small.contents(out) == small.contents(folder / "whole")
