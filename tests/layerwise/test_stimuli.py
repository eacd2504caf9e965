"""Stimuli out of corpora: parts, conditions, cells as people type them, and rows that contradict themselves."""

from __future__ import annotations

import heard
import pandas as pd
import pytest

from layertool import Corpus
from layertool.conditions import parse_where
from layertool.corpora import eccc
from layertool.errors import CorpusError, UsageError
from layertool.layerwise.stimuli import Stimulus, relative_frequency, stimuli_of, top_response


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return heard.corpus(tmp_path_factory.mktemp("heard"))


def changed(corpus, row=0, **cells) -> Corpus:
    """The corpus with other cells in one row."""
    table = corpus.utterances.astype(dict.fromkeys(cells, object))
    for name, value in cells.items():
        table.loc[row, name] = value
    return Corpus(table, corpus.segments, corpus.name, {})


def names(stimuli) -> list[str]:
    return [one.utterance for one in stimuli]


def test_all_stimuli_in_order(corpus):
    found = stimuli_of(corpus)
    assert len(found) == len(heard.CLIPS)
    for k, (stimulus, clip) in enumerate(zip(found, heard.CLIPS, strict=True)):
        counts = tuple(int(count) for count in clip[1].split())
        assert stimulus == Stimulus(k, f"u{k}", tuple(clip[0].split("|")), counts, clip[2], clip[3])


@pytest.mark.parametrize("part", ["train", "dev", "test"])
@pytest.mark.parametrize("by_target", [False, True])
def test_parts(corpus, part, by_target):
    column = heard.COLUMNS.index("split_by_target" if by_target else "split")
    expected = [k for k, clip in enumerate(heard.CLIPS) if clip[column] == part]
    found = stimuli_of(corpus, part, by_target)
    assert [one.place for one in found] == expected
    assert names(found) == [f"u{k}" for k in expected]
    assert [one.target for one in found] == [heard.CLIPS[k][3] for k in expected]


def test_parts_of_the_real_corpus(shared):
    """Every stimulus is in one part, a tenth of each masker in test; target-disjoint parts share no target."""
    corpus = eccc.read(shared / "data/eccc")
    for by_target in (False, True):
        parts = {part: stimuli_of(corpus, part, by_target) for part in ("train", "dev", "test")}
        together = sorted(one.place for stimuli in parts.values() for one in stimuli)
        assert together == list(range(719))
        assert [len(stimuli) for stimuli in parts.values()] == [575, 72, 72]
        targets = [{one.target for one in stimuli} for stimuli in parts.values()]
        assert len(set.union(*targets)) == sum(map(len, targets)) or not by_target
    for one in stimuli_of(corpus):
        assert 12 <= sum(one.counts) <= 17
        assert one.group in {"BMN3", "SSN", "BAB4"}


def test_conditions(corpus):
    found = stimuli_of(corpus, "test", where=parse_where(["masker=SSN", "masker=BMN3"]))
    assert names(found) == ["u7", "u8", "u10"]
    assert names(stimuli_of(corpus, where=parse_where(["masker!=SSN", "utterance!=u1"]))) == [
        "u3", "u4", "u5", "u8", "u9", "u10",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="masker=XYZ"):
        stimuli_of(corpus, where=parse_where(["masker=XYZ"]))
    with pytest.raises(UsageError, match="no column 'maskr'"):
        stimuli_of(corpus, where=parse_where(["maskr=SSN"]))
    with pytest.raises(UsageError, match="target=zoo"):
        stimuli_of(corpus, "test", where=parse_where(["target=zoo"]))


@pytest.mark.parametrize("column", ["responses", "counts"])
def test_a_corpus_without_responses(tmp_path, column):
    with pytest.raises(CorpusError, match=f"no column '{column}'.*layertool corpus eccc"):
        stimuli_of(heard.corpus(tmp_path, heard.CLIPS[:2], without=[column]))


def test_a_corpus_without_parts(tmp_path):
    corpus = heard.corpus(tmp_path, heard.CLIPS[:3], without=["split", "split_by_target"])
    assert len(stimuli_of(corpus)) == 3
    with pytest.raises(UsageError, match="no column 'split'"):
        stimuli_of(corpus, "test")
    with pytest.raises(UsageError, match="no column 'split_by_target'"):
        stimuli_of(corpus, "test", by_target=True)


