"""The prefix tree against sets of prefixes, walked node by node; and word lists."""

from __future__ import annotations

import string

import numpy as np
import pytest
from refusals import refused

from layertool.analysis.lexical import Lexicon, cmudict_words
from layertool.analysis.lexical.lexicon import SURFACES, read_words, unique
from layertool.errors import UsageError


def letters(words: list[str]) -> list[list[int]]:
    """One token a letter."""
    return [[ord(letter) for letter in word] for word in words]


def pairs(words: list[str]) -> list[list[int]]:
    """Tokens of one or two letters, so that a word's beginning need not be a prefix of its tokens."""
    return [[hash_of(word[k : k + 2]) for k in range(0, len(word), 2)] for word in words]


def hash_of(piece: str) -> int:
    return sum(ord(letter) * 1_000**k for k, letter in enumerate(piece))


def walk(lexicon: Lexicon) -> dict[tuple[int, ...], tuple[int, set[str]]]:
    """Path of tokens -> node and the words that end there, from the root down, one node at a time."""
    found, todo = {}, [((), 0)]
    while todo:
        path, node = todo.pop()
        assert path not in found
        owner, words = lexicon.words_at(np.array([node]))
        assert not owner.any()
        found[path] = (node, {lexicon.words[k] for k in words})
        owner, below = lexicon.children(np.array([node]))
        assert not owner.any()
        todo += [((*path, int(lexicon.token[child])), int(child)) for child in below]
    return found


WAYS = {
    "lower": [str.lower],
    "capitalised": [lambda word: word.lower().capitalize()],
    "sentence": [lambda word: word.lower().capitalize() + "."],
}
WAYS["marginal"] = [write for (write,) in list(WAYS.values())]


def expected_words(lexicon: Lexicon, tokenise) -> dict[tuple[int, ...], set[str]]:
    """Path -> words, from the surfaces."""
    out: dict[tuple[int, ...], set[str]] = {}
    for write in WAYS[lexicon.surface]:
        for word, tokens in zip(lexicon.words, tokenise([write(w) for w in lexicon.words]), strict=True):
            out.setdefault(tuple(tokens), set()).add(word)
    return out


def some_words(seed: int, n: int = 200) -> list[str]:
    random = np.random.default_rng(seed)
    alphabet = list(string.ascii_lowercase[:4])
    return ["".join(random.choice(alphabet, random.integers(1, 7))) for _ in range(n)]


@pytest.mark.parametrize("surface", list(SURFACES))
@pytest.mark.parametrize("tokenise", [letters, pairs])
@pytest.mark.parametrize("seed", range(4))
def test_the_tree_has_every_prefix_once_and_every_word_at_its_end(seed, tokenise, surface):
    lexicon = Lexicon(some_words(seed), tokenise, surface)
    expected = expected_words(lexicon, tokenise)
    prefixes = {path[:k] for path in expected for k in range(len(path) + 1)}
    found = walk(lexicon)
    assert set(found) == prefixes
    assert lexicon.n_prefixes == len(prefixes) == len({path for path in prefixes if path}) + 1
    assert sorted(node for node, _ in found.values()) == list(range(len(prefixes)))
    for path, (_, words) in found.items():
        assert words == expected.get(path, set()), path


def test_many_nodes_at_once_are_the_nodes_one_by_one():
    lexicon = Lexicon(some_words(9), letters, "marginal")
    random = np.random.default_rng(0)
    for size in (0, 1, 50, 400):
        nodes = random.integers(lexicon.n_prefixes, size=size)  # some twice, in any order
        for ask in (lexicon.children, lexicon.words_at):
            owner, values = ask(nodes)
            each = [ask(np.array([node]))[1] for node in nodes]
            assert owner.tolist() == [k for k, part in enumerate(each) for _ in part]
            assert values.tolist() == [value for part in each for value in part]


def test_two_words_can_be_written_alike():
    """'a' with a full stop is 'a.' with a capital: both words end there."""
    lexicon = Lexicon(["a", "a."], letters, "marginal")
    found = walk(lexicon)
    assert found[(ord("A"), ord("."))][1] == {"a", "a."}
    assert found[(ord("a"),)][1] == {"a"}
    assert found[(ord("a"), ord("."))][1] == {"a."}
    assert found[(ord("A"), ord("."), ord("."))][1] == {"a."}
    assert lexicon.n_prefixes == 6


