"""Frames, seconds and samples against the tables of spec layerwise.md and against slow references."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from layertool.errors import UsageError
from layertool.geometry import (
    END_TOLERANCE,
    SAMPLE_RATE,
    FrameGeometry,
    Pooling,
    convolution_geometry,
    moving_average,
    samples_to_seconds,
    seconds_to_samples,
    windows,
)

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
LAYERS = convolution_geometry(KERNELS, STRIDES)
MODEL = LAYERS[-1]
HOP = 320
POOLINGS = ("mean", "max", "centre-third", "position@0", "position@0.5", "position@1", "quarter1", "quarter4")


def frames(pooling: str, start, end, n_frames=10_000, hop=HOP) -> list[list[int]]:
    """The frames of each segment, one by one."""
    lo, hi = Pooling(pooling).frames(np.atleast_1d(start), np.atleast_1d(end), hop, n_frames)
    return [list(range(a, b)) for a, b in zip(lo.tolist(), hi.tolist(), strict=True)]


def test_the_convolution_table():  # spec 1.2
    assert [(g.hop, g.field) for g in LAYERS] == [
        (5, 10), (10, 20), (20, 40), (40, 80), (80, 160), (160, 240), (320, 400),
    ]  # fmt: skip


def test_frame_counts_are_those_of_the_layers_one_by_one():
    for n in range(400, 5001):
        length = n
        for kernel, stride, geometry in zip(KERNELS, STRIDES, LAYERS, strict=True):
            length = (length - kernel) // stride + 1
            assert geometry.n_frames(n) == length, (n, geometry)


@pytest.mark.parametrize(
    ("n", "expected"), [(400, 1), (719, 1), (720, 2), (16_000, 49), (160_000, 499), (399, 0), (0, 0)]
)
def test_golden_frame_counts(n, expected):
    assert MODEL.n_frames(n) == expected


@pytest.mark.parametrize(
    ("geometry", "counts"),
    [
        (FrameGeometry(320, 400, -200, centred=True), {1: 1, 320: 1, 321: 2, 16_000: 50, 480_000: 1500}),  # Whisper
        (FrameGeometry(160, 400, -200, centred=True, extra_frame=True), {159: 1, 160: 2, 16_000: 101}),
    ],
)
def test_centred_frame_counts(geometry, counts):
    assert {n: geometry.n_frames(n) for n in counts} == counts


def test_frames_lie_where_the_spec_says():
    start, end = MODEL.spans(49)
    assert start.dtype == np.int64
    assert [(int(start[i]), int(end[i])) for i in (0, 1, 48)] == [(0, 400), (320, 720), (15_360, 15_760)]
    start, end = FrameGeometry(160, 400, -200, centred=True).spans(2, first=3)
    assert list(zip(start.tolist(), end.tolist(), strict=True)) == [(280, 680), (440, 840)]


def test_the_moving_average_table():  # spec 3.5
    assert [moving_average(g) for g in LAYERS] == [(79, 32), (39, 16), (19, 8), (9, 4), (4, 2), (2, 1), None]


def test_averaged_layers_share_the_frames_of_a_filterbank():
    for geometry in LAYERS[:-1]:
        kernel, stride = moving_average(geometry)
        assert geometry.field + (kernel - 1) * geometry.hop == 400
        assert stride * geometry.hop == 160
        for n in range(400, 5001):
            averaged = (geometry.n_frames(n) - kernel) // stride + 1
            assert averaged == FrameGeometry(160, 400).n_frames(n) == (n - 400) // 160 + 1


@pytest.mark.parametrize(
    "geometry",
    [
        FrameGeometry(160, 720, -360, centred=True),  # Whisper's first convolution
        FrameGeometry(160, 400),  # a filterbank has 10 ms frames already
        FrameGeometry(30, 100),  # 160 is no multiple of 30
        FrameGeometry(20, 50),  # 350 is no multiple of 20
    ],
)
def test_nothing_else_is_averaged(geometry):
    assert moving_average(geometry) is None


# spec 1.5


def spec_frames(start_id: int, end_id: int, n_frames: int, phone: bool) -> list[int]:
    """Spec layerwise.md 1.5, word for word, with the clamp that it asks for at both ends."""
    off = (end_id - start_id + 1) // 3 if phone else 0
    start_id += off
    end_id -= off
    if end_id == start_id:
        end_id += 1
    end_id = min(end_id, n_frames)
    start_id = min(start_id, end_id - 1)
    return list(range(start_id, end_id))


CENTRE_THIRD = {
    1: [0], 2: [1], 3: [1], 4: [1, 2], 5: [2], 6: [2, 3], 7: [2, 3, 4], 8: [3, 4], 9: [3, 4, 5], 10: [3, 4, 5, 6],
    11: [4, 5, 6], 12: [4, 5, 6, 7], 13: [4, 5, 6, 7, 8], 14: [5, 6, 7, 8], 15: [5, 6, 7, 8, 9],
}  # fmt: skip


@pytest.mark.parametrize("length", CENTRE_THIRD)
@pytest.mark.parametrize("first", [0, 1, 17])
def test_the_frames_of_a_phone(length, first):
    kept = {1: 1, 2: 1, 3: 1, 4: 2, 5: 1, 6: 2, 7: 3, 8: 2, 9: 3, 10: 4, 11: 3, 12: 4, 13: 5, 14: 4, 15: 5}
    (got,) = frames("centre-third", first * HOP, (first + length) * HOP)
    assert got == [first + i for i in CENTRE_THIRD[length]]
    assert got == spec_frames(first, first + length, 10_000, phone=True)
    assert len(got) == kept[length]


@pytest.mark.parametrize("seconds_to_frames", ["mean", "centre-third"])
def test_frame_indices_of_the_whole_grid(seconds_to_frames):
    """Every 10 ms time from 0 to 40 s, as start and as end, with durations of 10 ms to 0.31 s."""
    for duration in (1, 2, 3, 14, 31):
        start = np.arange(4001)
        end = start + duration
        got = frames(seconds_to_frames, seconds_to_samples(start / 100), seconds_to_samples(end / 100))
        for k, e, indices in zip(start.tolist(), end.tolist(), got, strict=True):
            first, last = math.floor(Fraction(k, 2)), math.ceil(Fraction(e, 2))  # 10 ms is half a frame
            assert indices == spec_frames(first, last, 10_000, seconds_to_frames == "centre-third"), (k, e)


def test_the_float_traps_are_traps_and_are_avoided():
    assert math.ceil(0.14 / 0.02) == 8
    assert math.floor(0.58 / 0.02) == 28
    naive = sum(math.floor(k / 100 / 0.02) != k // 2 or math.ceil(k / 100 / 0.02) != (k + 1) // 2 for k in range(4000))
    assert naive == 321
    assert frames("mean", seconds_to_samples(0.0), seconds_to_samples(0.14)) == [list(range(7))]
    assert frames("mean", seconds_to_samples(0.58), seconds_to_samples(0.60)) == [[29]]


def test_seconds_and_samples():
    grid = np.arange(0, 4001) / 100
    assert seconds_to_samples(grid).tolist() == [160 * k for k in range(4001)]
    assert seconds_to_samples(grid).dtype == np.int64
    np.testing.assert_array_equal(samples_to_seconds(seconds_to_samples(grid)), grid)
    assert seconds_to_samples(0.03125 / SAMPLE_RATE) == 0


@pytest.mark.parametrize("pooling", POOLINGS)
def test_segments_at_the_end_of_a_file(pooling):
    n_samples = 16_000
    n_frames = MODEL.n_frames(n_samples)  # 49: the last ends at 15760, 240 samples before the file does
    last = [n_frames - 1]
    assert frames(pooling, 15_700, 16_000, n_frames) == [last]  # begins after frame 48 has, in the last 25 ms
    assert frames(pooling, 15_680, 16_000, n_frames) == [last]  # would be frame 49, entirely in the last 25 ms
    assert frames(pooling, 15_999, 16_000, n_frames) == [last]
    assert frames(pooling, 15_360, 16_000 + END_TOLERANCE, n_frames) == [last]
    starts = np.arange(0, n_samples, 160)
    for beyond in (0, 160, END_TOLERANCE):
        for got in frames(pooling, starts, np.full(len(starts), n_samples + beyond), n_frames):
            assert got
            assert got == sorted(set(got) & set(range(n_frames)))


def test_a_word_at_the_end_keeps_what_is_there():
    assert frames("mean", 14_400, 16_000, 49) == [[45, 46, 47, 48]]
    assert frames("centre-third", 14_400, 16_000, 49) == [[47]]  # 5 frames less 2 at each end
    assert frames("mean", 0, 300, 1) == [[0]]


def test_every_segment_of_short_files_against_the_reference():
    for n_samples in (400, 719, 720, 1000, 3000, 4321):
        n_frames = MODEL.n_frames(n_samples)
        spans = [(s, e) for s in range(0, n_samples, 80) for e in range(s + 80, n_samples + END_TOLERANCE + 1, 80)]
        start, end = np.array(spans).T
        for pooling in ("mean", "centre-third"):
            got = frames(pooling, start, end, n_frames)
            for s, e, indices in zip(start.tolist(), end.tolist(), got, strict=True):
                assert indices == spec_frames(s // 320, -(-e // 320), n_frames, pooling == "centre-third"), (s, e)


def test_other_hops():
    assert frames("mean", 0, 16_000, 3200, hop=5) == [list(range(3200))]
    assert frames("mean", 800, 1600, 100, hop=160) == [[5, 6, 7, 8, 9]]


def test_lengths_may_differ_by_segment():
    assert frames("mean", [0, 0], [3200, 3200], np.array([4, 7])) == [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize("position", ["0", "0.1", "0.25", "0.29", "0.5", "0.57", "0.58", "0.75", "1", "1.0"])
def test_position_is_one_frame_at_that_part_of_the_segment(position):
    """floor(Q L) in exact arithmetic: in floating point 0.29 of 100 frames is frame 28."""
    for length in [*range(1, 60), 100, 150, 180, 200]:
        expected = min(math.floor(Fraction(position) * length), length - 1)
        assert frames(f"position@{position}", 7 * HOP, (7 + length) * HOP) == [[7 + expected]], length


def test_position_counts_the_frames_that_are_there():
    assert frames("position@0.5", 40 * HOP, 60 * HOP, 49) == [[44]]  # half of 9 frames, not of 20


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_quarters(k):
    for length in range(1, 60):
        lo, hi = math.floor(Fraction((k - 1) * length, 4)), math.floor(Fraction(k * length, 4))
        expected = list(range(lo, max(hi, lo + 1)))
        assert frames(f"quarter{k}", 5 * HOP, (5 + length) * HOP) == [[5 + i for i in expected]], length


def test_quarters_share_out_a_segment():
    for length in range(4, 60):
        parts = [frames(f"quarter{k}", 0, length * HOP)[0] for k in (1, 2, 3, 4)]
        assert [i for part in parts for i in part] == list(range(length))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    "name", ["median", "", "Mean", "position@", "position@1.5", "position@-1", "quarter0", "quarter5"]
)
def test_an_unknown_pooling_is_refused(name):
    with pytest.raises(UsageError, match=f"'{name}' is no pooling: choose mean, min, max, centre-third"):
        Pooling(name)


# windows over long utterances

GRID = 640


def lengths_to_try(length: int, overlap: int) -> list[int]:
    rng = random.Random(length * 7 + overlap)
    near = [length + d for d in (-1, 0, 1, 400, 639, 640, 641, 1279, 1280, 1281)]
    return near + [rng.randrange(1, 12 * length) for _ in range(300)]


@pytest.mark.parametrize(
    ("length", "overlap"),
    [(480_000, 160_000), (960_000, 160_000), (64_000, 16_000), (64_000, 32_000), (70_001, 16_001), (6400, 640)],
)
def test_windows_cover_everything_once(length, overlap):
    for n in lengths_to_try(length, overlap):
        made = windows(n, length, overlap)
        where = f"{n} samples: {made}"
        assert made[0].keep_start == made[0].start == 0, where
        assert made[-1].keep_end == made[-1].end == n, where
        for left, right in pairwise(made):
            assert left.keep_end == right.keep_start, where
            assert right.keep_start % GRID == right.start % GRID == 0, where
            assert right.start > left.start, where
            shared = left.end - right.start
            assert shared >= overlap, where
            if right is not made[-1]:
                assert shared < overlap + 2 * GRID, where
            middle = (left.end + right.start) / 2
            assert abs(left.keep_end - middle) <= GRID, where
        for window in made:
            assert window.start <= window.keep_start < window.keep_end <= window.end, where


@pytest.mark.parametrize(("length", "overlap"), [(480_000, 160_000), (64_000, 16_000), (70_001, 16_001)])
def test_no_window_is_longer_than_asked(length, overlap):
    """Whisper's encoder takes 30 s and not a sample more."""
    for n in lengths_to_try(length, overlap):
        assert max(w.end - w.start for w in windows(n, length, overlap)) <= length, n


