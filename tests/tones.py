"""Speech that is easy to write down: a tone for each letter, silence between words."""

from __future__ import annotations

import models
import numpy as np

TONES = dict(zip("abcde", (250, 500, 1000, 2000, 3500), strict=True))  # Hz
TONE, REST = 2400, 800  # samples


def spoken(text: str, seed: int = 0) -> tuple[np.ndarray, list[tuple[int, int, str]]]:
    """Samples, and first sample, one past the last and letter of each tone."""
    parts, segments, at = [], [], 0
    for letter in text:
        tone = np.zeros(TONE)
        if letter != " ":
            tone = 0.3 * np.sin(2 * np.pi * TONES[letter] * np.arange(TONE) / 16_000) * np.hanning(TONE)
            segments.append((at, at + TONE, letter))
        parts += [tone, np.zeros(REST)]
        at += TONE + REST
    samples = np.concatenate(parts)
    return (samples + 1e-3 * np.random.default_rng(seed).standard_normal(len(samples))).astype(np.float32), segments


def texts(n: int, seed: int = 1) -> list[str]:
    """Up to three words of up to three letters."""
    random = np.random.default_rng(seed)

    def word() -> str:
        return "".join(random.choice(list(TONES), random.integers(1, 4)))

    return [" ".join(word() for _ in range(random.integers(1, 4))) for _ in range(n)]


def corpus(folder, said: list[str], splits: list[str], **columns):
    """A corpus with texts, phones (a silence among them) and the column split."""
    found = [spoken(text, k) for k, text in enumerate(said)]
    segments = [(k, "phone", *one) for k, (_, own) in enumerate(found) for one in own]
    segments.append((0, "phone", len(found[0][0]) - REST, len(found[0][0]), "SIL"))
    return models.corpus(folder, [samples for samples, _ in found], segments, text=said, split=splits, **columns)
