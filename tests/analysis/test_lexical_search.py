"""The search on made-up probabilities, where every word can be summed up in plain Python: word for word, ties too."""

from __future__ import annotations

import math
import string
from functools import cache

import numpy as np
import pytest
import torch

from layertool.analysis.lexical import Lexicon, search

END = 0
SYMBOLS = [".", *string.ascii_letters]  # their tokens are 1, 2, ...
TOKEN = {symbol: k for k, symbol in enumerate(SYMBOLS, start=1)}


def letters(words: list[str]) -> list[list[int]]:
    return [[TOKEN[symbol] for symbol in word] for word in words]


@cache
def drawn(seed: int, spread: float, path: tuple[int, ...]) -> np.ndarray:
    """Log-probabilities after a path."""
    raw = spread * np.random.default_rng([seed, *path]).standard_normal(1 + len(SYMBOLS))
    if not path:  # a capital begins as often as its letter
        raw[TOKEN["A"] :] = raw[TOKEN["a"] : TOKEN["A"]]
    return raw - np.log(np.exp(raw).sum())


class Chances:
    """In place of a Reading: log-probabilities after every path of tokens, drawn once for each.

    ``spread``: 0 for all alike, more for more certain ones. Lower case, capital and full stop are about as likely.
    """

    def __init__(self, seed: int, spread: float):
        self.seed, self.spread = seed, spread
        self.nodes: list[tuple[int, ...]] = [()]
        self.start = torch.zeros(1, dtype=torch.long)

    @property
    def n_nodes(self) -> int:
        return len(self.nodes)

    def extend(self, tokens, parents) -> torch.Tensor:
        first = len(self.nodes)
        for token, parent in zip(tokens, parents, strict=True):
            self.nodes.append((*self.nodes[parent], token))
        return torch.arange(first, len(self.nodes))

    def row(self, path: tuple[int, ...]) -> np.ndarray:
        return drawn(self.seed, self.spread, path)

    def log_probs(self, read: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.row(self.nodes[k]) for k in read.tolist()])).float()

    def log_p(self, form: list[int], end: int | None) -> float:
        rest = form if end is None else [*form, end]
        return sum(self.row(tuple(rest[:k]))[token] for k, token in enumerate(rest))


def ways_to_write(word: str, surface: str) -> set[str]:
    lower, capitalised = word.lower(), word.lower().capitalize()
    every = {"lower": lower, "capitalised": capitalised, "sentence": capitalised + "."}
    return set(every.values()) if surface == "marginal" else {every[surface]}


def ranked(chances: Chances, words: list[str], surface: str, end: int | None) -> list[tuple[float, str]]:
    """Every word with the sum over its ways of writing, best first; equal ones in the order of the words."""
    total = []
    for word in words:
        forms = [letters([form])[0] for form in ways_to_write(word, surface)]
        total.append(math.log(sum(math.exp(chances.log_p(form, end)) for form in forms)))
    return [(total[k], words[k]) for k in sorted(range(len(words)), key=lambda k: (-total[k], k))]


def random_words(seed: int, n: int, alphabet: str = "abcdefgh") -> list[str]:
    random = np.random.default_rng(seed)
    made = ("".join(random.choice(list(alphabet), random.integers(1, 6))) for _ in range(n))
    return list(dict.fromkeys(made))


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [(1, 1), (4, 8), (search.LEAST_AT_ONCE, search.MOST_AT_ONCE)])
@pytest.mark.parametrize("end", [END, None])
@pytest.mark.parametrize("surface", ["lower", "sentence", "marginal"])
@pytest.mark.parametrize("seed", range(4))
def test_the_search_finds_the_best_words_in_order(monkeypatch, seed, surface, end, at_once):
    """Also when it opens one prefix at a time, and so as few as it can."""
    monkeypatch.setattr(search, "LEAST_AT_ONCE", at_once[0])
    monkeypatch.setattr(search, "MOST_AT_ONCE", at_once[1])
    words = random_words(seed, 120)
    lexicon = Lexicon(words, letters, surface)
    chances = Chances(seed, spread=0.3 + 0.7 * seed)
    expected = ranked(chances, words, surface, end)
    for n in (1, 2, 3, 5, 20, len(words), len(words) + 5):
        found = search.most_likely(Chances(seed, chances.spread), lexicon, n, end)
        assert found.exact
        assert found.words == [word for _, word in expected[:n]]
        np.testing.assert_allclose(found.log_p, [p for p, _ in expected[:n]], atol=1e-5)
        assert found.n_opened <= lexicon.n_prefixes - 1


def test_a_certain_model_opens_few_prefixes():
    words = random_words(1, 2_000)
    lexicon = Lexicon(words, letters)
    found = search.most_likely(Chances(1, 5.0), lexicon, 3, END)
    assert found.words == [word for _, word in ranked(Chances(1, 5.0), words, "lower", END)[:3]]
    assert found.n_opened < lexicon.n_prefixes / 4


@pytest.mark.parametrize("end", [END, None])
@pytest.mark.parametrize("n", [1, 3, 8])
def test_words_that_are_equally_likely_come_in_the_order_of_the_lexicon(end, n):
    words = ["ba", "ab", "cc", "bb", "a", "b", "c", "aa"]
    found = search.most_likely(Chances(0, 0.0), Lexicon(words, letters), n, end)
    assert found.exact
    assert (
        found.words
        == [word for word in words if len(word) == 1][:n] + [w for w in words if len(w) == 2][: max(n - 3, 0)]
    )


def test_a_word_of_three_likely_forms_beats_one_of_a_single_likelier_form(monkeypatch):
    """'b' is the likeliest string (0.36), 'a' the likeliest word (0.24 + 0.24 + 0.16)."""

    class Table(Chances):
        def row(self, path):
            p = np.full(1 + len(SYMBOLS), 1e-6)
            if not path:
                p[TOKEN["b"]], p[TOKEN["a"]], p[TOKEN["A"]] = 0.36, 0.24, 0.4
            elif path == (TOKEN["A"],):
                p[END], p[TOKEN["."]] = 0.6, 0.4
            elif path[-1] == TOKEN["."] or path[0] != TOKEN["A"]:
                p[END] = 1.0
            return np.log(p / p.sum())

    monkeypatch.setattr(search, "MOST_AT_ONCE", 1)
    lexicon = Lexicon(["b", "a"], letters, "marginal")
    found = search.most_likely(Table(0, 1.0), lexicon, 1, END)
    assert found.words == ["a"]
    assert found.log_p[0] == pytest.approx(math.log(0.24 + 0.4), abs=1e-3)


@pytest.mark.parametrize("most_prefixes", [1, 7, 40, 10_000])
def test_where_it_stops_it_says_so(monkeypatch, most_prefixes):
    monkeypatch.setattr(search, "MOST_AT_ONCE", 5)
    lexicon = Lexicon(random_words(2, 300), letters)
    found = search.most_likely(Chances(2, 0.1), lexicon, 4, END, most_prefixes)
    assert found.exact == (most_prefixes == 10_000)
    assert found.n_opened < most_prefixes + 5
    assert list(found.log_p) == sorted(found.log_p, reverse=True)
    assert len(set(found.words)) == len(found.words) <= 4
