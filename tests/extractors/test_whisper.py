"""Whisper's encoder and decoder layers against plain forwards, with random weights and with real ones.

Relative errors are those of the worst row. References are in float64 (references.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import models
import numpy as np
import pytest
import references
import torch

import layertool
from layertool.corpora import folder as folder_reader
from layertool.errors import CorpusError, ModelError

LENGTHS = (16_000, 16_001, 319, 1, 480_000)
TEXTS = ("the author's café", "the", "a there  the quick brown fox", "Then — the end.")
ENCODER = ["C1", "C2", "T0", "T1", "T2", "final"]
DECODER = ["D0", "D1", "D2"]


def ceil_div(n: int, d: int) -> int:
    return n // d + (1 if n % d else 0)


@dataclass
class Model:
    """A saved model, and what the second implementation gives with the same weights."""

    folder: Path
    prefix: list[int] = field(default_factory=list)  # tokens before every text
    encoded: dict[bytes, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return str(self.folder)

    @cached_property
    def network(self):
        return references.load(self.folder)

    @cached_property
    def preprocessor(self):
        from transformers import WhisperFeatureExtractor

        return WhisperFeatureExtractor.from_pretrained(self.folder)

    def mel(self, waveform: np.ndarray) -> np.ndarray:
        """Whisper's own input for one waveform: (80, 3000), padded with silence or cut to 30 s."""
        return self.preprocessor(waveform, sampling_rate=16_000, return_tensors="np")["input_features"][0]

    def encode(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        key = waveform.tobytes()
        if key not in self.encoded:
            self.encoded[key] = references.whisper_encoder(self.network, self.mel(waveform))
        return self.encoded[key]

    def tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Prefix and text, every word with a space before it; and where each word's tokens are."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokens, spans = list(self.prefix), []
        for word in text.split():
            ids = tokenizer.encode(" " + word, add_special_tokens=False).ids
            spans.append((len(tokens), len(tokens) + len(ids)))
            tokens += ids
        return tokens, spans

    def decode(self, waveform: np.ndarray, text: str) -> dict[str, np.ndarray]:
        return references.whisper_decoder(self.network, self.tokens(text)[0], self.encode(waveform)["final"])


def words_of(texts, lengths) -> list[tuple]:
    """Word segments of equal lengths for every text."""
    rows = []
    for k, (text, n_samples) in enumerate(zip(texts, lengths, strict=True)):
        words = text.split()
        edges = np.linspace(0, n_samples, len(words) + 1).astype(int)
        rows += [(k, "word", int(a), int(b), word) for a, b, word in zip(edges[:-1], edges[1:], words, strict=True)]
    return rows


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Model:
    return Model(models.whisper(tmp_path_factory.mktemp("whisper")))


@pytest.fixture(scope="module")
def english(tmp_path_factory) -> Model:
    folder = models.whisper(tmp_path_factory.mktemp("whisper-en"), tokenizer="english")
    return Model(folder, prefix=[260, 366])  # startoftranscript, notimestamps


@pytest.fixture(scope="module")
def frames(plain, tmp_path_factory):
    """The waveforms of LENGTHS and the store of their frames."""
    waveforms = [models.speech_like(n_samples, seed) for seed, n_samples in enumerate(LENGTHS)]
    place = tmp_path_factory.mktemp("frames")
    corpus = models.corpus(place / "corpus", waveforms)
    return waveforms, layertool.extract(str(plain), corpus, place / "store", ("frame", "utterance"), batch_seconds=90)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """A corpus with texts and their word segments."""
    lengths = (30_000, 9_000, 64_000, 21_000)
    waveforms = [models.speech_like(n_samples, seed) for seed, n_samples in enumerate(lengths)]
    place = tmp_path_factory.mktemp("spoken")
    return waveforms, models.corpus(place, waveforms, words_of(TEXTS, lengths), text=list(TEXTS))


def rows_of(store, unit: str, layer: str, k: int) -> np.ndarray:
    table = store.rows(unit, None if layer.startswith("D") else layer)
    return store.read(unit, layer)[(table["utterance"] == f"u{k}").to_numpy()]


# --- the encoder -----------------------------------------------------------------------------------


def test_all_is_every_layer_but_the_decoder(frames):
    assert frames[1].layers == ENCODER


def test_frames_beyond_the_audio_are_dropped(frames):
    """ceil(n/320) frames of the 1500, and ceil(n/160) of C1's 3000, for audio that ends on a frame and beside one."""
    _, store = frames
    for k, n_samples in enumerate(LENGTHS):
        for name in ENCODER:
            assert len(rows_of(store, "frame", name, k)) == ceil_div(n_samples, 160 if name == "C1" else 320)
    assert len(rows_of(store, "frame", "T0", len(LENGTHS) - 1)) == 1_500


def test_encoder_layers_equal_a_plain_forward(plain, frames, record_property):
    waveforms, store = frames
    largest: dict[str, float] = {}
    for k, waveform in enumerate(waveforms):
        expected = plain.encode(waveform)
        for name in ENCODER:
            got = rows_of(store, "frame", name, k)
            error = references.worst_row(got, expected[name][: len(got)])
            largest[name] = max(error, largest.get(name, 0.0))
            pooled = references.pooled(expected[name], range(len(got)))
            assert references.worst_row(rows_of(store, "utterance", name, k), pooled[None]) < 1e-5
    record_property("worst", max(largest.values()))
    assert max(largest.values()) < 1e-5, largest


def test_encoder_layers_equal_the_hidden_states_of_transformers(plain, frames):
    waveforms, store = frames
    given = torch.from_numpy(plain.mel(waveforms[0])).double()[None]
    with torch.no_grad():
        out = plain.network.encoder(given, output_hidden_states=True)
    states = [state[0, :50].numpy() for state in out.hidden_states]
    for k in range(len(states) - 1):
        assert references.worst_row(rows_of(store, "frame", f"T{k}", 0), states[k]) < 1e-5
    top, last = rows_of(store, "frame", "T2", 0), out.last_hidden_state[0, :50].numpy()
    assert references.worst_row(rows_of(store, "frame", "final", 0), last) < 1e-5
    assert references.worst_row(states[-1], last) < 1e-12  # of the two, transformers lists the normed one
    assert references.worst_row(top, last) > 0.1
    with torch.no_grad():
        assert references.worst_row(plain.network.encoder.layer_norm(torch.from_numpy(top).double()), last) < 1e-5


def test_the_utterance_does_not_hear_the_silence_behind_it(plain, frames):
    """Pooling over all 1500 frames would give something else."""
    waveforms, store = frames
    expected = plain.encode(waveforms[0])["final"]
    assert references.worst_row(rows_of(store, "utterance", "final", 0), expected.mean(axis=0)[None]) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("n_samples", [480_001, 500_111])
def test_audio_over_30_seconds_gives_the_kept_frames_of_two_windows(plain, tmp_path, n_samples):
    """Windows of at most 30 s, the last from the first multiple of 640 samples that lets it reach the end.

    Every frame is one of the audio: none of the padding behind a window, none of the next clip's.
    """
    waveform = models.speech_like(n_samples, seed=2)
    corpus = models.corpus(tmp_path / "corpus", [waveform, models.speech_like(16_000, seed=3)])
    store = layertool.extract(
        str(plain), corpus, tmp_path / "store", ("frame", "utterance"), overlap_seconds=10, batch_seconds=1_000
    )
    second = 640 * ceil_div(n_samples - 480_000, 640)
    cut = (second + 480_000) // 2 // 640 * 640  # the middle of what both have
    left, right = plain.encode(waveform[:480_000]), plain.encode(waveform[second:])
    for name in ENCODER:
        hop = 160 if name == "C1" else 320
        expected = [left[name][: cut // hop], right[name][(cut - second) // hop : ceil_div(n_samples - second, hop)]]
        got = rows_of(store, "frame", name, 0)
        assert references.worst_row(got, np.concatenate(expected)) < 1e-5, name
        pooled = references.pooled(np.concatenate(expected), range(len(got)))
        assert references.worst_row(rows_of(store, "utterance", name, 0), pooled[None]) < 1e-5, name


# --- the decoder -----------------------------------------------------------------------------------


def check_decoder(model: Model, waveforms, texts, store) -> float:
    """Compare words and utterances of every D layer with the second implementation; the worst relative error."""
    largest, first, n_multi = 0.0, 0, 0
    names = [name for name in store.layers if name.startswith("D")]
    for k, (waveform, text) in enumerate(zip(waveforms, texts, strict=True)):
        tokens, spans = model.tokens(text)
        layers = model.decode(waveform, text)
        assert list(layers) == names
        check_reference(model, tokens, model.encode(waveform)["final"], layers)
        for name in names:
            expected = [references.pooled(layers[name], range(*span)) for span in spans]
            got = store.read("word", name)[first : first + len(spans)]
            largest = max(largest, references.worst_row(got, expected))
            whole = references.pooled(layers[name], range(len(model.prefix), len(tokens)))
            largest = max(largest, references.worst_row(store.read("utterance", name)[k], whole))
        first += len(spans)
        n_multi += sum(stop - start > 1 for start, stop in spans)
    assert first == store.n_rows("word")
    assert n_multi >= 2  # there are words of several tokens
    return largest


def check_reference(model: Model, tokens: list[int], states: np.ndarray, layers: dict[str, np.ndarray]) -> None:
    """The written-out decoder is transformers' decoder."""
    with torch.no_grad():
        out = model.network.decoder(
            input_ids=torch.tensor([tokens]),
            encoder_hidden_states=torch.from_numpy(states)[None],
            output_hidden_states=True,
        )
        *lower, top = layers.values()
        for given, expected in zip(lower, out.hidden_states, strict=False):
            assert references.worst_row(given, expected[0]) < 1e-9
        normed = model.network.decoder.layer_norm(torch.from_numpy(top))
        assert references.worst_row(normed, out.last_hidden_state[0]) < 1e-9
        assert references.worst_row(top, out.last_hidden_state[0]) > 0.1


def test_decoder_layers_equal_a_plain_forced_forward(english, spoken, tmp_path, record_property):
    waveforms, corpus = spoken
    store = layertool.extract(str(english), corpus, tmp_path / "store", layers="all,D0-D2", batch_seconds=1_000)
    assert store.layers == ENCODER + DECODER
    assert store.configuration["model"]["decoder_prefix"] == [260, 366]
    assert list(store.rows("word")["label"]) == [word for text in TEXTS for word in text.split()]
    error = check_decoder(english, waveforms, TEXTS, store)
    record_property("worst", error)
    assert error < 1e-5


def test_a_multilingual_model_is_told_language_and_task(tmp_path):
    waveform, text = models.speech_like(30_000, 0), TEXTS[0]
    corpus = models.corpus(tmp_path / "corpus", [waveform], words_of([text], [30_000]), text=[text])
    folder = models.whisper(tmp_path / "model", tokenizer="multilingual")
    model = Model(folder, prefix=[260, 267, 362, 366])  # startoftranscript, fr, transcribe, notimestamps
    store = layertool.extract(str(model), corpus, tmp_path / "store", layers="D0-D2", language="fr")
    assert store.configuration["model"]["decoder_prefix"] == model.prefix
    assert check_decoder(model, [waveform], [text], store) < 1e-5
    english_store = layertool.extract(str(model), corpus, tmp_path / "english", layers="D1")
    assert references.worst_row(english_store.read("word", "D1"), store.read("word", "D1")) > 1e-3
    with pytest.raises(ModelError, match="does not know the language 'tlh'"):
        layertool.extract(str(model), corpus, tmp_path / "klingon", layers="D1", language="tlh")


def test_padded_tokens_equal_single_ones(english, spoken, tmp_path, record_property):
    """Texts of 1 to 20 tokens in one batch and each in a batch of its own."""
    _, corpus = spoken
    stores = [
        layertool.extract(str(english), corpus, tmp_path / f"{seconds}", layers="D0-D2", batch_seconds=seconds)
        for seconds in (1_000, 1)
    ]
    largest = 0.0
    for unit in ("word", "utterance"):
        for name in DECODER:
            together, alone = (store.read(unit, name) for store in stores)
            largest = max(largest, references.worst_row(together, alone))
    record_property("worst", largest)
    assert largest < 1e-4


def test_some_decoder_layers_equal_the_same_of_all(english, spoken, tmp_path):
    _, corpus = spoken
    whole = layertool.extract(str(english), corpus, tmp_path / "whole", layers="all,D0-D2")
    part = layertool.extract(str(english), corpus, tmp_path / "part", layers="D1,T1")
    assert part.layers == ["T1", "D1"]
    for name in part.layers:
        assert references.worst_row(part.read("word", name), whole.read("word", name)) < 1e-5


def test_decoder_layers_stand_at_words_and_utterances(english, spoken, tmp_path):
    _, corpus = spoken
    store = layertool.extract(str(english), corpus, tmp_path / "store", ("frame", "word"), layers="T2,D2")
    assert store.layers_of("frame") == ["T2"]
    assert store.layers_of("word") == ["T2", "D2"]
    with pytest.raises(layertool.errors.UsageError, match="layer D2 stands at words and utterances only"):
        layertool.extract(str(english), corpus, tmp_path / "frames", ("frame",), layers="T2,D2")


# --- errors ----------------------------------------------------------------------------------------


def test_a_corpus_without_texts_has_no_decoder_layers(english, tmp_path):
    corpus = models.corpus(tmp_path / "corpus", [models.speech_like(8_000, 0)])
    with pytest.raises(CorpusError, match=r"no column 'text'.*or leave the D layers out"):
        layertool.extract(str(english), corpus, tmp_path / "store", "utterance", layers="D1")


@pytest.mark.parametrize("text", [None, "", "  "])
def test_an_utterance_without_text_is_named(english, tmp_path, text):
    waveforms = [models.speech_like(8_000, seed) for seed in range(2)]
    corpus = models.corpus(tmp_path / "corpus", waveforms, text=["the", text])
    with pytest.raises(CorpusError, match=r"utterance 'u1' has no text"):
        layertool.extract(str(english), corpus, tmp_path / "store", "utterance", layers="D1")


@pytest.mark.parametrize("words", [["the"], ["the", "end", "now"], ["an", "end"]])
def test_word_segments_must_be_the_words_of_the_text(english, tmp_path, words):
    waveform = models.speech_like(16_000, 0)
    segments = words_of([" ".join(words)], [16_000])
    corpus = models.corpus(tmp_path / "corpus", [waveform], segments, text=["the end"])
    with pytest.raises(CorpusError, match=rf"utterance 'u0' and its word segments differ \(2 and {len(words)} words\)"):
        layertool.extract(str(english), corpus, tmp_path / "store", "word", layers="D1")
    layertool.extract(str(english), corpus, tmp_path / "store", "utterance", layers="D1")  # needs no segments


def test_case_and_punctuation_are_no_difference(english, tmp_path):
    waveform = models.speech_like(16_000, 0)
    segments = words_of(["the END dont"], [16_000])
    corpus = models.corpus(tmp_path / "corpus", [waveform], segments, text=["The end, don't."])
    store = layertool.extract(str(english), corpus, tmp_path / "store", "word", layers="D0-D2")
    tokens, spans = english.tokens("The end, don't.")
    assert len(tokens) > len(english.tokens("the END dont")[0])  # the text is what is forced
    for name, values in english.decode(waveform, "The end, don't.").items():
        expected = [references.pooled(values, range(*span)) for span in spans]
        assert references.worst_row(store.read("word", name), expected) < 1e-5


def test_text_longer_than_30_seconds_of_audio_is_an_error(english, tmp_path):
    corpus = models.corpus(tmp_path / "corpus", [models.speech_like(480_001, 0)], text=["the end"])
    with pytest.raises(CorpusError, match=r"utterance 'u0' is longer than 30 s.*leave the D layers out"):
        layertool.extract(str(english), corpus, tmp_path / "store", "utterance", layers="D1")
    store = layertool.extract(str(english), corpus, tmp_path / "store", "utterance", layers="T1", overwrite=True)
    assert store.n_rows("utterance") == 1


def test_text_of_more_tokens_than_the_decoder_takes_is_an_error(english, tmp_path):
    corpus = models.corpus(tmp_path / "corpus", [models.speech_like(8_000, 0)], text=["the " * 447])
    with pytest.raises(CorpusError, match=r"utterance 'u0' has 449 tokens, the decoder takes 448"):
        layertool.extract(str(english), corpus, tmp_path / "store", "utterance", layers="D1")


def test_a_model_without_a_tokenizer_has_no_decoder_layers(plain, spoken, tmp_path):
    with pytest.raises(ModelError, match="has no tokenizer, which Whisper's decoder needs"):
        layertool.extract(str(plain), spoken[1], tmp_path / "store", layers="D1")


# --- real weights ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    """Two real utterances with words of several tokens, and every layer of the real weights at them."""
    import soundfile

    speech = shared / "data/speech/english"
    whole = folder_reader.read(speech, metadata=speech / "manifest.tsv")
    ids = ["arctic_aew_a0001", "LJ002-0035"]
    corpus = layertool.Corpus.build(
        whole.utterances[whole.utterances["utterance"].isin(ids)],
        whole.segments[whole.segments["utterance"].isin(ids)],
        "real",
    )
    model = Model(shared / "models/whisper-tiny.en", prefix=[50257, 50362])
    waveforms = [soundfile.read(path, dtype="float32")[0] for path in corpus.utterances["audio"]]
    assert [len(waveform) for waveform in waveforms] == list(corpus.utterances["n_samples"])
    store = layertool.extract(
        str(model), corpus, tmp_path_factory.mktemp("real") / "store", ("frame", "word", "utterance"), "all,D0-D4"
    )
    return model, corpus, waveforms, store


@pytest.mark.slow
def test_real_encoder_layers_equal_a_plain_forward(real, record_property):
    model, corpus, waveforms, store = real
    largest: dict[str, float] = {}
    assert store.layers == ["C1", "C2", *(f"T{k}" for k in range(5)), "final", *(f"D{k}" for k in range(5))]
    for utterance, waveform in zip(corpus.utterances["utterance"], waveforms, strict=True):
        for name, values in model.encode(waveform).items():
            mine = (store.rows("frame", name)["utterance"] == utterance).to_numpy()
            n_kept = ceil_div(len(waveform), 160 if name == "C1" else 320)
            error = references.worst_row(store.read("frame", name)[mine], values[:n_kept])
            largest[name] = max(error, largest.get(name, 0.0))
    record_property("worst", {name: f"{error:.1e}" for name, error in largest.items()})
    assert max(largest.values()) < 1e-5, largest


@pytest.mark.slow
def test_real_decoder_layers_equal_a_plain_forced_forward(real, record_property):
    model, corpus, waveforms, store = real
    assert store.configuration["model"]["decoder_prefix"] == model.prefix
    error = check_decoder(model, waveforms, corpus.utterances["text"], store)
    record_property("worst", error)
    assert error < 1e-5
