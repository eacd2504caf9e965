"""Long audio: read window by window, with the samples and rows of the whole, in memory that does not grow."""

import os
import subprocess
import sys

import models
import numpy as np
import pytest
import small
import soundfile
import soxr
from commands import run as command

import layertool
from layertool import audio, machine, waveforms
from layertool.commands import output
from layertool.corpora.corpus import Corpus
from layertool.errors import AudioError
from layertool.extractors import forecast, sink
from layertool.extractors.acoustic import AcousticExtractor
from layertool.extractors.huggingface import SpeechExtractor
from layertool.extractors.load import open_extractor

N_SAMPLES = 480_000
WINDOWS = {"window_seconds": 4, "overlap_seconds": 1}

# The peak of a process of its own, and what was said before
MEASURED = """
import sys
from layertool.corpora.corpus import Corpus
from layertool.extractors.forecast import needed
from layertool.extractors.extraction import Extraction
from layertool.extractors.prepare import prepare
from layertool.extractors.run import carry_out
model, path, store, units, n = sys.argv[1:]
parts = [{"utterance": f"u{k}", "audio": path, "start": 5.0 * k, "end": 5.0 * k + 5} for k in range(int(n))]
corpus = Corpus.build(parts or [{"utterance": "u", "audio": path}])
prepared = prepare(model, corpus, Extraction(units=units), device="cpu")
said = needed(prepared)[0]
carry_out(prepared, store)
print(said, 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]))
"""
needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak from /proc")


def write_long(path, minutes: float):
    """Quiet noise in one FLAC, block by block."""
    block = np.random.default_rng(0).integers(-60, 60, 10 * 16_000, dtype=np.int16)
    with soundfile.SoundFile(path, "w", 16_000, 1, "PCM_16") as file:
        for k in range(round(6 * minutes)):
            file.write(np.roll(block, 977 * k))
    return path


def measured(*arguments) -> tuple[int, int]:
    """Bytes that were said to be needed, and bytes that were."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    said, peak = map(int, done.stdout.split())
    return said, peak


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    changes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "conv_dim": (8,) * 7}
    return models.save("wav2vec2-large", tmp_path_factory.mktemp("tiny"), **changes)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Half a minute at 44.1 kHz, two words a second, with a short utterance beside it."""
    place = tmp_path_factory.mktemp("corpus")
    for name, seconds in (("long", 30), ("short", 1)):
        soundfile.write(place / f"{name}.flac", 0.1 + small.noise(44_100 * seconds, seconds), 44_100)
    utterances = [{"utterance": name, "audio": str(place / f"{name}.flac")} for name in ("long", "short")]
    words = [
        {"utterance": "long", "tier": "word", "start": k / 2, "end": k / 2 + 0.5, "label": f"w{k % 7}"}
        for k in range(60)
    ]
    words.append({"utterance": "long", "tier": "word", "start": 1.2, "end": 28.3, "label": "around others"})
    return Corpus.build(utterances, words)


@pytest.mark.parametrize("rate", [16_000, 8_000, 22_050, 44_100, 37_799])
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_blocks_are_the_whole_resampled_at_once(rate, kind, tmp_path):
    path = tmp_path / f"a.{kind.lower()}"
    if (rate, kind) == (37_799, "OGG"):
        rate = 48_000
    soundfile.write(path, np.stack([small.noise(700_001), small.noise(700_001, 1)], 1), rate, format=kind)
    whole = soundfile.read(path, dtype="float32", always_2d=True)[0][:, 1]
    parts = list(audio.Excerpt(path, "1").stream())
    assert len(parts) >= 3
    np.testing.assert_array_equal(np.concatenate(parts), soxr.resample(whole, rate, 16_000, quality="HQ"))


