"""Reading audio: every way in which a file can be unusable, and what resampling keeps."""

from __future__ import annotations

import re

import numpy as np
import pytest
import small
import soundfile
import soxr

from layertool import audio
from layertool.errors import AudioError, UsageError


@pytest.fixture
def stereo(tmp_path):
    """0.5 s: 0.25 on channel 0, -0.5 on channel 1."""
    samples = np.tile(np.float32([0.25, -0.5]), (8000, 1))
    soundfile.write(tmp_path / "stereo.wav", samples, 16000)
    return tmp_path / "stereo.wav"


def refused(path, message, **options):
    """``read`` raises an AudioError that names the file and says ``message``."""
    with pytest.raises(AudioError) as caught:
        audio.read(path, 16000, **options)
    assert str(path) in str(caught.value)
    assert re.search(message, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    refused(tmp_path / "nowhere.wav", r"does not exist: check the path")


def test_a_folder(tmp_path):
    refused(tmp_path, r"is a folder, not an audio file")


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    refused(tmp_path / "empty.wav", r"is empty \(0 bytes\): restore the file or take it out of the corpus")


@pytest.mark.parametrize("name", ["notes.wav", "notes.flac", "notes.mp3", "notes.txt"])
def test_what_is_not_audio(tmp_path, name):
    (tmp_path / name).write_text("Dear diary,\n" * 50)
    refused(tmp_path / name, r"cannot be read as audio \(.+[^.]\): convert it to WAV or FLAC")


@pytest.mark.parametrize("suffix", ["wav", "aiff"])
def test_no_samples(tmp_path, suffix):
    path = tmp_path / f"silent.{suffix}"
    soundfile.write(path, np.empty(0, np.float32), 16000)
    refused(path, "has no samples: restore the file or take it out of the corpus")


def cut_short(path, fraction):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.99])
def test_a_truncated_flac(tmp_path, fraction):
    path = small.sound(tmp_path / "a.flac", 32000)
    cut_short(path, fraction)
    refused(path, r"breaks off or is damaged|is cut short")


def test_a_truncated_mp3(tmp_path):
    """Its header says how many samples there are; only reading finds fewer."""
    path = small.sound(tmp_path / "a.mp3", 32000)
    cut_short(path, 0.5)
    refused(path, r"is cut short: 32000 samples are promised, \d+ are there; restore the file")


@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.999])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", {"subtype": "PCM_16"}),
        ("a.wav", {"subtype": "PCM_24"}),
        ("a.wav", {"subtype": "FLOAT"}),
        ("extensible.wav", {"format": "WAVEX"}),  # what many programs write for 24 bits
        ("a.aiff", {}),
        ("a.sph", {"format": "NIST", "subtype": "PCM_16"}),  # TIMIT, Switchboard
        ("a.au", {}),
    ],
)
def test_a_truncated_uncompressed_file(tmp_path, name, options, fraction):
    path = small.sound(tmp_path / name, 32000, **options)
    assert len(audio.read(path, 16000)) == 32000
    cut_short(path, fraction)
    refused(path, "is cut short: .*; restore the file|cannot be read as audio")


def test_a_wrong_size_in_the_riff_header_alone_is_no_damage(tmp_path):
    """Some recorders leave the outer size unset; the samples are all there."""
    path = small.sound(tmp_path / "a.wav")
    content = bytearray(path.read_bytes())
    content[4:8] = (len(content) + 1000).to_bytes(4, "little")
    path.write_bytes(content)
    np.testing.assert_array_equal(audio.read(path, 16000), soundfile.read(path, dtype="float32")[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path, value):
    samples = small.noise(16000)
    samples[9999] = value
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    refused(tmp_path / "a.wav", r"samples that are not finite \(NaN or infinite\): write the file anew")
    assert len(audio.read(tmp_path / "a.wav", 16000, end=0.5)) == 8000  # the damage lies elsewhere


def test_stereo_without_a_choice(stereo):
    refused(stereo, r"has 2 channels: say which to take with --channel 0 \(to 1\), or --channel mix for their mean")


@pytest.mark.parametrize(("channel", "value"), [("0", 0.25), ("1", -0.5), ("mix", -0.125), ("sum", -0.25)])
def test_a_channel_of_a_stereo_file(stereo, channel, value):
    samples = audio.read(stereo, 16000, channel=channel)
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, np.full(8000, value, np.float32))


def test_mono_files_take_every_choice_that_is_there(tmp_path):
    path = small.sound(tmp_path / "a.wav")
    plain = audio.read(path, 16000)
    for channel in ("0", "mix", "sum"):
        np.testing.assert_array_equal(audio.read(path, 16000, channel=channel), plain)


