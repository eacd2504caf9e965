"""Memory stays flat as the corpus grows."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from pathlib import Path
import numpy as np, soundfile
import layertool
from layertool.corpora.corpus import Corpus
folder, n = Path(sys.argv[1]), int(sys.argv[2])
path = folder / "noise.wav"
soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, 16000 * 5), 16000)
corpus = Corpus.build([{"utterance": f"{k:04d}", "audio": str(path)} for k in range(n)])
layertool.extract("spectrogram", corpus, folder / f"store{n}", units=("frame", "utterance"), shard_seconds=50)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_ten_times_the_corpus_takes_no_tenth_more_memory(tmp_path):
    def peak(n: int) -> int:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path), str(n)], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    small, large = peak(40), peak(400)  # 2 MB of frames each: 206 MB in the large store
    assert large < 1.1 * small
