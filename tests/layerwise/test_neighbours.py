"""Nearest neighbours and centroids of stores: the rows are those of plain loops over folds of ``store.read``."""

from __future__ import annotations

from collections import Counter

import numpy as np
import planted
import pytest
import spread
from running import asked, run, settings

from layertool.analysis import folds
from layertool.conditions import parse_where
from layertool.errors import FeatureError, UsageError
from layertool.layerwise.neighbours import MAJORITY, Neighbours
from layertool.layerwise.rows import ALL, Sampling

N = 10
LAYERS = {"C1": 160, "T0": 320, "T1": 320}
EMOTIONS = ["glad", "sad", None, "glad", "sad", "sad", "sad", "glad", None, "glad"]


def neighbour_rows(store, labels, unit=None, layers="all", options=None, say=None, progress=None):
    """Rows of one store and one kind of labels."""
    how = {"unit": unit, "layers": layers, **(options or {})}
    return run(Neighbours(labels=labels, **how), store, say=say, progress=progress)


def make(path, seed=0, **columns):
    """10 utterances of 5 speakers, each of one gender; words of 2 phones, silence, and labels that occur once."""
    random = np.random.default_rng(seed)
    lengths = [int(n) for n in random.integers(16_000, 22_000, N)]
    segments = []
    for k, length in enumerate(lengths):
        at = int(random.integers(500))
        while at + 2_500 < length:
            middle, end = at + int(random.integers(600, 1_000)), at + int(random.integers(1_300, 2_400))
            first, second = (str(c) for c in random.choice(list("aeioptk"), 2, p=[0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1]))
            segments += [
                (k, "word", at, end, "wxyz"[int(random.integers(4))]),
                (k, "phone", at, middle, first),
                (k, "phone", middle, end, second),
            ]
            at = end + int(random.integers(2)) * 400
    for place, label in ((4, "SIL"), (40, "rare"), (80, "SIL")):
        at = [j for j, s in enumerate(segments) if s[1] == "phone"][place]
        segments[at] = (*segments[at][:4], label)
    centre = {
        name: random.standard_normal(4) for name in ["aeioptk"[i] for i in range(7)] + list("wxyz") + ["SIL", "rare"]
    }
    voice = {f"s{k}": random.standard_normal(4) for k in range(5)}
    frames, rows = {}, {"phone": {}, "word": {}, "utterance": {}}
    for name, hop in LAYERS.items():
        frames[name] = []
        for k, length in enumerate(lengths):
            clip = random.standard_normal((planted.n_frames(length, hop), 4)) * [1, 2, 5, 0.3]
            for _, tier, start, end, label in (s for s in segments if s[0] == k):
                if tier == "phone":
                    inside = [i for i in range(len(clip)) if start <= i * hop + 200 < end]
                    clip[inside] += 1.5 * centre[label]
            frames[name].append(clip)
        for tier in ("phone", "word"):
            labels = [s[4] for s in sorted(segments, key=lambda s: s[0]) if s[1] == tier]
            noise = random.standard_normal((len(labels), 4)) * [1, 2, 5, 0.3]
            rows[tier][name] = noise + 2 * np.stack([centre[x] for x in labels])
            if tier == "word":
                rows[tier][name] += 3 * np.stack(
                    [voice[f"s{s[0] % 5}"] for s in sorted(segments, key=lambda s: s[0]) if s[1] == tier]
                )
        rows["utterance"][name] = random.standard_normal((N, 4)) + 4 * np.stack([voice[f"s{k % 5}"] for k in range(N)])
    given = {
        "speaker": [f"s{k % 5}" for k in range(N)],
        "gender": ["fm"[k % 5 % 2] for k in range(N)],
        "emotion": EMOTIONS,
        "age": [20 + 5 * (k % 2) for k in range(N)],
        **columns,
    }
    return planted.store(
        path, lengths, segments, frames, rows, LAYERS, **{k: v for k, v in given.items() if v is not None}
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make(tmp_path_factory.mktemp("labels") / "store")


# a slow computation


def guesses(x, labels, groups, method, k_nearest, n_folds, seed=0, unheard=()):
    """What each row is taken for by rows of other groups, none of them ``unheard``."""
    x, out = x.astype(np.float64), np.empty(len(labels), object)
    fold = folds.disjoint(groups, labels, min(n_folds, len(set(groups))), seed, "groups")  # tested by themselves
    for train, test in ((np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in sorted(set(fold))):
        mean, deviation = x[train].mean(0), x[train].std(0)
        heard = train[~np.isin(groups[train], unheard)]
        known, known_labels = (x[heard] - mean) / deviation, labels[heard]
        means = {name: known[known_labels == name].mean(0) for name in sorted(set(known_labels))}
        for k in test:
            row = (x[k] - mean) / deviation
            if method == "centroid":
                out[k] = min(means, key=lambda name: ((means[name] - row) ** 2).sum())
                continue
            nearest = list(known_labels[np.argsort(((known - row) ** 2).sum(1), kind="stable")[:k_nearest]])
            votes = Counter(nearest)
            out[k] = next(name for name in nearest if votes[name] == max(votes.values()))
    return out


def expected(x, labels, groups, method="centroid", k_nearest=5, n_folds=5, seed=0):
    """Accuracy and its interval over ten parts of the groups."""
    labels, groups = np.asarray(labels).astype(str), np.asarray(groups).astype(str)
    hits = guesses(x, labels, groups, method, k_nearest, n_folds, seed) == labels
    names = np.array(sorted(set(groups)))
    dealt = np.random.default_rng(seed).permutation(len(names)) % 10
    left_out = []
    for part in range(max(dealt) + 1):
        unheard = names[dealt == part]
        found = guesses(x, labels, groups, method, k_nearest, n_folds, seed, unheard) == labels
        left_out.append(found[~np.isin(groups, unheard)].mean())
    return hits.mean(), *np.clip(spread.jackknife(hits.mean(), left_out), 0, 1)


def agree(found, layer, value, n, method="centroid"):
    (row,) = [row for row in found if row.layer == layer and settings(row)["method"] == method]
    assert (row.value, row.ci_low, row.ci_high) == tuple(pytest.approx(v, abs=1e-9) for v in value)
    assert row.n == n
    return row


def spoken(store, unit):
    """Row numbers whose label occurs twice and is no silence."""
    labels = store.rows(unit)["label"].to_numpy()
    counts = Counter(labels)
    return np.array([k for k, name in enumerate(labels) if name not in ("SIL", None) and counts[name] > 1])


def majority(labels):
    return max(Counter(labels).values()) / len(labels)


@pytest.mark.parametrize("unit", ["phone", "word"])
def test_segments_by_their_labels(store, unit):
    told = []
    found = neighbour_rows(store, unit, options=asked(sampling=ALL, seed=4), say=told.append)
    kept, rows = spoken(store, unit), store.rows(unit)
    labels, groups = rows["label"].to_numpy()[kept], rows["utterance"].to_numpy()[kept]
    for layer in LAYERS:
        for method in ("centroid", "knn"):
            value = expected(store.read(unit, layer)[kept], labels, groups, method, seed=4)
            row = agree(found, layer, value, len(kept), method)
            assert (row.target, row.unit, row.analysis, row.seed) == (unit, unit, "neighbours", 4)
            assert (settings(row)["n_folds"], settings(row)["groups"]) == (5, "utterance")
            assert row.store == str(store.path)
    if unit == "phone":
        assert told == ["left out: a phone label that occurs once (rare)"]
    below = [row for row in found if row.layer == "baseline"]
    assert [(row.model, row.value, row.n) for row in below] == [
        (MAJORITY, pytest.approx(majority(labels)), len(kept))
    ] * 2
    assert {row.settings for row in below} == {row.settings for row in found if row.layer == "T0"}
    assert {(row.chance, row.store, row.ci_low) for row in below} == {(None, None, None)}


@pytest.mark.parametrize(("k_nearest", "n_folds"), [(1, 2), (3, 10), (8, 4)])
def test_numbers_of_neighbours_and_folds(store, k_nearest, n_folds):
    options = asked(method="knn", neighbours=k_nearest, n_folds=n_folds, sampling=ALL)
    found = neighbour_rows(store, "word", layers="T1", options=options)
    kept, rows = spoken(store, "word"), store.rows("word")
    value = expected(
        store.read("word", "T1")[kept], rows["label"][kept], rows["utterance"][kept], "knn", k_nearest, n_folds
    )
    row = agree(found, "T1", value, len(kept), "knn")
    assert {"neighbours": k_nearest, "n_folds": n_folds, "groups": "utterance"}.items() <= settings(row).items()
    assert len(found) == 2


@pytest.mark.parametrize("layer", ["C1", "T1"])
def test_frames_by_their_phones(store, layer):
    """The label of a frame is that of the segment at its centre."""
    found = neighbour_rows(store, "phone", "frame", "C1,T1", asked(method="centroid", sampling=ALL))
    segments, names = store.row_table("phone"), store.rows("phone")["label"]
    labels, owner = [], []
    for row in store.row_table("frame", layer):
        centre = (row["start"] + row["end"]) / 2
        mine = [
            name
            for s, name in zip(segments, names, strict=True)
            if s["utterance"] == row["utterance"] and s["start"] <= centre < s["end"]
        ]
        labels.append(mine[0] if mine and mine[0] != "SIL" else None)
        owner.append(f"u{row['utterance']}")
    counts = Counter(labels)
    kept = np.array([k for k, name in enumerate(labels) if name is not None and counts[name] > 1])
    value = expected(store.read("frame", layer)[kept], np.array(labels)[kept], np.array(owner)[kept])
    row = agree(found, layer, value, len(kept))
    assert row.unit == "frame"
    assert row.value > row.chance + 0.1


def test_the_published_rows_and_others(store):
    """At most 15 of each word; ``--sample all``, or so many."""
    counts = Counter(store.rows("word")["label"])
    assert max(counts.values()) > 20

    def n_of(sampling):
        return neighbour_rows(store, "word", layers="T0", options=asked(method="centroid", sampling=sampling))[0]

    assert n_of(None).n == sum(min(15, n) for n in counts.values())
    assert settings(n_of(None))["sampling"] == "published"
    assert n_of(ALL).n == sum(counts.values())
    assert n_of(Sampling(per_label=4)).n == 16
    assert settings(n_of(Sampling(per_label=4)))["sampling"] == "up to 4 rows a label"
    assert n_of(Sampling(top_labels=2)).n == sum(n for _, n in counts.most_common(2))


def test_columns_and_missing_values(store):
    """Utterances without an emotion are left out, which a note says; the same asked of words."""
    told = []
    found = neighbour_rows(store, "emotion", options=asked(method="centroid"), say=told.append)
    kept = [k for k in range(N) if EMOTIONS[k]]
    labels = np.array([EMOTIONS[k] for k in kept])
    agree(found, "T1", expected(store.read("utterance", "T1")[kept], labels, [f"u{k}" for k in kept]), len(kept))
    assert told == ["left out: 2 utterance rows without emotion"]
    assert found[-1].value == 0.5
    assert {(row.unit, row.target) for row in found} == {("utterance", "emotion")}
    found = neighbour_rows(store, "emotion", "word", "T1", asked(method="centroid"))
    rows = store.rows("word")
    known = np.flatnonzero(rows["emotion"].notna())
    agree(
        found,
        "T1",
        expected(store.read("word", "T1")[known], rows["emotion"][known], rows["utterance"][known]),
        len(known),
    )


def test_numbers_are_labels_too(store):
    found = neighbour_rows(store, "age", layers="T0", options=asked(method="centroid"))
    ages = store.utterances["age"].astype(str)
    agree(found, "T0", expected(store.read("utterance", "T0"), ages, [f"u{k}" for k in range(N)]), N)


def test_usual_groups(store):
    """Speakers for what each has one of, utterances for who they are and what they say."""
    speakers, x = store.utterances["speaker"], store.read("utterance", "T1")
    found = neighbour_rows(store, "gender", layers="T1", options=asked(method="centroid"))
    row = agree(found, "T1", expected(x, store.utterances["gender"], speakers), N)
    assert settings(row)["groups"] == "speaker"
    by_utterance = neighbour_rows(
        store, "gender", layers="T1", options=asked(method="centroid", n_folds=10, groups="utterance")
    )
    names = [f"u{k}" for k in range(N)]
    assert agree(by_utterance, "T1", expected(x, store.utterances["gender"], names, n_folds=10), N).value > row.value
    found = neighbour_rows(store, "speaker", layers="T1", options=asked(method="centroid"))
    assert settings(agree(found, "T1", expected(x, speakers, names), N))["groups"] == "utterance"
    found = neighbour_rows(
        store, "phone", layers="T1", options=asked(method="centroid", groups="speaker", sampling=ALL)
    )
    kept, rows = spoken(store, "phone"), store.rows("phone")
    value = expected(store.read("phone", "T1")[kept], rows["label"][kept], rows["speaker"][kept])
    assert settings(agree(found, "T1", value, len(kept)))["groups"] == "speaker"


def test_usual_groups_without_speakers(tmp_path):
    for name, speakers in (("none", None), ("some", [None, *("s1" for _ in range(N - 1))])):
        store = make(tmp_path / name, speaker=speakers)
        (row, _) = neighbour_rows(store, "gender", layers="T1", options=asked(method="centroid"))
        assert settings(row)["groups"] == "utterance"


def test_a_label_of_one_speaker_each_keeps_utterances_whole(tmp_path):
    """By speakers nothing could be found: no label has a second speaker."""
    store = make(tmp_path / "s", name=[f"name{k % 5}" for k in range(N)])
    (row, _) = neighbour_rows(store, "name", layers="T1", options=asked(method="centroid"))
    assert settings(row)["groups"] == "utterance"
    assert row.value > 0


def test_chosen_rows(store):
    options = asked(method="centroid", where=parse_where(["gender=f"]), sampling=ALL)
    found = neighbour_rows(store, "word", layers="T0", options=options)
    rows = store.rows("word")
    kept = np.flatnonzero(rows["gender"] == "f")
    row = agree(
        found, "T0", expected(store.read("word", "T0")[kept], rows["label"][kept], rows["utterance"][kept]), len(kept)
    )
    assert settings(row)["where"] == ["gender=f"]


def permuted(x, labels, groups, times, whole):
    """Accuracies of as many permutations of the labels: of rows, or of the groups that have them as a whole."""
    random = np.random.default_rng(99)
    labels, groups = np.asarray(labels).astype(str), np.asarray(groups).astype(str)
    names = sorted(set(groups))
    out = []
    for _ in range(times):
        other = random.permutation(labels)
        if whole:
            given = dict(zip(names, random.permutation([labels[groups == name][0] for name in names]), strict=True))
            other = np.array([given[name] for name in groups])
        out.append((guesses(x, other, groups, "centroid", 5, 5) == other).mean())
    return np.array(out)


def test_chance_is_of_permuted_labels(store):
    """A mean of five: as far from that of many as five may be."""
    rows, kept = store.rows("phone"), spoken(store, "phone")
    x, labels, groups = store.read("phone", "T1")[kept], rows["label"][kept], rows["utterance"][kept]
    many = permuted(x, labels, groups, 40, False)
    found = [
        neighbour_rows(store, "phone", layers="T1", options=asked(method="centroid", sampling=ALL, seed=s))[0]
        for s in range(4)
    ]
    for row in found:
        assert abs(row.chance - many.mean()) < 4 * many.std() / np.sqrt(5)
        assert row.value > row.chance + 5 * many.std()
        assert row.chance * len(kept) * 5 == pytest.approx(round(row.chance * len(kept) * 5), abs=1e-6)
    assert len({row.chance for row in found}) > 1


def test_chance_of_labels_of_whole_groups(store):
    """Permuted among speakers, which is one thing or another; permuted among rows it would always be a half."""
    rows, x = store.rows("word"), store.read("word", "T1")
    whole, single = (permuted(x, rows["gender"], rows["speaker"], 40, way) for way in (True, False))
    chances = [
        neighbour_rows(store, "gender", "word", "T1", asked(method="centroid", seed=s))[0].chance for s in range(12)
    ]
    assert abs(np.mean(chances) - whole.mean()) < 4 * whole.std() * np.sqrt(1 / 600 + 1 / 40)
    # means of 50 permutations each
    assert (
        2 * whole.std() / np.sqrt(50)
        > np.std(chances)
        > whole.std() / np.sqrt(50) / 2
        > 1.2 * single.std() / np.sqrt(50)
    )


def test_layers_side_by_side_are_the_same(store):
    analysis = Neighbours(labels="phone", unit="frame", per_label=20)
    one, three = (analysis.run(store, workers=n) for n in (1, 3))
    assert one == three


def test_what_cannot_be(store, tmp_path):
    def refused(says, labels="phone", unit=None, store=store, error=UsageError, **options):
        with pytest.raises(error) as caught:
            neighbour_rows(store, labels, unit, options=asked(**options))
        assert all(part in str(caught.value) for part in says), str(caught.value)
        assert "\n" not in str(caught.value)

    refused(["no column 'mood'", "emotion"], "mood")
    refused(["no column 'room'"], groups="room")
    refused(["utterance rows", "no phone labels", "--unit phone"], unit="utterance")
    refused(["rows have no emotion"], groups="emotion")
    refused(["one speaker", "--groups"], "emotion", groups="speaker", where=parse_where(["speaker=s1"]))
    refused(["at least two"], "gender", where=parse_where(["gender=f"]))
    refused(["no utterance row has a value of emotion"], "emotion", where=parse_where(["emotion="]))
    refused(["--max-utterances"], "gender", sampling=Sampling(per_label=3))
    refused(["'nearest'", "--method", "knn"], method="nearest")
    refused(["--neighbours", "1 or more"], n_neighbours=0)
    refused(["fewer than two word labels"], "word", where=parse_where(["label=w"]))
    values = planted.matrix(6)
    values[3, 1] = np.inf
    bare = planted.store(tmp_path / "s", [900] * 6, rows={"utterance": {"T2": values}}, kind=list("ababab"))
    refused(["no phone rows", "extract again"], store=bare)
    refused(["layer T2", "not all finite"], "kind", store=bare, error=FeatureError)


def test_a_label_that_one_group_has_alone_is_told(store):
    told = []
    with pytest.raises(UsageError, match="each label of speaker stands in one speaker only"):
        neighbour_rows(store, "speaker", layers="T1", options=asked(groups="speaker"), say=told.append)


def test_a_mistyped_label_does_not_let_voices_through(tmp_path):
    """Nearly all rows of a speaker have his label: speakers stay whole, and it is said."""
    genders = ["fm"[k % 5 % 2] for k in range(N)]
    genders[0] = "x"
    told = []
    store = make(tmp_path / "s", gender=genders)
    (row, _) = neighbour_rows(store, "gender", "word", "T1", asked(method="centroid"), told.append)
    assert settings(row)["groups"] == "speaker"
    assert any("folds keep speakers whole" in text for text in told)
