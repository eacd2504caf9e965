"""What a CTC run learns to write and is measured on: parts of a corpus, their characters or phones, and ids."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby
from typing import Any

import numpy as np
import torch

from layertool.conditions import Condition, holds
from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError, UsageError
from layertool.non_speech import is_speech
from layertool.spelling import nfc
from layertool.training.ctc import unreachable
from layertool.training.encoders import Opened, collate, encode, width_of

BLANK, UNKNOWN = "<pad>", "<unk>"  # ids 0 and 1; transformers' CTC tokenizers call them so
BOUNDARY = "|"  # between words
CASES = ("upper", "lower", "keep")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by their id: the blank, the unknown token, then all others in the order of their code points."""

    tokens: tuple[str, ...]

    @classmethod
    def of(cls, sequences: Iterable[Sequence[str]]) -> Vocabulary:
        """The vocabulary of token sequences (those to be trained on). Raises CorpusError where they have no token."""
        there = {token for sequence in sequences for token in sequence} - {BLANK, UNKNOWN}
        if not there:
            raise CorpusError("there is no token to learn: all texts are empty; give utterances with words")
        return cls((BLANK, UNKNOWN, *sorted(there)))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def ids(self) -> dict[str, int]:
        """The id of each token."""
        return {token: k for k, token in enumerate(self.tokens)}

    def encode(
        self, sequences: Mapping[str, Sequence[str]], unknown: str = "error"
    ) -> tuple[dict[str, list[int]], Counter]:
        """Ids of the tokens of each utterance, and how often each token that is not in the vocabulary came.

        ``unknown``: "error" for a CorpusError that names the first such token and its utterance, "count" for the id of
        the unknown token in their place.
        """
        if unknown not in ("error", "count"):
            raise UsageError(f"'{unknown}' is no way to treat unknown tokens: choose error or count")
        known = {token: k for token, k in self.ids.items() if token not in (BLANK, UNKNOWN)}
        missed: Counter[str] = Counter()
        for utterance, sequence in sequences.items():
            strange = [token for token in sequence if token not in known]
            missed.update(strange)
            if strange and unknown == "error":
                (token, *_), code = strange, "a label"
                if len(token) == 1:
                    code = unicodedata.name(token, f"U+{ord(token):04X}")
                raise CorpusError(
                    f"utterance '{utterance}' has '{token}' ({code}), which is in no training text: correct it, or "
                    "type --unknown count"
                )
        ids = {name: [known.get(token, self.ids[UNKNOWN]) for token in own] for name, own in sequences.items()}
        return ids, missed

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Tokens of ids, without blanks; repetitions stay (``greedy`` has collapsed them)."""
        return [self.tokens[k] for k in ids if k != 0]


def spell(text: str, case: str = "upper") -> list[str]:
    """Characters of a text, ``|`` between words.

    Unicode's composed form (NFC); ``case``: "upper" (as LibriSpeech and the dictionaries of wav2vec 2.0), "lower" or
    "keep", by Unicode's rules, so that ß becomes SS. Any white space is one boundary, none at either end; all else,
    punctuation too, is a character. Raises UsageError for another case.
    """
    if case not in CASES:
        raise UsageError(f"'{case}' is no case: choose {', '.join(CASES)}")
    if case != "keep":
        text = text.upper() if case == "upper" else text.lower()
    return list(BOUNDARY.join(nfc(text).split()))


def unspell(tokens: Iterable[str]) -> str:
    """The text of characters: boundaries are spaces again, one between words and none at the ends."""
    return " ".join(word for word in "".join(tokens).split(BOUNDARY) if word)


def characters(corpus: Corpus, among: Collection[str] | None = None, case: str = "upper") -> dict[str, list[str]]:
    """The characters (see ``spell``) of the column ``text`` of each utterance, or of those ``among``, in corpus order.

    Raises CorpusError for a corpus without texts, an utterance without one, and a text that has the boundary in it.
    """
    table = _chosen(corpus, among)
    if "text" not in table:
        raise CorpusError(
            f"the corpus {corpus.name} has no texts (column 'text', columns there: "
            f"{', '.join(map(str, corpus.metadata_columns)) or 'none'}): add the column with what is said in each "
            "utterance"
        )
    out = {}
    for utterance, text in zip(table["utterance"], table["text"], strict=True):
        if not isinstance(text, str) or not text.strip():
            raise CorpusError(
                f"utterance '{utterance}' of {corpus.name} has no text: write it in the column 'text', or leave "
                "the utterance out"
            )
        if BOUNDARY in text:
            raise CorpusError(
                f"the text of utterance '{utterance}' has a '{BOUNDARY}', which stands between words here: take it out"
            )
        out[utterance] = spell(text, case)
    return out


def phones(corpus: Corpus, among: Collection[str] | None = None, tier: str = "phone") -> dict[str, list[str]]:
    """The phone labels of each utterance in the order of time, without silence; in corpus order.

    Raises CorpusError for a corpus without the tier, and for an utterance without phones.
    """
    table = _chosen(corpus, among)
    own = corpus.segments[corpus.segments["tier"] == tier]
    if own.empty:
        raise CorpusError(
            f"the corpus {corpus.name} has no segments of the tier '{tier}' (tiers there: "
            f"{', '.join(corpus.tiers) or 'none'}): align it first ('layertool corpus align')"
        )
    spoken = [label for label in own["label"].unique() if is_speech(tier, label)]
    own = own[own["label"].isin(spoken)].sort_values(["start", "end"], kind="stable")
    labels = own.groupby("utterance", sort=False, observed=True)["label"].agg(list).to_dict()
    for utterance in table["utterance"]:
        if utterance not in labels:
            raise CorpusError(
                f"utterance '{utterance}' of {corpus.name} has no {tier} other than silence: align it, or leave it out"
            )
    return {utterance: labels[utterance] for utterance in table["utterance"]}


def _chosen(corpus: Corpus, among: Collection[str] | None):
    table = corpus.utterances
    if among is None:
        return table
    unknown = set(among) - set(table["utterance"])
    if unknown:
        raise CorpusError(f"the corpus {corpus.name} has no utterance '{min(unknown)}': take ids from its utterances")
    return table[table["utterance"].isin(list(among))]


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


def greedy(logits: torch.Tensor, n_frames: Sequence[int] | torch.Tensor, blank: int = 0) -> list[list[int]]:
    """The best path of CTC: the likeliest token of each frame, repetitions as one, then blanks left out.

    ``logits``: (batch, frames, tokens); ``n_frames``: (batch,), what stands after them is not read.
    """
    best = logits.argmax(dim=-1).tolist()
    return [
        [token for token, _ in groupby(path[: int(n)]) if token != blank]
        for path, n in zip(best, n_frames, strict=True)
    ]


@torch.no_grad()
def transcribe(
    network: Any,
    hear: Callable[[str], np.ndarray],
    utterances: Sequence[str],
    order: Mapping[str, int],
    batch_size: int,
    place: torch.device,
) -> list[list[int]]:
    """The best path of CTC of each utterance (``greedy``), in float32 and evaluation mode, which is left again.

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
