"""What an audio file holds: lengths that are right, and frames that are those of the whole file, of any kind."""

from __future__ import annotations

import io
import math
import mmap
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import soundfile

from layertool.errors import AudioError

_SIZES = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_RF64_FRAMES = re.compile(r"does not match value from 'ds64' chunk of (\d+)")
# ISO 11172-3 2.4.1.3: no reserved version, layer, bit rate or sampling rate
_FRAME = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][%b]" % re.escape(bytes(b for b in range(0xF0) if b & 12 < 12)))
_RIFF = ("WAV", "WAVEX", "RF64")
_BYTES = {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8, "ULAW": 1, "ALAW": 1}
_HEADERLESS = (".raw", ".pcm")
_SIZE_UNKNOWN = 0x7F000000  # bytes; SoX writes that into AIFF, and more into WAV, where it cannot go back
UNKNOWN = 2**63 - 1  # frames, where a header does not tell; libsndfile's own sign for it
_DENSEST = 64  # frames per byte: above that, a header is believed when as many have been decoded
_FLOATS = ("FLOAT", "DOUBLE")
_SEPARATE = ("PCM", "ULAW", "ALAW", *_FLOATS)  # kinds of samples that libsndfile finds anywhere in a file
_COUNTED = ("FLAC", "MP3")  # compressed files whose headers, if they say a number of frames, have counted them
# What a stream goes on with, and what begins another behind it, which libsndfile leaves unread
_STREAMS = {
    "OGG": (rb"OggS\0[^\x02]", rb"OggS\0\x02"),  # streams that lie in one another all begin before the first goes on
    "MP3": (rb"(Xing|Info)\0\0\0[\x01-\x0f]", rb"(Xing|Info)\0\0\0[\x01-\x0f]|ID3[\x02-\x04]\0"),
}
_BLOCK = 1 << 18  # frames decoded at a time
WIDEST_SPAN = 32  # 24 dB beyond full scale, whatever the offset; speech on the scale of integers spans more


@dataclass(frozen=True)
class AudioInfo:
    """What a file holds: frames per channel, sampling rate in Hz, channels, container."""

    n_frames: int
    sample_rate: int
    channels: int
    format: str


def resampled_length(n_frames: int, source_rate: int, target_rate: int) -> int:
    """Length that ``audio.Excerpt.read`` gives for ``n_frames`` at ``source_rate``: rounded half up, as soxr does."""
    return (2 * n_frames * target_rate + source_rate) // (2 * source_rate)


def conversion(path: Path, program: str = "ffmpeg -i") -> str:
    """What to type in the folder of a file to have it as WAV, or as FLAC if it calls itself WAV."""
    target = path.stem + (".flac" if path.suffix.lower() == ".wav" else ".wav")
    return f"{program} {shlex.quote(path.name)} {shlex.quote(target)}"


class _Amendment(NamedTuple):
    """How a file has to look for libsndfile to read all of it: with other bytes at a place, or begun later and longer.

    libsndfile estimates the length of an MP3 that does not say how many frames it has from the length of the file,
    and reads no further than that. It knows files without a name as MP3 only where they begin with a frame.
    """

    place: int = 0
    content: bytes = b""
    growth: float = 1
    begin: int = 0


class _AmendedFile(io.FileIO):
    def __init__(self, path: Path, amendment: _Amendment):
        super().__init__(path)
        self.name = "audio"  # soundfile believes suffixes
        self.amendment = amendment
        self.seek(0)

    def seek(self, offset: int, whence: int = 0) -> int:
        self.is_at_end = whence == 2 and offset == 0
        return super().seek(offset + (self.amendment.begin if whence == 0 else 0), whence)

    def tell(self) -> int:
        place = super().tell() - self.amendment.begin
        return math.ceil(place * self.amendment.growth) if self.is_at_end else place

    def readinto(self, buffer) -> int:
        first = super().tell()
        n = super().readinto(buffer)
        for k, byte in enumerate(self.amendment.content, self.amendment.place - first):
            if 0 <= k < n:
                buffer[k : k + 1] = bytes([byte])
        return n


@dataclass(frozen=True)
class Header:
    """What is known of a file before it is decoded."""

    info: AudioInfo  # n_frames is ``UNKNOWN`` where only decoding tells
    is_decoded: bool  # when a corpus is made of it
    lead: int  # frames to decode before one, so that it is the one of the whole file
    amendment: _Amendment | None
    version: tuple[int, int]  # bytes and time of the last change