@pytest.mark.parametrize("geometry", [MODEL, FrameGeometry(320, 1040, -520, centred=True), FrameGeometry(640, 800)])
def test_every_frame_comes_from_a_window_that_has_it(geometry):
    """The frames that are kept, window by window, are 0, 1, 2, …; each is a frame of its window's own numbering."""
    for n in lengths_to_try(64_000, 16_000):
        if geometry.n_frames(n) < 1:
            continue
        kept = []
        for window in windows(n, 64_000, 16_000):
            first = window.keep_start // geometry.hop
            last = geometry.n_frames(n) if window.keep_end == n else window.keep_end // geometry.hop
            shift, rest = divmod(window.start, geometry.hop)
            assert rest == 0
            assert last - shift <= geometry.n_frames(window.end - window.start), (n, window)
            kept += range(first, last)
        assert kept == list(range(geometry.n_frames(n))), n


def test_a_short_utterance_is_one_window():
    for n in (1, 400, 64_000):
        (only,) = windows(n, 64_000, 16_000)
        assert (only.start, only.end, only.keep_start, only.keep_end) == (0, n, 0, n)


def test_an_overlap_that_leaves_no_step_is_refused():
    with pytest.raises(UsageError, match=r"windows of 0\.48 s cannot overlap by 10 s: make --window-seconds"):
        windows(16_000, 8000, 160_000)
