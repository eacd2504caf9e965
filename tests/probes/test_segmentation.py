import warnings
from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from probes import segmentation_reference as slow
from probes.segmentation_reference import Utterance
from refusals import refused

from layertool.errors import FeatureError
from layertool.probes import segmentation
from layertool.probes.segmentation import (
    DISTANCES,
    WINDOWS,
    Cell,
    Counts,
    Scaling,
    Speech,
    count,
    dissimilarity,
    grid,
    match,
    match_intervals,
    peaks,
    scores,
    sweep,
)


def joined(utterances: list[Utterance]) -> tuple[np.ndarray, Speech]:
    """Frames of all utterances, and what the package wants to know of them."""
    n_frames = [len(u.frames) for u in utterances]
    centres = [u.hop * i + u.span / 2 for u, n in zip(utterances, n_frames, strict=True) for i in range(n)]
    words = [(k, *word) for k, u in enumerate(utterances) for word in u.words]
    return np.concatenate([u.frames for u in utterances]), Speech(
        np.repeat(np.arange(len(utterances)), n_frames),
        np.array(centres),
        np.array([u.length for u in utterances]),
        np.array(words, np.int64).reshape(-1, 3),
    )


def rows(counted: Counts) -> list[tuple[int, ...]]:
    """One tuple of the counts for each utterance."""
    assert tuple(f.name for f in fields(counted)) == slow.NAMES
    return [tuple(map(int, row)) for row in zip(*(getattr(counted, name) for name in slow.NAMES), strict=True)]


def totals(counted: Counts) -> dict[str, int]:
    return {name: int(getattr(counted, name).sum()) for name in slow.NAMES}


def speech(lengths: list[int], words=()) -> Speech:
    """Utterances whose frames do not matter."""
    none = np.empty(0)
    return Speech(none.astype(int), none, np.array(lengths), np.array(list(words), np.int64).reshape(-1, 3))


def counted(times, length: int, words, tolerance: int = 320) -> dict[str, int]:
    """Counts of one utterance with the given predictions."""
    times = np.array(times, np.float64)
    where = np.zeros(len(times), np.int64)
    return totals(count(where, times, speech([length], [(0, *word) for word in words]), tolerance))


