"""Which rows an analysis takes: conditions on every kind of column, and the published sampling rules.

Conditions are checked against pandas on the table of ``FeatureStore.rows``.
"""

from types import SimpleNamespace

import models
import numpy as np
import pandas as pd
import pytest
import small

import layertool
from layertool.conditions import Condition, holds, parse_where
from layertool.errors import UsageError
from layertool.layerwise import rows
from layertool.layerwise.rows import Rows, Sampling
from layertool.store.layout import NO_LABEL, ROW_DTYPE

UNITS = ("frame", "phone", "word", "utterance")
N = 7


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    corpus = small.corpus(tmp_path_factory.mktemp("corpus"), N)
    corpus.utterances["age"] = [20, 31, 20, 45, 31, 60, 20]
    corpus.utterances["snr"] = [0.5, np.nan, 12.25, 3.0, np.nan, 0.5, -7.0]
    corpus.utterances["native"] = [True, False, True, True, False, False, True]
    corpus.utterances["town"] = ["Köln", None, "New York", "3", None, "a=b", "Köln"]
    corpus.utterances["label"] = list("ppqqrrs")
    return corpus


@pytest.fixture(scope="module")
def store(corpus, tmp_path_factory):
    return layertool.extract("mel", corpus, tmp_path_factory.mktemp("store") / "mel", UNITS, shard_seconds=1)


@pytest.fixture(scope="module")
def other(corpus, tmp_path_factory):
    """Another model on the same corpus, with other frames and other shards."""
    return layertool.extract("stft", corpus, tmp_path_factory.mktemp("store") / "stft", UNITS)


@pytest.fixture(scope="module")
def masked(corpus, tmp_path_factory):
    """Frames that say whether they were masked."""
    model = str(models.save("wav2vec2-base", tmp_path_factory.mktemp("model")))
    out = tmp_path_factory.mktemp("store") / "masked"
    return layertool.extract(model, corpus, out, "frame", "T1", mask_seed=1, mask_prob=0.5, mask_length=3)


def layer_of(store, unit):
    return store.layers[0] if unit == "frame" else None


def chosen(store, unit, *where):
    return rows.select(store, unit, layer_of(store, unit), parse_where(where))


# --- conditions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], []),
        (["speaker=s0"], [Condition("speaker", ("s0",))]),
        (["speaker!=s0"], [Condition("speaker", ("s0",), True)]),
        (["a=1", "b=2", "a=3"], [Condition("a", ("1", "3")), Condition("b", ("2",))]),
        (["a!=1", "a=2", "a!=3"], [Condition("a", ("1", "3"), True), Condition("a", ("2",))]),
        ([" a = 1 ", "b != 2"], [Condition("a", ("1",)), Condition("b", ("2",), True)]),
        (["a=", "b!="], [Condition("a", ("",)), Condition("b", ("",), True)]),
        (["town=a=b", "url=x?y=z!=w"], [Condition("town", ("a=b",)), Condition("url", ("x?y=z!=w",))]),
        (["word count=3"], [Condition("word count", ("3",))]),
        (["a! =1"], [Condition("a", ("1",), True)]),
    ],
    ids=str,
)
def test_conditions_are_read(texts, expected):
    assert parse_where(texts) == expected


@pytest.mark.parametrize("text", ["", "speaker", "=s0", "!=s0", " =x", "! =x", "speaker>3"])
def test_what_is_no_condition(text):
    with pytest.raises(UsageError, match=r"is no condition: type --where COLUMN=VALUE or COLUMN!=VALUE"):
        parse_where(["speaker=s1", text])


@pytest.mark.parametrize("unit", UNITS)
def test_without_conditions_all_rows_are_taken(store, unit):
    found = chosen(store, unit)
    table = store.row_table(unit, layer_of(store, unit))
    assert len(found) == len(table) > 0
    np.testing.assert_array_equal(found.index, np.arange(len(table)))
    np.testing.assert_array_equal(found.table, table)
    assert found.notes == []


