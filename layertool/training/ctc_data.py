"""What a CTC run learns from and is measured on: parts of a corpus, their tokens, and examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch

from layertool.conditions import Condition, holds
from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError, UsageError
from layertool.training.ctc import unreachable
from layertool.training.encoders import collate, encode, width_of
from layertool.training.opening import Opened
from layertool.training.text import Vocabulary, characters, greedy, phones

UNITS = ("characters", "phone")
Conditions = Sequence[Condition]


@dataclass(frozen=True)
class Parts:
    """Conditions on the utterances of each part; None is no such part."""

    train: Conditions = (Condition("split", ("train",)),)
    dev: Conditions = (Condition("split", ("dev",)),)
    test: Conditions | None = None

    def of(self, corpus: Corpus) -> dict[str, list[str]]:
        """Utterances of each part, in corpus order.

        Raises UsageError for an empty part or a column that is not there, CorpusError for an utterance in two parts.
        """
        table, found = corpus.utterances, {}
        for part in ("train", "dev", "test"):
            where = getattr(self, part)
            try:
                if where is not None:
                    found[part] = table["utterance"][holds(table, where, corpus.name)].to_list()
            except UsageError as error:
                raise UsageError(f"there is no {part} part: {error}; choose it with --{part}-where") from error
        for one, other in combinations(found, 2):
            if both := set(found[one]) & set(found[other]):
                raise CorpusError(
                    f"utterance '{min(both)}' is in the {one} part and in the {other} part ({len(both)} such "
                    f"utterances): choose them apart with --{one}-where and --{other}-where"
                )
        return found


@dataclass(frozen=True)
class Writing:
    """What is written of an utterance: ``units`` (characters, or labels of a ``tier``), characters in ``case``."""

    units: str = "characters"
    case: str = "upper"
    tier: str = "phone"

    def __post_init__(self) -> None:
        if self.units not in UNITS:
            raise UsageError(f"'{self.units}' are no units: choose {' or '.join(UNITS)}")

    def of(self, corpus: Corpus, among: Sequence[str]) -> dict[str, list[str]]:
        """Tokens of utterances. Raises CorpusError for a corpus without texts or phones."""
        if self.units == "characters":
            return characters(corpus, among, self.case)
        return phones(corpus, among, self.tier)


@dataclass
class Material:
    """Parts of a corpus in tokens.

    ``parts``: utterances; ``train`` without those whose targets are longer than their frames can tell, which are
    ``unreachable``. ``tokens``: of every utterance. ``unknown``: how often tokens of dev and test came that are not in
    train.
    """

    parts: dict[str, list[str]]
    tokens: dict[str, list[str]]
    rows: dict[str, dict]
    vocabulary: Vocabulary
    targets: dict[str, list[int]]
    unreachable: list[str] = field(default_factory=list)
    unknown: Counter = field(default_factory=Counter)


def material(corpus: Corpus, parts: Parts, writing: Writing, opened: Opened, unknown: str = "error") -> Material:
    """What a run needs of a corpus; nothing is computed from audio.

    ``unknown``: "error" for a CorpusError that names a token of dev or test that no training utterance has, "count" to
    count them: they are errors of every transcript. Raises CorpusError for utterances too short for a frame too.
    """
    of = parts.of(corpus)
    tokens = writing.of(corpus, [utterance for part in of.values() for utterance in part])
    rows = {row["utterance"]: row for row in corpus.utterances.to_dict("records") if row["utterance"] in tokens}
    short = [name for name, row in rows.items() if opened.n_frames(row) < 1]
    if short:
        raise CorpusError(
            f"utterance '{short[0]}' is too short for a frame of {opened.name} ({len(short)} such utterances): "
            "take it out of the parts"
        )
    own = {part: {utterance: tokens[utterance] for utterance in names} for part, names in of.items()}
    train = own.pop("train")
    vocabulary = Vocabulary.of(train.values())
    targets, _ = vocabulary.encode(train)
    _, missed = vocabulary.encode({name: said for others in own.values() for name, said in others.items()}, unknown)
    left_out = unreachable({utterance: opened.n_frames(rows[utterance]) for utterance in train}, targets)
    of["train"] = [utterance for utterance in train if utterance not in set(left_out)]
    return Material(of, tokens, rows, vocabulary, targets, left_out, missed)


class Hearing:
    """What a network hears of utterances: their audio, or hidden states of a frozen encoder that were computed once.

    ``n_states``: of that encoder; 0 for audio. ``most_bytes``: states that take more are computed for every batch.
    """

    def __init__(self, opened: Opened, rows: Mapping[str, dict], n_states: int = 0, most_bytes: float = 0.0):
        self.opened, self.rows, self.n_states = opened, rows, n_states
        self.n_bytes = 4 * n_states * width_of(opened.encoder) * sum(map(opened.n_frames, rows.values()))
        self.computed_once = bool(n_states) and self.n_bytes <= most_bytes
        self._states: dict[str, np.ndarray] = {}

    @torch.no_grad()
    def compute(self, place: torch.device) -> None:
        """Compute the states, if they fit."""
        if self.computed_once:
            encoder = self.opened.encoder.to(place).eval()
            for name, row in self.rows.items():
                heard = torch.from_numpy(self.opened.hear(row))[None]
                states = encode(encoder, heard.to(place), torch.tensor([heard.shape[1]]), states=True).states
                self._states[name] = torch.stack([state[0] for state in states], dim=1).float().cpu().numpy()

    def __call__(self, utterance: str) -> np.ndarray:
        """(samples,), (frames, numbers) of mel energies, or states (frames, states, width)."""
        return self._states[utterance] if self.computed_once else self.opened.hear(self.rows[utterance])


@torch.no_grad()
def transcribe(
    network: Any,
    hear: Callable[[str], np.ndarray],
    utterances: Sequence[str],
    order: Mapping[str, int],
    batch_size: int,
    place: torch.device,
) -> list[list[int]]:
    """The best path of CTC of each utterance (``text.greedy``), in float32 and evaluation mode, which is left again.

    ``order``: a length of each, so that alike ones share a batch; padding changes no transcript.
    """
    was_training = network.training
    network.to(place).eval()
    found: dict[str, list[int]] = {}
    by_length = sorted(utterances, key=lambda utterance: order[utterance])
    for first in range(0, len(by_length), batch_size):
        names = by_length[first : first + batch_size]
        batch = {key: value.to(place) for key, value in collate([{"input": hear(name)} for name in names]).items()}
        out = network(**batch)
        found |= dict(zip(names, greedy(out["logits"], out["n_frames"].tolist()), strict=True))
    network.train(was_training)
    return [found[utterance] for utterance in utterances]
