"""From frames to rows: every unit and pooling of a store against loops over the frames of a plain forward."""

from __future__ import annotations

import models
import numpy as np
import pytest
import references
import torch

import layertool
from layertool.extractors.pooling import segment_sums
from layertool.models import acoustic

LENGTHS = (400, 16_000, 5_003, 31_111)
POSITIONS = ("position@0", "position@0.29", "position@0.5", "position@1")
POOLINGS = ("mean", "min", "max", "centre-third", *POSITIONS, "quarter1", "quarter2", "quarter3", "quarter4")
# beside random ones: where frames begin and end, single samples, repeats, overlaps, the end of the audio
SEGMENTS = [
    (0, "word", 0, 400, "all"),
    (0, "phone", 0, 1, "first"),
    (0, "phone", 399, 400, "last"),
    (1, "phone", 320, 640, "frame"),
    (1, "phone", 319, 641, "frame and two samples"),
    (1, "phone", 1_000, 1_500, "a hundred frames of C1"),
    (1, "phone", 320, 640, "again"),
    (1, "word", 0, 16_000, "all"),
    (1, "word", 1_000, 9_000, "overlap"),
    (1, "word", 15_700, 16_000, "behind the last frame"),
    (1, "phone", 15_999, 16_000, "behind the last frame"),
    (2, "word", 4_000, 5_200, "beyond the end"),
    *((3, "phone", 3_200, 3_200 + 320 * k, f"{k} frames") for k in range(1, 16)),
]


# --- sums of rows ----------------------------------------------------------------------------------


def test_sums_equal_loops():
    random = np.random.default_rng(0)
    frames = random.standard_normal((3_000, 5)).astype(np.float32) + 0.5
    starts = random.integers(0, 2_000, 40)
    lengths = np.array([1, 2, 127, 128, 129, 255, 256, 257, 1_000, *random.integers(1, 1_000, 31)])
    got = segment_sums(torch.from_numpy(frames), starts, lengths).numpy()
    assert got.dtype == np.float32
    for row, start, length in zip(got, starts, lengths, strict=True):
        total = np.zeros(5)
        for k in range(start, start + length):
            total += frames[k]
        assert np.linalg.norm(row - total) < 1e-6 * np.linalg.norm(total)


@pytest.mark.parametrize("offset", [0.0, 1.0, 30.0])
def test_sums_of_up_to_100000_rows_do_not_drift(offset, record_property):
    """The relative error does not grow with the length, whatever lies under the features."""
    random = np.random.default_rng(1)
    frames = random.standard_normal((120_000, 6)).astype(np.float32) + np.float32(offset)
    lengths = np.unique([1, 100_000, 128**2, 128**2 + 1, *np.geomspace(1, 100_000, 200).astype(int)])
    starts = random.integers(0, 120_000 - lengths + 1)
    got = segment_sums(torch.from_numpy(frames), starts, lengths).numpy()
    worst = 0.0
    for row, start, length in zip(got, starts, lengths, strict=True):
        total = frames[start : start + length].astype(np.float64).sum(axis=0)
        worst = max(worst, np.linalg.norm(row - total) / np.linalg.norm(total))
    record_property("worst", float(worst))
    assert worst < 1e-6


def test_sums_are_the_same_on_every_call():
    random = np.random.default_rng(2)
    frames = torch.from_numpy(random.standard_normal((5_000, 32)).astype(np.float32))
    lengths = random.integers(1, 2_000, 300)
    starts = random.integers(0, 5_000 - lengths + 1)
    first = segment_sums(frames, starts, lengths)
    assert all(torch.equal(segment_sums(frames, starts, lengths), first) for _ in range(3))


def test_sums_of_nothing():
    none = np.empty(0, np.int64)
    assert segment_sums(torch.ones(10, 3), none, none).shape == (0, 3)


def test_rows_outside_a_segment_are_not_read():
    frames = torch.full((500, 3), torch.nan)
    frames[100:300] = 1.0
    got = segment_sums(frames, np.array([100, 150, 299]), np.array([200, 7, 1]))
    assert got[:, 0].tolist() == [200.0, 7.0, 1.0]


# --- a store ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A corpus, its segments, a model, and the frames of every layer of every utterance from plain forwards."""
    place = tmp_path_factory.mktemp("pooling")
    waveforms = [models.speech_like(n_samples, seed) for seed, n_samples in enumerate(LENGTHS)]
    segments = SEGMENTS + models.random_segments(LENGTHS)
    corpus = models.corpus(place / "corpus", waveforms, segments)
    model = models.save("wav2vec2-base", place / "model")
    network = references.load(model)
    return corpus, segments, model, [references.speech_layers(network, waveform) for waveform in waveforms]