def test_moments_of_blocks_are_those_of_the_whole():
    waveform = 0.3 + small.noise(100_003)
    cuts = [0, 0, 1, 70_000, 70_007]
    found = waveforms.moments(waveform[a:b] for a, b in zip(cuts, [*cuts[1:], len(waveform)], strict=True))
    whole = waveform.astype(np.longdouble)
    np.testing.assert_allclose(found, [whole.mean(), whole.var()], rtol=1e-12)
    assert (
        found.mean.dtype == found.variance.dtype == np.float64
    )  # a Python float would leave float32 arrays what they are


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_windows_from_a_stream_give_the_rows_of_a_waveform_held_whole(pooling, tiny, corpus, tmp_path, monkeypatch):
    options = {**WINDOWS, "units": ("frame", "word", "utterance"), "device": "cpu", "pooling": {"word": pooling}}
    sizes = []
    write = sink.Sink.write

    def watched(self, shard, *rows):
        write(self, shard, *rows)
        sizes.append(len(shard.shares))

    monkeypatch.setattr(sink.Sink, "write", watched)
    streamed = layertool.extract(str(tiny), corpus, tmp_path / "streamed", **options)
    # rows that a cut goes through: a word, the long word, the utterance
    assert max(sizes) <= 3 * len(streamed.layers)
    stream = audio.Excerpt.stream
    monkeypatch.setattr(audio.Excerpt, "stream", lambda *asked: iter([np.concatenate(list(stream(*asked)))]))
    monkeypatch.setattr(SpeechExtractor, "is_streaming", False)
    whole = layertool.extract(str(tiny), corpus, tmp_path / "whole", **options)
    for unit in streamed.units:
        for layer in streamed.layers:
            np.testing.assert_allclose(streamed.read(unit, layer), whole.read(unit, layer), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["mel", "fbank", "mfcc", "spectrogram:torchaudio", "stft:log", "mfcc:torchaudio"])
def test_acoustic_features_of_long_audio_are_those_of_the_whole(name, corpus, tmp_path, monkeypatch):
    from layertool.models import acoustic

    monkeypatch.setattr(AcousticExtractor, "__init__", shortened(AcousticExtractor.__init__))
    got = layertool.extract(name, corpus, tmp_path / "store", units=("frame", "utterance"))
    expected = acoustic.features(name, audio.read(corpus.utterances["audio"][0], 16_000))
    layer = got.layers[0]
    found = got.read("frame", layer)[got.row_table("frame", layer)["utterance"] == 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.read("utterance", layer)[0], expected.mean(0, np.float64), rtol=1e-5, atol=1e-5)


def shortened(begin):
    def init(self, *arguments, **options):
        begin(self, *arguments, **options)
        self.max_window = self.max_window and 80_000

    return init


def test_what_is_wrong_with_long_audio_is_known_before_its_first_window(tiny, tmp_path):
    waveform = small.noise(N_SAMPLES)
    waveform[-5] = np.nan
    corpus = models.corpus(tmp_path / "corpus", [waveform, small.noise(N_SAMPLES, 1)])
    asked = {**WINDOWS, "units": ("frame",), "layers": "T1", "device": "cpu"}
    with pytest.raises(AudioError, match="not finite"):
        layertool.extract(str(tiny), corpus, tmp_path / "none", **asked)
    got = layertool.extract(str(tiny), corpus, tmp_path / "store", max_failures=1, **asked)
    assert [failure["utterance"] for failure in got.failures] == ["u0"]
    assert set(got.row_table("frame", "T1")["utterance"]) == {1}


