"""Small corpora of synthetic audio, and the contents of stores for comparison."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import soundfile

from layertool.corpora.corpus import Corpus


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    """Quiet noise with an envelope, float32 of shape (n_samples,)."""
    random = np.random.default_rng(seed)
    envelope = 0.2 + np.abs(np.sin(np.arange(n_samples) / (700 + 31 * seed)))
    return (0.1 * envelope * random.standard_normal(n_samples)).astype(np.float32)


def sound(path: Path, n_samples: int = 16000, seed: int = 0, rate: int = 16000, **options) -> Path:
    """Write one mono file of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(n_samples, seed), rate, **options)
    return path


def corpus(folder: Path, n_utterances: int = 6, n_samples: int = 8000, name: str = "small") -> Corpus:
    """Utterances u00, u01, … of unequal length, each with two words and four phones."""
    utterances, segments = [], []
    for k in range(n_utterances):
        length = n_samples + 397 * ((5 * k) % 7)
        path = sound(folder / "audio" / f"u{k:02}.wav", length, seed=k)
        utterances.append({"utterance": f"u{k:02}", "audio": str(path), "speaker": f"s{k % 2}"})
        seconds = length / 16000
        for tier, n, labels in (("word", 2, "xyz"), ("phone", 4, "abcde")):
            for i in range(n):
                segments.append(
                    {
                        "utterance": f"u{k:02}",
                        "tier": tier,
                        "start": i * seconds / n,
                        "end": (i + 1) * seconds / n,
                        "label": labels[(k + i) % len(labels)],
                    }
                )
    return Corpus.build(utterances, segments, name)


def datasets(path: Path) -> dict[str, tuple]:
    """Every dataset of an HDF5 file: name -> (dtype, shape, bytes, attributes)."""
    out = {}

    def visit(name: str, thing) -> None:
        if isinstance(thing, h5py.Dataset):
            values = thing[()]
            content = values.tolist() if values.dtype == object else values.tobytes()
            out[name] = (str(thing.dtype), thing.shape, content, dict(thing.attrs))

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return out


def contents(store: Path) -> dict[str, dict[str, tuple]]:
    """Every dataset of every HDF5 file of a store."""
    return {str(p.relative_to(store)): datasets(p) for p in sorted(store.glob("**/*.h5"))}