def in_order(segments, tier: str) -> list[tuple]:
    """The segments of a tier as rows stand in a store: by utterance, start and end, cut at the end of the audio."""
    mine = [(k, start, end, label) for k, t, start, end, label in segments if t == tier]
    return sorted(mine, key=lambda row: row[:3])


def expected_rows(unit: str, segments, frames: list[np.ndarray], hop: int, pooling: str) -> np.ndarray:
    rows = [(k, 0, n, "") for k, n in enumerate(LENGTHS)] if unit == "utterance" else in_order(segments, unit)
    return np.stack(
        [
            references.pooled(frames[k], references.segment_frames(start, end, hop, len(frames[k]), pooling), pooling)
            for k, start, end, _ in rows
        ]
    )


def test_every_unit_of_every_layer(speech, tmp_path, record_property):
    """Phones: centre third; words and utterances: mean; frames: as they are, C1 to C6 averaged to 10 ms."""
    corpus, segments, model, layers = speech
    store = layertool.extract(str(model), corpus, tmp_path / "store", ("utterance", "word", "phone", "frame"))
    assert store.units == ["frame", "phone", "word", "utterance"]
    assert store.layers == list(layers[0])
    largest: dict[str, float] = {}
    for name in store.layers:
        frames = [clip[name] for clip in layers]
        averaged = [
            references.ten_millisecond_frames(f, name) if name in references.MOVING_AVERAGES else f for f in frames
        ]
        expected = {"frame": np.concatenate(averaged)}
        for unit, pooling in (("phone", "centre-third"), ("word", "mean"), ("utterance", "mean")):
            expected[unit] = expected_rows(unit, segments, frames, references.hop(name), pooling)
        for unit, rows in expected.items():
            error = references.worst_row(store.read(unit, name), rows)
            largest[unit] = max(error, largest.get(unit, 0.0))
    record_property("worst", largest)
    assert max(largest.values()) < 1e-5, largest