CASES = [
    (["utterance=u03"], lambda t: t.utterance == "u03"),
    (["utterance!=u03"], lambda t: t.utterance != "u03"),
    (["utterance=u03", "utterance=u05"], lambda t: t.utterance.isin(["u03", "u05"])),
    (["utterance!=u03", "utterance!=u05"], lambda t: ~t.utterance.isin(["u03", "u05"])),
    (["speaker=s1"], lambda t: t.speaker == "s1"),
    (["age=20"], lambda t: t.age == 20),
    (["age=20.0", "age=45"], lambda t: t.age.isin([20, 45])),
    (["age!=20"], lambda t: t.age != 20),
    (["snr=0.5"], lambda t: t.snr == 0.5),
    (["snr=12.250"], lambda t: t.snr == 12.25),
    (["snr=-7"], lambda t: t.snr == -7),
    (["snr="], lambda t: t.snr.isna()),
    (["snr!="], lambda t: t.snr.notna()),
    (["snr=", "snr=3"], lambda t: t.snr.isna() | (t.snr == 3)),
    (["snr!=0.5"], lambda t: t.snr != 0.5),  # what is missing is not 0.5
    (["native=true"], lambda t: t.native),
    (["native=True"], lambda t: t.native),
    (["native=false"], lambda t: ~t.native),
    (["native!=true"], lambda t: ~t.native),
    (["native=true", "native=false"], lambda t: t.native | True),
    (["town=Köln"], lambda t: t.town == "Köln"),
    (["town=New York", "town=3"], lambda t: t.town.isin(["New York", "3"])),
    (["town=a=b"], lambda t: t.town == "a=b"),
    (["town="], lambda t: t.town.isna()),
    (["town!=Köln"], lambda t: t.town != "Köln"),
    (["speaker=s0", "age=20", "town!=Köln"], lambda t: (t.speaker == "s0") & (t.age == 20) & (t.town != "Köln")),
    (["start=0"], lambda t: t.start == 0),
    (["start!=0", "native=false"], lambda t: (t.start != 0) & ~t.native),
    (["utterance_label=q", "utterance_label=s"], lambda t: t.utterance_label.isin(["q", "s"])),
]


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(("where", "meets"), CASES, ids=[" ".join(where) for where, _ in CASES])
def test_conditions_hold_for_the_rows_that_meet_them(store, unit, where, meets):
    table = store.rows(unit, layer_of(store, unit))
    expected = np.flatnonzero(meets(table).to_numpy(dtype=bool))
    if not len(expected):
        with pytest.raises(UsageError, match=f"no {unit} row has"):
            chosen(store, unit, *where)
        return
    found = chosen(store, unit, *where)
    np.testing.assert_array_equal(found.index, expected)
    np.testing.assert_array_equal(found.table, store.row_table(unit, layer_of(store, unit))[expected])


@pytest.mark.parametrize("unit", ["phone", "word"])
def test_conditions_on_the_labels_of_segments(store, unit):
    table = store.rows(unit)
    first, second = table.label.unique()[:2]
    for where, meets in (
        ([f"label={first}"], table.label == first),
        ([f"label!={first}"], table.label != first),
        (
            [f"label={first}", f"label={second}", "speaker=s1"],
            table.label.isin([first, second]) & (table.speaker == "s1"),
        ),
    ):
        np.testing.assert_array_equal(chosen(store, unit, *where).index, np.flatnonzero(meets))


@pytest.mark.parametrize("unit", UNITS)
def test_every_time_can_be_named_in_seconds(store, unit):
    table = store.rows(unit, layer_of(store, unit))
    for name in ("start", "end"):
        for value in table[name].unique()[::17]:
            found = chosen(store, unit, f"{name}={value}")
            np.testing.assert_array_equal(found.index, np.flatnonzero(table[name] == value))


def test_a_time_is_that_of_the_sample_it_falls_on(store):
    table = store.row_table("word")
    start = int(table["start"][table["start"] % 16 != 0][0])  # no whole number of milliseconds
    typed = f"{start / 16000:.5f}"  # as segments are typed: not the sample's own time to the last digit
    np.testing.assert_array_equal(
        chosen(store, "word", f"start={typed}").index, np.flatnonzero(table["start"] == start)
    )
    for text in ("nan", "1_0", "1e400", "-1e400", "soon"):
        with pytest.raises(UsageError, match="no word row has start="):
            chosen(store, "word", f"start={text}")


