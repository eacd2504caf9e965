"""Whole runs: a corpus and a small random model in, a store out.

Relative errors are those of the worst row. References are in float64 (references.py).
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import h5py
import models
import numpy as np
import pytest
import references
import soundfile
import soxr
import torch

import layertool
from layertool.errors import AudioError, FeatureError, UsageError
from layertool.extractors.extraction import Extraction
from layertool.extractors.load import open_extractor
from layertool.extractors.prepare import prepare
from layertool.models import acoustic

LENGTHS = (16_000, 400, 23_456, 719, 5_003, 40_000, 15_999, 8_080)
UNITS = ("frame", "phone", "word", "utterance")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(models.save("wav2vec2-base", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def waveforms() -> list[np.ndarray]:
    return [models.speech_like(n_samples, seed) for seed, n_samples in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def corpus(waveforms, tmp_path_factory):
    return models.corpus(tmp_path_factory.mktemp("corpus"), waveforms, models.random_segments(LENGTHS))


@pytest.fixture(scope="module")
def store(model, corpus, tmp_path_factory):
    """Every layer at every unit with the default options."""
    return layertool.extract(model, corpus, tmp_path_factory.mktemp("store") / "store", UNITS)


def every_matrix(store):
    for unit in store.units:
        for name in store.layers_of(unit):
            yield unit, name


def worst(got, expected) -> dict[tuple[str, str], float]:
    return {
        (unit, name): references.worst_row(got.read(unit, name), expected.read(unit, name))
        for unit, name in every_matrix(got)
    }


def checksums(store) -> list[dict]:
    return [entry["checksums"] for entry in store.index.values()]


# --- what must not change the numbers --------------------------------------------------------------


@pytest.mark.parametrize("batch_seconds", [1, 5, 1_000])
def test_the_batch_size_does_not_change_the_numbers(model, corpus, store, tmp_path, batch_seconds, record_property):
    other = layertool.extract(model, corpus, tmp_path / "store", UNITS, batch_seconds=batch_seconds)
    errors = worst(other, store)
    record_property("worst", max(errors.values()))
    assert len(errors) == 4 * 11
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.slow
def test_threads_and_shards_do_not_change_the_bytes(model, corpus, store, tmp_path):
    """Each utterance in a batch of its own, so that no other decides the order of its sums."""
    options = {"units": UNITS, "batch_seconds": 0.01}
    one = layertool.extract(model, corpus, tmp_path / "one", workers=1, **options)
    again = layertool.extract(model, corpus, tmp_path / "again", workers=4, **options)
    assert checksums(one) == checksums(again)
    shards = layertool.extract(model, corpus, tmp_path / "shards", shard_seconds=2, **options)
    assert len(shards.index) > 2
    for unit, name in every_matrix(one):
        assert np.array_equal(shards.read(unit, name), one.read(unit, name))
        assert np.array_equal(np.concatenate(list(shards.blocks(unit, name, 100))), one.read(unit, name))
        assert shards.rows(unit, name).equals(one.rows(unit, name))
        with h5py.File(shards.path / "store.h5") as view:
            assert np.array_equal(view[f"{unit}/{name}"][:], one.read(unit, name))


@pytest.mark.parametrize("layers", ["C3,T1", ["T0"], "C7", "T2-T3", "C1-C2,T3"])
def test_some_layers_equal_the_same_of_all(model, corpus, store, tmp_path, layers):
    part = layertool.extract(model, corpus, tmp_path / "store", ("frame", "word"), layers)
    assert part.layers == [name for name in store.layers if name in expand(layers)]
    assert max(worst(part, store).values()) < 1e-6


def expand(layers) -> set[str]:
    names = set()
    for part in layers.split(",") if isinstance(layers, str) else layers:
        first, _, last = part.partition("-")
        names |= {f"{first[0]}{k}" for k in range(int(first[1:]), int((last or first)[1:]) + 1)}
    return names


def test_an_extractor_can_be_used_again(model, corpus, store, tmp_path):
    """What a run left out of the network because it needed few layers is there for the next run."""
    extractor = open_extractor(model)
    layertool.extract(extractor, corpus, tmp_path / "few", "word", "T1")
    whole = layertool.extract(extractor, corpus, tmp_path / "all", "word", "all")
    assert max(worst(whole, store).values()) < 1e-6


def test_a_whisper_extractor_can_be_used_again(tmp_path):
    model = models.whisper(tmp_path / "model")
    corpus = models.corpus(tmp_path / "corpus", [models.speech_like(8_000, 0)])
    expected = layertool.extract(str(model), corpus, tmp_path / "expected", "utterance", "final")
    extractor = open_extractor(str(model))
    layertool.extract(extractor, corpus, tmp_path / "few", "utterance", "T1")
    again = layertool.extract(extractor, corpus, tmp_path / "again", "utterance", "final")
    assert max(worst(again, expected).values()) < 1e-6


def test_a_failing_utterance_leaves_the_others_as_they_are(model, waveforms, store, tmp_path):
    """A clip that is too short is left out, named, and its rows with it."""
    short = [*waveforms[:2], models.speech_like(399, 9), *waveforms[2:]]
    lengths = [len(waveform) for waveform in short]
    segments = [(k + (k >= 2), *rest) for k, *rest in models.random_segments(LENGTHS)]
    segments += [(2, tier, 10, 300, "lost") for tier in ("phone", "word")]
    corpus = models.corpus(tmp_path / "corpus", short, segments)
    with pytest.raises(AudioError, match=r"utterance 'u2' has 399 samples .* receptive field of .* \(400 samples"):
        layertool.extract(model, corpus, tmp_path / "strict", UNITS)
    got = layertool.extract(model, corpus, tmp_path / "store", UNITS, max_failures=1)
    assert [failure["utterance"] for failure in got.failures] == ["u2"]
    assert max(worst(got, store).values()) < 1e-4
    assert "u2" not in set(got.rows("phone")["utterance"])
    assert sum(lengths) > sum(LENGTHS)


# --- long audio ------------------------------------------------------------------------------------

LONG = 1_600_211  # 100 s and a bit: no multiple of anything
WINDOW, OVERLAP = 20, 4


def long_windows(n_samples: int, window_seconds: int, overlap_seconds: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Windows (start, end) and the cuts between them, for lengths that are multiples of 640 samples."""
    length, step = 16_000 * window_seconds, 16_000 * (window_seconds - overlap_seconds)
    starts = [0]
    while starts[-1] + length < n_samples:
        starts.append(starts[-1] + step)
    starts[-1] = -(-(n_samples - length) // 640) * 640  # moved back, to be as long as the others
    cuts = [(right + left + length) // 2 // 640 * 640 for left, right in pairwise(starts)]
    return [(start, min(start + length, n_samples)) for start in starts], [0, *cuts, n_samples]


def frames_of_windows(layers, windows, cuts, name: str) -> np.ndarray:
    """The frames of a layer that begin in the kept part of each window, one window after another."""
    hop, field = references.CONVOLUTIONS.get(name, (320, 400))
    kept = []
    for k, (start, _) in enumerate(windows):
        last = (cuts[-1] - field) // hop + 1 if k + 1 == len(windows) else cuts[k + 1] // hop
        kept.append(layers[k][name][cuts[k] // hop - start // hop : last - start // hop])
    return np.concatenate(kept)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """100 s through a model that normalises its input, in windows, with a short utterance beside it."""
    place = tmp_path_factory.mktemp("long")
    waveforms = [models.speech_like(16_000, 1), models.speech_like(LONG, 2)]
    windows, cuts = long_windows(LONG, WINDOW, OVERLAP)
    segments = [(1, "word", cut - 5_000, cut + 7_777, "across") for cut in cuts[1:-1]]
    segments += [(1, "word", cuts[1] + 1_000, cuts[3] + 99, "two windows and more"), (0, "word", 10, 9_000, "short")]
    segments += [(1, "phone", cut - 640, cut + 640, "across") for cut in cuts[1:-1]]
    segments += [(1, "phone", cut - 320, cut, "before") for cut in cuts[1:-1]]
    segments += [(1, "phone", cut, cut + 320, "after") for cut in cuts[1:-1]]
    corpus = models.corpus(place / "corpus", waveforms, segments)
    model = models.save("wav2vec2-large", place / "model", num_hidden_layers=1)
    network = references.load(model)
    for block in network.encoder.layers:  # drawn small: without this every frame attends to all alike
        block.attention.q_proj.weight.data *= 100
        block.attention.v_proj.weight.data *= 3
    network.float().save_pretrained(model)
    network = references.load(model)
    whole = references.standardised(waveforms[1])  # over all of it, before it is cut
    layers = [references.speech_layers(network, whole[start:end]) for start, end in windows]
    got = layertool.extract(
        str(model), corpus, place / "store", UNITS, window_seconds=WINDOW, overlap_seconds=OVERLAP, batch_seconds=45
    )
    return got, segments, windows, cuts, layers


def test_windows_are_where_they_are_documented(long):
    _, _, windows, cuts, _ = long
    assert len(windows) == 7
    assert windows[:2] == [(0, 320_000), (256_000, 576_000)]
    assert windows[-1][1] == LONG
    assert cuts[:3] == [0, 288_000, 544_000]


def test_long_audio_has_as_many_rows_as_whole_audio(long):
    got, _, _, _, _ = long
    for name in got.layers:
        hop, field = (160, 400) if name in references.MOVING_AVERAGES else (320, 400)
        assert got.n_rows("frame", name) == (16_000 - field) // hop + 1 + (LONG - field) // hop + 1
        rows = got.row_table("frame", name)
        mine = rows["start"][rows["utterance"] == 1]
        assert np.array_equal(mine, np.arange(len(mine)) * hop)


def test_frames_of_long_audio_are_those_of_its_windows(long, record_property):
    got, _, windows, cuts, layers = long
    largest: dict[str, float] = {}
    for name in got.layers:
        if name in references.MOVING_AVERAGES:
            averaged = [{name: references.ten_millisecond_frames(clip[name], name)} for clip in layers]
            expected = averaged_frames(averaged, windows, cuts, name)
        else:
            expected = frames_of_windows(layers, windows, cuts, name)
        values = got.read("frame", name)[got.row_table("frame", name)["utterance"] == 1]
        largest[name] = references.worst_row(values, expected)
    record_property("worst", max(largest.values()))
    assert max(largest.values()) < 1e-5, largest


def averaged_frames(layers, windows, cuts, name: str) -> np.ndarray:
    """As frames_of_windows, for frames that have been brought to 10 ms already."""
    kept = []
    for k, (start, _) in enumerate(windows):
        last = (cuts[-1] - 400) // 160 + 1 if k + 1 == len(windows) else cuts[k + 1] // 160
        kept.append(layers[k][name][(cuts[k] - start) // 160 : last - start // 160])
    return np.concatenate(kept)


def test_segments_across_a_join_are_means_over_the_frames_of_both_windows(long, record_property):
    got, segments, windows, cuts, layers = long
    largest: dict[str, float] = {}
    for name in got.layers:
        frames, hop = frames_of_windows(layers, windows, cuts, name), references.hop(name)
        for unit, pooling in (("phone", "centre-third"), ("word", "mean"), ("utterance", "mean")):
            spans = sorted((start, end) for k, tier, start, end, _ in segments if k == 1 and tier == unit)
            expected = [
                references.pooled(frames, references.segment_frames(start, end, hop, len(frames), pooling))
                for start, end in spans or [(0, LONG)]
            ]
            values = got.read(unit, name)[got.row_table(unit, name)["utterance"] == 1]
            largest[f"{unit}/{name}"] = references.worst_row(values, expected)
    record_property("worst", max(largest.values()))
    assert max(largest.values()) < 1e-5, largest


def test_a_frame_of_another_window_would_be_noticed(long):
    """Attention is over all of a window: in the middle of an overlap its two windows do not give the same."""
    _, _, windows, cuts, layers = long
    for k in range(1, len(windows)):
        frame = cuts[k] // 320
        left, right = (layers[j]["T1"][frame - windows[j][0] // 320] for j in (k - 1, k))
        assert references.worst_row(left[None], right[None]) > 1e-4  # ten times what is allowed above


@pytest.mark.parametrize("n_samples", [64_001, 64_320, 64_639, 64_640, 64_641, 65_280])
def test_audio_a_little_longer_than_a_window(model, tmp_path, n_samples):
    """Two windows, the second as long as the first or up to 40 ms shorter, and all frames of both."""
    waveform = models.speech_like(n_samples, 3)
    corpus = models.corpus(tmp_path / "corpus", [waveform], [(0, "word", 1_000, n_samples - 1_000, "w")])
    got = layertool.extract(
        model, corpus, tmp_path / "store", ("frame", "word", "utterance"), "C7,T3", window_seconds=4, overlap_seconds=1
    )
    windows, cuts = long_windows(n_samples, 4, 1)
    assert len(windows) == 2
    network = references.load(model)
    layers = [references.speech_layers(network, waveform[start:end]) for start, end in windows]
    for name in got.layers:
        frames = frames_of_windows(layers, windows, cuts, name)
        assert references.worst_row(got.read("frame", name), frames) < 1e-5
        assert references.worst_row(got.read("utterance", name)[0], frames.mean(axis=0)) < 1e-5
        chosen = references.segment_frames(1_000, n_samples - 1_000, 320, len(frames))
        assert references.worst_row(got.read("word", name)[0], references.pooled(frames, chosen)) < 1e-5


def test_audio_as_long_as_a_window_is_not_cut(model, tmp_path):
    waveform = models.speech_like(64_000, 3)
    corpus = models.corpus(tmp_path / "corpus", [waveform])
    got = layertool.extract(model, corpus, tmp_path / "store", "frame", "T3", window_seconds=4, overlap_seconds=1)
    expected = references.speech_layers(references.load(model), waveform)["T3"]
    assert references.worst_row(got.read("frame", "T3"), expected) < 1e-5


@pytest.mark.parametrize("overlap_seconds", [0, -1, 4, 5])
def test_windows_that_do_not_overlap_well_are_refused(model, tmp_path, overlap_seconds):
    """Without any overlap the last frame of a window, which sees 25 ms, would be nowhere."""
    corpus = models.corpus(tmp_path / "corpus", [models.speech_like(160_000, 3)])
    with pytest.raises(UsageError, match="overlap"):
        layertool.extract(
            model, corpus, tmp_path / "store", "frame", "T1", window_seconds=4, overlap_seconds=overlap_seconds
        )


@pytest.mark.parametrize("overlap_seconds", [0.001, 0.04, 2])
def test_any_overlap_has_every_frame_once(model, tmp_path, overlap_seconds):
    """Convolution frames see 25 ms at most: whatever the windows, they are those of the whole audio.

    C2 to C7 depend on C1, whose norm is over time; so the model here is one with layer norms.
    """
    waveform = models.speech_like(200_123, 3)
    corpus = models.corpus(tmp_path / "corpus", [waveform])
    folder = models.save("wav2vec2-large", tmp_path / "model", num_hidden_layers=1)
    got = layertool.extract(
        str(folder),
        corpus,
        tmp_path / "store",
        ("frame", "utterance"),
        "C1-C7",
        window_seconds=4,
        overlap_seconds=overlap_seconds,
    )
    layers = references.convolution_layers(references.load(folder), references.standardised(waveform))
    for name, frames in layers.items():
        frames = frames.detach().numpy()
        averaged = references.ten_millisecond_frames(frames, name) if name in references.MOVING_AVERAGES else frames
        assert references.worst_row(got.read("frame", name), averaged) < 1e-5, name
        assert references.worst_row(got.read("utterance", name)[0], frames.mean(axis=0)) < 1e-5, name


@pytest.mark.parametrize("name", ["mel", "fbank", "stft"])
def test_acoustic_features_of_long_audio_are_exact(tmp_path, name):
    waveform = models.speech_like(LONG, 2)
    corpus = models.corpus(tmp_path / "corpus", [waveform])
    got = layertool.extract(name, corpus, tmp_path / "store", "frame", window_seconds=4, overlap_seconds=1)
    assert np.array_equal(got.read("frame", name), acoustic.features(name, waveform))


# --- dtypes ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["wav2vec2-base", "wavlm-base", "data2vec-audio", "conformer-relative"],
)
def test_bfloat16_is_close_to_float32(corpus, tmp_path, name, record_property):
    model = str(models.save(name, tmp_path / "model"))
    full = layertool.extract(model, corpus, tmp_path / "float32", ("word", "utterance"))
    half = layertool.extract(model, corpus, tmp_path / "bfloat16", ("word", "utterance"), dtype="bfloat16")
    lowest, differs = 1.0, False
    for unit, layer in every_matrix(full):
        a, b = (s.read(unit, layer).astype(np.float64) for s in (full, half))
        cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        lowest, differs = min(lowest, cosine.min()), differs or not np.allclose(a, b, rtol=1e-5)
    record_property("lowest cosine", float(lowest))
    assert lowest > 0.99
    assert differs  # it was computed in another precision


def test_a_float16_store_is_the_float32_one_rounded(model, corpus, store, tmp_path):
    half = layertool.extract(model, corpus, tmp_path / "store", UNITS, store_dtype="float16")
    for unit, name in every_matrix(store):
        assert half.read(unit, name).dtype == np.float16
        assert np.array_equal(half.read(unit, name), store.read(unit, name).astype(np.float16))


def test_what_is_too_large_for_float16_is_named(model, corpus, tmp_path):
    extractor = open_extractor(model)
    with torch.no_grad():
        extractor.network.encoder.layers[1].final_layer_norm.weight.mul_(1e6)
    with pytest.raises(
        FeatureError,
        match=r"layer T2 of utterance 'u5' has values up to .*, too large for float16: .*--store-dtype float32",
    ):  # the longest goes first
        layertool.extract(extractor, corpus, tmp_path / "half", "utterance", batch_seconds=1, store_dtype="float16")
    full = layertool.extract(extractor, corpus, tmp_path / "full", "utterance")
    assert np.abs(full.read("utterance", "T2")).max() > 65_504


def test_values_that_are_not_finite_are_named(model, corpus, tmp_path):
    extractor = open_extractor(model)
    with torch.no_grad():
        extractor.network.encoder.layers[2].final_layer_norm.bias[7] = torch.inf
    with pytest.raises(FeatureError, match=r"layer T3 of utterance 'u5' has values that are not finite"):
        layertool.extract(extractor, corpus, tmp_path / "store", "utterance", batch_seconds=1)


# --- untrained controls ----------------------------------------------------------------------------


def test_random_weights_are_drawn_from_the_seed(model, corpus, store, waveforms, tmp_path):
    from transformers import AutoConfig, AutoModel

    state = torch.get_rng_state()
    first, second, other = (
        layertool.extract(model, corpus, tmp_path / f"{k}", "utterance", random_init=seed)
        for k, seed in enumerate((7, 7, 8))
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert checksums(first) == checksums(second)
    assert first.configuration == second.configuration
    assert first.configuration["model"]["random_init"] == 7
    assert first.configuration["model"]["sha256"] != other.configuration["model"]["sha256"]
    for name in first.layers:
        values = [s.read("utterance", name) for s in (first, other, store)]
        assert references.worst_row(values[0], values[1]) > 1e-2
        assert references.worst_row(values[0], values[2]) > 1e-2
    torch.manual_seed(7)
    network = AutoModel.from_config(AutoConfig.from_pretrained(model)).double().eval()
    torch.set_rng_state(state)
    expected = references.speech_layers(network, waveforms[0])
    for name in first.layers:
        assert references.worst_row(first.read("utterance", name)[0], expected[name].mean(axis=0)) < 1e-5


# --- acoustic features -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mel", "mfcc", "fbank", "stft", "spectrogram", "mel:pasad", "mfcc:torchaudio"])
def test_frames_of_acoustic_features(corpus, waveforms, tmp_path, name):
    """As computed one utterance at a time; also when the batch pads them."""
    got = layertool.extract(name, corpus, tmp_path / "store", ("frame", "utterance"), batch_seconds=100)
    layer = name.split(":")[0]
    assert got.layers == [layer]
    alone = [acoustic.features(name, waveform) for waveform in waveforms]
    assert np.array_equal(got.read("frame", layer), np.concatenate(alone))
    owners = got.row_table("frame")["utterance"]
    assert np.bincount(owners).tolist() == [len(frames) for frames in alone]
    means = [frames.astype(np.float64).mean(axis=0) for frames in alone]
    assert references.worst_row(got.read("utterance", layer), means) < 1e-5


# --- sampling rates --------------------------------------------------------------------------------


def test_other_sampling_rates_are_resampled_and_recorded(model, tmp_path):
    rates, samples, rows = (44_100, 8_000, 16_000), [], []
    for k, rate in enumerate(rates):
        samples.append(models.speech_like(rate + 17, k))
        soundfile.write(tmp_path / f"{rate}.wav", samples[-1], rate, subtype="FLOAT")
        rows.append({"utterance": str(rate), "audio": str(tmp_path / f"{rate}.wav")})
    corpus = layertool.Corpus.build(rows)
    got = layertool.extract(model, corpus, tmp_path / "store", ("frame", "utterance"), "C7,T3")
    assert got.about["audio"]["sample_rate"] == 16_000
    assert got.about["audio"]["source_rates"] == {"44100": 1, "8000": 1, "16000": 1}
    assert got.about["audio"]["resampler"] == f"soxr {soxr.__version__} HQ"
    network = references.load(model)
    for k, rate in enumerate(rates):
        waveform = soxr.resample(samples[k], rate, 16_000, quality="HQ")
        assert len(waveform) == corpus.utterances["n_samples"][k]
        expected = references.speech_layers(network, waveform)
        for name in ("C7", "T3"):
            mine = got.row_table("frame", name)["utterance"] == k
            assert references.worst_row(got.read("frame", name)[mine], expected[name]) < 1e-4


def test_audio_at_the_models_rate_is_not_resampled(store):
    assert store.about["audio"]["source_rates"] == {"16000": len(LENGTHS)}
    assert store.about["audio"]["resampler"] is None


def test_a_part_of_a_file_is_read(model, waveforms, store, tmp_path):
    """An utterance given by start and end is that stretch of the file, and nothing around it."""
    soundfile.write(tmp_path / "all.wav", np.concatenate(waveforms), 16_000, subtype="FLOAT")
    edges = np.cumsum([0, *LENGTHS])
    corpus = layertool.Corpus.build(
        [
            {"utterance": f"u{k}", "audio": str(tmp_path / "all.wav"), "start": a / 16_000, "end": b / 16_000}
            for k, (a, b) in enumerate(pairwise(edges))
        ]
    )
    got = layertool.extract(model, corpus, tmp_path / "store", ("frame", "utterance"))
    assert max(worst(got, store).values()) < 1e-6


# --- the plan and the progress ---------------------------------------------------------------------


def bytes_of(store) -> int:
    """Bytes of all datasets in the shards."""
    total = 0
    for entry in store.index.values():
        with h5py.File(Path(store.path) / entry["file"]) as file:
            sizes: list[int] = []
            file.visititems(
                lambda _, node, sizes=sizes: sizes.append(node.nbytes) if isinstance(node, h5py.Dataset) else None
            )
            total += sum(sizes)
    return total


@pytest.mark.parametrize(
    ("layers", "units", "store_dtype"),
    [("all", UNITS, "float32"), ("all", ("word", "utterance"), "float16"), ("C2,T1", ("frame",), "float16")],
)
def test_a_dry_plan_is_what_the_run_makes(model, corpus, tmp_path, layers, units, store_dtype):
    options = Extraction(units=units, layers=layers, store_dtype=store_dtype, shard_seconds=3)
    planned = prepare(model, corpus, options)
    got = layertool.extract(model, corpus, tmp_path / "store", units, layers, store_dtype=store_dtype, shard_seconds=3)
    assert len(planned.shards) == len(got.index) > 1
    rows: Counter[str] = Counter()
    for entry in got.index.values():
        rows.update(entry["rows"])
    assert planned.n_rows == rows
    assert planned.n_bytes == bytes_of(got)


def test_a_dry_plan_of_acoustic_features(corpus, tmp_path):
    planned = prepare("mel", corpus, Extraction(units=UNITS))
    got = layertool.extract("mel", corpus, tmp_path / "store", UNITS)
    assert planned.n_rows["frame/rows"] == got.n_rows("frame") == sum(1 + n // 160 for n in LENGTHS)
    assert planned.n_bytes == bytes_of(got)


@pytest.mark.parametrize("batch_seconds", [1, 1_000])
def test_progress_ends_at_the_total(model, corpus, tmp_path, batch_seconds):
    calls: list[tuple[float, float]] = []
    options = {"units": "utterance", "layers": "T0", "shard_seconds": 3, "batch_seconds": batch_seconds}
    layertool.extract(model, corpus, tmp_path / "store", progress=lambda *call: calls.append(call), **options)
    done, total = zip(*calls, strict=True)
    assert set(total) == {sum(LENGTHS) / 16_000}
    assert done[0] == 0
    assert done == tuple(sorted(done))
    assert done[-1] == pytest.approx(total[0], rel=1e-12)
    calls.clear()
    layertool.extract(model, corpus, tmp_path / "store", progress=lambda *call: calls.append(call), **options)
    assert [call[0] for call in calls] == pytest.approx([total[0]], rel=1e-12)  # all was there


def test_progress_counts_utterances_that_were_left_out(model, waveforms, tmp_path):
    corpus = models.corpus(tmp_path / "corpus", [waveforms[0], models.speech_like(200, 1)])
    calls: list[tuple[float, float]] = []
    layertool.extract(
        model, corpus, tmp_path / "store", "utterance", "T0", max_failures=1, progress=lambda *call: calls.append(call)
    )
    assert calls[-1][0] == pytest.approx(calls[-1][1]) == pytest.approx(16_200 / 16_000)
