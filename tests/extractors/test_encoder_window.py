"""What Whisper's encoder sees: --encoder-window against plain forwards of 30 s and of the clip alone."""

from __future__ import annotations

from pathlib import Path

import commands
import forced
import models
import numpy as np
import pytest
import references
from tokenizers import Tokenizer

import layertool
from layertool.errors import CorpusError, StoreError, UsageError

pytestmark = pytest.mark.slow  # networks are run, or trained

LENGTHS = (16_000, 16_001, 319, 1, 70_003)
ENCODER = ["C1", "C2", "T0", "T1", "T2", "final"]


def ceil_div(n: int, d: int) -> int:
    return n // d + (1 if n % d else 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return models.whisper(tmp_path_factory.mktemp("whisper"), tokenizer="english")


@pytest.fixture(scope="module")
def waveforms() -> list[np.ndarray]:
    return [models.speech_like(n, seed) for seed, n in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def corpus(waveforms, tmp_path_factory):
    segments = [(k, "word", 0, len(waveform), "the") for k, waveform in enumerate(waveforms)]
    return models.corpus(tmp_path_factory.mktemp("corpus"), waveforms, segments, text=["the"] * len(LENGTHS))


FORWARDS: dict[tuple, dict[str, np.ndarray]] = {}


def plain(folder: Path, waveform: np.ndarray, n: int) -> dict[str, np.ndarray]:
    key = (folder, waveform.tobytes(), n)
    if key not in FORWARDS:
        layers = forced.cut_encoder(forced.load(folder), forced.log_mel(folder, waveform), n)
        FORWARDS[key] = {name: values.numpy() for name, values in layers.items()}
    return FORWARDS[key]


def rows_of(store, name: str, k: int) -> np.ndarray:
    return store.read("frame", name)[(store.rows("frame", name)["utterance"] == f"u{k}").to_numpy()]


# --- 30 seconds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_seconds", [1, 1_000])
def test_30s_keeps_all_frames_of_the_plain_forward(folder, corpus, waveforms, tmp_path, batch_seconds):
    store = layertool.extract(
        str(folder), corpus, tmp_path / "store", units="frame", encoder_window="30s", batch_seconds=batch_seconds
    )
    assert store.layers == ENCODER
    assert store.configuration["model"]["encoder_window"] == "30s"
    network = references.load(folder)
    for k, waveform in enumerate(waveforms):
        expected = references.whisper_encoder(network, forced.log_mel(folder, waveform))
        for name in ENCODER:
            got = rows_of(store, name, k)
            assert len(got) == (3_000 if name == "C1" else 1_500)
            assert references.worst_row(got, expected[name]) < 1e-5, (name, k)


def test_30s_rows_say_where_they_lie(folder, corpus, tmp_path):
    """The first frames are those of the clip, at the same places as without the silence."""
    stores = [
        layertool.extract(str(folder), corpus, tmp_path / window, "frame", "C1,final", encoder_window=window)
        for window in ("clip", "30s")
    ]
    assert stores[1].n_rows("frame", "final") == 1_500 * len(LENGTHS)
    for name in ("C1", "final"):
        clip, whole = (store.rows("frame", name) for store in stores)
        for k in range(len(LENGTHS)):
            mine, all_of_it = (table[table["utterance"] == f"u{k}"] for table in (clip, whole))
            first = all_of_it.iloc[: len(mine)]
            for column in ("start", "end"):
                np.testing.assert_array_equal(mine[column], first[column])
                assert (np.diff(all_of_it[column]) > 0).all()
            assert references.worst_row(rows_of(stores[0], name, k), rows_of(stores[1], name, k)[: len(mine)]) < 1e-5


@pytest.mark.parametrize("units", ["word", "utterance", ("frame", "word"), ("frame", "utterance")])
def test_30s_is_for_frames_only(folder, corpus, tmp_path, units):
    with pytest.raises(UsageError, match=r"--encoder-window 30s keeps frames of silence.*type --units frame"):
        layertool.extract(str(folder), corpus, tmp_path / "store", units, "final", encoder_window="30s")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("n_samples", [480_000, 480_001])
def test_30s_takes_30_s_and_no_more(folder, tmp_path, n_samples):
    corpus = models.corpus(tmp_path / "corpus", [models.speech_like(n_samples, 0)])

    def extract():
        return layertool.extract(str(folder), corpus, tmp_path / "store", "frame", "final", encoder_window="30s")

    if n_samples == 480_000:
        assert extract().n_rows("frame") == 1_500
    else:
        with pytest.raises(CorpusError, match="'u0' is longer than 30 s, the most that --encoder-window 30s can keep"):
            extract()


# --- the clip alone ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_seconds", [1, 1_000])
def test_exact_is_the_plain_forward_of_what_is_there(folder, corpus, waveforms, tmp_path, batch_seconds):
    store = layertool.extract(
        str(folder),
        corpus,
        tmp_path / "store",
        ("frame", "utterance"),
        encoder_window="exact",
        batch_seconds=batch_seconds,
    )
    assert store.configuration["model"]["encoder_window"] == "exact"
    for k, waveform in enumerate(waveforms):
        expected = plain(folder, waveform, ceil_div(len(waveform), 320))
        for name in ENCODER:
            got = rows_of(store, name, k)
            assert len(got) == ceil_div(len(waveform), 160 if name == "C1" else 320)
            assert references.worst_row(got, expected[name][: len(got)]) < 2e-5, (name, k)
            pooled = references.pooled(expected[name], range(len(got)))
            utterances = store.rows("utterance", name)["utterance"]
            assert (
                references.worst_row(store.read("utterance", name)[(utterances == f"u{k}").to_numpy()], pooled[None])
                < 2e-5
            )


@pytest.mark.parametrize("window", ["clip", "exact"])
@pytest.mark.parametrize("batch_seconds", [1, 1_000])
def test_decoder_layers_do_not_hear_the_other_clips_of_a_batch(
    folder, corpus, waveforms, tmp_path, window, batch_seconds
):
    """The decoder reads the clip's own positions, not the padding behind them."""
    store = layertool.extract(
        str(folder),
        corpus,
        tmp_path / "store",
        "utterance",
        "D1,D2",
        encoder_window=window,
        batch_seconds=batch_seconds,
    )
    network, ids = references.load(folder), list(store.rows("utterance", None)["utterance"])
    prefix = store.configuration["model"]["decoder_prefix"]
    tokens = [
        *prefix,
        *Tokenizer.from_file(str(folder / "tokenizer.json")).encode(" the", add_special_tokens=False).ids,
    ]
    for k, waveform in enumerate(waveforms):
        n = ceil_div(len(waveform), 320) if window == "exact" else 1_500
        layers = references.whisper_decoder(network, tokens, plain(folder, waveform, n)["final"])
        for name in ("D1", "D2"):
            expected = references.pooled(layers[name], range(len(prefix), len(tokens)))
            assert references.worst_row(store.read("utterance", name)[[ids.index(f"u{k}")]], expected[None]) < 1e-5


# --- the default, and what is refused ----------------------------------------------------------------


def test_the_default_is_as_before(folder, corpus, waveforms, tmp_path):
    stores = [
        layertool.extract(str(folder), corpus, tmp_path / f"{k}", ("frame", "utterance"), **given)
        for k, given in enumerate([{}, {"encoder_window": "clip"}])
    ]
    assert stores[0].configuration == stores[1].configuration
    assert "encoder_window" not in stores[0].configuration
    assert "encoder_window" not in stores[0].configuration["model"]
    for name in ENCODER:
        np.testing.assert_array_equal(*(store.read("frame", name) for store in stores))
        for k, waveform in enumerate(waveforms):
            got = rows_of(stores[0], name, k)
            assert references.worst_row(got, plain(folder, waveform, 1_500)[name][: len(got)]) < 1e-5


@pytest.mark.parametrize(("first", "then"), [("clip", "exact"), ("exact", "clip"), ("30s", "exact"), ("clip", "30s")])
def test_a_store_of_another_window_is_not_gone_on_with(folder, corpus, tmp_path, first, then):
    def extract(window, **options):
        return layertool.extract(
            str(folder), corpus, tmp_path / "store", "frame", "T1", encoder_window=window, **options
        )

    before = extract(first).read("frame", "T1")
    np.testing.assert_array_equal(extract(first).read("frame", "T1"), before)
    with pytest.raises(StoreError, match=r"made with another configuration: model\.encoder_window = "):
        extract(then)
    np.testing.assert_array_equal(layertool.FeatureStore(tmp_path / "store").read("frame", "T1"), before)
    after = extract(then, overwrite=True).read("frame", "T1")
    assert after.shape != before.shape or np.abs(after - before).max() > 1e-4


def test_other_models_have_no_such_window(corpus, tmp_path):
    speech = models.save("wav2vec2-base", tmp_path / "w2v")
    for window in ("30s", "exact"):
        with pytest.raises(UsageError, match=r"--encoder-window is for Whisper.*wav2vec2.*leave it out"):
            layertool.extract(str(speech), corpus, tmp_path / "store", "frame", encoder_window=window)
        with pytest.raises(UsageError, match="--encoder-window is for Whisper; mel is an acoustic feature"):
            layertool.extract("mel", corpus, tmp_path / "store", "frame", encoder_window=window)


def test_an_unknown_window_is_said(folder, corpus, tmp_path):
    with pytest.raises(UsageError, match="'10s' is nothing that --encoder-window takes: choose clip, 30s, exact"):
        layertool.extract(str(folder), corpus, tmp_path / "store", "frame", encoder_window="10s")
    speech = models.save("wav2vec2-base", tmp_path / "w2v")
    with pytest.raises(UsageError):
        layertool.extract(str(speech), corpus, tmp_path / "store", "frame", encoder_window="10s")


def test_the_command(folder, corpus, tmp_path):
    corpus.write(tmp_path / "made")
    arguments = ["extract", folder, tmp_path / "made", "-o", tmp_path / "store", "--layers", "final"]
    refused = commands.run(*arguments, "--encoder-window", "30s")
    assert refused.exit_code != 0
    assert "type --units frame" in refused.output
    commands.succeeds(*arguments, "--encoder-window", "30s", "--units", "frame")
    assert layertool.FeatureStore(tmp_path / "store").n_rows("frame") == 1_500 * len(LENGTHS)
