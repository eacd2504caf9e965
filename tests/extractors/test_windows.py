"""Long audio through extractors of any hop: on a ramp, the mean of a frame says where it stands."""

from __future__ import annotations

import itertools

import models
import numpy as np
import pytest
import torch

import layertool
from layertool.errors import LayertoolError, ModelError, UsageError
from layertool.extractors.base import Extractor, Layer
from layertool.extractors.extraction import Extraction
from layertool.extractors.prepare import prepare
from layertool.geometry import WINDOW_GRID, FrameGeometry, window_grid, windows

HOPS = (160, 200, 240, 256, 320, 384, 400, 441, 480, 512, 640, 800, 960, 1000, 1280, 1600, 1920)


def geometry(hop: int, more: int = 80) -> FrameGeometry:
    """Frames of at least 25 ms: shorter ones would be averaged to that at unit frame."""
    return FrameGeometry(hop, max(hop + more, 400))


class Ramp(Extractor):
    """Frames are the means of their samples: in a ramp, half the sum of their first and last sample's time."""

    def __init__(self, *geometries: FrameGeometry, more_frames: int = 0, width: int = 1):
        self.layers = {f"C{k}": Layer(1, geometry) for k, geometry in enumerate(geometries, start=1)}
        self.min_samples = min(geometry.field for geometry in geometries)
        self.provenance = {"family": "ramp", "id": "ramp", "revision": None}
        self.more_frames, self.width = more_frames, width

    def forward(self, items, layers, emit):
        longest = max(len(item.samples) for item in items)
        for name in layers:
            geometry = self.layers[name].geometry
            frames = np.zeros((len(items), geometry.n_frames(longest) + max(self.more_frames, 0), self.width))
            for k, item in enumerate(items):
                start, end = geometry.spans(geometry.n_frames(len(item.samples)))
                start, end = np.clip(start, 0, None), np.clip(end, None, len(item.samples))
                sums = np.concatenate([[0.0], np.cumsum(item.samples, dtype=np.float64)])
                frames[k, : len(start), 0] = (sums[end] - sums[start]) / (end - start)
            frames = frames[:, : geometry.n_frames(longest) + self.more_frames]
            emit(name, torch.from_numpy(frames))


def ramp_corpus(folder, *seconds):
    return models.corpus(folder, [np.arange(round(16_000 * s), dtype=np.float32) / 2**24 for s in seconds])


def check(store, layers, lengths):
    for name, layer in layers.items():
        rows, values = store.rows("frame", name), store.read("frame", name)[:, 0].astype(np.float64) * 2**24
        for k, n_samples in enumerate(lengths):
            mine = rows["utterance"].to_numpy() == f"u{k}"
            start, end = layer.geometry.spans(layer.geometry.n_frames(n_samples))
            start, end = np.clip(start, 0, None), np.clip(end, None, n_samples)
            assert mine.sum() == len(start), (name, n_samples)
            assert np.allclose(values[mine], (start + end - 1) / 2, rtol=1e-6, atol=1.0), (name, n_samples)


@pytest.mark.parametrize("hop", HOPS)
def test_frames_of_any_hop_stand_at_their_time(tmp_path, hop):
    """77 s is the case that was met: windows began at multiples of 640 samples, whatever the hop."""
    seconds = (61, 77, 123.456)
    extractor = Ramp(geometry(hop))
    store = layertool.extract(extractor, ramp_corpus(tmp_path / "c", *seconds), tmp_path / "s", units=("frame",))
    check(store, extractor.layers, [round(16_000 * s) for s in seconds])


@pytest.mark.slow
@pytest.mark.parametrize("hop", HOPS)
@pytest.mark.parametrize(("window", "overlap"), [(60, 10), (30, 5), (20, 2.5)])
def test_frames_of_any_hop_stand_at_their_time_in_any_window(tmp_path, hop, window, overlap):
    seconds = (61, 90, 301.7, 600)
    extractor = Ramp(geometry(hop, hop), geometry(hop, 37))
    store = layertool.extract(
        extractor,
        ramp_corpus(tmp_path / "c", *seconds),
        tmp_path / "s",
        units=("frame",),
        window_seconds=window,
        overlap_seconds=overlap,
    )
    check(store, extractor.layers, [round(16_000 * s) for s in seconds])


@pytest.mark.parametrize("hops", [(320, 1280), (400, 960), (160, 384), (960, 1000)])
def test_layers_of_different_hops_share_windows(tmp_path, hops):
    extractor = Ramp(*map(geometry, hops))
    store = layertool.extract(extractor, ramp_corpus(tmp_path / "c", 77), tmp_path / "s", units=("frame",))
    check(store, extractor.layers, [77 * 16_000])


