"""Memory stays flat as the corpus grows."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from layertool.cli import cli

# The peak of this process alone: getrusage's would be that of the process that started it, where that is larger.
PEAK = """
def peak():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
EXTRACTION = """
import sys
from pathlib import Path
import numpy as np, soundfile
import layertool
from layertool.corpora.corpus import Corpus
folder, n = Path(sys.argv[1]), int(sys.argv[2])
path = folder / "noise.wav"
soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, 16000 * 5), 16000)
corpus = Corpus.build([{"utterance": f"{k:04d}", "audio": str(path)} for k in range(n)])
layertool.extract("spectrogram", corpus, folder / f"store{n}", units=("frame", "utterance"), shard_seconds=50)
print(peak())
"""
PER_UTTERANCE = 157  # segments, as in LibriSpeech
CORPORA = """
import sys
from pathlib import Path
import numpy as np, pandas as pd
from layertool.corpora.corpus import Corpus
each = int(sys.argv[2])
for n in map(int, sys.argv[3:]):
    ids = [f"{k // 3000}-{100_000 + k // 30}-{k:06d}" for k in range(n)]
    utterances = pd.DataFrame({"utterance": ids, "audio": "/none.flac", "start": np.nan, "end": np.nan, "channel": None, "n_samples": 200_000})
    starts = np.tile(np.arange(each) / 20, n)
    segments = pd.DataFrame({
        "utterance": np.repeat(ids, each), "tier": np.tile(["phone", "word"], n * each)[: n * each], "start": starts,
        "end": starts + 0.05, "label": np.char.add("label", np.random.default_rng(0).integers(0, 5000, n * each).astype(str)),
    })
    Corpus(utterances, segments).write(Path(sys.argv[1]) / str(n))
"""
PLANNING = """
import os, sys
os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # as the command line has it
from layertool.corpora.corpus import Corpus
from layertool.extractors.unit_rows import CorpusRows
corpus = Corpus.read(f"{sys.argv[1]}/{sys.argv[2]}")
corpus.fingerprint, CorpusRows(corpus, ("phone", "word", "utterance"))
print(peak())
"""

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak from /proc")


def run(script: str, *arguments) -> str:
    return subprocess.run(
        [sys.executable, "-c", PEAK + script, *map(str, arguments)], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
def test_ten_times_the_corpus_takes_no_tenth_more_memory(tmp_path):
    small, large = (
        int(run(EXTRACTION, tmp_path, n)) for n in (40, 400)
    )  # 2 MB of frames each: 206 MB in the large store
    assert large < 1.1 * small


def test_planning_takes_less_than_10_kb_for_an_utterance(tmp_path):
    """As its rows all at once, and texts as text, it took 50."""
    few, many = 500, 3000
    run(CORPORA, tmp_path, PER_UTTERANCE, few, many)
    small, large = (int(run(PLANNING, tmp_path, n)) for n in (few, many))
    assert (large - small) / (many - few) < 10_000


@pytest.mark.parametrize(("set_already", "then"), [(None, "64"), ("7", "7")])
def test_few_prepared_kernels_are_kept(set_already, then, monkeypatch, tmp_path):
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, set_already or "")  # put back at the end
    if set_already is None:
        monkeypatch.delenv(name)
    assert CliRunner().invoke(cli, ["extract", "mel", str(tmp_path / "none"), "-o", str(tmp_path / "store")]).exit_code
    assert os.environ[name] == then
