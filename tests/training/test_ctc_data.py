"""Characters and phones of a corpus, their ids, CTC's best path, and error rates against an edit distance by hand."""

from __future__ import annotations

import itertools

import models
import numpy as np
import pytest
import torch

from layertool.errors import CorpusError, MissingExtraError, UsageError
from layertool.training.ctc_data import (
    BLANK,
    UNKNOWN,
    Vocabulary,
    characters,
    greedy,
    phones,
    spell,
    unspell,
)
from layertool.training.ctc_rates import error_rate, letters


def corpus(folder, texts=("Call  Stella\n", "ask her", "Straße"), segments=None, **columns):
    if segments is None:
        segments = [
            (0, "phone", 8_000, 9_000, "l"),
            (0, "phone", 1_000, 2_000, "k"),
            (0, "phone", 2_000, 8_000, "ao"),
            (0, "phone", 0, 1_000, "SIL"),
            (0, "phone", 9_000, 9_100, "sp"),
            (1, "phone", 0, 500, "ae"),
            (1, "word", 0, 500, "ask"),
            (2, "phone", 10, 500, "s"),
            (2, "phone", 500, 600, "s"),
        ]
    if texts is not None:
        columns["text"] = list(texts)
    return models.corpus(folder, [np.zeros(16_000, np.float32)] * 3, segments, **columns)


def test_spelling():
    assert spell(" Call\t me  now ") == list("CALL|ME|NOW")
    assert spell("Straße", "lower") == list("straße")
    assert spell("Straße") == list("STRASSE")
    assert spell("cafe\u0301", "keep") == ["c", "a", "f", "é"]  # composed
    assert spell("") == []
    assert unspell(spell(" it's  me ", "keep")) == "it's me"
    assert unspell("||A||B|") == "A B"
    with pytest.raises(UsageError, match="upper, lower, keep"):
        spell("a", "Upper")


def test_characters_of_a_corpus(tmp_path):
    found = characters(corpus(tmp_path))
    assert list(found) == ["u0", "u1", "u2"]
    assert found["u0"] == list("CALL|STELLA")
    vocabulary = Vocabulary.of(found.values())
    assert vocabulary.tokens[:2] == (BLANK, UNKNOWN)
    assert list(vocabulary.tokens[2:]) == sorted(set("CALL|STELLA|ASK|HER|STRASSE"))
    assert [vocabulary.ids[token] for token in vocabulary.tokens] == list(range(len(vocabulary)))
    ids, missed = vocabulary.encode(found)
    assert not missed
    assert min(map(min, ids.values())) >= 2
    assert {name: vocabulary.decode(own) for name, own in ids.items()} == found
    assert list(characters(corpus(tmp_path), among=["u2", "u0"], case="lower")) == ["u0", "u2"]


def test_phones_in_the_order_of_time_without_silence(tmp_path):
    found = phones(corpus(tmp_path))
    assert found == {"u0": ["k", "ao", "l"], "u1": ["ae"], "u2": ["s", "s"]}
    assert phones(corpus(tmp_path), among=["u1"]) == {"u1": ["ae"]}
    noisy = [
        (k, "phone", place * 100, place * 100 + 100, label)
        for k in range(3)
        for place, label in enumerate(("pau", "a", "h#"))
    ]
    assert phones(corpus(tmp_path, segments=noisy))["u2"] == ["a"]
    assert Vocabulary.of(found.values()).tokens[2:] == ("ae", "ao", "k", "l", "s")


def test_tokens_that_training_has_not(tmp_path):
    vocabulary = Vocabulary.of([list("CALL")])
    with pytest.raises(CorpusError, match=r"utterance 'd7' has 'É' \(LATIN CAPITAL LETTER E WITH ACUTE\)"):
        vocabulary.encode({"d6": list("ALL"), "d7": list("LÉX")})
    ids, missed = vocabulary.encode({"d6": list("ALL"), "d7": list("LÉXÉ")}, unknown="count")
    assert ids == {"d6": [2, 4, 4], "d7": [4, 1, 1, 1]}
    assert missed == {"É": 2, "X": 1}
    with pytest.raises(UsageError, match="error or count"):
        vocabulary.encode({}, unknown="skip")
    for own in (BLANK, UNKNOWN):  # as a label they are no token, and never the blank's id
        assert vocabulary.encode({"u": [own]}, unknown="count")[0] == {"u": [1]}
        with pytest.raises(CorpusError, match="a label"):
            vocabulary.encode({"u": [own]})
        assert len(Vocabulary.of([[own, "a"]])) == 3