def test_rows_say_what_they_stand_for(speech, tmp_path):
    corpus, segments, model, _ = speech
    store = layertool.extract(
        str(model), corpus, tmp_path / "store", ("frame", "phone", "word", "utterance"), "C1,C6,C7,T1"
    )
    for unit in ("phone", "word"):
        rows, expected = store.row_table(unit), in_order(segments, unit)
        assert rows["utterance"].tolist() == [k for k, _, _, _ in expected]
        assert rows["start"].tolist() == [start for _, start, _, _ in expected]
        assert rows["end"].tolist() == [end for _, _, end, _ in expected]
        assert store.rows(unit)["label"].tolist() == [label for _, _, _, label in expected]
    assert store.row_table("utterance")["end"].tolist() == list(LENGTHS)
    for name, hop in (("C1", 160), ("C6", 160), ("C7", 320), ("T1", 320)):
        rows = store.row_table("frame", name)
        spans = [(k, i * hop, i * hop + 400) for k, n in enumerate(LENGTHS) for i in range((n - 400) // hop + 1)]
        assert list(zip(*(rows[column].tolist() for column in ("utterance", "start", "end")), strict=True)) == spans
        assert store.n_rows("frame", name) == len(spans)


def test_layers_of_one_hop_and_two_fields(tmp_path):
    """An eighth convolution that skips nothing: it has fewer frames than the seventh."""
    lengths = LENGTHS[1:]
    corpus = models.corpus(tmp_path / "corpus", [models.speech_like(n, n) for n in lengths])
    model = models.save(
        "wav2vec2-base",
        tmp_path / "model",
        conv_dim=[16] * 8,
        conv_kernel=[10, 3, 3, 3, 3, 2, 2, 2],
        conv_stride=[5, 2, 2, 2, 2, 2, 2, 1],
        num_feat_extract_layers=8,
    )
    store = layertool.extract(str(model), corpus, tmp_path / "store", ("frame",), "C7,C8,T1")
    for name, field in (("C7", 400), ("C8", 720), ("T1", 720)):
        spans = [(i * 320, i * 320 + field) for n in lengths for i in range((n - field) // 320 + 1)]
        rows = store.row_table("frame", name)
        assert list(zip(rows["start"].tolist(), rows["end"].tolist(), strict=True)) == spans
        assert len(store.read("frame", name)) == len(spans)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_at_every_unit(speech, tmp_path, pooling):
    corpus, segments, model, layers = speech
    units = ("phone", "word", "utterance")
    chosen = ["C1", "C4", "C7", "T0", "T2"]
    store = layertool.extract(
        str(model), corpus, tmp_path / "store", units, chosen, pooling=dict.fromkeys(units, pooling)
    )
    for name in chosen:
        frames = [clip[name] for clip in layers]
        for unit in units:
            expected = expected_rows(unit, segments, frames, references.hop(name), pooling)
            assert references.worst_row(store.read(unit, name), expected) < 1e-5, (unit, name)


@pytest.mark.parametrize("pooling", ["min", "max"])
def test_extremes_over_all_windows_of_long_audio(speech, tmp_path, pooling):
    """Those of the frames that the same run stores, whichever window they are from."""
    corpus = models.corpus(tmp_path / "corpus", [models.speech_like(9 * 16_000, 3), models.speech_like(16_000, 4)])
    store = layertool.extract(
        str(speech[2]),
        corpus,
        tmp_path / "store",
        ("frame", "utterance"),
        "C7,T2",
        pooling={"utterance": pooling},
        window_seconds=4,
        overlap_seconds=1,
    )
    for name in store.layers:
        frames, clip = store.read("frame", name), store.row_table("frame", name)["utterance"]
        expected = [getattr(frames[clip == k], pooling)(0) for k in (0, 1)]
        assert np.array_equal(store.read("utterance", name), np.stack(expected))
        half = frames[clip == 0][:190]
        assert not np.array_equal(getattr(half, pooling)(0), expected[0])  # one window would not do


def test_poolings_differ(speech):
    """What the tests above compare is not all the same."""
    _, segments, _, layers = speech
    frames = [clip["T2"] for clip in layers]
    rows = [expected_rows("word", segments, frames, 320, pooling) for pooling in POOLINGS]
    for k, left in enumerate(rows):
        assert all(references.worst_row(left, right) > 1e-2 for right in rows[:k])


@pytest.mark.parametrize("n_frames", range(1, 16))
def test_centre_thirds_have_the_tabled_lengths(n_frames):
    """Spec 1.5, for a segment of whole frames far from the end of the audio."""
    tabled = [1, 1, 1, 2, 1, 2, 3, 2, 3, 4, 3, 4, 5, 4, 5]
    chosen = references.segment_frames(3_200, 3_200 + 320 * n_frames, 320, 1_000, "centre-third")
    assert len(chosen) == tabled[n_frames - 1]
    assert chosen[0] == (11 if n_frames == 2 else 10 + (n_frames + 1) // 3)


@pytest.mark.slow
def test_whisper_segments_are_means_of_centred_frames(speech, tmp_path):
    """Frame i of the encoder stands at sample 320 i; a segment has those from floor(start/320) to ceil(end/320)."""
    from transformers import WhisperFeatureExtractor

    corpus, segments, _, _ = speech
    model = models.whisper(tmp_path / "model")
    network, preprocessor = references.load(model), WhisperFeatureExtractor.from_pretrained(model)
    waveforms = [models.speech_like(n_samples, seed) for seed, n_samples in enumerate(LENGTHS)]
    mels = [preprocessor(w, sampling_rate=16_000, return_tensors="np")["input_features"][0] for w in waveforms]
    layers = [references.whisper_encoder(network, mel) for mel in mels]
    store = layertool.extract(str(model), corpus, tmp_path / "store", ("phone", "word"))
    for name, hop in (("C1", 160), ("C2", 320), ("T0", 320), ("T2", 320), ("final", 320)):
        frames = [clip[name][: -(-n // hop)] for clip, n in zip(layers, LENGTHS, strict=True)]
        for unit, pooling in (("phone", "centre-third"), ("word", "mean")):
            expected = expected_rows(unit, segments, frames, hop, pooling)
            assert references.worst_row(store.read(unit, name), expected) < 1e-5, (unit, name)


@pytest.mark.parametrize(("name", "hop"), [("mel", 160), ("mfcc", 160), ("stft", 320), ("mel:torchaudio", 200)])
def test_acoustic_segments_are_means_of_frames(speech, tmp_path, name, hop):
    corpus, segments, _, _ = speech
    store = layertool.extract(name, corpus, tmp_path / "store", ("phone", "word", "utterance"))
    frames = [acoustic.features(name, models.speech_like(n, seed)) for seed, n in enumerate(LENGTHS)]
    for unit, pooling in (("phone", "centre-third"), ("word", "mean")):
        expected = expected_rows(unit, segments, frames, hop, pooling)
        assert references.worst_row(store.read(unit, store.layers[0]), expected) < 1e-5, unit
    # all frames: also the one that centre-padded spectra have at the very end of the audio
    means = np.stack([references.pooled(clip, range(len(clip))) for clip in frames])
    assert references.worst_row(store.read("utterance", store.layers[0]), means) < 1e-5