BIG = 1_000_000_000_000_000_001  # no float is this number


@pytest.fixture(scope="module")
def exact(corpus, tmp_path_factory):
    """A store with numbers that are no floats, texts that look like numbers, and columns of two kinds."""
    utterances = corpus.utterances.assign(
        person=pd.array([BIG, BIG + 1, None, BIG, 7, 7, 7], dtype="Int64"),
        code=["007", "7", "7.0", "1e5", "nan", "NA", "e\u0301"],
        count=[1, 2, 3, 4, 5, 6, 1000],
        mixed=[27, "27.0", "old", None, 27, 40, 40.5],
    )
    corpus = layertool.Corpus(utterances, corpus.segments)
    return layertool.extract("mel", corpus, tmp_path_factory.mktemp("exact") / "mel", "utterance")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (f"person={BIG}", [0, 3]),
        (f"person={BIG}.0", [0, 3]),
        (f"person!={BIG}", [1, 2, 4, 5, 6]),
        ("person=", [2]),
        ("person=7.0", [4, 5, 6]),
        ("code=7", [1]),
        ("code=007", [0]),
        ("code=nan", [4]),
        ("code=é", [6]),
        ("count=1000", [6]),
        ("count=1e3", [6]),
        ("mixed=27", [0, 4]),
        ("mixed=27.0", [1]),
        ("mixed=", [3]),
    ],
)
def test_numbers_with_numbers_and_texts_with_texts(exact, where, expected):
    assert chosen(exact, "utterance", where).index.tolist() == expected


@pytest.mark.parametrize(
    "where", ["person=1e18", f"person={BIG + 5}", "count=1_000", "count=nan", "code=100000", "code=07"]
)
def test_what_only_looks_equal(exact, where):
    with pytest.raises(UsageError, match="no utterance row has"):
        chosen(exact, "utterance", where)


def test_values_as_they_are_written(exact):
    every = chosen(exact, "utterance")
    assert rows.written(exact, "utterance", every, "person").tolist() == [
        str(BIG),
        str(BIG + 1),
        None,
        str(BIG),
        *"777",
    ]
    some = chosen(exact, "utterance", "person!=")
    assert rows.filled(exact, "utterance", some, "person").tolist() == [str(BIG), str(BIG + 1), str(BIG), *"777"]
    assert exact.rows("utterance")["person"].dtype == "Int64"
    assert holds(exact.utterances, parse_where([f"person={BIG + 1}"]), "it").tolist() == [False, True] + [False] * 5


def test_masked_frames(masked):
    table = masked.rows("frame", "T1")
    assert 0 < table.masked.sum() < len(table)
    for text in ("true", "True", "yes", "1"):
        np.testing.assert_array_equal(chosen(masked, "frame", f"masked={text}").index, np.flatnonzero(table.masked))
    for where in ("masked=false", "masked=False", "masked=no", "masked=0", "masked!=true"):
        np.testing.assert_array_equal(chosen(masked, "frame", where).index, np.flatnonzero(~table.masked))


@pytest.mark.parametrize("text", ["ture", "maybe", "2", "-1"])
def test_what_is_neither_true_nor_false(store, masked, text):
    """A slip of the pen must not select the unmasked frames."""
    with pytest.raises(UsageError, match=f"no frame row has masked={text}"):
        chosen(masked, "frame", f"masked={text}")
    with pytest.raises(UsageError, match=f"no word row has native={text}"):
        chosen(store, "word", f"native={text}")


def test_true_and_false_in_a_column_with_gaps(corpus, tmp_path):
    corpus = layertool.Corpus(
        corpus.utterances.assign(heard=[True, None, False, True, None, False, False]), corpus.segments
    )
    store = layertool.extract("mel", corpus, tmp_path / "store", "utterance")
    for text, expected in (("true", [0, 3]), ("false", [2, 5, 6]), ("", [1, 4])):
        np.testing.assert_array_equal(chosen(store, "utterance", f"heard={text}").index, expected)