def test_a_corpus_without_maskers_and_targets(tmp_path):
    corpus = heard.corpus(tmp_path, heard.CLIPS[:3], without=["masker", "target"])
    assert [(one.group, one.target) for one in stimuli_of(corpus)] == [("", None)] * 3


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"responses": None}, "empty response"),
        ({"responses": float("nan")}, "empty response"),
        ({"responses": ""}, "empty response"),
        ({"responses": "the||he"}, "empty response"),
        ({"responses": "the|tea|"}, "empty response"),
        ({"responses": "the| |he"}, "empty response"),
        ({"responses": "the|tea|the"}, "response twice"),
        ({"responses": "the|tea| the "}, "response twice"),
        ({"responses": "the|tea|The"}, "response twice"),
        ({"responses": "the|tea"}, "2 responses and the counts '7 5 3'"),
        ({"counts": "7 5"}, "3 responses and the counts '7 5'"),
        ({"counts": "7 5 3 1"}, "3 responses"),
        ({"counts": "7 0 3"}, "'7 0 3'"),
        ({"counts": "7 -5 3"}, "'7 -5 3'"),
        ({"counts": "7 5.0 3"}, "'7 5.0 3'"),
        ({"counts": "7 5 x"}, "whole number above 0"),
        ({"counts": "7,5,3"}, "whole number above 0"),
        ({"counts": "7 5 ²"}, "whole number above 0"),
        ({"counts": None}, "the counts ''"),
        ({"responses": "the", "counts": 2.5}, "1 responses? and the counts '2.5'"),
        ({"responses": "the", "counts": -3}, "'-3'"),
        ({"responses": "the", "counts": 0}, "'0'"),
    ],
)
def test_rows_that_contradict_themselves(corpus, cells, says):
    with pytest.raises(CorpusError, match=f"utterance 'u2' .*{says}"):
        stimuli_of(changed(corpus, 2, **({"responses": "the|tea|he", "counts": "7 5 3"} | cells)))


def test_a_bad_row_counts_only_in_its_part(corpus):
    broken = changed(corpus, 0, counts="1")  # train
    assert names(stimuli_of(broken, "test")) == names(stimuli_of(corpus, "test"))


@pytest.mark.parametrize("holes", [False, True])
def test_counts_that_are_numbers(tmp_path, holes):
    """A spreadsheet where each clip has one response; a hole in the column makes pandas read floats."""
    cells = {
        "responses": ["the", "Tea ", "he"], "counts": [7, 12, "" if holes else 1_234_567], "part": ["a", "a", "b"],
        "target": ["the", "", "he"], "masker": [1, 2, 2],
    }  # fmt: skip
    corpus = Corpus.read(heard.hand_made(tmp_path / "x", **cells))
    found = stimuli_of(corpus, where=parse_where(["part=a"]))
    assert [(one.responses, one.counts) for one in found] == [(("the",), (7,)), (("Tea",), (12,))]
    assert [(one.group, one.target) for one in found] == [("1", "the"), ("2", None)]
    if holes:
        with pytest.raises(CorpusError, match="'u2' has 1 response"):
            stimuli_of(corpus)
    else:
        assert stimuli_of(corpus)[2].counts == (1_234_567,)


def test_large_counts_in_a_column_of_floats(corpus):
    """Counts of a million and more are read as they stand there."""
    table = corpus.utterances.iloc[:1].assign(responses=["the"], counts=[1_234_567.0])
    assert stimuli_of(Corpus(table, corpus.segments, "c", {}))[0].counts == (1_234_567,)


def test_words_that_pandas_takes_for_nothing(tmp_path):
    corpus = Corpus.read(heard.hand_made(tmp_path / "x", responses=["null|nan|none", "NA"], counts=["1 2 3", "5"]))
    assert [one.responses for one in stimuli_of(corpus)] == [("null", "nan", "none"), ("NA",)]


def test_a_corpus_that_was_written_and_read(corpus, tmp_path):
    corpus.write(tmp_path / "c")
    assert stimuli_of(Corpus.read(tmp_path / "c")) == stimuli_of(corpus)


def test_relative_frequency():
    stimulus = Stimulus(0, "u", ("the", "Tea", "he"), (7, 5, 3))
    assert [relative_frequency(stimulus, word) for word in ("the", "THE", "tea", "he", "zoo")] == pytest.approx(
        [7 / 15, 7 / 15, 5 / 15, 3 / 15, 0]
    )


@pytest.mark.parametrize(
    ("counts", "word"), [((7, 5, 3), "the"), ((3, 5, 5), "tea"), ((1, 1, 1), "the"), ((2, 3, 4), "he")]
)
def test_of_equal_responses_the_first_is_the_top(counts, word):
    assert top_response(Stimulus(0, "u", ("the", "tea", "he"), counts)) == word


def test_top_response_is_the_corpus_own(shared):
    """Against the real table, read here by csv: the largest count, the first of several."""
    import csv

    path = next((shared / "data/eccc").glob("*/confusionCorpus_*.csv"))
    with path.open(encoding="utf-8") as file:
        rows = {f"T_{row['ID']}": row for row in csv.DictReader(file)}
    for one in stimuli_of(eccc.read(shared / "data/eccc")):
        row = rows[one.utterance]
        counts = [int(k) for k in row["Counts"].split()]
        assert top_response(one) == row["Responses"].split("|")[counts.index(max(counts))]
        confused = counts[row["Responses"].split("|").index(row["Confusion"])]
        assert relative_frequency(one, row["Confusion"]) == confused / sum(counts)


def test_missing_values_of_every_kind(corpus):
    table = corpus.utterances.astype({"masker": object, "target": object})
    table.loc[0, ["masker", "target"]] = [None, pd.NA]
    found = stimuli_of(Corpus(table, corpus.segments, "c", {}))[0]
    assert (found.group, found.target) == ("", None)