def test_a_file_that_changes_between_its_windows_is_left_out(tiny, tmp_path, monkeypatch):
    """It is read twice; rows of its first windows are there already and go."""
    corpus = models.corpus(tmp_path / "corpus", [small.noise(N_SAMPLES), small.noise(N_SAMPLES, 1)])
    seen = []

    def breaking(excerpt, *asked, of=audio.Excerpt.stream):
        seen.append(excerpt.path)
        for k, block in enumerate(of(excerpt, *asked)):
            if k and excerpt.path.endswith("u0.wav") and seen.count(excerpt.path) > 1:
                raise AudioError(f"{excerpt.path} breaks off")
            yield block

    monkeypatch.setattr(audio.Excerpt, "stream", breaking)
    asked = {**WINDOWS, "units": ("frame", "utterance"), "layers": "T1", "device": "cpu"}
    got = layertool.extract(str(tiny), corpus, tmp_path / "store", max_failures=1, **asked)
    assert [failure["utterance"] for failure in got.failures] == ["u0"]
    monkeypatch.undo()
    alone = layertool.extract(
        str(tiny), models.corpus(tmp_path / "one", [small.noise(N_SAMPLES, 1)]), tmp_path / "alone", **asked
    )
    for unit in ("frame", "utterance"):
        np.testing.assert_array_equal(got.read(unit, "T1"), alone.read(unit, "T1"))


@needs_proc
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("minutes", "model", "unit"),
    [
        (10, "mel", "utterance"),
        (5, "tiny", "utterance"),
        pytest.param(120, "mel", "frame", marks=pytest.mark.slow),
        pytest.param(60, "tiny", "frame", marks=pytest.mark.slow),
    ],
)
def test_four_times_the_audio_takes_no_tenth_more_memory(minutes, model, unit, tiny, tmp_path):
    name = tiny if model == "tiny" else model
    few, many = (
        measured(name, write_long(tmp_path / f"{n}.flac", n), tmp_path / f"store{n}", unit, 0)[1]
        for n in (minutes / 4, minutes)
    )
    # rows of frames have 24 bytes each in a table that is made whole: 4.3 MB an hour of 20 ms, copied once or twice
    assert many < 1.1 * few
    assert many < 700e6


@needs_proc
def test_making_a_corpus_of_ten_hours_does_not_hold_them(tmp_path):
    import tracemalloc

    path = write_long(tmp_path / "long.flac", 30)
    tracemalloc.start()
    Corpus.build([{"utterance": "u", "audio": str(path)}])
    assert tracemalloc.get_traced_memory()[1] < 8e6  # its samples would be 115 MB
    tracemalloc.stop()


@needs_proc
@pytest.mark.parametrize(
    ("model", "minutes", "n"), [("mel", 5, 0), ("mel:pasad", 20, 0), ("tiny", 3, 0), ("tiny", 3, 30)]
)
def test_a_dry_run_says_how_much_memory_is_needed(model, minutes, n, tiny, tmp_path):
    path = write_long(tmp_path / "long.flac", minutes)
    said, peak = measured(tiny if model == "tiny" else model, path, tmp_path / "store", "frame,utterance", n)
    assert peak / 1.5 < said < 1.5 * peak


def test_the_memory_of_activations(tiny, tmp_path):
    """They grow with the batch, as was measured, and with the square of its frames where weights are held."""
    extractor = open_extractor(str(tiny), "cpu")
    assert extractor.activation_bytes(960_000) == pytest.approx(2 * extractor.activation_bytes(480_000), rel=1e-3)
    wavlm = open_extractor(str(models.save("wavlm-base", tmp_path / "wavlm")), "cpu")
    assert wavlm.activation_bytes(9_600_000) == 4 * 4 * 4 * 29_999**2


def test_too_much_memory_is_told_and_nothing_is_timed(corpus, tmp_path, monkeypatch):
    corpus.write(tmp_path / "corpus")
    asked = ("extract", "mel", str(tmp_path / "corpus"), "-o", str(tmp_path / "store"), "--dry-run")
    fits = command(*asked)
    assert "memory" in fits.stdout
    assert "needs about" not in fits.stderr
    monkeypatch.setattr(forecast, "there_is", lambda: 1_000_000)
    told = command(*asked)
    assert told.exit_code == 0
    assert "this process may have 1.0 MB" in " ".join(told.stderr.split())
    assert "not timed" in told.stdout
    assert output.size(1_000_000) == "1.0 MB"


def test_memory_that_there_is_heeds_limits(monkeypatch):
    whole = machine.there_is()
    assert 0 < whole <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _kind: (5_000_000, -1))
    assert machine.there_is() == 5_000_000