def header_of(path: Path) -> Header:
    """What can be known of a file at once. Raises AudioError as ``audio.probe``, as far as that is seen without
    decoding."""
    if not path.exists():
        raise AudioError(f"{path} does not exist: check the path, or make the corpus again if its audio has moved")
    if path.is_dir():
        raise AudioError(f"{path} is a folder, not an audio file")
    if not os.access(path, os.R_OK):
        raise AudioError(f"{path} may not be read: correct its permissions or take it out of the corpus")
    about = path.stat()
    if about.st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes): restore the file or take it out of the corpus")
    info, amendment = _libsndfile_info(path), None
    n_frames = info.frames
    if _holds_more(info, about.st_size) and (place := _unclosed(path, info.format)) is not None:
        if n_frames:
            raise AudioError(
                f"{path} goes on for more than a second behind the samples that its header speaks of: write it anew "
                f"('{conversion(path, 'ffmpeg -ignore_length 1 -i')}'), or take it out of the corpus"
            )
        amendment = _Amendment(*place)
    elif info.subtype.startswith("MPEG"):  # in WAV, too
        begin = _first_frame(path)
        if _libsndfile_info(path, _Amendment(growth=1.005, begin=begin)).frames != n_frames:
            amendment = _Amendment(growth=1000, begin=begin)  # the length was an estimate
    if amendment:
        info = _libsndfile_info(path, amendment)
        n_frames = info.frames if info.format != "MP3" else UNKNOWN
    if n_frames <= 0:
        raise AudioError(f"{path} has no samples: restore the file or take it out of the corpus")
    if _is_cut_short(path, info):
        raise AudioError(f"{path} is cut short: its header promises more samples than there are; restore the file")
    is_separate = info.subtype.startswith(_SEPARATE)
    if not is_separate and info.format not in _COUNTED:
        n_frames = UNKNOWN
    is_doubtful = n_frames > _DENSEST * about.st_size or (info.format == "FLAC" and not _reaches(path, n_frames))
    is_decoded = is_doubtful or info.subtype in _FLOATS or not (is_separate or info.format == "FLAC")
    lead = 0
    if not is_separate:
        # libsndfile finds any place in MP3, but a frame is made with the help of those before it
        lead = info.samplerate if info.format == "MP3" else UNKNOWN
    found = AudioInfo(n_frames, info.samplerate, info.channels, info.format)
    return Header(found, is_decoded, lead, amendment, (about.st_size, about.st_mtime_ns))


def _reaches(path: Path, n_frames: int) -> bool:
    """Whether the last of the frames can be found."""
    try:
        with _source(path, None) as source, soundfile.SoundFile(source) as decoder:
            decoder.seek(n_frames - 1)
            return len(decoder.read(1)) == 1
    except soundfile.LibsndfileError:
        return False


def _first_frame(path: Path) -> int:
    """Where the frames of an MP3 begin: behind tags, and behind what may be no header of a frame."""
    begin = 0
    with open(path, "rb") as file:
        while (tag := file.read(10))[:3] == b"ID3":
            begin += len(tag) + sum(byte << 7 * k for k, byte in enumerate(tag[:5:-1]))
            file.seek(begin)
        file.seek(begin)
        frame = _FRAME.search(file.read(_BLOCK))
    return begin + (frame.start() if frame else 0)


@contextmanager
def _source(path: Path, amendment: _Amendment | None) -> Iterator[_AmendedFile | str]:
    """What soundfile is to open."""
    if amendment is None and path.suffix.lower() not in _HEADERLESS:
        yield str(path)
    else:
        with _AmendedFile(path, amendment or _Amendment()) as file:
            yield file


def _libsndfile_info(path: Path, amendment: _Amendment | None = None):
    try:
        with _source(path, amendment) as source:
            return soundfile.info(source, verbose=True)
    except soundfile.LibsndfileError as error:
        with open(path, "rb") as file:  # NIST files that libsndfile does not read are compressed with shorten
            program = "sph2pipe -f wav" if file.read(7) == b"NIST_1A" else "ffmpeg -i"
        note = ""
        if path.suffix.lower() in _HEADERLESS:
            program, note = "sox -t raw -r 16000 -e signed -b 16 -c 1", " if its samples are 16 bits at 16 kHz"
        raise AudioError(
            f"{path} cannot be read as audio ({error.error_string.strip().rstrip('.')}): convert it to WAV or FLAC "
            f"('{conversion(path, program)}'{note}), or take it out of the corpus"
        ) from error


def _holds_more(info, size: int) -> bool:
    """Whether a file is more than a second longer than its samples, or has none."""
    rate = info.samplerate * info.channels * _BYTES.get(info.subtype, math.inf)
    return info.frames == 0 or (info.format in _RIFF and size - info.duration * rate > rate)