def test_a_column_that_is_not_there(store, masked):
    with pytest.raises(UsageError) as error:
        chosen(store, "word", "speakr=s0")
    assert "has no column 'speakr' at unit word" in str(error.value)
    for there in ("utterance", "start", "end", "label", "speaker", "age", "snr", "native", "town", "utterance_label"):
        assert there in str(error.value)
    for absent in ("masked", "n_samples", "audio"):
        assert absent not in str(error.value)
    with pytest.raises(UsageError, match="has no column 'label' at unit frame: it has utterance, start, end, speaker"):
        chosen(store, "frame", "label=a")
    with pytest.raises(UsageError, match="has no column 'masked' at unit frame"):
        chosen(store, "frame", "masked=true")
    with pytest.raises(UsageError, match="it has utterance, start, end, masked"):
        chosen(masked, "frame", "label=a")


def test_a_condition_that_no_row_meets(store):
    with pytest.raises(UsageError, match=r"no word row has speaker=s9 \(values of speaker: s0, s1\)"):
        chosen(store, "word", "speaker=s9")
    with pytest.raises(UsageError, match=r"no word row has speaker!=s0 or s1 \(values"):
        chosen(store, "word", "speaker!=s0", "speaker!=s1")
    with pytest.raises(UsageError, match=r"values of age: 20, 31, 45, 60"):
        chosen(store, "phone", "age=old")
    with pytest.raises(UsageError, match=r"values of start: .*, …\)"):
        chosen(store, "frame", "start=1000")
    with pytest.raises(UsageError, match="no word row has age=60 and speaker=s0: nothing is left"):
        chosen(store, "word", "age=60", "speaker=s0")  # either occurs, not both


def test_values_of_the_rows(store):
    for unit in UNITS:
        table = store.rows(unit, layer_of(store, unit))
        found = chosen(store, unit, "age=20")
        for name in ("speaker", "age", "native", "utterance", "start"):
            values = rows.column(store, unit, found, name)
            np.testing.assert_array_equal(values, table[name].to_numpy()[found.index])
    assert list(rows.column(store, "word", chosen(store, "word"), "label")) == list(store.rows("word").label)
    with pytest.raises(UsageError, match="has no column 'mood'"):
        rows.column(store, "word", chosen(store, "word"), "mood")


# --- labels -------------------------------------------------------------------------------------------


def labelled(labels, utterances=None):
    """Rows with these label codes; the position in the store is ten times that in the table."""
    table = np.zeros(len(labels), ROW_DTYPE)
    table["label"] = labels
    table["utterance"] = np.arange(len(labels)) if utterances is None else utterances
    return Rows(10 * np.arange(len(labels)), table)


def named(*names):
    return SimpleNamespace(labels={"word": list(names)}, path="STORE")


def test_only_rows_with_a_label_of_speech():
    store = named("sil", "the", "SIL", "sp", "cat", "spn", "<unk>", "<UNK>", "Sil")
    labels = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, NO_LABEL, 1])
    found = rows.with_labels(store, "word", labelled(labels))
    assert list(found.table["label"]) == [1, 4, 8, 1]
    assert list(found.index) == [10, 40, 80, 100]
    assert found.notes == []


def test_what_is_no_speech_depends_on_the_tier():
    names = ("noise", "pau", "h#", "<p:>", "a")
    for tier, spoken in (("word", [0, 1, 2, 4]), ("phone", [4])):
        store = SimpleNamespace(labels={tier: list(names)}, path="STORE")
        assert list(rows.of_speech(store, tier, labelled([0, 1, 2, 3, 4])).table["label"]) == spoken


def test_labels_that_are_too_rare():
    store = named(*"abcdefgh")
    labels = np.array([0, 0, 0, 1, 1, 2, 0, 1, 3, NO_LABEL])
    found = rows.with_labels(store, "word", labelled(labels), minimum=2)
    assert list(found.table["label"]) == [0, 0, 0, 1, 1, 0, 1]
    assert found.notes == ["left out: 2 word labels that occur once (c, d)"]
    found = rows.with_labels(store, "word", labelled(np.r_[labels, 1]), minimum=4)
    assert list(found.index) == [0, 10, 20, 30, 40, 60, 70, 100]
    assert found.notes == ["left out: 2 word labels that occur fewer than 4 times (c, d)"]
    many = rows.with_labels(store, "word", labelled([0, 0, 1, 1, 2, 3, 4, 5, 6, 7]), minimum=2)
    assert many.notes == ["left out: 6 word labels that occur once (c, d, e, f, g, …)"]


