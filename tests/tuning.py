"""What the tests of fine-tuning share: a small corpus of listeners' responses, and what a folder holds."""

from __future__ import annotations

import json
from pathlib import Path

import models
import torch
from safetensors.torch import load_file

from layertool.analysis.lexical.scorer import Variant
from layertool.training.lexical import Options

WORDS = ["drink", "think", "brink", "the", "thin", "sink", "pink"]
EXACT = Variant(window="exact")
N = {"train": 6, "dev": 3, "test": 2}


def table(n: int = sum(N.values()), shift: int = 0) -> dict[str, list]:
    """Columns: one to three different responses for each clip, and its part."""
    size = [1 + k % 3 for k in range(n)]
    parts = [part for part, count in N.items() for _ in range(count)]
    own = [[WORDS[(k + shift + step) % 7] for step in (0, 1, 3)] for k in range(n)]
    return {
        "responses": ["|".join(own[k][: size[k]]) for k in range(n)],
        "counts": [" ".join(["4", "5", "2"][: size[k]]) for k in range(n)],
        "split": parts[:n],
        "split_by_target": parts[:n][::-1],
        "masker": [["SSN", "BMN3"][k % 2] for k in range(n)],
        "target": [WORDS[(k + 2) % 7] for k in range(n)],
    }


def corpus(folder: Path, drop: tuple[str, ...] = (), **changes):
    """Eleven ragged clips with responses."""
    columns = {name: values for name, values in (table() | changes).items() if name not in drop}
    waveforms = [models.speech_like(3000 + 613 * k, k) for k in range(sum(N.values()))]
    return models.corpus(folder, waveforms, **columns)


def recipe(variant: Variant = EXACT, **changes) -> Options:
    """Quick: two steps an epoch (4 and 2 stimuli), the clip alone."""
    read = {name: getattr(variant, name) for name in ("end_token", "surface", "timestamps", "language")}
    quick = {"epochs": 3, "batch_size": 4, "learning_rate": 3e-3, "encoder_window": variant.window, **read}
    return Options(**quick | changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def record(folder: Path) -> dict:
    return json.loads((folder / "finetune.json").read_text())


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class StopAfter:
    """Progress that a person stops with Ctrl-C when so many steps are done."""

    def __init__(self, step: int):
        self.step, self.seen = step, []

    def __call__(self, done: float, *_) -> None:
        self.seen.append(done)
        if done == self.step:
            raise KeyboardInterrupt

    def at_once(self, *_arguments) -> None:
        raise KeyboardInterrupt