def test_hops_that_meet_too_rarely_are_refused_with_what_can_be_done(tmp_path):
    """441 and 1600 samples have whole frames together every 44.1 s."""
    extractor = Ramp(geometry(441), geometry(1600))
    corpus = ramp_corpus(tmp_path / "c", 77)
    with pytest.raises(
        UsageError, match=r"cannot overlap by 10 s: make --window-seconds at least 89, as the layers asked have"
    ):
        layertool.extract(extractor, corpus, tmp_path / "s", ("frame",))
    wide = layertool.extract(extractor, ramp_corpus(tmp_path / "d", 200), tmp_path / "w", ("frame",), window_seconds=89)
    check(wide, extractor.layers, [200 * 16_000])
    single = layertool.extract(extractor, corpus, tmp_path / "s", ("frame",), layers="C2")  # one at a time
    check(single, {"C2": extractor.layers["C2"]}, [77 * 16_000])


def test_pooled_rows_are_of_the_right_frames(tmp_path):
    n_samples, hop = 77 * 16_000, 960
    waveform = np.arange(n_samples, dtype=np.float32) / 2**24
    words = [(0, "word", start, start + 48_000, "w") for start in range(0, n_samples - 48_000, 48_000)]
    corpus = models.corpus(tmp_path / "c", [waveform], words)
    store = layertool.extract(Ramp(FrameGeometry(hop, hop)), corpus, tmp_path / "s", units=("word", "utterance"))
    middles = [start + 24_000 - 0.5 for _, _, start, _, _ in words]
    assert np.allclose(store.read("word", "C1")[:, 0].astype(np.float64) * 2**24, middles, atol=2)


def test_the_grid_of_the_families_is_what_it_was():
    for hops in ((5, 10, 20, 40, 80, 160, 320), (160,), (320,), (160, 320), ()):
        assert window_grid(hops) == WINDOW_GRID == 640
    for a, b in itertools.product(HOPS, HOPS):
        assert window_grid((a, b)) % a == window_grid((a, b)) % b == 0
        assert window_grid((a, b)) >= WINDOW_GRID


@pytest.mark.parametrize("hop", HOPS)
def test_windows_lie_on_the_grid(hop):
    grid = window_grid([hop])
    for n_samples in (960_001, 1_000_000, 1_920_000, 9_600_000):
        found = windows(n_samples, 960_000, 160_000, grid)
        assert {place % hop for window in found for place in (window.start, window.keep_start)} == {0}
        assert all(window.end - window.start <= 960_000 for window in found)


@pytest.mark.parametrize(
    ("geometry", "seconds", "says"),
    [
        (FrameGeometry(320, 48_000), 0.5, "see 3 s of audio, and windows that overlap by 0.5 s would cut some of them"),
        (FrameGeometry(320, 1_040, -520, centred=True), 0.001, "make --overlap-seconds at least 1"),
        (FrameGeometry(480_000, 480_000), 1, "make --window-seconds at least"),
    ],
)
def test_frames_that_windows_would_cut_are_refused_before_the_work(tmp_path, geometry, seconds, says):
    options = Extraction(units=("frame",), window_seconds=20, overlap_seconds=seconds)
    with pytest.raises(UsageError, match=says):
        prepare(Ramp(geometry), ramp_corpus(tmp_path / "c", 61), options)
    prepare(Ramp(geometry), ramp_corpus(tmp_path / "d", 19), options)  # nothing is cut


@pytest.mark.parametrize("more", [-1, 1, 7])
def test_another_number_of_frames_than_the_geometry_says_is_refused(tmp_path, more):
    with pytest.raises(ModelError, match=r"ramp gave \d+ frames of layer C1 for 32000 samples, its geometry says \d+"):
        layertool.extract(
            Ramp(FrameGeometry(320, 400), more_frames=more), ramp_corpus(tmp_path / "c", 2), tmp_path / "s", ("frame",)
        )


def test_another_width_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"gave an array of shape \(1, 99, 3\) for layer C1"):
        layertool.extract(
            Ramp(FrameGeometry(320, 400), width=3), ramp_corpus(tmp_path / "c", 2), tmp_path / "s", ("frame",)
        )


def test_frames_of_one_hop_and_field_at_other_places_are_not_one_table(tmp_path):
    """They would share one table of rows, and one of them would have the other's times."""
    apart = Ramp(FrameGeometry(320, 400), FrameGeometry(160, 400), FrameGeometry(160, 400, -200, centred=True))
    corpus = ramp_corpus(tmp_path / "c", 2)
    with pytest.raises(
        LayertoolError, match="frames of layers C2 and C3 have one hop and field but begin at other samples"
    ):
        layertool.extract(apart, corpus, tmp_path / "s", units=("frame",))
    layertool.extract(apart, corpus, tmp_path / "s", units=("utterance",))
