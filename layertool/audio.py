"""Reading audio: one channel, one rate, checked."""

from __future__ import annotations

import io
import math
import mmap
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import soundfile
import soxr

from layertool.errors import AudioError, UsageError
from layertool.geometry import SAMPLE_RATE

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf", ".sph"})
_SIZES = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_RF64_FRAMES = re.compile(r"does not match value from 'ds64' chunk of (\d+)")
# ISO 11172-3 2.4.1.3: no reserved version, layer, bit rate or sampling rate
_FRAME = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][%b]" % re.escape(bytes(b for b in range(0xF0) if b & 12 < 12)))
_RIFF = ("WAV", "WAVEX", "RF64")
_BYTES = {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8, "ULAW": 1, "ALAW": 1}
_HEADERLESS = (".raw", ".pcm")
_SIZE_UNKNOWN = 2**31 - 2**16
_UNKNOWN = 2**63 - 1  # frames, where a header does not tell; libsndfile's own sign for it
_DENSEST = 64  # frames per byte: above that, a header is believed when as many have been decoded
_FLOATS = ("FLOAT", "DOUBLE")
_SEPARATE = ("PCM", "ULAW", "ALAW", *_FLOATS)  # kinds of samples that libsndfile finds anywhere in a file
# The beginning of a stream, and what begins another behind it, which libsndfile leaves unread
_STREAMS = {
    "OGG": (rb"OggS\0\x02", rb"OggS\0\x02"),
    "MP3": (rb"(Xing|Info)\0\0\0[\x01-\x0f]", rb"(Xing|Info)\0\0\0[\x01-\x0f]|ID3[\x02-\x04]\0"),
}
_BLOCK = 1 << 18  # frames decoded at a time
HIGHEST_PEAK = 16  # 24 dB beyond full scale; speech that is written in integers has higher ones
RESAMPLER = f"soxr {soxr.__version__} HQ"


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says: frames per channel, sampling rate in Hz, channels, container."""

    n_frames: int
    sample_rate: int
    channels: int
    format: str

    def n_samples(self, sample_rate: int) -> int:
        """Samples after resampling to ``sample_rate`` (the number soxr gives)."""
        return resampled_length(self.n_frames, self.sample_rate, sample_rate)


def resampled_length(n_frames: int, source_rate: int, target_rate: int) -> int:
    """Length that ``read`` gives for ``n_frames`` at ``source_rate``: rounded half up, as soxr does."""
    return (2 * n_frames * target_rate + source_rate) // (2 * source_rate)


def check_channel(channel: str | None) -> str | None:
    """Return ``channel`` if it is None, 'mix', 'sum' or a channel number; raise UsageError otherwise."""
    if channel is None or channel in ("mix", "sum") or channel.isdecimal():
        return channel
    raise UsageError(f"'{channel}' is no channel: give a number from 0, 'mix' (mean of all) or 'sum' (sum of all)")


def probe(path: Path | str) -> AudioInfo:
    """What a file holds: by its header, or by decoding it once where the header cannot be trusted with that.

    Decoded are MP3 and Ogg, FLAC without a credible length, and floats, for their scale. A second call
    does not decode again. Raises AudioError when the file is missing, not audio, empty, damaged, shorter than its
    header says, or not on the scale from -1 to 1.
    """
    return _completed(Path(path), _header(Path(path)))


def probe_all(paths: Iterable[str]) -> dict[str, AudioInfo | AudioError]:
    """``probe`` of many files, an error in place of what it prevents; threads decode what has to be."""
    headers = {path: _outcome(_header, Path(path)) for path in paths}
    with ThreadPoolExecutor() as pool:
        futures = {
            path: pool.submit(_outcome, _completed, Path(path), header)
            for path, header in headers.items()
            if isinstance(header, _Header) and header.is_decoded
        }
        return {
            path: futures[path].result() if path in futures else getattr(header, "info", header)
            for path, header in headers.items()
        }


def _outcome(function: Callable, *arguments):
    try:
        return function(*arguments)
    except AudioError as error:
        return error


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
class _Header:
    """What is known of a file before it is decoded."""

    info: AudioInfo  # n_frames is ``_UNKNOWN`` where only decoding tells
    is_decoded: bool  # when a corpus is made of it
    lead: int  # frames to decode before one, so that it is the one of the whole file
    amendment: _Amendment | None
    version: tuple[int, int]  # bytes and time of the last change


def _header(path: Path) -> _Header:
    if not path.exists():
        raise AudioError(f"{path} does not exist: check the path, or make the corpus again if its audio has moved")
    if path.is_dir():
        raise AudioError(f"{path} is a folder, not an audio file")
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
    elif info.format == "MP3":
        begin = _first_frame(path)
        if _libsndfile_info(path, _Amendment(growth=1.005, begin=begin)).frames != n_frames:
            amendment = _Amendment(growth=1000, begin=begin)  # the length was an estimate
    if amendment:
        info = _libsndfile_info(path, amendment)
        n_frames = info.frames if info.format != "MP3" else _UNKNOWN
    if n_frames <= 0:
        raise AudioError(f"{path} has no samples: restore the file or take it out of the corpus")
    if _is_cut_short(path, info):
        raise AudioError(f"{path} is cut short: its header promises more samples than there are; restore the file")
    if info.format == "OGG":
        n_frames = _UNKNOWN
    is_decoded = info.format == "MP3" or info.subtype in _FLOATS or n_frames > _DENSEST * about.st_size
    lead = 0
    if not info.subtype.startswith(_SEPARATE):
        # libsndfile finds any place in MP3, but a frame is made with the help of those before it
        lead = info.samplerate if info.format == "MP3" else _UNKNOWN
    found = AudioInfo(n_frames, info.samplerate, info.channels, info.format)
    return _Header(found, is_decoded, lead, amendment, (about.st_size, about.st_mtime_ns))


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
    # a program that writes into a pipe cannot go back to fill in the size: all bits set, or the largest it dares
    promised = _RF64_FRAMES.search(info.extra_info)
    return (sizes is not None and int(sizes[2]) < int(sizes[1]) < _SIZE_UNKNOWN) or (
        promised is not None and info.frames < int(promised[1])
    )


def cut(path: Path | str, info: AudioInfo, start: float | None, end: float | None) -> tuple[int, int]:
    """First and one-past-last frame, at the file's own rate, of an utterance given in seconds (None: the file's ends).

    Raises AudioError when they do not lie in the file (1 ms beyond its end passes).
    """
    first = 0 if start is None else round(start * info.sample_rate)
    stop = info.n_frames if end is None else round(end * info.sample_rate)
    if not 0 <= first < stop or first >= info.n_frames or stop > info.n_frames + info.sample_rate // 1000:
        lasts = ":" if info.n_frames == _UNKNOWN else f" lasts {info.n_frames / info.sample_rate:.3f} s, but"
        raise AudioError(
            f"{path}{lasts} an utterance is given as "
            f"{0 if start is None else start:g} to {'the end' if end is None else f'{end:g}'} s of it: correct start and end"
        )
    return first, min(stop, info.n_frames)


def read(
    path: Path | str,
    sample_rate: int,
    channel: str | None = None,
    start: float | None = None,
    end: float | None = None,
    n_samples: int | None = None,
) -> np.ndarray:
    """Read one utterance as a float32 waveform of shape (n_samples,) at ``sample_rate`` Hz.

    ``channel``: None for mono files, a number from 0, 'mix' (mean of the channels) or 'sum'.
    ``start``, ``end``: seconds inside the file; None for its ends. Other rates are resampled with
    soxr (HQ). ``n_samples``: how many there were when a corpus was made of it. Raises AudioError for whatever makes
    the samples unusable, and where there are not ``n_samples``.
    """
    path = Path(path)
    header = _header(path)
    info = header.info
    first, stop = cut(path, info, start, end)
    mono = _joined(_one_channel(block, check_channel(channel), path) for block in _blocks(path, header, first, stop))
    if info.n_frames == _UNKNOWN and len(mono) < stop - first:  # this is where it ends
        known = replace(info, n_frames=first + len(mono)) if len(mono) else _completed(path, header)
        first, stop = cut(path, known, start, end)
    _check_length(path, stop - first, len(mono))
    if not np.isfinite(mono).all():
        raise AudioError(f"{path} has samples that are not finite (NaN or infinite): write the file anew")
    check_scale(path, mono)
    if info.sample_rate != sample_rate:
        mono = soxr.resample(mono, info.sample_rate, sample_rate, quality="HQ")
    if n_samples not in (None, len(mono)):
        raise AudioError(
            f"{path} gives {len(mono)} samples, {n_samples} were there when the corpus was made: make the corpus again"
        )
    return np.ascontiguousarray(mono, dtype=np.float32)


def _blocks(path: Path, header: _Header, first: int = 0, stop: int = _UNKNOWN) -> Iterator[np.ndarray]:
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


def _joined(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Blocks of samples as one array, with no second copy of it in memory, and no memory for what is only promised."""
    samples, n = np.empty(0, np.float32), 0
    for block in blocks:
        if n + len(block) > len(samples):
            samples.resize(max(n + len(block), n + n // 4), refcheck=False)
        samples[n : n + len(block)] = block
        n += len(block)
    samples.resize(n, refcheck=False)
    return samples


def _completed(path: Path, header: _Header) -> AudioInfo:
    """The facts of a header, with the length by decoding where that is needed. Errors as ``probe``."""
    if not header.is_decoded:
        return header.info
    n_frames, extremes = _decoded(path, header)
    if not n_frames:
        raise AudioError(f"{path} has no samples: restore the file or take it out of the corpus")
    if header.info.n_frames != _UNKNOWN:
        _check_length(path, header.info.n_frames, n_frames)
    if header.info.format in _STREAMS and _is_joined(path, *_STREAMS[header.info.format]):
        raise AudioError(
            f"{path} is several files in one, and only the first could be read: join them as audio "
            f"('{conversion(path)}'), or take it out of the corpus"
        )
    check_scale(path, extremes)
    return replace(header.info, n_frames=n_frames)


def _is_joined(path: Path, beginning: bytes, another: bytes) -> bool:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        first = re.search(beginning, content)
        return first is not None and re.compile(another).search(content, first.end()) is not None


@lru_cache(maxsize=1 << 16)
def _decoded(path: Path, header: _Header) -> tuple[int, tuple[float, float]]:
    """Frames of a whole file, and the smallest and largest sample that are numbers. The header tells versions apart."""
    n_frames, low, high = 0, 0.0, 0.0
    for block in _blocks(path, header):
        n_frames += len(block)
        finite = block[np.isfinite(block)]
        low, high = min(low, finite.min(initial=0)), max(high, finite.max(initial=0))
    return n_frames, (float(low), float(high))


def _check_length(path: Path, promised: int, found: int) -> None:
    if found < promised:
        raise AudioError(f"{path} is cut short: {promised} samples are promised, {found} are there; restore the file")


def check_scale(where: Path | str, samples: np.ndarray | tuple[float, float]) -> None:
    """Raise AudioError when samples, or their extremes, must be integers written as floats: far beyond -1 to 1."""
    peak = max(np.max(samples), -np.min(samples))
    if peak > HIGHEST_PEAK:
        full = next((scale for scale in (2**15, 2**23) if peak <= scale), 2**31)
        raise AudioError(
            f"{where} has samples up to {peak:.6g}, which is not the scale of floats, -1 to 1: divide them by {full} and "
            "write the file anew, or take it out of the corpus"
        )


def read_utterance(row: Any, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Read the audio of one row of a corpus's utterances. Errors as ``read``."""
    channel, start, end = (
        None if (value := row[name]) is None or value != value else value for name in ("channel", "start", "end")
    )
    return read(row["audio"], sample_rate, channel, start, end, row["n_samples"])


def _one_channel(samples: np.ndarray, channel: str | None, path: Path) -> np.ndarray:
    n_channels = samples.shape[1]
    require_channel(path, n_channels, channel)
    if channel is None:
        return samples[:, 0]
    if channel == "mix":
        return samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    if channel == "sum":
        return samples.sum(axis=1, dtype=np.float64).astype(np.float32)
    return samples[:, int(channel)]


def require_channel(path: Path | str, n_channels: int, channel: str | None) -> None:
    """Raise AudioError when a file of several channels comes without a choice, or lacks the chosen one."""
    if channel is None and n_channels > 1:
        raise AudioError(
            f"{path} has {n_channels} channels: say which to take with --channel 0 (to {n_channels - 1}), "
            "or --channel mix for their mean"
        )
    if channel is not None and channel.isdecimal() and int(channel) >= n_channels:
        raise AudioError(f"{path} has no channel {channel}: it has {n_channels}, counted from 0")
