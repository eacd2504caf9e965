"""Acoustic features against published values, plain derivations of their recipes, and other libraries.

The slow derivations below are written from spec speat.md 2, with loops and a Fourier matrix; they
share no code with the package.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from layertool.errors import AudioError, UsageError
from layertool.geometry import FrameGeometry, convolution_geometry, moving_average
from layertool.models import acoustic

KALDI = FrameGeometry(160, 400)
TABLE = {  # name: width, hop, window, centred
    "stft": (257, 320, 512, True),
    "stft:log": (257, 320, 512, True),
    "spectrogram": (257, 160, 400, False),
    "spectrogram:linear": (201, 160, 400, True),
    "spectrogram:torchaudio": (201, 200, 400, True),
    "mel": (80, 160, 400, True),
    "mel:torchaudio": (128, 200, 400, True),
    "mel:pasad": (80, 160, 400, False),
    "mel:pasad-centred": (80, 160, 400, True),
    "fbank": (240, 160, 400, False),
    "fbank:static": (80, 160, 400, False),
    "fbank:melhubert": (40, 160, 400, False),
    "mfcc": (39, 160, 400, False),
    "mfcc:static": (13, 160, 400, False),
    "mfcc:torchaudio": (40, 200, 400, True),
}
LOOP_PRESETS = ["spectrogram", "fbank:static", "fbank:melhubert", "mfcc:static"]


def chirp() -> np.ndarray:
    """The waveform of the golden values (spec speat.md 2)."""
    n = np.arange(16000)
    sweep = 0.3 * np.sin(2 * np.pi * (200 + 300 * n / 16000) * n / 16000)
    return (sweep + 0.1 * np.sin(2 * np.pi * 1234.5 * n / 16000)).astype(np.float32)


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    """Coloured noise with an offset, so that removing the mean and emphasis both matter."""
    rng = np.random.default_rng(seed)
    white = rng.normal(size=n_samples + 8)
    smooth = np.convolve(white, np.ones(9) / 9, mode="valid")
    return (0.2 * smooth + 0.02 * rng.normal(size=n_samples) + 0.05).astype(np.float32)


# --- published values ---------------------------------------------------------------------------


def test_golden_melhubert_filterbank():
    values = acoustic.features("fbank:melhubert", chirp())
    assert values.shape == (98, 40)
    assert values.mean() == pytest.approx(14.559062, abs=1e-4)
    assert values.std(ddof=1) == pytest.approx(3.810639, abs=1e-4)
    for frame, first, golden in [
        (0, 0, [12.799132, 17.997492, 21.948395, 23.040615, 20.454409, 14.030913]),
        (50, 0, [12.620795, 13.499604, 13.222257, 13.716401, 14.432179, 13.477414]),
        (97, 36, [12.733665, 12.736114, 12.748143, 12.793207]),
    ]:
        np.testing.assert_allclose(values[frame, first : first + len(golden)], golden, rtol=0, atol=1e-4)


def test_golden_mfcc():
    values = acoustic.features("mfcc:static", chirp())
    golden = [-48.067444, 64.350914, 2.079634, -20.661151, 61.733364]
    np.testing.assert_allclose(values[0, :5], golden, rtol=0, atol=5e-4)
    assert values.mean() == pytest.approx(-10.158911, abs=1e-4)


def test_golden_values_hold_for_the_slow_derivation_too():
    samples = chirp()[:400].astype(np.float64)
    fbank = slow_kaldi("fbank:melhubert", samples)[0, :6]
    mfcc = slow_kaldi("mfcc:static", samples)[0, :5]
    np.testing.assert_allclose(fbank, [12.799132, 17.997492, 21.948395, 23.040615, 20.454409, 14.030913], atol=1e-4)
    np.testing.assert_allclose(mfcc, [-48.067444, 64.350914, 2.079634, -20.661151, 61.733364], atol=5e-4)


# --- plain derivations --------------------------------------------------------------------------


def slow_kaldi(name: str, samples: np.ndarray) -> np.ndarray:
    """Kaldi's recipe, frame by frame, in loops."""
    scale = 32768 if name == "fbank:melhubert" else 1
    n_mels = {"fbank:melhubert": 40, "fbank:static": 80, "mfcc:static": 23, "spectrogram": 0}[name]
    k, i = np.arange(257), np.arange(400)
    fourier = np.exp(-2j * np.pi * np.outer(k, i) / 512)
    rows = []
    for t in range(1 + (len(samples) - 400) // 160):
        frame = [scale * float(samples[160 * t + i]) for i in range(400)]
        mean = sum(frame) / 400
        frame = [x - mean for x in frame]
        energy = sum(x * x for x in frame)
        emphasised = [frame[0] - 0.97 * frame[0]] + [frame[i] - 0.97 * frame[i - 1] for i in range(1, 400)]
        windowed = []
        for i in range(400):
            cosine = math.cos(2 * math.pi * i / 399)
            hamming, povey = 0.54 - 0.46 * cosine, max(0.0, 0.5 - 0.5 * cosine) ** 0.85
            windowed.append(emphasised[i] * (hamming if name == "fbank:melhubert" else povey))
        power = np.abs(fourier @ np.array(windowed)) ** 2
        if name == "spectrogram":
            rows.append([math.log(max(p, 1.1920929e-07)) for p in [max(energy, 1.0), *power[1:]]])
            continue
        logmels = slow_kaldi_mels(power, n_mels)
        rows.append(slow_cepstra(logmels) if name == "mfcc:static" else logmels)
    return np.array(rows)


def slow_kaldi_mels(power, n_mels: int) -> list[float]:
    def mel(hertz):
        return 1127 * math.log(1 + hertz / 700)

    width = (mel(8000) - mel(20)) / (n_mels + 1)
    logmels = []
    for m in range(n_mels):
        left, total = mel(20) + m * width, 0.0
        for k in range(256):  # without the bin at 8 kHz
            position = (mel(k * 16000 / 512) - left) / width
            total += power[k] * max(0.0, min(position, 2 - position))
        logmels.append(math.log(max(total, 1.1920929e-07)))
    return logmels


def slow_cepstra(logmels: list[float]) -> list[float]:
    n_mels, cepstra = len(logmels), []
    for k in range(13):
        total = sum(logmels[m] * math.cos(math.pi * k * (m + 0.5) / n_mels) for m in range(n_mels))
        lifter = 1 + 11 * math.sin(math.pi * k / 22)
        cepstra.append(lifter * total * math.sqrt((1 if k == 0 else 2) / n_mels))
    return cepstra


@pytest.mark.parametrize("name", LOOP_PRESETS)
@pytest.mark.parametrize(
    ("waveform", "tolerance"), [(noise(1000), 1e-4), (chirp()[5000:5720], 1e-3)], ids=["noise", "chirp"]
)
def test_kaldi_features_equal_the_recipe_in_loops(name, waveform, tolerance):
    """kaldi-native-fbank is float32 throughout: the mels between clean tones are its rounding; ours is float64."""
    values = acoustic.features(name, waveform)
    slow = slow_kaldi(name, waveform)
    assert values.shape == slow.shape
    np.testing.assert_allclose(values, slow, rtol=0, atol=2e-6 if name == "spectrogram" else tolerance)


def test_spectrogram_equals_torchaudio_in_every_bin():
    """torchaudio 2.8.0's ``compliance.kaldi.spectrogram`` with s3prl's options, frames 1, 3 and 6: quiet, rising, loud.

    Bin 0 is the log energy, floored at log 1: below it in the first two frames (0.0006 and 0.29).
    """
    n = np.arange(1840)
    swell = 0.4 * np.exp(-(((n - 1300) / 350.0) ** 2)) * np.sin(0.07 * n + 2e-5 * n * n)
    theirs = np.loadtxt(Path(__file__).parent / "spectrogram_of_torchaudio.csv", delimiter=",").T
    ours = acoustic.features("spectrogram", (swell + 1e-3 * np.cos(1.3 * n)).astype(np.float32))[[1, 3, 6]]
    assert theirs.shape == (3, 257)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)  # theirs is float32 throughout
    assert ours[:, 0].tolist() == pytest.approx([0.0, 0.0, 3.0548], abs=1e-4)