def test_a_channel_out_of_range(stereo, tmp_path):
    refused(stereo, "has no channel 2: it has 2, counted from 0", channel="2")
    refused(small.sound(tmp_path / "mono.wav"), "has no channel 1: it has 1, counted from 0", channel="1")


@pytest.mark.parametrize("channel", ["left", "-1", "1.0", "", "0,1", "Mix"])
def test_what_is_no_channel(stereo, channel):
    with pytest.raises(UsageError, match=f"'{channel}' is no channel: give a number from 0, 'mix'"):
        audio.read(stereo, 16000, channel=channel)


def test_cuts(tmp_path):
    path = small.sound(tmp_path / "a.wav", 16000)
    whole = audio.read(path, 16000)
    np.testing.assert_array_equal(audio.read(path, 16000, start=0.25, end=0.5), whole[4000:8000])
    np.testing.assert_array_equal(audio.read(path, 16000, start=0.25), whole[4000:])
    np.testing.assert_array_equal(audio.read(path, 16000, end=0.25), whole[:4000])
    np.testing.assert_array_equal(audio.read(path, 16000, start=0.5, end=1.001), whole[8000:])  # rounding in tables


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (0.5, 1.5, "0.5 to 1.5 s"),
        (0.0, 1.0011, "0 to 1.0011 s"),
        (1.0, None, "1 to the end s"),
        (2.0, 3.0, "2 to 3 s"),
        (-0.1, 0.5, "-0.1 to 0.5 s"),
        (0.5, 0.5, "0.5 to 0.5 s"),
        (0.6, 0.5, "0.6 to 0.5 s"),
        (None, 0.0, "0 to 0 s"),
    ],
)
def test_a_cut_outside_the_file(tmp_path, start, end, said):
    path = small.sound(tmp_path / "a.wav", 16000)
    refused(path, rf"lasts 1\.000 s, but an utterance is given as {re.escape(said)} of it", start=start, end=end)


def test_a_cut_at_another_rate(tmp_path):
    path = small.sound(tmp_path / "a.wav", 44100, rate=44100)
    assert len(audio.read(path, 16000, start=0.25, end=0.5)) == 4000
    direct = soxr.resample(soundfile.read(path, dtype="float32")[0][11025:22050], 44100, 16000, quality="HQ")
    np.testing.assert_array_equal(audio.read(path, 16000, start=0.25, end=0.5), direct)


def test_the_header(tmp_path):
    info = audio.probe(small.sound(tmp_path / "a.flac", 44100, rate=44100))
    assert info == audio.AudioInfo(44100, 44100, 1, "FLAC")


@pytest.mark.parametrize("rate", [7999, 8000, 11025, 12345, 22050, 24000, 32000, 44100, 48000, 96000, 192000])
def test_resampled_lengths_are_those_of_soxr(rate):
    random = np.random.default_rng(rate)
    for n in [*range(1, 80), *random.integers(80, 30_000, 40).tolist(), 10 * rate + 1]:
        given = len(soxr.resample(np.zeros(n, np.float32), rate, 16000, quality="HQ"))
        assert audio.resampled_length(n, rate, 16000) == given, n


def test_the_header_foretells_what_is_read(tmp_path):
    for rate in (8000, 22050, 44100, 48000):
        for n in (401, 4444, 10_007):
            path = small.sound(tmp_path / "a.wav", n, rate=rate)
            assert len(audio.read(path, 16000)) == audio.resampled_length(audio.probe(path).n_frames, rate, 16000)


@pytest.mark.parametrize("hertz", [100.0, 440.0, 3000.0, 6000.0])
def test_a_sine_is_still_that_sine(tmp_path, hertz):
    """Same frequency, amplitude and phase after 44.1 kHz -> 16 kHz."""
    soundfile.write(
        tmp_path / "sine.wav", 0.5 * np.sin(2 * np.pi * hertz * np.arange(44100) / 44100), 44100, subtype="FLOAT"
    )
    samples = audio.read(tmp_path / "sine.wav", 16000)
    expected = 0.5 * np.sin(2 * np.pi * hertz * np.arange(16000) / 16000)
    assert len(samples) == 16000
    np.testing.assert_allclose(samples[400:-400], expected[400:-400], atol=2e-4)


def test_what_lies_above_8_kHz_does_not_fold_back(tmp_path):
    soundfile.write(
        tmp_path / "sine.wav", 0.5 * np.sin(2 * np.pi * 10_000 * np.arange(44100) / 44100), 44100, subtype="FLOAT"
    )
    assert np.abs(audio.read(tmp_path / "sine.wav", 16000)[400:-400]).max() < 1e-4


def test_sixteen_kilohertz_is_left_alone(tmp_path):
    samples = np.int16([0, 1, -1, 32767, -32768, 12345])
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    np.testing.assert_array_equal(audio.read(tmp_path / "a.wav", 16000), samples / np.float32(32768))