def test_children_come_in_the_order_of_tokens_after_their_parent():
    lexicon = Lexicon(some_words(5), letters)
    for node in range(lexicon.n_prefixes):
        _, below = lexicon.children(np.array([node]))
        tokens = lexicon.token[below].tolist()
        assert tokens == sorted(set(tokens))
        assert (below > node).all()


def test_one_word():
    lexicon = Lexicon(["the"], letters)
    assert lexicon.n_prefixes == 4
    assert len(lexicon) == 1
    assert list(walk(lexicon)) == [tuple(map(ord, "the"[:k])) for k in range(4)]


def test_forms_are_the_tokens_of_every_word():
    lexicon = Lexicon(["The", "cat", "the "], letters, "marginal")
    assert lexicon.words == ["the", "cat"]
    assert lexicon.forms == [letters(["the", "The", "The."]), letters(["cat", "Cat", "Cat."])]


def test_unique():
    assert unique([" The", "the", "THE\n", "", "  ", "cat", "Cat"]) == ["the", "cat"]
    assert unique([]) == []
    assert unique(["ice cream"]) == ["ice cream"]


@pytest.mark.parametrize("words", [[], [""], [" ", "\n"]])
def test_no_words_is_an_error(words):
    refused("a lexicon without words", Lexicon, words, letters)


def test_a_word_without_tokens_is_named():
    refused(
        "the word 'mute' has no tokens",
        Lexicon,
        ["cat", "mute"],
        lambda words: [[] if word == "mute" else [1] for word in words],
    )


# --- word lists --------------------------------------------------------------------------------------


def test_a_word_list_is_read(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffThe\r\ncat\n\n  café \nthe\ncross-eyed".encode())
    assert read_words(path) == ["the", "cat", "café", "cross-eyed"]
    assert read_words(str(path)) == read_words(path)


def test_what_is_no_word_list_is_said(tmp_path):
    refused("does not exist: a word list is a text file", read_words, tmp_path / "none.txt")
    refused("is a folder: a word list is a text file", read_words, tmp_path)
    for content, says in [
        (b"", "has no words"),
        (b"\n  \n", "has no words"),
        (b"\xef\xbb\xbf\n", "has no words"),
        (b"caf\xe9\n", "is no text in UTF-8"),
        ("the\n".encode("utf-16"), "is no text in UTF-8"),
    ]:
        path = tmp_path / "words.txt"
        path.write_bytes(content)
        with pytest.raises(UsageError, match=says) as error:
            read_words(path)
        assert str(path) in str(error.value)


# --- CMUdict -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_cmudict_has_the_words_of_the_spec():
    words = cmudict_words()
    assert len(words) == len(set(words)) == 126_052
    assert unique(words) == words


@pytest.mark.slow
def test_cmudict_with_the_real_tokens(shared):
    """152 983 prefixes, as many as distinct beginnings; each node's path spells its words."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(shared / "models/whisper-tiny.en/tokenizer.json"))

    def tokenise(words):
        texts = [f" {word}" for word in words]
        return [coded.ids for coded in tokenizer.encode_batch(texts, add_special_tokens=False)]

    words = cmudict_words()
    lexicon = Lexicon(words, tokenise)
    forms = [tuple(tokens) for tokens in tokenise(words)]
    assert lexicon.n_prefixes == len({form[:k] for form in forms for k in range(len(form) + 1)}) == 152_983
    paths: list[tuple[int, ...]] = [()] * lexicon.n_prefixes
    owner, below = lexicon.children(np.arange(lexicon.n_prefixes))
    for parent, child in zip(owner.tolist(), below.tolist(), strict=True):
        paths[child] = (*paths[parent], int(lexicon.token[child]))
    owner, ends = lexicon.words_at(np.arange(lexicon.n_prefixes))
    assert sorted(ends.tolist()) == list(range(len(words)))
    assert all(paths[node] == forms[word] for node, word in zip(owner.tolist(), ends.tolist(), strict=True))
