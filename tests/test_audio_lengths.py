"""How long audio is where its header does not say so, or says it wrongly; parts of compressed files; scales."""

from __future__ import annotations

import re
import struct
import tracemalloc

import commands
import mpeg
import numpy as np
import oggs
import pytest
import small
import soundfile

import layertool
from layertool import audio, audio_files
from layertool.commands.corpus import corpus as corpus_commands
from layertool.corpora import tables
from layertool.corpora.corpus import Corpus
from layertool.errors import AudioError

DELAY = 1105  # samples before the first that was encoded: 576 of LAME, 529 of every decoder


def rows(*paths):
    return [{"utterance": path.stem, "audio": str(path)} for path in paths]


def changed(path, place, content):
    whole = bytearray(path.read_bytes())
    whole[place : place + len(content)] = content
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT", "AVERAGE"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_mp3_that_does_not_say_how_many_frames_it_has(tmp_path, rate, mode):
    path = tmp_path / "a.mp3"
    mpeg.write(path, rate, mode=mode)
    trimmed = audio.read(path, rate)
    assert len(trimmed) == audio.probe(path).n_frames == 4 * rate
    n = mpeg.without_count(path)
    assert audio.probe(path).n_frames == n
    samples = audio.read(path, rate)
    assert len(samples) == n
    np.testing.assert_array_equal(samples[DELAY : DELAY + len(trimmed)], trimmed[: n - DELAY])


@pytest.mark.parametrize(
    "name", ["counted.mp3", "uncounted.mp3", "vorbis.ogg", "opus.ogg", "a.flac", "gsm.wav", "ima.wav"]
)
def test_parts_of_compressed_files_are_those_of_the_whole(tmp_path, name):
    path, rate = tmp_path / name, 16000
    if path.suffix == ".mp3":
        mpeg.write(path, rate)
    else:
        kinds = {"opus.ogg": "OPUS", "gsm.wav": "GSM610", "ima.wav": "IMA_ADPCM"}
        small.sound(path, 64000, rate=rate, subtype=kinds.get(name))
    if name == "uncounted.mp3":
        mpeg.without_count(path)
    whole = audio.read(path, rate)
    random = np.random.default_rng(0)
    for first, second in random.integers(0, len(whole), (40, 2)).tolist():
        start, stop = sorted((first, second + 1))
        part = audio.read(path, rate, start=start / rate, end=stop / rate)
        np.testing.assert_allclose(part, whole[start:stop], atol=1e-6, err_msg=f"{start} to {stop}")
        np.testing.assert_allclose(audio.read(path, rate, start=start / rate), whole[start:], atol=1e-6)


def test_parts_of_vorbis_with_long_pages(tmp_path):
    """libsndfile jumps to wrong places in these."""
    path, rate = tmp_path / "a.ogg", 44100
    samples = small.noise(8 * rate)
    samples[: 4 * rate] = 0.5 * np.sin(np.arange(4 * rate) * 0.06)
    soundfile.write(path, samples, rate)
    oggs.merge_pages(path)
    whole = audio.read(path, rate)
    assert len(whole) == audio.probe(path).n_frames == 8 * rate
    for start in range(0, 8 * rate, 9001):
        part = audio.read(path, rate, start=start / rate, end=(start + 1000) / rate)
        np.testing.assert_array_equal(part, whole[start : start + 1000], err_msg=str(start))


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg"])
def test_a_cut_outside_a_file_whose_length_is_found_by_decoding(tmp_path, name):
    path = tmp_path / name
    if name == "a.mp3":
        mpeg.write(path, 16000)
        seconds = mpeg.without_count(path) / 16000
    else:
        small.sound(path, 64000)
        seconds = 4.0
    given = f"lasts {seconds:.3f} s, but an utterance is given as"
    for start, end in ((1, seconds + 0.5), (seconds + 1, None), (seconds + 1, seconds + 2)):
        with pytest.raises(AudioError, match=re.escape(given)):
            audio.read(path, 16000, start=start, end=end)
    with pytest.raises(AudioError, match=r"a\.\w+: an utterance is given as 2 to 1 s of it"):
        audio.read(path, 16000, start=2, end=1)
    almost = audio.read(path, 16000, start=1, end=seconds + 0.0009)  # a rounded end
    assert len(almost) == round(seconds * 16000) - 16000