def slow_deltas(values: np.ndarray) -> np.ndarray:
    n_frames, width = values.shape
    slopes = np.zeros(values.shape)
    for t in range(n_frames):
        for c in range(width):
            for k in (-2, -1, 1, 2):
                slopes[t, c] += k * float(values[min(max(t + k, 0), n_frames - 1), c]) / 10
    return slopes


@pytest.mark.parametrize("n_frames", [1, 2, 3, 4, 5, 9])
def test_deltas_equal_the_loop(n_frames):
    values = np.random.default_rng(n_frames).normal(size=(n_frames, 3)).astype(np.float32)
    np.testing.assert_allclose(acoustic.deltas(values), slow_deltas(values), rtol=0, atol=1e-6)


def test_deltas_are_the_slope_of_a_line():
    line = np.arange(20.0)[:, np.newaxis] * [3.0, -0.5]
    np.testing.assert_allclose(acoustic.deltas(line)[2:-2], np.broadcast_to([3.0, -0.5], (16, 2)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "width"), [("fbank", 80), ("mfcc", 13)])
def test_deltas_of_deltas_follow_the_static_features(name, width):
    waveform = noise(2500)
    values, static = acoustic.features(name, waveform), acoustic.features(f"{name}:static", waveform)
    first = slow_deltas(static)
    np.testing.assert_array_equal(values[:, :width], static)
    np.testing.assert_allclose(values[:, width : 2 * width], first, rtol=0, atol=1e-5)
    np.testing.assert_allclose(values[:, 2 * width :], slow_deltas(first), rtol=0, atol=1e-5)


