"""The model's most likely words of a lexicon, exactly, without scoring each of them.

Log-probabilities only fall along a word, so prefixes are opened best first, in batches, until no open
prefix can lead to a better word than those that are complete (spec lexical.md 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from layertool.analysis.lexical.lexicon import Lexicon
from layertool.errors import ModelError
from layertool.models.whisper import Reading

MOST_PREFIXES = 20_000  # opened for one clip; a model that knows nothing would open all
MOST_AT_ONCE = 512
LEAST_AT_ONCE = 16
FORMS_AT_ONCE = 256


@dataclass(frozen=True)
class Found:
    """The most likely words in order, their log-probabilities, and what the search cost.

    ``exact``: whether it could finish; else these are the best words found after ``n_opened`` prefixes.
    """

    words: list[str]
    log_p: list[float]
    n_opened: int
    n_batches: int
    exact: bool


def most_likely(
    reading: Reading, lexicon: Lexicon, n: int, end: int | None, most_prefixes: int = MOST_PREFIXES
) -> Found:
    """The ``n`` words of highest probability; ``end``: the token that ends a word, None where none does.

    A word that can be written in several ways has the sum of their probabilities.
    """
    search = _Search(reading, lexicon, n, end)
    exact = search.run(most_prefixes)
    words, log_p = search.best()
    return Found([lexicon.words[k] for k in words], log_p, search.n_opened, search.n_batches, exact)


class _Search:
    """Open prefixes and complete forms of words, as arrays."""

    def __init__(self, reading: Reading, lexicon: Lexicon, n: int, end: int | None):
        self.reading, self.lexicon, self.n, self.end = reading, lexicon, min(n, len(lexicon)), end
        self.n_forms = lexicon.most_forms
        # a word of k forms is at most k times as likely as its best: forms that near the threshold count too
        self.slack = math.log(self.n_forms)
        self.open_score, self.open_node, self.open_parent = np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
        self.form_score, self.form_word = np.empty(0), np.empty(0, np.int64)
        self.least = -math.inf  # the n-th best word is at least as likely
        self.n_opened = self.n_batches = 0

    def run(self, most_prefixes: int) -> bool:
        """Open prefixes until the n best words are known. False when that would take more than ``most_prefixes``."""
        self._spread(np.zeros(1), np.zeros(1, np.int64), np.zeros(1, np.int64), self.reading.start)
        while len(self.open_score):
            if self.n_opened >= most_prefixes:
                return False
            chosen = self._choose(most_prefixes - self.n_opened)
            score, node, parent = self.open_score[chosen], self.open_node[chosen], self.open_parent[chosen]
            kept = np.ones(len(self.open_score), bool)
            kept[chosen] = False
            self._keep_open(kept)
            at = self.reading.n_nodes + np.arange(len(chosen))
            read = self.reading.extend(self.lexicon.token[node].tolist(), parent.tolist())
            self.n_opened += len(chosen)
            self.n_batches += 1
            self._spread(score, node, at, read)
        return True

    def _choose(self, most: int) -> np.ndarray:
        """Places of the prefixes to open next: the best ones, more and more at a time."""
        size = min(
            max(LEAST_AT_ONCE, 2 * self.n) << max(self.n_batches - 1, 0), MOST_AT_ONCE, most, len(self.open_score)
        )
        return np.argpartition(-self.open_score, size - 1)[:size]

    def _spread(self, score: np.ndarray, node: np.ndarray, at: np.ndarray, read: torch.Tensor) -> None:
        """Take up what is known once prefixes have been read: words that end there, and longer prefixes."""
        log_p = self.reading.log_probs(read)
        if self.end is not None:
            owner, word = self.lexicon.words_at(node)
            self._complete(score[owner] + _pick(log_p, owner, np.full(len(owner), self.end)), word)
        owner, child = self.lexicon.children(node)
        reached = score[owner] + _pick(log_p, owner, self.lexicon.token[child])
        if self.end is None:
            of, word = self.lexicon.words_at(child)
            self._complete(reached[of], word)
        self.open_score = np.concatenate([self.open_score, reached])
        self.open_node = np.concatenate([self.open_node, child])
        self.open_parent = np.concatenate([self.open_parent, at[owner]])
        self._keep_open(self.open_score >= self.least - self.slack)

    def _keep_open(self, which: np.ndarray) -> None:
        self.open_score, self.open_node = self.open_score[which], self.open_node[which]
        self.open_parent = self.open_parent[which]

    def _complete(self, score: np.ndarray, word: np.ndarray) -> None:
        self.form_score = np.concatenate([self.form_score, score])
        self.form_word = np.concatenate([self.form_word, word])
        promising = self.form_score >= self.least - self.slack
        self.form_score, self.form_word = self.form_score[promising], self.form_word[promising]
        if self.n_forms == 1:
            best = self.form_score
        else:  # a word counts once, by its best form so far
            best = np.full(len(self.lexicon), -math.inf)
            np.maximum.at(best, self.form_word, self.form_score)
        if len(best) >= self.n:
            self.least = max(self.least, float(np.partition(best, -self.n)[-self.n]))

    def best(self) -> tuple[list[int], list[float]]:
        """The n best words and their log-probabilities; equal ones in the order of the lexicon."""
        if self.n_forms == 1:
            words, score = self.form_word, self.form_score
        else:
            words = np.unique(self.form_word)
            score = score_words(self.reading, [self.lexicon.forms[k] for k in words], self.end)
        order = np.lexsort((words, -score))[: self.n]
        return words[order].tolist(), score[order].tolist()


def _pick(log_p: torch.Tensor, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """log_p[rows[k], tokens[k]] as float64."""
    places = torch.from_numpy(rows).to(log_p.device), torch.from_numpy(tokens).to(log_p.device)
    return _numbers(log_p[places])


def _numbers(log_p: torch.Tensor) -> np.ndarray:
    numbers = log_p.double().cpu().numpy()
    if np.isnan(numbers).any():
        raise ModelError("the model gives no probabilities (nan): its weights or the clip's states are not finite")
    return numbers


def score_words(reading: Reading, words: Sequence[Sequence[Sequence[int]]], end: int | None) -> np.ndarray:
    """Log-probability of words, each given as the tokens of every way of writing it: shape (len(words),), float64.

    One pass for many words, beginnings shared.
    """
    forms = [form for ways in words for form in ways]
    of_word = np.repeat(np.arange(len(words)), [len(ways) for ways in words])
    order = sorted(range(len(forms)), key=lambda k: list(forms[k]))
    scores = np.empty(len(forms))
    for first in range(0, len(order), FORMS_AT_ONCE):
        part = order[first : first + FORMS_AT_ONCE]
        scores[part] = _numbers(forms_log_p(reading, [forms[k] for k in part], end))
    total = np.full(len(words), -math.inf)
    np.logaddexp.at(total, of_word, scores)
    return total


def forms_log_p(reading: Reading, forms: Sequence[Sequence[int]], end: int | None) -> torch.Tensor:
    """Log-probability of token sequences, shape (len(forms),), through which gradients flow."""
    numbers: dict[tuple[int, ...], int] = {(): 0}
    tokens, parents = [], []
    wanted: list[tuple[int, int, int]] = []  # form, node, next token
    first = reading.n_nodes
    for k, form in enumerate(forms):
        whole = tuple(form)
        for depth, token in enumerate(whole):
            wanted.append((k, numbers[whole[:depth]], token))
            prefix = whole[: depth + 1]
            # the last token of a word need not be read where nothing comes after it
            if prefix not in numbers and (end is not None or depth + 1 < len(whole)):
                numbers[prefix] = len(numbers)
                tokens.append(token)
                parents.append(numbers[whole[:depth]])
        if end is not None:
            wanted.append((k, numbers[whole], end))
    read = reading.start
    if tokens:  # the tree may have grown before: nodes of this call are numbered from ``first`` on
        read = torch.cat([read, reading.extend(tokens, [p and p - 1 + first for p in parents])])
    log_p = reading.log_probs(read)
    of_form, at_node, to_token = torch.tensor(wanted, device=log_p.device).T
    return torch.zeros(len(forms), device=log_p.device).index_add(0, of_form, log_p[at_node, to_token])