def test_fewer_than_two_labels():
    with pytest.raises(UsageError, match="fewer than two word labels occur in the rows"):
        rows.with_labels(named("a", "sil"), "word", labelled([0, 0, 1]))
    with pytest.raises(UsageError, match="fewer than two word labels occur twice or more"):
        rows.with_labels(named("a", "b"), "word", labelled([0, 0, 1]), minimum=2)


def test_a_unit_without_labels(store):
    with pytest.raises(UsageError, match="rows of unit utterance have no labels"):
        rows.with_labels(store, "utterance", chosen(store, "utterance"))


# --- sampling -----------------------------------------------------------------------------------------


def counts(found):
    return dict(zip(*(part.tolist() for part in np.unique(found.table["label"], return_counts=True)), strict=True))


@pytest.fixture(scope="module")
def many():
    """Labels 0 to 9, in no order: label k has 3 (k + 1) rows."""
    labels = np.repeat(np.arange(10), 3 * np.arange(1, 11))
    return labelled(np.random.default_rng(0).permutation(labels), np.arange(len(labels)) // 4)


def test_all_rows(many):
    found = rows.draw(many, rows.ALL, 0)
    assert (found.index == many.index).all()
    assert found.notes == []


@pytest.mark.parametrize("seed", range(3))
def test_so_many_rows_of_each_label(many, seed):
    found = rows.draw(many, Sampling(per_label=12), seed)
    assert counts(found) == {k: min(12, 3 * (k + 1)) for k in range(10)}
    assert (np.diff(found.index) > 0).all()  # in the order of the store, none twice
    assert (many.table[found.index // 10] == found.table).all()
    assert found.notes == [f"{len(found)} of 165 rows were drawn"]
    again = rows.draw(many, Sampling(per_label=12), seed)
    assert (again.index == found.index).all()
    assert (rows.draw(many, Sampling(per_label=12), seed + 10).index != found.index).any()


def test_every_row_of_a_label_can_be_drawn(many):
    """Uniformly: of 30 rows of label 9, each comes into 10 of 30 about 100 times in 300 draws."""
    times = np.zeros(len(many))
    for seed in range(300):
        times[rows.draw(many, Sampling(per_label=10), seed).index // 10] += 1
    mine = times[many.table["label"] == 9]
    assert mine.min() > 65
    assert mine.max() < 135
    assert (times[many.table["label"] == 2] == 300).all()  # nine rows: all of them, always


def test_a_drawn_number_of_rows_of_each_label():
    found = rows.draw(labelled(np.repeat(np.arange(400), 30)), Sampling(per_label=(5, 8)), 0)
    numbers = np.array(list(counts(found).values()))
    assert np.bincount(numbers, minlength=9)[5:] == pytest.approx(np.full(4, 100), abs=40)
    assert set(numbers) == {5, 6, 7, 8}  # both ends can be drawn
    assert (
        rows.draw(labelled(np.repeat([0, 1], [3, 50])), Sampling(per_label=(5, 8)), 0).table["label"] == 0
    ).sum() == 3


def test_the_most_frequent_labels(many):
    found = rows.draw(many, Sampling(top_labels=3), 0)
    assert counts(found) == {7: 24, 8: 27, 9: 30}
    assert found.notes == ["the 3 most frequent of 10 labels were taken"]
    everything = rows.draw(many, Sampling(top_labels=10), 0)
    assert len(everything) == len(many)
    assert everything.notes == []
    ties = rows.draw(labelled([5, 1, 3, 3, 1, 5, 0]), Sampling(top_labels=2), 0)
    assert counts(ties) == {1: 2, 3: 2}


def test_rows_without_a_label_are_no_frequent_label():
    found = rows.draw(labelled([NO_LABEL] * 9 + [0, 0, 1]), Sampling(top_labels=1), 0)
    assert counts(found) == {0: 2}


def test_the_labels_of_other_rows(many):
    """k-means is fitted on the labels that are scored, whichever are the most frequent where it is fitted."""
    scored = labelled([1, 1, 4])
    found = rows.draw(many, Sampling(top_labels=2, per_label=4), 0, labels_like=scored)
    assert counts(found) == {1: 4, 4: 4}


def test_frequent_labels_and_so_many_of_each(many):
    found = rows.draw(many, Sampling(per_label=15, top_labels=8), 1)
    assert counts(found) == {k: min(15, 3 * (k + 1)) for k in range(2, 10)}
    assert len(found.notes) == 2


@pytest.mark.parametrize("seed", range(3))
def test_whole_utterances(store, seed):
    every = chosen(store, "frame")
    found = rows.draw(every, Sampling(utterances=4), seed)
    drawn = np.unique(found.table["utterance"])
    assert len(drawn) == 4
    assert (found.index == np.flatnonzero(np.isin(every.table["utterance"], drawn))).all()  # with all their frames
    assert found.notes == [f"4 of {N} utterances were drawn"]
    assert len(rows.draw(every, Sampling(utterances=N), seed)) == len(every)


def test_every_utterance_can_be_drawn():
    every = labelled(np.zeros(60, int), np.repeat(np.arange(20), 3))
    times = np.zeros(20)
    for seed in range(400):
        times[np.unique(rows.draw(every, Sampling(utterances=5), seed).table["utterance"])] += 1
    assert times == pytest.approx(np.full(20, 100), abs=35)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("sampling", [Sampling(utterances=3), Sampling(per_label=2), Sampling(2, 2, 2)], ids=str)
def test_two_models_get_the_same_rows(store, other, unit, sampling):
    if sampling.per_label is not None and unit in ("frame", "utterance"):
        with pytest.raises(UsageError, match="no labels to draw by: draw utterances instead"):
            rows.draw(chosen(store, unit), sampling, 0)
        return
    for seed in range(4):
        mine, yours = (rows.draw(chosen(one, unit), sampling, seed) for one in (store, other))
        if unit == "frame":  # frames are the models' own: the utterances are the same
            assert set(mine.table["utterance"]) == set(yours.table["utterance"])
        else:
            np.testing.assert_array_equal(mine.table, yours.table)


def test_an_utterance_that_one_model_cannot_take_does_not_change_who_else_is_drawn():
    """The last utterance is too short for one of the models: the others keep their places in the ranking."""
    whole = labelled(np.zeros(200, int), np.repeat(np.arange(100), 2))
    for missing in (99, 40):
        without = whole.of(whole.table["utterance"] != missing)
        for seed in range(10):
            mine, yours = (
                set(rows.draw(one, Sampling(utterances=20), seed).table["utterance"]) for one in (whole, without)
            )
            assert len(mine & yours) >= 19, missing


def test_the_published_rules():
    """Spec layerwise.md 2.3."""
    assert rows.PUBLISHED["frame"] == Sampling(utterances=500)
    assert rows.PUBLISHED["phone"] == rows.PUBLISHED["attributes"] == Sampling(per_label=200)
    assert rows.PUBLISHED["word"] == Sampling(per_label=15, top_labels=500)
    assert rows.PUBLISHED_FIT["phone"] == Sampling(per_label=(3000, 7000))
    assert rows.PUBLISHED_FIT["word"] == Sampling(per_label=(600, 1200), top_labels=500)


def test_notes_are_kept(many):
    first = rows.draw(many, Sampling(top_labels=5), 0)
    second = first.of(first.table["label"] > 7, "", "only two")
    assert second.notes == ["the 5 most frequent of 10 labels were taken", "only two"]
    assert first.notes == second.notes[:1]


def test_the_fixture_has_every_kind_of_column(store):
    kinds = store.utterances.dtypes
    assert pd.api.types.is_integer_dtype(kinds["age"])
    assert pd.api.types.is_float_dtype(kinds["snr"])
    assert pd.api.types.is_bool_dtype(kinds["native"])
    assert store.utterances["town"].isna().sum() == 2
    assert len(store.index) > 2  # shards
