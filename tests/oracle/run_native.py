"""Run by the python of the fairseq environment, layertool on its path: fairseq-native on what write_and_run.py wrote.

FAIRSEQ_PYTHON run_native.py FOLDER NAME...
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from layertool.extractors.base import Item
from layertool.extractors.load import open_extractor
from layertool.geometry import Window


def main(folder: Path, names: list[str]) -> None:
    for name in names:
        extractor = open_extractor(f"fairseq-native:{folder / name}.pt", "cpu", normalise=False)
        written = np.load(folder / f"{name}.npz")
        clips = [written[key] for key in written.files if key.startswith("waveform/")]
        items = [
            Item(k, f"clip{k}", len(clip), Window(0, len(clip), 0, len(clip)), clip) for k, clip in enumerate(clips)
        ]
        arrays: dict[str, np.ndarray] = {}
        extractor.forward(
            items, list(extractor.layers), lambda layer, frames, to=arrays: to.update({layer: frames.numpy()})
        )
        arrays["step"] = np.array(extractor.provenance["step"])
        np.savez(folder / f"{name}.native.npz", **arrays)
        print(name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
