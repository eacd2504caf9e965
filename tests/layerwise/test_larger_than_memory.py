"""A store that does not fit in memory is analysed all the same: the address space is limited to a part of it."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from layertool import layers
from layertool.store import StoreWriter, layout

WIDTH, N_UTTERANCES, N_SHARDS, FRAMES = 192, 48, 8, 10_000
LAYERS = ("T0", "T1")
NOISE = 0.75  # added to T0, it makes T1
MATRIX_MB = WIDTH * 4 * N_UTTERANCES * FRAMES / 1e6  # of one layer: 369 MB, and there are two
MARGIN_MB = 330  # of address space beyond the interpreter with its libraries

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """T0 is noise without structure, T1 the same with more noise."""
    path = tmp_path_factory.mktemp("large") / "store"
    configuration = {
        "model": {"id": "large", "revision": None},
        "store_dtype": "float32",
        "layer_convention": layers.CONVENTION,
        "layers": list(LAYERS),
        "units": {"frame": "none"},
        "corpus": "none",
    }
    about = {
        "layers": {layer: {"width": WIDTH} for layer in LAYERS},
        "units": {"frame": {"layers": list(LAYERS), "rows": dict.fromkeys(LAYERS, "rows")}},
        "n_shards": N_SHARDS,
        "corpus": {"name": "large", "n_utterances": N_UTTERANCES, "seconds": 0.02 * FRAMES * N_UTTERANCES},
        "audio": {"sample_rate": 16000, "columns": ["utterance", "audio", "n_samples"]},
    }
    names = [f"u{k}" for k in range(N_UTTERANCES)]
    utterances = pd.DataFrame({"utterance": names, "audio": "none", "n_samples": 320 * FRAMES + 80})
    random = np.random.default_rng(0)
    with StoreWriter(path, configuration, about, utterances, {}) as writer:
        for shard in range(N_SHARDS):
            n = N_UTTERANCES // N_SHARDS
            table = np.zeros(n * FRAMES, layout.ROW_DTYPE)
            table["utterance"] = shard * n + np.repeat(np.arange(n), FRAMES)
            table["start"] = np.tile(320 * np.arange(FRAMES), n)
            table["end"], table["label"] = table["start"] + 400, layout.NO_LABEL
            part = writer.shard(shard, {"frame/rows": table}, {f"frame/{layer}": (WIDTH, "rows") for layer in LAYERS})
            rows = random.random((len(table), WIDTH), np.float32)
            part.put("frame/T0", 0, rows)
            part.put("frame/T1", 0, rows + NOISE * random.random(rows.shape, np.float32))
            part.finish((), utterances=[shard * n, (shard + 1) * n], seconds=1.0)
        writer.finish(N_SHARDS)
    yield path
    shutil.rmtree(path)


SCRIPT = """
import json, resource, sys
import numpy as np
from layertool.layerwise.cca import CCA
from layertool.layerwise.cka import CKA
from layertool.store import FeatureStore

store, task, margin = FeatureStore(sys.argv[1]), sys.argv[2], float(sys.argv[3])
store.utterances, np.linalg.svd(np.eye(3)), next(store.blocks("frame", "T0", 9))  # libraries that load late
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
limit = int(status["VmSize"].split()[0]) * 1024 + int(margin * 1e6)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    if task == "read":
        found = store.read("frame", "T1").shape
    elif task == "cca":
        analysis = CCA(target="T0", variant="mean,pwcca", sample="all", layers="T1", device="cpu")
        found = [(r.value, r.chance, r.n) for r in analysis.run(store)]
    else:
        analysis = CKA(measure=task, sample="all", device="cpu")
        found = [(r.target, r.value, r.n) for r in analysis.run(store)]
except MemoryError:
    found = "MemoryError"
print(json.dumps(found))
"""


def limited(store, task, margin_mb=MARGIN_MB):
    """What the task finds within the limit; one thread, for each has address space of its own."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX"), "1")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(store), task, str(margin_mb)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **threads},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_reading_a_layer_at_once_does_not_fit(store):
    assert MATRIX_MB > 1.1 * MARGIN_MB
    assert limited(store, "read") == "MemoryError"
    assert limited(store, "read", MATRIX_MB + MARGIN_MB) == [N_UTTERANCES * FRAMES, WIDTH]  # the limit is the reason


def test_cca_fits(store):
    found = limited(store, "cca")
    assert len(found) == 2
    for value, chance, n in found:
        assert value == pytest.approx(1 / np.sqrt(1 + NOISE**2), abs=0.005)  # of each direction
        assert chance == pytest.approx(0, abs=0.01)
        assert n == N_UTTERANCES * FRAMES


def test_cka_fits(store):
    found = limited(store, "cka")
    assert [(target, n) for target, _, n in found] == [(layer, N_UTTERANCES * FRAMES) for layer in 2 * LAYERS]
    own, cross, again, other = (value for _, value, _ in found)
    assert (own, other) == pytest.approx((1, 1), abs=1e-9)
    assert cross == again == pytest.approx(1 / (1 + NOISE**2), abs=0.005)  # |Sxy|² / (|Sxx| |Syy|)