def test_lengths_are_found_once_kept_and_checked(tmp_path):
    path = tmp_path / "a.mp3"
    mpeg.write(path, 16000)
    n = mpeg.without_count(path)
    before = audio_files._decoded.cache_info().misses
    made = Corpus.build(rows(path))
    Corpus.build([*rows(path), {"utterance": "part", "audio": str(path), "start": 1.0, "end": 2.0}])
    assert audio_files._decoded.cache_info().misses == before + 1
    assert made.utterances["n_samples"].tolist() == [n]
    again = Corpus.read(made.write(tmp_path / "c"))
    assert layertool.extract("mel", again, tmp_path / "s", ("utterance",)).utterances["n_samples"].tolist() == [n]
    assert audio_files._decoded.cache_info().misses == before + 1
    mpeg.write(path, 16000, seconds=3)
    shorter = mpeg.without_count(path)
    said = f"a.mp3 gives {shorter} samples, {n} were there when the corpus was made: make the corpus again"
    with pytest.raises(layertool.errors.LayertoolError, match=said):
        layertool.extract("mel", again, tmp_path / "s2", ("utterance",))


def with_total(path, total):
    """Write the number of samples (36 bits) into the header of a FLAC file."""
    word = int.from_bytes(path.read_bytes()[18:26], "big") >> 36 << 36 | total
    return changed(path, 18, word.to_bytes(8, "big"))


def test_flac_that_was_written_into_a_pipe(tmp_path):
    path = small.sound(tmp_path / "a.flac", 100_000)
    whole = audio.read(path, 16000)
    with_total(path, 0)
    assert audio.probe(path).n_frames == 100_000
    np.testing.assert_array_equal(audio.read(path, 16000), whole)
    np.testing.assert_array_equal(audio.read(path, 16000, start=2, end=5.5), whole[32000:88000])
    assert Corpus.build(rows(path)).seconds == 6.25


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.99])
def test_flac_that_breaks_off_is_told_when_a_corpus_is_made(tmp_path, fraction):
    path = small.sound(tmp_path / "a.flac", 32000)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])
    with pytest.raises(AudioError, match=r"a\.flac (breaks off or is damaged|is cut short)"):
        Corpus.build(rows(path))


def test_compressed_samples_in_a_wav_file(tmp_path):
    """Their header counts frames that decoding does not give."""
    mpeg.write(tmp_path / "a.mp3", 16000)
    n_frames = mpeg.without_count(tmp_path / "a.mp3")
    frames = (tmp_path / "a.mp3").read_bytes()
    about = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 16000, 0, 576, 0, 12, 1, 2, 288, 1, 1393)
    chunks = [(b"fmt ", about), (b"fact", struct.pack("<I", 33000)), (b"data", frames + bytes(len(frames) % 2))]
    content = b"WAVE" + b"".join(name + struct.pack("<I", len(chunk)) + chunk for name, chunk in chunks)
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(content)) + content)
    assert soundfile.info(path).subtype == "MPEG_LAYER_III"
    corpus = Corpus.build(rows(path))
    (n_samples,) = corpus.utterances["n_samples"]
    assert n_samples == n_frames
    assert len(audio.read_utterance(corpus.utterances.iloc[0])) == n_samples


