"""Audio and label files in the layouts of published corpora, written small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile


def sound(path: Path, n_samples: int, rate: int = 16_000, **how) -> Path:
    """Noise of ``n_samples``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(n_samples).normal(0, 0.1, n_samples)
    soundfile.write(path, samples, rate, subtype="PCM_16", **how)
    return path


def textgrid(path: Path, tiers: dict[str, list[tuple]], start=0, end=1, stretches: dict | None = None) -> Path:
    """A TextGrid of the short form; ``stretches``: of tiers that cover another time than the file says."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", start, end, "<exists>", len(tiers)]
    for name, intervals in tiers.items():
        lines += ['"IntervalTier"', f'"{name}"', *(stretches or {}).get(name, (start, end)), len(intervals)]
        for first, last, label in intervals:
            lines += [first, last, f'"{label}"']
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(str, lines)) + "\n", encoding="utf-8")
    return path


def segments(corpus) -> list[tuple]:
    """Utterance, tier, first and last sample, label."""
    table = corpus.segments
    starts, ends = (np.rint(table[column].to_numpy() * 16_000).astype(int).tolist() for column in ("start", "end"))
    return list(zip(table["utterance"], table["tier"], starts, ends, table["label"], strict=True))
