"""The time mask of pre-training: which frames of an utterance the model does not see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash

from layertool.errors import UsageError
from layertool.geometry import FrameGeometry, Window

# Pre-training's own values, from the papers and fairseq's recipes. Not those of the checkpoints' config.json: its
# mask_time_prob (usually 0.05) is for fine-tuning, where it hardly masks anything.
PROBABILITY = {
    "wav2vec2": 0.65,
    "data2vec-audio": 0.65,
    "unispeech": 0.65,
    "wav2vec2-conformer": 0.65,
    "hubert": 0.80,
    "wavlm": 0.80,
    "unispeech-sat": 0.80,
}
LENGTH = 10  # frames of one span


@dataclass(frozen=True)
class TimeMask:
    """The masks of all utterances of one run.

    Spans of ``length`` frames, probability * T / length of them in T frames (rounded up or down at random),
    begin at frames drawn uniformly without replacement; they may overlap, so that fewer frames are masked than
    ``probability`` says: about 1 - (1 - probability / length) ** length of them (Baevski et al. 2020,
    sections 3.1 and 4.2; Hsu et al. 2021, section IV.C). The mask of an utterance depends on ``seed``, its id and its
    number of frames alone. ``geometry``: of the model's frames. Raises UsageError.
    """

    seed: int
    probability: float
    length: int
    geometry: FrameGeometry

    def __post_init__(self):
        if not 0 < self.probability <= 1:
            raise UsageError(
                f"a mask probability of {self.probability:g} masks nothing or cannot be: give --mask-prob above 0 and "
                f"at most 1"
            )
        if self.length < 1:
            raise UsageError(f"mask spans of {self.length} frames mask nothing: give --mask-length 1 or more")

    def frames(self, utterance: str, n_samples: int) -> np.ndarray:
        """Whether each model frame of an utterance of ``n_samples`` is masked, bool of shape (frames,)."""
        n_frames = self.geometry.n_frames(n_samples)
        masked = np.zeros(n_frames, dtype=bool)
        random = np.random.default_rng(xxhash.xxh3_128_intdigest(f"{self.seed} {utterance}".encode()))
        n_spans = min(int(self.probability * n_frames / self.length + random.random()), n_frames // self.length)
        if n_spans:
            # by rank: unlike `choice`, plain random numbers are the same in every version of numpy
            starts = np.argsort(random.random(n_frames - self.length + 1), kind="stable")[:n_spans]
            masked[starts[:, None] + np.arange(self.length)] = True
        return masked

    def of_window(self, masked: np.ndarray, window: Window) -> np.ndarray:
        """The part of an utterance's mask that a window of it sees; windows begin on whole frames."""
        first = window.start // self.geometry.hop
        return masked[first : first + self.geometry.n_frames(window.end - window.start)]

    def of_rows(self, masked: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Whether each frame row [start, end) (samples, of any rate) is masked, bool of shape (rows,).

        A model frame stands for one hop of audio around its centre; a row goes with the model frame that its own
        centre falls to, the later one of two equally near. ``masked``: as ``frames`` gives it.
        """
        if not len(masked):  # rows of an utterance that is too short for the model, and will be dropped
            return np.zeros(len(start), dtype=bool)
        # (centre - first sample that frame 0 stands for) // hop, doubled so that it is exact
        owner = (start + end - (self.geometry.field - self.geometry.hop)) // (2 * self.geometry.hop)
        return masked[np.clip(owner, 0, len(masked) - 1)]