def test_aiff_that_sox_wrote_into_a_pipe(tmp_path):
    path = tmp_path / "a.aiff"
    samples = np.arange(32000, dtype=np.int16)
    soundfile.write(path, samples, 16000)
    place = path.read_bytes().index(b"SSND")
    changed(path, 4, struct.pack(">I", 0x7F000050))
    changed(path, place + 4, struct.pack(">I", 0x7F000008))
    changed(path, path.read_bytes().index(b"COMM") + 10, struct.pack(">I", 0x7F000000 // 2))
    np.testing.assert_array_equal(audio.read(path, 16000) * 2**15, samples)
    assert Corpus.build(rows(path)).seconds == 2


@pytest.mark.parametrize("total", [2**36 - 1, 10**9])
def test_a_promise_that_no_file_of_this_size_can_keep(tmp_path, total):
    path = with_total(small.sound(tmp_path / "a.flac", 32000), total)
    for use in (audio.probe, lambda path: audio.read(path, 16000)):
        with pytest.raises(AudioError, match=f"is cut short: {total} samples are promised, 32000 are there"):
            use(path)


def test_silence_may_be_as_dense_as_it_likes(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(3_000_000, np.float32), 16000)
    assert (tmp_path / "a.flac").stat().st_size * 64 < 3_000_000
    assert audio.probe(tmp_path / "a.flac").n_frames == len(audio.read(tmp_path / "a.flac", 16000)) == 3_000_000


@pytest.mark.parametrize("riff", [0, 36, 2**32 - 1, None])
@pytest.mark.parametrize("options", [{}, {"subtype": "FLOAT"}, {"format": "WAVEX"}, {"endian": "BIG"}])
def test_wav_whose_writer_did_not_come_back_to_write_its_size(tmp_path, riff, options):
    path = small.sound(tmp_path / "a.wav", 16000, **options)
    whole = audio.read(path, 16000)
    order = ">I" if options.get("endian") else "<I"
    changed(path, path.read_bytes().index(b"data") + 4, bytes(4))
    if riff is not None:
        changed(path, 4, struct.pack(order, riff))
    assert audio.probe(path).n_frames == 16000
    np.testing.assert_array_equal(audio.read(path, 16000), whole)
    np.testing.assert_array_equal(audio.read(path, 16000, start=0.5), whole[8000:])


@pytest.mark.parametrize("size", [0, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize("endian", ["BIG", "LITTLE"])
def test_au_without_its_size(tmp_path, size, endian):
    path = small.sound(tmp_path / "a.au", 16000, endian=endian)
    whole = audio.read(path, 16000)
    changed(path, 8, struct.pack(">I" if endian == "BIG" else "<I", size))
    np.testing.assert_array_equal(audio.read(path, 16000), whole)


@pytest.mark.parametrize("n_samples", [0, 16000])
def test_rf64_without_its_size(tmp_path, n_samples):
    path = small.sound(tmp_path / "a.wav", 16000, format="RF64")
    whole = audio.read(path, 16000)
    changed(path, 28, struct.pack("<QQ", 0, n_samples))
    np.testing.assert_array_equal(audio.read(path, 16000), whole)
    cut = path.read_bytes()[:20000]
    path.write_bytes(cut[:28] + struct.pack("<QQ", 32000, 16000) + cut[44:])
    with pytest.raises(AudioError, match="is cut short"):
        audio.probe(path)


@pytest.mark.parametrize("options", [{}, {"subtype": "PCM_24"}, {"format": "WAVEX"}, {"subtype": "ULAW"}])
def test_more_samples_than_the_header_speaks_of(tmp_path, options):
    """The length wraps at 4 GiB, and recorders that stop at once wrote it some time before."""
    path = small.sound(tmp_path / "a.wav", 40000, **options)
    size = path.read_bytes().index(b"data") + 4
    changed(path, size, struct.pack("<I", 9000))
    with pytest.raises(AudioError, match=r"goes on .*'ffmpeg -ignore_length 1 -i a\.wav a\.flac'"):
        audio.probe(path)
    # what are chunks, and less than a second of whatever it is, are no samples that are missed
    path.write_bytes(path.read_bytes()[: size + 4 + 9000] + b"LIST" + struct.pack("<I", 300_000) + bytes(300_000))
    n = audio.probe(path).n_frames
    path.write_bytes(path.read_bytes()[: size + 4 + 9000] + b"TAG" + bytes(125))
    assert audio.probe(path).n_frames == len(audio.read(path, 16000)) == n


@pytest.mark.parametrize("name", ["a.raw", "a.pcm"])
def test_a_header_counts_for_more_than_a_suffix(tmp_path, name):
    path = tmp_path / name
    small.sound(tmp_path / "a.wav").rename(path)
    assert audio.probe(path).n_frames == len(audio.read(path, 16000)) == 16000


@pytest.mark.parametrize("n_bytes", [0, 300, 200_000])
def test_mp3_behind_and_before_tags(tmp_path, n_bytes):
    path = tmp_path / "a.mp3"
    mpeg.write(path, 16000)
    n = mpeg.without_count(path)
    plain = audio.read(path, 16000)
    size = bytes(n_bytes >> 7 * k & 127 for k in (3, 2, 1, 0))
    tag, frames = b"ID3\4\0\0" + size + b"\xff\xfb\x90" * (n_bytes // 3) + bytes(n_bytes % 3), path.read_bytes()
    for before in (tag, tag + tag, tag + bytes(100), b"no frame", frames[50:90]):
        path.write_bytes(before + frames + b"TAG" + bytes(125))
        assert audio.probe(path).n_frames == n
        np.testing.assert_array_equal(audio.read(path, 16000), plain)


def test_long_files_take_no_more_memory_than_their_samples(tmp_path):
    path = small.sound(tmp_path / "a.wav", 8_000_000, subtype="FLOAT")
    for use, megabytes in ((audio.probe, 8), (lambda path: audio.read(path, 16000), 2.5 * 32)):
        tracemalloc.start()
        use(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < megabytes * 1e6


def test_what_follows_no_samples_is_not_taken_for_samples(tmp_path):
    path = small.sound(tmp_path / "a.wav", 16000)
    header = path.read_bytes()[: path.read_bytes().index(b"data") + 4] + bytes(4)
    for behind in (b"", b"LIST" + struct.pack("<I", 400) + bytes(400)):
        path.write_bytes(header + behind)
        with pytest.raises(AudioError, match="has no samples"):
            audio.probe(path)


@pytest.mark.parametrize("join", ["counted", "half counted", "ogg"])
def test_files_that_were_joined_byte_by_byte(tmp_path, join):
    """libsndfile stops after the first: the rest would be lost in silence."""
    one, two, both = (tmp_path / f"{k}.{'ogg' if join == 'ogg' else 'mp3'}" for k in ("one", "two", "both"))
    if join == "ogg":
        small.sound(one, 32000)
        small.sound(two, 16000, seed=1)
    else:
        mpeg.write(one, 16000)
        mpeg.write(two, 16000)
    both.write_bytes(one.read_bytes() + (b"ID3\4\0" + bytes(5) if join == "half counted" else b"") + two.read_bytes())
    with pytest.raises(AudioError, match=r"is several files in one.*'ffmpeg -i both\.\w+ both\.wav'"):
        audio.probe(both)
    assert audio.probe(one).n_frames == len(audio.read(one, 16000))


def test_an_uncounted_mp3_is_read_through_whatever_was_joined_to_it(tmp_path):
    one, two = tmp_path / "one.mp3", tmp_path / "two.mp3"
    for path in (one, two):
        mpeg.write(path, 16000)
    n = mpeg.without_count(one) + mpeg.without_count(two)
    one.write_bytes(one.read_bytes() + two.read_bytes())
    assert audio.probe(one).n_frames == len(audio.read(one, 16000)) == n


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.au", "a.w64", "a.caf"])
@pytest.mark.parametrize(("scale", "said"), [(2**15, 32768), (2**23, 8388608), (2**31, 2147483648)])
def test_floats_on_the_scale_of_integers(tmp_path, name, scale, said):
    path = tmp_path / name
    samples = 0.9 * small.noise(16000) / np.abs(small.noise(16000)).max() * scale
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    message = rf"samples from -\S+ to \S+, which is not the scale of floats, -1 to 1: divide them by {said} and write"
    for use in (audio.probe, lambda path: audio.read(path, 16000)):
        with pytest.raises(AudioError, match=message):
            use(path)
    good = small.sound(tmp_path / "good.wav")
    assert list(Corpus.build(rows(path, good), max_failures=1).provenance["left_out"]) == ["a"]


def test_floats_may_go_beyond_full_scale(tmp_path):
    for factor, offset in ((8, 0), (1, 200)):
        samples = factor * np.sin(np.arange(16000) / 9) + offset
        soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
        assert audio.probe(tmp_path / "a.wav").n_frames == 16000
        np.testing.assert_allclose(audio.read(tmp_path / "a.wav", 16000), samples, rtol=1e-6)


def test_damage_elsewhere_in_a_file_of_floats_is_none_of_an_utterance(tmp_path):
    samples = small.noise(32000)
    samples[30000:] = np.nan, *[np.inf] * 1999
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    row = rows(tmp_path / "a.wav")[0] | {"start": 0.0, "end": 1.0}
    assert len(audio.read_utterance(Corpus.build([row]).utterances.iloc[0])) == 16000
    soundfile.write(tmp_path / "a.wav", np.full(32000, np.nan), 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite"):
        audio.read_utterance(Corpus.build([row]).utterances.iloc[0])


@pytest.mark.parametrize(
    ("name", "content", "command"),
    [
        ("my talk.m4a", b"\0\0\0\x20ftypM4A " + bytes(99), "'ffmpeg -i 'my talk.m4a' 'my talk.wav''"),
        ("a.webm", b"\x1a\x45\xdf\xa3" + bytes(99), "'ffmpeg -i a.webm a.wav'"),
        ("a.wav", b"no audio", "'ffmpeg -i a.wav a.flac'"),
        (
            "a.sph",
            b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n" + bytes(2000),
            "'sph2pipe -f wav a.sph a.wav'",
        ),
        ("a.raw", bytes(999), "'sox -t raw -r 16000 -e signed -b 16 -c 1 a.raw a.wav'"),
        ("a.PCM", bytes(999), "'sox -t raw -r 16000 -e signed -b 16 -c 1 a.PCM a.wav'"),
    ],
)
def test_kinds_that_cannot_be_read_are_told_and_tolerated(tmp_path, name, content, command):
    (tmp_path / name).write_bytes(content)
    small.sound(tmp_path / "good.wav")
    (tmp_path / "table.csv").write_text(f"audio\n{name}\ngood.wav\n", encoding="utf-8")
    with pytest.raises(AudioError) as caught:
        tables.read_csv(tmp_path / "table.csv")
    assert str(tmp_path / name) in str(caught.value)
    assert command in str(caught.value)
    made = tables.read_csv(tmp_path / "table.csv", max_failures=1)
    assert list(made.utterances["utterance"]) == ["good"]
    note = " (1 utterance cannot be used; 'layertool corpus' leaves it out with --max-failures 1)"
    assert made.provenance["left_out"] == {(tmp_path / name).stem: str(caught.value).removesuffix(note)}
    assert str(caught.value).endswith(note)
    options = ("corpus", "csv", tmp_path / "table.csv", "-o", tmp_path / "c")
    assert command in commands.refused(*options)
    assert "left out" in commands.succeeds(*options, "--max-failures", 1).stdout


def test_every_command_that_reads_audio_into_a_corpus_tolerates_failures():
    without = {
        name
        for name, command in corpus_commands.commands.items()
        if not any("--max-failures" in parameter.opts for parameter in command.params)
    }
    assert without == {"info", "join", "subset"}