def talk(n_frames: int, hop: int, span: int, random: np.random.Generator, width: int = 10) -> Utterance:
    """Words of 45 ms and more, some with silence between; correlated frames that jump at some of their boundaries."""
    length = span + hop * (n_frames - 1) + int(random.integers(0, hop))
    words, at = [], int(random.integers(0, 1200))
    while (end := at + int(random.integers(720, 5000))) <= length:
        words.append((at, end))
        at = end + int(random.choice([0, 0, 0, 160, 500, 2000]))
    jumps = {int(t // hop) for word in words for t in word if random.random() < 0.8}
    frames = np.empty((n_frames, width))
    now = random.standard_normal(width)
    for i in range(n_frames):
        if i in jumps:
            now = now + random.choice([1, 4, 15]) * random.standard_normal(width)
        now = 0.9 * now + 0.3 * random.standard_normal(width)
        frames[i] = now
    return Utterance(frames, length, words, hop, span)


@pytest.mark.parametrize(("hop", "span", "seed"), [(320, 400, 0), (160, 400, 1), (160, 240, 2), (320, 401, 3)])
def test_all_cells_agree_with_the_slow_reference(hop, span, seed):
    random = np.random.default_rng(seed)
    utterances = [talk(n, hop, span, random) for n in (60, 1, 2, 90, 3, 19, 1, 40, 5, 75)]
    utterances[3].words = []  # nothing to be found
    utterances[7].frames = utterances[7].frames[:1] + 0.001 * np.arange(40)[:, None] ** 2  # ever faster: no peaks
    standard = slow.z_scored(utterances)
    frames, together = joined(utterances)
    cells = grid()
    assert len(cells) == 180
    seen, silent = set(), 0
    known: dict = {}

    def expected(k: int, times: list[float]) -> tuple[int, ...]:
        key = (k, tuple(times))
        if key not in known:
            known[key] = slow.counts(times, utterances[k])
        return known[key]

    for cell, found, chance in sweep(frames, together, cells):
        times = [
            slow.boundaries(z, u, cell.distance, cell.window, cell.prominence)
            for z, u in zip(standard, utterances, strict=True)
        ]
        if cell.distance == "euclidean":
            assert not times[7]
        assert rows(found) == [expected(k, t) for k, t in enumerate(times)], cell
        assert rows(chance) == [expected(k, slow.turned(t, utterances[k].length)) for k, t in enumerate(times)], cell
        seen.add(tuple(totals(found).values()))
        silent += totals(found)["predicted"] == 0
    assert len(seen) > 40  # the grid makes a difference here
    assert 0 < silent < 90


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("hop", "first_ms"), [(320, 22.5), (160, 17.5)])
def test_boundaries_of_constant_stretches_are_exact(distance, window, hop, first_ms):
    """Frames i and i+1 differ: the boundary is at 20 i + 22.5 ms, whatever the window (spec 11.2)."""
    random = np.random.default_rng(window)
    utterances, changes = [], []
    for _ in range(6):
        stretches = random.integers(window + 1, window + 9, size=7)
        frames = np.repeat(random.standard_normal((7, 12)), stretches, axis=0)
        last = np.cumsum(stretches)[:-1] - 1  # the frame before each change
        changes.append([(hop * 1000 / 16000 * i + first_ms) * 16 for i in last])
        utterances.append(Utterance(frames, hop * len(frames) + 80, hop=hop))
    frames, together = joined(utterances)
    found = peaks(dissimilarity(Scaling.of(frames)(frames), together.utterance, distance), together, window)
    assert found.time.tolist() == [t for times in changes for t in times]
    assert found.utterance.tolist() == [k for k in range(6) for _ in range(6)]
    for u, times in zip(utterances, changes, strict=True):
        u.words = [(int(a), int(b)) for a, b in zip([0, *times], [*times, u.length], strict=True)]
    frames, together = joined(utterances)
    ((_, result, _),) = sweep(frames, together, [Cell(distance, window, 1e-5)], tolerance=1)
    perfect = dict.fromkeys(scores(result), 1.0) | {"over-segmentation": 0.0}
    for name, value in scores(result).items():
        assert value.tolist() == [perfect[name]] * 6, name


@pytest.mark.parametrize("window", WINDOWS)
def test_place_of_a_peak(window):
    """For 20 ms frames of 25 ms, peak p smoothed over n is at 20 (p + (n-1)/2) + 22.5 ms."""
    curve = np.random.default_rng(window).random(199)
    smooth = [curve[p : p + window].mean() for p in range(200 - window)]
    tops = [p for p in range(1, len(smooth) - 1) if smooth[p - 1] < smooth[p] > smooth[p + 1]]
    _, together = joined([Utterance(np.zeros((200, 1)), 64080)])
    milliseconds = peaks(curve, together, window).time / 16
    assert milliseconds.tolist() == [20 * (p + (window - 1) / 2) + 22.5 for p in tops]


def test_prominence_is_at_least_the_one_of_the_cell():
    _, together = joined([Utterance(np.zeros((8, 1)), 3000)])
    found = peaks(np.array([0, 4, 3, 6, 2, 3, 1.0]), together, 1)  # prominences by hand: 4 - 3, 6 - 0 or 1, 3 - 2
    assert found.prominence.tolist() == [1, 5, 1]
    for least, places in [(0, [1, 3, 5]), (1, [1, 3, 5]), (1.001, [3]), (5, [3]), (5.001, [])]:
        assert found.of(least)[1].tolist() == [320 * p + 360 for p in places]


def test_the_middle_of_a_plateau_may_lie_between_two_changes():
    walk = np.array([0, 0, 1, 2, 2.0])[:, None]  # the second and third difference are the largest
    frames, together = joined([Utterance(walk, 1680)])
    found = peaks(dissimilarity(Scaling.of(frames)(frames), together.utterance, "euclidean"), together, 1)
    assert found.time.tolist() == [320 * 1.5 + 360]


def test_no_peak_at_an_end_of_an_utterance():
    """The largest difference is the first, or the last: there is no peak, be there other speech before and after."""
    falling, rising = np.array([0, 9, 13, 15, 16.0]), np.array([0, 1, 3, 7, 16.0])
    for middle in (falling, rising):
        utterances = [Utterance(walk[:, None], 1680) for walk in (falling, middle, rising)]
        frames, together = joined(utterances)
        found = peaks(dissimilarity(Scaling.of(frames)(frames), together.utterance, "euclidean"), together, 1)
        assert len(found.time) == len(found.utterance) == len(found.prominence) == 0


@pytest.mark.parametrize("distance", DISTANCES)
def test_equal_frames_are_not_apart_at_all(distance):
    random = np.random.default_rng(0)
    frames = np.repeat(random.standard_normal((50, 7)), 3, axis=0)
    frames[30:33] = 0
    apart = dissimilarity(frames, np.repeat([0, 1], 75), distance)
    same = np.arange(149) % 3 != 2
    assert (apart[same] == 0).all()
    assert (apart[~same] > 0.01).all()
    assert np.flatnonzero(np.isinf(apart)).tolist() == [74]
    if distance == "cosine":  # a frame of zeros has no direction
        assert apart[[29, 32]].tolist() == [1, 1]


@pytest.mark.parametrize("distance", DISTANCES)
def test_dissimilarity(distance):
    frames = np.random.default_rng(1).standard_normal((40, 6))
    np.testing.assert_allclose(
        dissimilarity(frames, np.zeros(40), distance), slow.distances(frames, distance), rtol=1e-9
    )


def test_scaling():
    random = np.random.default_rng(0)
    frames = random.standard_normal((500, 5)) * [1, 100, 1e-5, 3, 1] + [0, 1e4, 0, -7, 0]
    frames[:, 4] = 0.1  # its mean is not exactly 0.1
    done = Scaling.of(frames.astype(np.float32))(frames.astype(np.float32))
    np.testing.assert_allclose(done.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose((done**2).mean(0), [1, 1, 1, 1, 0], rtol=1e-12)
    assert (done[:, 4] == 0).all()
    assert done.dtype == np.float64


@pytest.mark.parametrize(
    "value",
    [
        np.nan,
        np.inf,
    ],
)
def test_frames_that_are_not_finite(value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused("not finite", Scaling.of, np.array([[0, 1], [value, 2]]), error=FeatureError)


def test_frames_that_are_all_the_same_have_no_boundaries():
    utterances = [Utterance(np.full((n, 3), 0.1), 320 * n + 80, [(0, 900), (900, 320 * n)]) for n in (30, 1, 25)]
    for cell, found, chance in sweep(*joined(utterances), grid()):
        assert totals(found)["predicted"] == totals(chance)["predicted"] == 0, cell
        assert totals(found)["intervals"] == 3


def test_scale_and_offset_of_a_dimension_do_not_matter():
    """Powers of two and multiples of 1/1024, so that nothing is rounded on the way."""
    random = np.random.default_rng(5)
    utterances = [talk(n, 320, 400, random) for n in (50, 40)]
    for u in utterances:
        u.frames = np.round(u.frames * 1024) / 1024
    frames, together = joined(utterances)
    moved = frames * 2.0 ** random.integers(-5, 6, size=10) + random.integers(-50, 50, size=10)
    constant = np.hstack([frames, np.full((90, 2), 0.3)])
    cells = grid(windows=(1, 4), prominences=(0, 0.1, 1))
    plain = [rows(found) for _, found, _ in sweep(frames, together, cells)]
    assert [rows(found) for _, found, _ in sweep(moved, together, cells)] == plain
    assert [rows(found) for _, found, _ in sweep(constant, together, cells)] == plain


@pytest.mark.parametrize("at_once", [1, 2, 30, 59, 89, 90])
def test_frames_may_be_read_in_blocks(monkeypatch, at_once):
    utterances = [talk(n, 320, 400, np.random.default_rng(n)) for n in (59, 1, 30)]
    frames, together = joined(utterances)
    frames = np.round(frames * 1024) / 1024
    cells = grid(windows=(1, 4), prominences=(0, 1))
    plain = [rows(found) for _, found, _ in sweep(frames, together, cells)]
    monkeypatch.setattr(segmentation, "_FRAMES_AT_ONCE", at_once)
    assert [rows(found) for _, found, _ in sweep(frames, together, cells)] == plain
    np.testing.assert_allclose(
        Scaling.of(frames)(frames), np.concatenate(slow.z_scored([Utterance(frames, 0)])), atol=1e-12
    )


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_other_utterances_do_not_matter_once_frames_are_standardised(distance, window):
    random = np.random.default_rng(window)
    utterances = [talk(n, 320, 400, random) for n in (70, 2, 1, 60, 17, 3, 45)]

    def alone(some: list[Utterance]) -> list[tuple[int, ...]]:
        frames, together = joined(some)
        found = peaks(dissimilarity(frames, together.utterance, distance), together, window)
        return rows(count(*found.of(0), together))

    each = [alone([u])[0] for u in utterances]
    assert sum(row[0] for row in each) >= 4
    order = random.permutation(7)
    assert alone(utterances) == each
    assert alone([utterances[k] for k in order]) == [each[k] for k in order]
    assert alone(utterances * 3) == each * 3


def test_tolerance_is_inclusive():
    """One word from 5000 to 10000 of 20000 samples."""
    for shift, hits in [(320, 1), (-320, 1), (320.5, 0), (321, 0), (-321, 0)]:
        for at in (5000, 10000):
            found = counted([at + shift], 20000, [(5000, 10000)])
            assert [found[n] for n in ("strict", "near_reference", "near_prediction")] == [hits] * 3
            assert (found["predicted"], found["references"], found["intervals"]) == (1, 2, 2)
    for first, last, tokens in [
        (5320, 9680, 1),
        (4680, 10320, 1),
        (5321, 10000, 0),
        (5000, 10321, 0),
        (4679, 10000, 0),
    ]:
        assert counted([first, last], 20000, [(5000, 10000)])["tokens"] == tokens
    assert counted([5010], 20000, [(5000, 10000)], tolerance=10)["strict"] == 1
    assert counted([5011], 20000, [(5000, 10000)], tolerance=10)["strict"] == 0


def test_edges_of_utterances_are_not_scored():
    assert counted([0, 320, 19680, 20000], 20000, [(320, 19680)]) == {
        **dict.fromkeys(slow.NAMES, 0),
        "intervals": 1,
        "words": 1,
        "tokens": 1,
    }
    assert counted([321, 19679], 20000, [(321, 19679)]) == {
        **dict.fromkeys(slow.NAMES, 2),
        "intervals": 3,
        "words": 1,
        "tokens": 1,
    }
    # a prediction near a reference that is not scored is wrong, and so the other way round
    found = counted([321], 20000, [(320, 10000)])
    assert (found["predicted"], found["references"], found["strict"], found["near_reference"]) == (1, 1, 0, 0)


def test_neighbouring_utterances_are_not_near():
    together = speech([2000, 2000], [(0, 0, 1600), (1, 400, 2000)])
    found = count(np.array([1]), np.array([390.0]), together)
    assert rows(found) == [(0, 1, 0, 0, 0, 1, 1, 0), (1, 1, 1, 1, 1, 2, 1, 1)]
    found = count(np.array([0]), np.array([1590.0]), together)
    assert rows(found) == [(1, 1, 1, 1, 1, 2, 1, 1), (0, 1, 0, 0, 0, 1, 1, 0)]
    # 0 and the length are ends of every utterance, even where nothing was found at all
    whole = speech([2000, 9000, 2000], [(0, 0, 2000), (2, 100, 1900)])
    none = np.empty(0)
    assert totals(count(none.astype(int), none, whole))["tokens"] == 2
    # the end of one utterance and the start of the next are no interval, nor is the end of the last alone
    brief = speech([2000, 2000], [(0, 1700, 1950), (1, 10, 300), (1, 1700, 1950)])
    assert totals(count(none.astype(int), none, brief))["tokens"] == 0


def test_one_reference_may_be_near_many_predictions():
    """Lenient precision takes them all, strict precision one (spec 5.3)."""
    found = counted([4800, 4900, 5000, 5100, 15000], 20000, [(5000, 10000)])
    assert (found["strict"], found["near_reference"], found["near_prediction"]) == (1, 4, 1)
    values = scores(Counts(*(np.array(found[n]) for n in slow.NAMES)))
    assert (values["precision"], values["lenient precision"]) == (1 / 5, 4 / 5)
    assert values["recall"] == values["lenient recall"] == 1 / 2
    assert values["F1"] == pytest.approx(2 / 7)
    assert values["lenient F1"] == pytest.approx(2 * 0.8 * 0.5 / 1.3)
    # and one prediction near many references
    found = counted([5000], 20000, [(4800, 5100), (5200, 9000)])
    assert (found["references"], found["strict"], found["near_reference"], found["near_prediction"]) == (4, 1, 1, 3)


def test_a_time_that_ends_one_word_and_starts_another_is_one_reference():
    assert counted([], 20000, [(1000, 5000), (5000, 9000), (9500, 20000)])["references"] == 4


def test_match_is_a_largest_assignment():
    random = np.random.default_rng(0)
    waiting = 0
    for _ in range(2000):
        width = int(random.integers(5, 60))
        predicted, references = (np.sort(random.integers(0, width, random.integers(0, 14))) for _ in range(2))
        tolerance = float(random.integers(0, 7))
        hit = match(predicted.astype(float), references.astype(float), tolerance)
        assert hit.dtype == bool
        assert hit.shape == references.shape
        assert hit.sum() == slow.most_matches(predicted, references, tolerance)
        assert hit.sum() == slow.most_matches(predicted, references[hit], tolerance)  # of these very references
        waiting += hit.sum() < sum(any(abs(p - r) <= tolerance for p in predicted) for r in references)
    assert waiting > 500  # dense enough that references compete


def test_match_intervals_against_all_of_them():
    """Words longer than two tolerances: no two of them are one interval."""
    random = np.random.default_rng(1)
    together = 0
    for _ in range(1500):
        tolerance = int(random.integers(0, 6))
        at, words = 0, []
        for _ in range(random.integers(1, 7)):
            start = at + int(random.integers(0, 5))
            at = start + int(random.integers(2 * tolerance + 1, 2 * tolerance + 14))
            words.append((start, at))
        near = np.array(words).ravel() + random.integers(-6, 7, size=2 * len(words))
        ends = np.unique(np.concatenate([near, random.integers(0, at, random.integers(0, 5))])).astype(float)
        expected = [
            any(abs(a - start) <= tolerance and abs(b - end) <= tolerance for a, b in pairwise(ends))
            for start, end in words
        ]
        assert match_intervals(ends, np.array(words, float), tolerance).tolist() == expected
        together += sum(expected)
    assert together > 500


def test_an_interval_is_one_word():
    words = np.array([[0, 200], [200, 400.0]])
    assert match_intervals(np.array([0, 400.0]), words, 320).sum() == 1


def test_very_short_words_are_found_where_every_boundary_is():
    words = np.array([[0, 200], [200, 400.0]])
    assert match_intervals(np.array([0, 200, 400.0]), words, 320).sum() == 2


def values_of(strict: int, predicted: int, references: int) -> dict[str, float]:
    numbers = np.array([predicted, references, strict, strict, strict, 1, 1, 0])
    return {name: float(value) for name, value in scores(Counts(*numbers)).items()}


@pytest.mark.parametrize(
    ("strict", "predicted", "references", "expected"),
    [
        # P, R, F1, over-segmentation, R-value: by hand from Räsänen et al. 2009
        (10, 10, 10, (1, 1, 1, 0, 1)),
        (5, 10, 10, (0.5, 0.5, 0.5, 0, 1 - (0.5 + 0.5 / 2**0.5) / 2)),
        (10, 20, 10, (0.5, 1, 2 / 3, 1, 1 - (1 + 1 / 2**0.5) / 2)),  # r1 = 1, r2 = -1/sqrt 2
        (5, 5, 10, (1, 0.5, 2 / 3, -0.5, 1 - (0.5**0.5 + 0) / 2)),  # r1 = sqrt(1/4 + 1/4), r2 = 0
        (4, 16, 10, (0.25, 0.4, 4 / 13, 0.6, 1 - (0.72**0.5 + 1.2 / 2**0.5) / 2)),  # r2 = -1.2/sqrt 2
        (0, 10, 10, (0, 0, 0, 0, 1 - (1 + 1 / 2**0.5) / 2)),
        (0, 0, 10, (0, 0, 0, -1, 1 - 2**0.5 / 2)),  # r1 = sqrt 2, r2 = 0
    ],
)
def test_scores_by_hand(strict, predicted, references, expected):
    values = values_of(strict, predicted, references)
    names = ("precision", "recall", "F1", "over-segmentation", "R-value")
    assert [values[name] for name in names] == pytest.approx(list(expected), abs=1e-12)


def test_scores_of_tokens_and_lenient_ones():
    values = scores(Counts(*np.array([8, 5, 3, 6, 4, 9, 6, 3])))
    assert [float(values[f"token {n}"]) for n in ("precision", "recall", "F1")] == pytest.approx([3 / 9, 3 / 6, 0.4])
    assert [float(values[f"lenient {n}"]) for n in ("precision", "recall", "F1")] == pytest.approx(
        [6 / 8, 4 / 5, 1.2 / 1.55]
    )


def test_nothing_predicted_and_nothing_to_find():
    """No division by zero, and no score but those that only count."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        none = scores(count(np.empty(0, int), np.empty(0), speech([20000, 20000], [(0, 5000, 9000)])))
        assert none["over-segmentation"][0] == -1
        for name in none.keys() - {"over-segmentation", "R-value"}:
            assert none[name].tolist() == [0, 0], name
        assert all(np.isfinite(value).all() for value in none.values())


def test_counts_of_resampled_utterances():
    found = Counts(*(np.arange(3) + 10 * k for k in range(len(slow.NAMES))))
    total = found.of(np.ones(3, int))
    assert [int(getattr(total, name)) for name in slow.NAMES] == [3 + 30 * k for k in range(8)]
    drawn = found.of(np.array([[2, 0, 1], [0, 3, 0]]))
    assert drawn.words.tolist() == [60 + 60 + 62, 3 * 61]
    assert scores(drawn)["precision"].shape == (2,)


def test_grid():
    cells = grid()
    assert len(set(cells)) == len(cells) == 2 * 6 * 15
    assert [str(c) for c in grid(["cosine"], [4], [3e-4])] == ["cosine distance, smoothed over 4, prominence 0.0003"]
    refused("'eucli' is no distance of frames: choose euclidean or cosine", grid, ["eucli"])
    for windows, prominences in [((0,), (1,)), ((1,), (-0.1,)), ((1,), (float("nan"),))]:
        refused("1 frame or more", grid, windows=windows, prominences=prominences)


def test_sweep_gives_every_cell_once():
    utterances = [talk(30, 320, 400, np.random.default_rng(0))]
    cells = grid(windows=(1, 16), prominences=(0, 1))
    assert sorted(map(str, (cell for cell, _, _ in sweep(*joined(utterances), cells)))) == sorted(map(str, cells))
