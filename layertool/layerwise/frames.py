"""Where the frames of each utterance lie in the matrix of a layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layertool.errors import UsageError
from layertool.store import FeatureStore


@dataclass(frozen=True)
class FrameRows:
    """``n``: (n_utterances,) frames of each utterance; ``table``: (n_rows,) the row table.

    ``centres``: (n_rows,) of each frame, in samples from the start of its utterance, may be halves; ``hop`` samples
    from one to the next; ``utterance``: (n_rows,) codes.
    """

    n: np.ndarray
    centres: np.ndarray
    hop: int
    utterance: np.ndarray
    table: np.ndarray

    @classmethod
    def of(cls, store: FeatureStore, layer: str) -> FrameRows:
        """Raises UsageError where no utterance has two frames."""
        table = store.row_table("frame", layer)
        utterance = table["utterance"].astype(np.int64)
        n = np.bincount(utterance, minlength=len(store.utterances))
        centres = (table["start"] + table["end"]) / 2
        neighbours = np.flatnonzero(np.diff(utterance) == 0)
        if not len(neighbours):
            raise UsageError(f"{store.path}: no utterance has two frames of {layer}: take longer ones")
        hop = int(table["start"][neighbours[0] + 1] - table["start"][neighbours[0]])
        return cls(n, centres, hop, utterance, table)