# --- other libraries ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fbank:static", "fbank:melhubert"])
def test_filterbank_equals_transformers(name):
    audio_utils = pytest.importorskip("transformers.audio_utils")
    melhubert = name == "fbank:melhubert"
    filters = audio_utils.mel_filter_bank(
        num_frequency_bins=257,
        num_mel_filters=40 if melhubert else 80,
        min_frequency=20,
        max_frequency=8000,
        sampling_rate=16000,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    waveform = noise(8000)
    theirs = audio_utils.spectrogram(
        waveform.astype(np.float64) * (2**15 if melhubert else 1),
        audio_utils.window_function(400, "hamming" if melhubert else "povey", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=filters,
        log_mel="log",
        mel_floor=1.192092955078125e-07,
        remove_dc_offset=True,
    ).T
    np.testing.assert_allclose(acoustic.features(name, waveform), theirs, rtol=0, atol=2e-4)


@pytest.fixture(scope="module")
def librosa():
    return pytest.importorskip("librosa")


@pytest.mark.slow
def test_stft_equals_librosa(librosa):
    waveform = noise(5001)
    theirs = np.abs(librosa.stft(waveform.astype(np.float64), n_fft=512, hop_length=320, pad_mode="reflect")).T
    np.testing.assert_allclose(acoustic.features("stft", waveform), theirs, rtol=1e-6, atol=1e-6)
    log = np.log(np.maximum(theirs, 1e-8))
    np.testing.assert_allclose(acoustic.features("stft:log", waveform), log, rtol=0, atol=2e-6)


def test_stft_equals_scipy():
    signal = pytest.importorskip("scipy.signal")
    waveform = noise(3200).astype(np.float64)
    padded = np.pad(waveform, 256, mode="reflect")
    _, _, theirs = signal.stft(padded, window="hann", nperseg=512, noverlap=192, boundary=None, padded=False)
    theirs = np.abs(theirs.T) * 256  # scipy divides by the sum of the window
    np.testing.assert_allclose(acoustic.features("stft", waveform), theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("hop", "name"), [(160, "spectrogram:linear"), (200, "spectrogram:torchaudio")])
def test_spectrogram_equals_librosa(librosa, hop, name):
    waveform = noise(4999)
    power = np.abs(librosa.stft(waveform.astype(np.float64), n_fft=400, hop_length=hop, pad_mode="reflect")).T ** 2
    values = acoustic.features(name, waveform)
    if name == "spectrogram:linear":
        np.testing.assert_allclose(values, np.log(power + 1e-10), rtol=0, atol=2e-6)
    else:
        np.testing.assert_allclose(values, power, rtol=1e-6, atol=1e-9)


def librosa_mel(librosa, waveform, hop, n_mels):
    with pytest.warns(UserWarning, match="Empty filters") if n_mels == 128 else contextlib.nullcontext():
        return librosa.feature.melspectrogram(
            y=waveform.astype(np.float64),
            sr=16000,
            n_fft=400,
            hop_length=hop,
            pad_mode="reflect",
            n_mels=n_mels,
            htk=True,
            norm=None,
        ).T


@pytest.mark.slow
def test_mel_equals_librosa(librosa):
    waveform = noise(5000)
    theirs = np.log(librosa_mel(librosa, waveform, 160, 80) + 1e-10)
    np.testing.assert_allclose(acoustic.features("mel", waveform), theirs, rtol=0, atol=2e-6)


def test_torchaudio_mel_and_mfcc_equal_librosa(librosa):
    waveform = np.concatenate([noise(5000), np.zeros(2000, np.float32)])  # silence lies below top_db
    energy = librosa_mel(librosa, waveform, 200, 128)
    values = acoustic.features("mel:torchaudio", waveform)
    np.testing.assert_allclose(values, energy, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(np.flatnonzero(~values.any(axis=0)), [0, 3, 6, 13])

    decibels = librosa.power_to_db(energy.T, ref=1.0, amin=1e-10, top_db=80)
    theirs = librosa.feature.mfcc(S=decibels, n_mfcc=40, dct_type=2, norm="ortho").T
    np.testing.assert_allclose(acoustic.features("mfcc:torchaudio", waveform), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("centred", [True, False], ids=["published", "aligned"])
def test_mel_pasad_equals_the_published_recipe(librosa, centred):
    signal = pytest.importorskip("scipy.signal")
    waveform = np.concatenate([np.zeros(1500, np.float32), noise(4321)])  # something lies below top_db
    peak = np.abs(waveform).max()
    emphasised = signal.lfilter([1, -0.97], [1], waveform.astype(np.float64) / peak * 0.999)
    # librosa puts the 400-sample window in the middle of 2048 points, so frames that are not centred
    # start 824 samples before their window
    emphasised = emphasised if centred else np.pad(emphasised, 824)
    mel = librosa.feature.melspectrogram(
        y=emphasised,
        sr=16000,
        n_fft=2048,
        win_length=400,
        hop_length=160,
        n_mels=80,
        fmin=50,
        fmax=8000,
        power=1,
        center=centred,
    )
    theirs = (librosa.amplitude_to_db(mel, top_db=80) / 80 + 1).T
    values = acoustic.features("mel:pasad-centred" if centred else "mel:pasad", waveform)
    assert len(values) == (1 + 5821 // 160 if centred else (5821 - 400) // 160 + 1)
    np.testing.assert_allclose(values, theirs[: len(values)], rtol=0, atol=1e-6)


def test_mel_filters_equal_librosa(librosa):
    for n_mels, n_fft, scale, low in [(80, 400, "htk", 0), (80, 2048, "slaney", 50), (40, 512, "slaney", 0)]:
        theirs = librosa.filters.mel(
            sr=16000,
            n_fft=n_fft,
            n_mels=n_mels,
            fmin=low,
            fmax=8000,
            htk=scale == "htk",
            norm="slaney" if scale == "slaney" else None,
            dtype=np.float64,
        )
        ours = acoustic.mel_filterbank(n_mels, n_fft, scale, low, 8000)
        np.testing.assert_allclose(ours, theirs.T, rtol=0, atol=1e-13)
        assert not ours.flags.writeable


# --- frames -------------------------------------------------------------------------------------


def test_table_of_presets():
    assert set(acoustic.PRESETS) == set(TABLE)
    for name, (width, hop, window, centred) in TABLE.items():
        known = acoustic.preset(name)
        assert (known.name, known.layer, known.width) == (name, name.split(":")[0], width)
        offset = -window // 2 if centred else 0
        assert known.geometry == FrameGeometry(hop, window, offset, centred=centred, extra_frame=centred)
        assert known.description


@pytest.mark.parametrize("name", TABLE)
def test_frames_are_as_many_as_the_geometry_says(name):
    known = acoustic.preset(name)
    audio = noise(30_000)
    lengths = {*range(400, 5001, 97), 559, 560, 719, 720, 799, 800, 960, 5000, 16_000, 29_999, known.min_samples}
    for n_samples in sorted(lengths):
        values = acoustic.features(name, audio[:n_samples])
        assert values.shape == (known.geometry.n_frames(n_samples), known.width), n_samples
        assert values.dtype == np.float32


@pytest.mark.parametrize("name", ["fbank:static", "mel", "stft"])
def test_frames_are_as_many_as_the_geometry_says_for_every_length(name):
    geometry, audio = acoustic.preset(name).geometry, noise(1500)
    for n_samples in range(400, 1500):
        assert len(acoustic.features(name, audio[:n_samples])) == geometry.n_frames(n_samples)


def energy_per_frame(name: str, waveform: np.ndarray) -> np.ndarray:
    """Sum over the mels above the floor, where most frames of an impulse lie, shape (frames,)."""
    values = acoustic.features(name, waveform).astype(np.float64)
    return (values - values.min()).sum(axis=1)


def convolution_response(position: int, n_samples: int, depth: int) -> np.ndarray:
    """What the first ``depth`` convolutions of wav2vec 2.0, with bell-shaped kernels, make of one impulse."""
    values = np.zeros(n_samples)
    values[position] = 1
    for kernel, stride in list(zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True))[:depth]:
        values = np.convolve(values, np.hanning(kernel + 2)[1:-1], mode="valid")[::stride]
    return values


@pytest.mark.parametrize("name", ["fbank:static", "mel:pasad"])
@pytest.mark.parametrize("depth", [1, 3, 6, 7])
def test_frames_respond_to_the_same_impulse_as_convolution_frames(name, depth):
    """Frame j of a filterbank and of a convolution layer brought to 10 ms (every second one for C7) are one place."""
    geometries = convolution_geometry((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
    n_samples = 6000
    for position in range(2000, 2320, 40):
        impulse = np.zeros(n_samples, np.float32)
        impulse[position] = 0.9
        fbank = energy_per_frame(name, impulse)
        response = convolution_response(position, n_samples, depth)
        if depth == 7:
            fbank = fbank[::2][: len(response)]
        else:
            kernel, stride = moving_average(geometries[depth - 1])
            response = np.convolve(response, np.ones(kernel) / kernel, mode="valid")[::stride]
        assert len(fbank) == len(response)
        # the window is nearly zero at its ends, where the uniform average is not: compare centres of gravity
        frames = np.arange(len(response))
        difference = np.average(frames, weights=fbank) - np.average(frames, weights=response)
        assert abs(difference) <= 1
        hop = 320 if depth == 7 else 160
        answering = frames[response > 0]
        assert answering.min() * hop <= position < answering.max() * hop + 400
        assert set(frames[fbank > 1e-3 * fbank.max()]) <= set(answering)


def test_centred_mel_of_pasad_comes_half_a_window_early():
    """Mean distance from the start of the loudest frame to the impulse: half a window; 0 where frames are centred."""
    for name, expected in [("mel:pasad", 200), ("mel:pasad-centred", 0), ("mel", 0), ("fbank:static", 200)]:
        distances = []
        for position in range(3205, 3365, 10):
            impulse = np.zeros(8000, np.float32)
            impulse[position] = 0.9
            distances.append(position - 160 * int(np.argmax(energy_per_frame(name, impulse))))
        assert np.mean(distances) == pytest.approx(expected, abs=10), name


# --- edges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cmvn", [False, True])
@pytest.mark.parametrize("name", TABLE)
@pytest.mark.filterwarnings("error")
def test_silence_is_finite(name, cmvn):
    values = acoustic.features(name, np.zeros(4000, np.float32), cmvn=cmvn)
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(values, np.broadcast_to(values[:1], values.shape))
    if cmvn:
        assert not values.any()


@pytest.mark.parametrize("name", TABLE)
def test_one_sample_too_few_is_an_error_that_says_how_many_are_needed(name):
    _, _, window, centred = TABLE[name]
    needed = window // 2 + 1 if centred else window
    assert acoustic.features(name, noise(needed)).shape[0] >= 1
    with pytest.raises(AudioError, match=f"{name} needs at least {needed} samples .* has {needed - 1}"):
        acoustic.features(name, noise(needed - 1))
    with pytest.raises(AudioError, match="has 0"):
        acoustic.features(name, np.zeros(0, np.float32))


def test_other_waveforms_are_refused():
    with pytest.raises(AudioError, match=r"one channel.*\(800, 2\)"):
        acoustic.features("mel", np.zeros((800, 2), np.float32))
    with pytest.raises(AudioError, match="not int16"):
        acoustic.features("mel", np.zeros(800, np.int16))


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'mel:kaldi' is no variant of mel: .* mel, mel:torchaudio, mel:pasad, mel:"):
        acoustic.preset("mel:kaldi")
    with pytest.raises(UsageError, match=r"'plp' is no acoustic feature: .* stft, stft:log, .*mfcc:torchaudio"):
        acoustic.features("plp", noise(800))


def test_waveforms_of_other_layout_and_precision_give_the_same():
    waveform = noise(3000)
    strided = np.repeat(waveform, 2)[::2]
    for name in TABLE:
        values = acoustic.features(name, waveform)
        np.testing.assert_array_equal(acoustic.features(name, waveform.astype(np.float64)), values)
        np.testing.assert_array_equal(acoustic.features(name, strided), values)


@pytest.mark.parametrize("name", TABLE)
def test_features_repeat_and_leave_the_waveform_alone(name):
    waveform = noise(5000)
    before = waveform.copy()
    np.testing.assert_array_equal(acoustic.features(name, waveform), acoustic.features(name, waveform))
    np.testing.assert_array_equal(waveform, before)


@pytest.mark.parametrize("name", TABLE)
def test_blocks_do_not_change_the_values(name, monkeypatch):
    waveform = noise(6001)
    whole, normalised = acoustic.features(name, waveform), acoustic.features(name, waveform, cmvn=True)
    monkeypatch.setattr(acoustic, "BLOCK_FRAMES", 7)
    np.testing.assert_array_equal(acoustic.features(name, waveform), whole)
    # sums over the utterance are added up in another order
    np.testing.assert_allclose(acoustic.features(name, waveform, cmvn=True), normalised, rtol=5e-7, atol=1e-7)


# --- normalisation ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_cmvn_is_the_formula(name):
    waveform = noise(8000)
    plain = acoustic.features(name, waveform).astype(np.float64)
    values = acoustic.features(name, waveform, cmvn=True)
    expected = (plain - plain.mean(axis=0)) / (1e-10 + plain.std(axis=0, ddof=1))
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    assert np.abs(values.mean(axis=0, dtype=np.float64)).max() < 1e-6
    varying = plain.std(axis=0) > 1e-6
    np.testing.assert_allclose(values[:, varying].std(axis=0, ddof=1, dtype=np.float64), 1, rtol=1e-4)


def test_cmvn_makes_constant_dimensions_zero():
    values = np.full((1001, 2), 0.1, np.float32)
    values[:, 1] = np.linspace(-1, 1, 1001)
    normalised = acoustic.normalise(values)
    assert not normalised[:, 0].any()
    assert normalised[:, 1].std(ddof=1) == pytest.approx(1)


def test_cmvn_of_one_frame_is_an_error():
    with pytest.raises(AudioError, match="at least 2 frames"):
        acoustic.features("fbank", noise(400), cmvn=True)


# --- as a part of the package -------------------------------------------------------------------


def test_presets_can_be_sent_to_another_process():
    waveform = noise(1000)
    for known in acoustic.PRESETS.values():
        copy = pickle.loads(pickle.dumps(known))
        np.testing.assert_array_equal(copy.compute(waveform), known.compute(waveform))


def test_no_heavy_library_is_imported():
    code = (
        "import sys, layertool.models.acoustic; "
        "print(*{'torch', 'librosa', 'transformers', 'torchaudio'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