def test_corpora_that_cannot_be_written_down(tmp_path):
    with pytest.raises(CorpusError, match=r"no texts \(column 'text', columns there: speaker\): add the column"):
        characters(corpus(tmp_path, texts=None, segments=[(0, "phone", 0, 500, "ae")], speaker=["a", "b", "c"]))
    with pytest.raises(CorpusError, match="'u0' of synthetic has no text"):  # the others have words
        characters(corpus(tmp_path, texts=None))
    for empty in (None, "", " \n"):
        with pytest.raises(CorpusError, match="utterance 'u1' of synthetic has no text"):
            characters(corpus(tmp_path, texts=["a", empty, "b"], segments=[]))
    with pytest.raises(CorpusError, match=r"'u2' has a '\|'"):
        characters(corpus(tmp_path, texts=["a", "b", "c|d"]))
    with pytest.raises(CorpusError, match="no utterance 'u9'"):
        characters(corpus(tmp_path), among=["u0", "u9"])
    with pytest.raises(CorpusError, match=r"no segments of the tier 'phone' \(tiers there: none\)"):
        phones(corpus(tmp_path, segments=[]))
    with pytest.raises(CorpusError, match="'u1' of synthetic has no phone other than silence"):
        phones(corpus(tmp_path, segments=[(0, "phone", 0, 9, "a"), (1, "phone", 0, 9, "sil"), (2, "phone", 0, 9, "a")]))
    with pytest.raises(CorpusError, match="no token to learn"):
        Vocabulary.of([[], []])


def test_the_best_path():
    logits = torch.full((2, 8, 4), -1.0)
    for k, path in enumerate(([0, 1, 1, 0, 1, 2, 2, 3], [3, 3, 0, 0, 2, 2, 2, 1])):
        logits[k, torch.arange(8), torch.tensor(path)] = 1.0
    assert greedy(logits, [8, 8]) == [[1, 1, 2, 3], [3, 2, 1]]
    assert greedy(logits, torch.tensor([5, 2])) == [[1, 1], [3]]
    assert greedy(logits, [1, 0]) == [[], []]
    assert greedy(logits, [8, 8], blank=2) == [[0, 1, 0, 1, 3], [3, 0, 1]]


def edit_distance(wanted: list[str], given: list[str]) -> int:
    rows = [[max(i, j) if 0 in (i, j) else 0 for j in range(len(given) + 1)] for i in range(len(wanted) + 1)]
    for i, j in itertools.product(range(1, len(wanted) + 1), range(1, len(given) + 1)):
        same = wanted[i - 1] == given[j - 1]
        rows[i][j] = min(rows[i - 1][j - 1] + (not same), rows[i - 1][j] + 1, rows[i][j - 1] + 1)
    return rows[-1][-1]


def test_error_rates_by_hand():
    rate, errors, tokens = error_rate(["the cat sat", "a b"], ["the  bat sat down", ""])
    assert (errors.tolist(), tokens.tolist()) == ([2, 2], [3, 2])
    assert rate == 4 / 5
    assert error_rate(["a b"], ["a b"])[0] == 0
    assert error_rate(["a"], ["b c d"])[0] == 3  # above 1
    assert error_rate(letters(["ab  cd"]), letters(["abcd"]))[1:] == ([1], [5])  # the space
    assert error_rate([["n g", "a"]], [["n", "g", "a"]])[1] == [2]  # labels are not split


def test_error_rates_against_an_edit_distance():
    random = np.random.default_rng(0)
    sentences = [[list(random.choice(list("abcd"), random.integers(0, 9))) for _ in range(300)] for _ in range(2)]
    rate, errors, tokens = error_rate(*sentences)
    expected = [edit_distance(wanted, given) for wanted, given in zip(*sentences, strict=True)]
    assert errors.dtype == tokens.dtype == np.int64
    assert errors.tolist() == expected
    assert tokens.tolist() == [len(wanted) for wanted in sentences[0]]
    assert 0 in tokens  # an empty reference has insertions only
    assert rate == pytest.approx(sum(expected) / sum(tokens), abs=1e-15)
    as_texts = [[" ".join(tokens) for tokens in part] for part in sentences]
    assert error_rate(*as_texts)[1].tolist() == expected


def test_error_rates_that_cannot_be(monkeypatch):
    with pytest.raises(UsageError, match="give as many"):
        error_rate(["a"], ["a", "b"])
    with pytest.raises(UsageError, match="no error rate"):
        error_rate(["", []], ["a", []])
    monkeypatch.setitem(__import__("sys").modules, "jiwer", None)
    with pytest.raises(MissingExtraError, match=r"layertool\[train\]"):
        error_rate(["a"], ["a"])