def _unclosed(path: Path, kind: str) -> tuple[int, bytes] | None:
    """Where in a header the length of the samples stands, and what says there: to the end of the file.

    None where what follows the samples is no more of them: their writer came back to fill in the length.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(12)
        order: Literal["little", "big"] = "big" if start[:4] in (b"RIFX", b".snd") else "little"
        if kind == "AU":
            return (8, b"\xff" * 4) if int.from_bytes(start[4:8], order) < size else None
        if kind not in _RIFF:
            return None
        place, end = None, 12  # of the size of the samples; of the chunk before
        while end + 8 <= size:
            file.seek(end)
            chunk, length = file.read(4), int.from_bytes(file.read(4), order)
            place = end + 4 if chunk == b"data" else place
            end += 8 + length + length % 2
        # where chunks follow one another to the very end of the file, none of it is samples
        if place is None or end == size:
            return None
        if kind == "RF64":
            return 28, (size - place - 4).to_bytes(8, "little")
        return place, b"\xff" * 4


def _is_cut_short(path: Path, info) -> bool:
    """Whether the header of an uncompressed file promises more than there is; libsndfile says so only in its log."""
    if info.format == "NIST":
        with open(path, "rb") as file:
            count = re.search(rb"sample_count -i (\d+)", file.read(1024))
        return count is not None and int(count[1]) > info.frames
    sizes = _SIZES.search(info.extra_info)
    promised = _RF64_FRAMES.search(info.extra_info)
    # a program that writes into a pipe cannot go back to fill in the size: all bits set, or the largest it dares
    return (sizes is not None and int(sizes[2]) < int(sizes[1]) < _SIZE_UNKNOWN) or (
        promised is not None and info.frames < int(promised[1])
    )


def blocks(path: Path, header: Header, first: int = 0, stop: int = UNKNOWN) -> Iterator[np.ndarray]:
    """The frames [first, stop), as far as they are there, in blocks (frames, channels) of float32.

    They are what lies there when the whole file is decoded.
    """
    position = max(0, first - header.lead)
    try:
        with _source(path, header.amendment) as source, _Decoder(source) as decoder:
            if position:
                decoder.seek(position)
            while position < stop and len(
                block := decoder.read(min(_BLOCK, stop - position), dtype="float32", always_2d=True)
            ):
                yield block[max(0, first - position) :]
                position += len(block)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path} breaks off or is damaged ({error.error_string.strip().rstrip('.')}): restore the file"
        ) from error


class _Decoder(soundfile.SoundFile):
    """A file read from block to block: soundfile seeks after each, which spoils MP3 and fails at the end of FLAC."""

    def seekable(self) -> bool:
        """No: then soundfile leaves the place alone."""
        return False


def completed(path: Path, header: Header) -> AudioInfo:
    """The facts of a header, with the length by decoding where that is needed. Errors as ``audio.probe``."""
    if not header.is_decoded:
        return header.info
    n_frames, extremes = _decoded(path, header)
    if not n_frames:
        raise AudioError(f"{path} has no samples: restore the file or take it out of the corpus")
    if header.info.n_frames != UNKNOWN:
        check_length(path, header.info.n_frames, n_frames)
    if header.info.format in _STREAMS and _is_joined(path, *_STREAMS[header.info.format]):
        raise AudioError(
            f"{path} is several files in one, and only the first could be read: join them as audio "
            f"('{conversion(path)}'), or take it out of the corpus"
        )
    check_scale(path, extremes)
    return replace(header.info, n_frames=n_frames)


def _is_joined(path: Path, within: bytes, another: bytes) -> bool:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        first = re.search(within, content)
        return first is not None and re.compile(another).search(content, first.end()) is not None


@lru_cache(maxsize=1 << 16)
def _decoded(path: Path, header: Header) -> tuple[int, tuple[float, float]]:
    """Frames of a whole file, and the smallest and largest sample that are numbers. The header tells versions apart."""
    n_frames, low, high = 0, math.inf, -math.inf
    for block in blocks(path, header):
        n_frames += len(block)
        finite = block[np.isfinite(block)]
        low, high = finite.min(initial=low), finite.max(initial=high)
    return n_frames, (low, high) if low <= high else (0.0, 0.0)


def check_length(path: Path, promised: int, found: int) -> None:
    """Raise AudioError when there are fewer samples than a header promises."""
    if found < promised:
        raise AudioError(f"{path} is cut short: {promised} samples are promised, {found} are there; restore the file")


def check_scale(where: Path | str, samples: np.ndarray | tuple[float, float]) -> None:
    """Raise AudioError when samples, or their extremes, must be integers written as floats: they span far too much."""
    low, high = float(np.min(samples)), float(np.max(samples))
    if high - low > WIDEST_SPAN:
        full = next((scale for scale in (2**15, 2**23) if max(high, -low) <= scale), 2**31)
        raise AudioError(
            f"{where} has samples from {low:.6g} to {high:.6g}, which is not the scale of floats, -1 to 1: divide them "
            f"by {full} and write the file anew, or take it out of the corpus"
        )
