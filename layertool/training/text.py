"""What CTC learns to write: characters of texts or phones, their ids, and how wrong a transcript is."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError, MissingExtraError, UsageError
from layertool.non_speech import is_speech
from layertool.spelling import nfc

BLANK, UNKNOWN = "<pad>", "<unk>"  # ids 0 and 1; transformers' CTC tokenizers call them so
BOUNDARY = "|"  # between words
CASES = ("upper", "lower", "keep")
Sentence = str | Sequence[str]


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
                    f"utterance '{utterance}' has '{token}' ({code}), which is in no training text: correct it, or type "
                    "--unknown count"
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
            f"{', '.join(map(str, corpus.metadata_columns)) or 'none'}): add the column with what is said in each utterance"
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


def greedy(logits: torch.Tensor, n_frames: Sequence[int] | torch.Tensor, blank: int = 0) -> list[list[int]]:
    """The best path of CTC: the likeliest token of each frame, repetitions as one, then blanks left out.

    ``logits``: (batch, frames, tokens); ``n_frames``: (batch,), what stands after them is not read.
    """
    best = logits.argmax(dim=-1).tolist()
    return [
        [token for token, _ in groupby(path[: int(n)]) if token != blank]
        for path, n in zip(best, n_frames, strict=True)
    ]


def error_rate(references: Sequence[Sentence], hypotheses: Sequence[Sentence]) -> tuple[float, np.ndarray, np.ndarray]:
    """Errors per reference token, and errors and reference tokens of each utterance, integers (n,) each, by jiwer.

    Sentences are lists of tokens (phones, characters), or texts, of which words are compared (word error rate); for the
    character error rate of texts see ``letters``. Errors are substitutions, deletions and insertions of the shortest
    edit. The counts let the rate be bootstrapped over utterances. Raises UsageError where references and hypotheses are
    not as many, or there is no reference token; MissingExtraError without jiwer.
    """
    try:
        import jiwer
    except ImportError as error:
        raise MissingExtraError("jiwer", "train", "counting transcription errors") from error
    if len(references) != len(hypotheses):
        raise UsageError(
            f"{len(references)} references cannot be compared with {len(hypotheses)} hypotheses: give as many"
        )
    wanted, given = (
        [one.split() if isinstance(one, str) else list(one) for one in side] for side in (references, hypotheses)
    )
    n_tokens = np.array([len(sentence) for sentence in wanted], dtype=np.int64)
    if not n_tokens.sum():
        raise UsageError("references without a single token have no error rate: give transcripts of what is said")
    as_they_are = jiwer.Compose([])  # they are tokens already, and jiwer's own way would join and split them again
    found = jiwer.process_words(wanted, given, as_they_are, as_they_are)  # type: ignore[arg-type]
    n_errors = [
        sum(
            max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            for chunk in chunks
            if chunk.type != "equal"
        )
        for chunks in found.alignments
    ]
    return float(found.wer), np.array(n_errors, dtype=np.int64), n_tokens


def letters(texts: Iterable[str]) -> list[list[str]]:
    """The characters of texts, one space between words among them: what the character error rate counts."""
    return [list(" ".join(text.split())) for text in texts]


def _chosen(corpus: Corpus, among: Collection[str] | None):
    table = corpus.utterances
    if among is None:
        return table
    unknown = set(among) - set(table["utterance"])
    if unknown:
        raise CorpusError(f"the corpus {corpus.name} has no utterance '{min(unknown)}': take ids from its utterances")
    return table[table["utterance"].isin(list(among))]
