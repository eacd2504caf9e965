"""MP3 files as programs write them that cannot go back: without the first frame, which says how many there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

KILOBITS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = (44100, 48000, 32000)


def frames(content: bytes) -> list[tuple[int, int]]:
    """First byte and number of samples of each frame of Layer III, by the headers (ISO 11172-3 2.4.1.3)."""
    found, place = [], 0
    while place + 4 <= len(content):
        _, version, kinds, _ = content[place : place + 4]
        assert content[place] == 255
        assert version & 0xE6 == 0xE2  # Layer III
        mpeg = 1 if version & 8 else 2
        rate = RATES[kinds >> 2 & 3] // (1 if mpeg == 1 else 2 if version & 16 else 4)
        found.append((place, 1152 if mpeg == 1 else 576))
        place += found[-1][1] // 8 * KILOBITS[mpeg][kinds >> 4] * 1000 // rate + (kinds >> 1 & 1)
    return found


def without_count(path: Path) -> int:
    """Take the first frame away; return how many samples the others hold."""
    content = path.read_bytes()
    assert b"Xing" in content[:200] or b"Info" in content[:200]
    rest = content[frames(content)[1][0] :]
    path.write_bytes(rest)
    return sum(n for _, n in frames(rest))


def write(
    path: Path, rate: int = 44100, seconds: float = 4.0, mode: str = "VARIABLE", level: float = 0.5
) -> np.ndarray:
    """Near silence, then noise: frames of few bytes, then of many. Returns what was written."""
    n = round(rate * seconds)
    loudness = np.where(np.arange(n) < n // 2, 0.0001, 0.2)
    samples = (loudness * np.random.default_rng(1).standard_normal(n)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, format="MP3", bitrate_mode=mode, compression_level=level)
    return samples
