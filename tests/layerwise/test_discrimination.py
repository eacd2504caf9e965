"""Word discrimination of stores: the rows are the average precision of plain loops over ``store.rows`` and ``store.read``."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import planted
import pytest
import spread
from running import asked, run, settings

from layertool.conditions import parse_where
from layertool.errors import FeatureError, UsageError
from layertool.layerwise.discrimination import Discrimination
from layertool.layerwise.rows import Sampling

EVERY = {"min_characters": 0, "min_seconds": 0.0}
N, LAYERS = 9, ("C7", "T0", "T1")
WORDS = ["longer", "another", "utter", "tiny", "speech", "alone"]


def make(path, seed=0, **columns):
    """9 utterances of unequal length, each with 4 or 5 words of 0.3 to 0.7 s, silence and what is not known."""
    random = np.random.default_rng(seed)
    lengths, segments, centre = [], [], {w: random.standard_normal((3, 6)) for w in [*WORDS, "SIL", "<unk>"]}
    vectors, frames = [], {name: [] for name in LAYERS}
    for k in range(N):
        at, names = int(random.integers(900)), list(random.choice(WORDS[:-1], 4 + k % 2))
        names[1:1] = ["SIL"] if k % 2 else ["<unk>"]
        if k == 5:
            names.append("alone")
        mine = []
        for i, name in enumerate(names):
            length = 8_000 if (k + i) % 3 == 0 else 7_999 if (k + i) % 3 == 1 else int(random.integers(5_000, 11_000))
            mine.append((k, "word", at, at + length, str(name)))
            vectors.append(centre[name] + 0.9 * random.standard_normal((3, 6)))
            at += length + int(random.integers(700))
        lengths.append(at + 500)
        segments += mine
        n = planted.n_frames(lengths[-1])
        for depth, name in enumerate(LAYERS):
            clip = random.standard_normal((n, 6))
            for _, _, start, end, label in mine:
                clip[start // 320 : math.ceil(end / 320)] += centre[label][depth]
            frames[name].append(clip)
    words = {name: np.array([v[depth] for v in vectors]) for depth, name in enumerate(LAYERS)}
    columns = {
        "speaker": [f"s{k % 3}" for k in range(N)],
        "split": [("dev", "test")[k % 2] for k in range(N)],
        **columns,
    }
    return planted.store(
        path, lengths, segments, frames, {"word": words, "utterance": {"T1": planted.matrix(N, 6)}}, **columns
    )


def discrimination_rows(store, unit=None, layers="all", options=None, say=None, workers=None):
    analysis = Discrimination(unit=unit, layers=layers, **(options or {}))
    return run(analysis, store, say=say, workers=workers)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make(tmp_path_factory.mktemp("words") / "store")


def tokens(store, characters=5, samples=8_000):
    """Row numbers of the words that are no silence and long enough."""
    rows, table = store.rows("word"), store.row_table("word")
    return [
        k
        for k, label in enumerate(rows["label"])
        if label not in ("SIL", "<unk>") and len(label) >= characters and table["end"][k] - table["start"][k] >= samples
    ]


def cosine(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.float32(1 - a @ b / np.sqrt((a @ a) * (b @ b)))


def warped(a, b):
    """The textbook table; the sum along the best path over the frames of both."""
    best = np.full((len(a) + 1, len(b) + 1), math.inf)
    best[0, 0] = 0
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a.astype(np.float64), b.astype(np.float64)))
    cost = 1 - a @ b.T
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            best[i, j] = cost[i - 1, j - 1] + min(best[i - 1, j], best[i, j - 1], best[i - 1, j - 1])
    return best[-1, -1] / (len(a) + len(b))


def expected(store, layer, kept, distance=cosine, across=False, things=None):
    """Average precision and share of one word, by loops over all pairs."""
    rows = store.rows("word")
    names, speakers = rows["label"], rows.get("speaker")
    things = store.read("word", layer) if things is None else things
    found = []
    for i, j in combinations(kept, 2):
        if not across or speakers[i] != speakers[j]:
            found.append((float(distance(things[i], things[j])), names[i] == names[j]))
    distances, same = np.array([d for d, _ in found]), np.array([s for _, s in found])
    precision = [same[distances <= d].mean() for d in distances[same]]
    return float(np.mean(precision)), float(same.mean()), len(found), int(same.sum())


def frames_of(store, layer):
    """The frames floor(start / hop) to ceil(end / hop) of each word, within its own utterance."""
    owner, values = store.row_table("frame", layer)["utterance"], store.read("frame", layer)
    out = []
    for row in store.row_table("word"):
        clip = values[owner == row["utterance"]]
        out.append(clip[row["start"] // 320 : min(math.ceil(row["end"] / 320), len(clip))])
    return out


def test_the_published_tokens_of_every_layer(store):
    told = []
    found = discrimination_rows(store, say=told.append)
    kept = tokens(store)
    assert [row.layer for row in found] == list(LAYERS)
    for row in found:
        value, chance, n_pairs, n_same = expected(store, row.layer, kept)
        assert row.value == pytest.approx(value, abs=1e-9)
        assert row.chance == pytest.approx(chance, abs=1e-12)
        assert row.ci_low < row.value < row.ci_high
        assert (row.n, row.analysis, row.target, row.unit) == (len(kept), "word discrimination", "same word", "word")
        assert row.store == str(store.path)
    assert len({row.value for row in found}) == len(LAYERS)
    n_words = len(set(store.rows("word")["label"][kept]))
    assert f"{n_pairs} pairs of {len(kept)} tokens of {n_words} words, {n_same} of them" in told[-1]
    spoken = len(tokens(store, 0, 0))
    assert (
        told[0] == f"left out: {spoken - len(kept)} of {spoken} word rows, which are shorter than 5 characters or 0.5 s"
    )


def test_half_a_second_is_long_enough(store):
    """7999 samples are not; the store has words of both."""
    length = store.row_table("word")["end"] - store.row_table("word")["start"]
    assert (length == 8_000).any()
    assert (length == 7_999).any()
    for samples in (8_000, 7_999):
        (row,) = discrimination_rows(store, layers="T1", options=asked(min_seconds=samples / 16_000))
        assert row.n == len(tokens(store, 5, samples))
    assert len(tokens(store, 5, 8_000)) < len(tokens(store, 5, 7_999))


@pytest.mark.parametrize(("characters", "seconds"), [(0, 0), (6, 0), (0, 0.42), (6, 0.45)])
def test_other_lengths(store, characters, seconds):
    (row,) = discrimination_rows(
        store, layers="T0", options=asked(min_characters=characters, min_seconds=seconds, resample="none")
    )
    kept = tokens(store, characters, seconds * 16_000)
    assert (row.value, row.chance) == pytest.approx(expected(store, "T0", kept)[:2], abs=1e-9)
    assert row.n == len(kept)
    assert (row.ci_low, row.ci_high) == (None, None)
    assert (settings(row)["min_characters"], settings(row)["min_seconds"]) == (characters, seconds)


def test_pairs_of_different_speakers(store):
    (row,) = discrimination_rows(store, layers="T1", options=asked(cross_speaker=True, **EVERY))
    value, chance, *_ = expected(store, "T1", tokens(store, 0, 0), across=True)
    assert (row.value, row.chance) == pytest.approx((value, chance), abs=1e-9)
    assert settings(row)["cross_speaker"]
    assert abs(value - expected(store, "T1", tokens(store, 0, 0))[0]) > 1e-4


@pytest.mark.parametrize("across", [False, True])
def test_frames_are_warped(store, across):
    """Those of the word itself: an utterance or a frame more or less gives another number."""
    options = asked(distance="dtw", cross_speaker=across, resample="none", min_characters=6, min_seconds=0)
    found = discrimination_rows(store, layers="T0,T1", options=options)
    kept = tokens(store, 6, 0)
    for row in found:
        things = frames_of(store, row.layer)
        value, chance, *_ = expected(store, row.layer, kept, warped, across, things)
        assert (row.value, row.chance) == pytest.approx((value, chance), abs=1e-6)
        shifted = frames_of(store, row.layer)[1:] + things[:1]
        assert abs(expected(store, row.layer, kept, warped, across, shifted)[0] - value) > 0.01
    assert (settings(found[0])["distance"], "pooling" in settings(found[0])) == ("dtw", False)


def test_frames_of_another_rate_and_of_failed_utterances(tmp_path):
    """A token is the same frames whatever the layer's hop; an utterance that failed moves nobody."""
    random = np.random.default_rng(3)
    lengths, segments = [16_000 + 1_234 * k for k in range(5)], []
    for k in range(5):
        for i, name in enumerate(random.permutation(["w", "x", "y"])):
            start = 411 + 5_000 * i + 97 * k
            segments.append((k, "word", start, start + 3_000 + 311 * i, str(name)))
    frames = {
        name: [planted.matrix(planted.n_frames(n, hop), 3, 10 * k + hop) for k, n in enumerate(lengths)]
        for name, hop in (("C1", 160), ("T0", 320))
    }
    words = {name: planted.matrix(15, 3) for name in frames}
    store = planted.store(
        tmp_path / "s", lengths, segments, frames, {"word": words}, {"C1": 160, "T0": 320}, without=[1, 3]
    )
    assert set(store.row_table("word")["utterance"]) == {0, 2, 4}
    found = discrimination_rows(store, options=asked(distance="dtw", resample="none", **EVERY))
    for row, hop in zip(found, (160, 320), strict=True):
        things = [
            frames[row.layer][r["utterance"]][r["start"] // hop : math.ceil(r["end"] / hop)]
            for r in store.row_table("word")
        ]
        assert row.value == pytest.approx(expected(store, row.layer, range(9), warped, things=things)[0], abs=1e-6)


def test_words_that_end_with_the_audio(tmp_path):
    """Fewer frames than the time says; at least the last."""
    frames = {"T0": [planted.matrix(24, 3, k) for k in range(3)]}
    segments = [
        (k, "word", a, b, w)
        for k in range(3)
        for a, b, w in ((0, 4_000, "a"), (4_000, 8_000, "b"), (7_900, 8_000, "c"))
    ]
    store = planted.store(tmp_path / "s", [8_000] * 3, segments, frames, {"word": {"T0": planted.matrix(9, 3)}})
    (row,) = discrimination_rows(store, options=asked(distance="dtw", resample="none", **EVERY))
    things = [clip[part] for clip in frames["T0"] for part in (slice(0, 13), slice(12, 24), slice(23, 24))]
    assert row.value == pytest.approx(expected(store, "T0", range(9), warped, things=things)[0], abs=1e-6)


def test_chosen_rows(store):
    (row,) = discrimination_rows(store, layers="T1", options=asked(where=parse_where(["split=dev"]), **EVERY))
    kept = [k for k in tokens(store, 0, 0) if store.rows("word")["split"][k] == "dev"]
    assert (row.value, row.chance) == pytest.approx(expected(store, "T1", kept)[:2], abs=1e-9)
    assert settings(row)["where"] == ["split=dev"]


def test_drawn_rows(store):
    """As many as were asked for, after short words are left out; the same for the same seed."""
    rows, kept = store.rows("word"), tokens(store)
    common = rows["label"][kept].value_counts()
    for sampling, n in (
        (Sampling(per_label=3), common.clip(upper=3).sum()),
        (Sampling(top_labels=2), common.iloc[:2].sum()),
    ):
        first, again = (
            discrimination_rows(store, layers="T1", options=asked(sampling=sampling, seed=5))[0] for _ in range(2)
        )
        assert first == again
        assert first.n == n
        assert settings(first)["sampling"] == str(sampling)
    some = [
        discrimination_rows(store, layers="T1", options=asked(sampling=Sampling(per_label=3), seed=s))[0]
        for s in (1, 2)
    ]
    assert some[0].value != some[1].value
    whole = discrimination_rows(store, layers="T1", options=asked(sampling=Sampling(utterances=4), seed=1))[0]
    per_utterance = rows["utterance"][kept].value_counts()
    assert whole.n in {sum(per_utterance[list(four)]) for four in combinations(per_utterance.index, 4)}


def resampled(store, layer, kept, names, seed):
    """Interval of a bootstrap of clusters, from the definition, by loops over resamples."""
    rows, x = store.rows("word"), store.read("word", layer)
    pairs = list(combinations(kept, 2))
    distances = np.array([cosine(x[i], x[j]) for i, j in pairs])
    same = np.array([rows["label"][i] == rows["label"][j] for i, j in pairs])
    clusters = sorted({names[k] for k in kept})
    at = {name: k for k, name in enumerate(clusters)}
    drawn = np.random.default_rng(seed).multinomial(len(clusters), [1 / len(clusters)] * len(clusters), 1000)
    first, second = (np.array([at[names[pair[side]]] for pair in pairs]) for side in (0, 1))
    order = np.argsort(distances, kind="stable")
    weights = (drawn[:, first] * np.where(first == second, 1, drawn[:, second]))[:, order].astype(float)
    right, total = weights * same[order], np.maximum(np.cumsum(weights, axis=1), 1)
    there = right.sum(1) > 0
    values = ((right * np.cumsum(right, axis=1) / total).sum(1)[there]) / right.sum(1)[there]
    return np.quantile(values, spread.ends(len(clusters)))


@pytest.mark.parametrize("what", ["words", "speakers"])
def test_intervals(store, what):
    """Those of the clusters that were asked for, by the definition, but for the bins of the fast one."""
    options = asked(resample=what, seed=7, min_characters=5, min_seconds=0.4)
    (row,) = discrimination_rows(store, layers="T1", options=options)
    rows = store.rows("word")
    both = {"words": rows["label"], "speakers": rows["speaker"]}
    kept = tokens(store, 5, 6_400)
    found = resampled(store, "T1", kept, both[what], 7)
    assert (row.ci_low, row.ci_high) == pytest.approx(found, abs=0.02)
    other = discrimination_rows(
        store,
        layers="T1",
        options=asked(resample="speakers" if what == "words" else "words", seed=7, min_characters=5, min_seconds=0.4),
    )[0]
    assert max(abs(row.ci_low - other.ci_low), abs(row.ci_high - other.ci_high)) > 0.04


@pytest.mark.parametrize("distance", ["cosine", "dtw"])
def test_layers_side_by_side_are_the_same(store, distance):
    one, three = (discrimination_rows(store, options=asked(distance=distance, **EVERY), workers=n) for n in (1, 3))
    assert one == three


def refused(store, says, unit=None, layers="all", **options):
    with pytest.raises((UsageError, FeatureError)) as error:
        discrimination_rows(store, unit, layers, asked(**options))
    text = str(error.value)
    assert all(part in text for part in says), text
    assert "\n" not in text


def test_what_cannot_be(store, tmp_path):
    refused(store, ["'cosin'", "--distance", "cosine, dtw"], distance="cosin")
    refused(store, ["'rows'", "--resample", "words, speakers, none"], resample="rows")
    refused(store, ["no labels", "frame"], unit="frame")
    refused(store, ["no labels", "utterance"], unit="utterance")
    refused(store, ["no phone rows", "extract again"], unit="phone")
    refused(store, ["none of", "20 characters", "--min-characters"], min_characters=20)
    refused(store, ["none of", "9 s", "--min-seconds"], min_seconds=9)
    refused(store, ["no word stands twice"], where=parse_where(["label=alone"]), **EVERY)
    nobody = make(tmp_path / "nobody", speaker=[None if k == 2 else "s" for k in range(N)])
    for options in ({"cross_speaker": True}, {"resample": "speakers"}):
        refused(nobody, ["have no speaker", "--where"], **options)
    alone = make(tmp_path / "alone", speaker=["s"] * N)
    refused(alone, ["speaker"], cross_speaker=True)
    segments = [(k, "word", 0, 9_000, "word" + "ab"[k % 2]) for k in range(4)]
    bare = planted.store(tmp_path / "bare", [9_000] * 4, segments, rows={"word": {"T0": planted.matrix(4)}})
    refused(bare, ["no frame rows", "extract again"], distance="dtw")
    for options in ({"cross_speaker": True}, {"resample": "speakers"}):
        refused(bare, ["no column 'speaker'"], **options)
    frames = {"T0": [planted.matrix(planted.n_frames(9_000))] * 4}
    part = planted.store(
        tmp_path / "part", [9_000] * 4, segments, frames, {"word": {"T0": planted.matrix(4), "D0": planted.matrix(4)}}
    )
    refused(part, ["no layer D0", "--layers"], distance="dtw")
    assert discrimination_rows(part, layers="T0", options=asked(distance="dtw"))[0].n == 4
    zero = planted.store(
        tmp_path / "zero", [9_000] * 4, segments, rows={"word": {"T0": np.eye(4), "T1": np.eye(4) * [1, 1, 0, 1]}}
    )
    refused(zero, [str(zero.path), "layer T1", "zeros"])
