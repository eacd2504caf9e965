"""Cells of a table's audio column, written as files: embedded files, arrays of samples, or files that are only
named."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
import xxhash
from scipy.io import wavfile

from layertool import audio, audio_files
from layertool.corpora.failures import Failures
from layertool.corpora.on_disk import CorpusFolder
from layertool.errors import AudioError, CorpusError
from layertool.files import whole_file
from layertool.spelling import on_disk

_SUFFIXES = {
    "WAV": ".wav",
    "WAVEX": ".wav",
    "RF64": ".wav",
    "MP3": ".mp3",
    "NIST": ".sph",
}  # others: as libsndfile says
_LONGEST_STEM = 100  # characters; file systems allow 255 bytes, the temporary name of a file is longer than its own


def file_stems(ids: list[str]) -> list[str]:
    """File names without suffix: the ids where they are safe and differ in more than case, else with a hash."""
    stems, taken = [], set()
    for utterance in ids:
        stem = re.sub(r"[^A-Za-z0-9_.+-]|^\.", "_", utterance)[:_LONGEST_STEM]
        if not stem or stem != utterance or stem.lower() in taken:
            stem = f"{stem}-{xxhash.xxh3_64_hexdigest(utterance.encode())}"
        taken.add(stem.lower())
        stems.append(stem)
    return stems


def write_all(
    out: Path | str,
    cells: Iterable[pa.Scalar],
    ids: list[str],
    source: str,
    root: Path | None,
    channel: str | None,
    left_out: Failures,
    progress: Callable[[int, int], None] | None,
) -> dict[str, str]:
    """Write the cells of the utterances ``ids`` into the new audio folder of the corpus ``out``: their paths by id.

    Embedded files are written unchanged, arrays as 32-bit float WAV; of a file that a local dataset ``source``, with
    the folder ``root``, only names, the path is taken. What cannot be used goes to ``left_out``, as far as that shows
    now, before the last of all is written.
    """
    paths: dict[str, str] = {}
    with CorpusFolder(out) as place:
        folder = place.new_audio()
        stems = file_stems(ids)
        for n, (one, stem, cell) in enumerate(zip(ids, stems, cells, strict=True), 1):
            with left_out.tolerated(one):
                where = f"utterance '{one}' of {source}"
                if pa.types.is_struct(cell.type) and cell.type.get_field_index("bytes") < 0:
                    path = _write_array(cell, folder / stem, where)
                else:
                    path = _write_file(cell.as_py(), folder / stem, root, where)
                audio.require_channel(path, audio_files.header_of(path).info.channels, channel)
                paths[one] = str(path)
            if progress is not None:
                progress(n, len(ids))
    return paths


def _write_file(value, stem: Path, root: Path | None, where: str) -> Path:
    """Write the file that an audio column holds, unchanged; return its path, or that of the local file it names.

    ``stem``: the path without suffix. ``value``: a dict of bytes and path, or either of them. ``root``: the folder of
    a local dataset. ``where`` begins the messages. Raises CorpusError, AudioError.
    """
    if isinstance(value, dict):
        content, given = value.get("bytes"), value.get("path") or ""
    else:
        content, given = (value, "") if isinstance(value, bytes) else (None, value or "")
    if not content and not given:
        raise CorpusError(f"{where} has no audio: take it out of the dataset")
    if not content and given.startswith("zip://"):
        content, given = _unzip(given, where)
    elif not content:
        file = _named_file(given, root, where)
        if root is not None:
            return file
        content = file.read_bytes()  # it lies in the cache of the hub, which may be cleared
    suffix = Path(given).suffix.lower()
    path = stem.with_name(stem.name + (suffix if suffix in audio.SUFFIXES else _sniff(content, where)))
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
    return path


def _write_array(item: pa.StructScalar, stem: Path, where: str) -> Path:
    """Write decoded samples, (samples,) or (channels, samples), as a WAV file of 32-bit floats."""
    if not item.is_valid or not item["array"].is_valid:
        raise CorpusError(f"{where} has no audio: take it out of the dataset")
    rate = item["sampling_rate"].as_py()
    if not isinstance(rate, int) or rate <= 0:
        raise CorpusError(f"{where} has the sampling rate {rate}: correct it in the dataset")
    array = item["array"]
    values = (array.value if isinstance(array, pa.ExtensionScalar) else array).values
    try:
        nested = pa.types.is_nested(values.type)
        samples = np.array(values.to_pylist()) if nested else values.to_numpy(zero_copy_only=False)
    except ValueError as error:
        raise CorpusError(f"{where} has channels of different lengths: correct it in the dataset") from error
    if samples.dtype.kind != "f" or not samples.size:
        raise CorpusError(
            f"{where} holds no fractions: give its samples as floats between -1 and 1, or embed the files"
        )
    audio_files.check_scale(where, samples)
    path = stem.with_name(f"{stem.name}.wav")
    with whole_file(path) as temporary:
        # libsndfile would write the time of day into a float WAV
        wavfile.write(temporary, rate, np.ascontiguousarray(samples.T, dtype=np.float32))
    return path


def _named_file(given: str, root: Path | None, where: str) -> Path:
    """The file that a dataset only names: absolute, or relative to a local dataset or the working folder."""
    for folder in (root, Path.cwd()):
        if folder is not None and (file := on_disk(folder / given)).is_file():
            return file
    raise CorpusError(
        f"{where} names the audio file {given}, which does not exist here: "
        "bring the files to that place, or save the dataset with its audio embedded"
    )


def _unzip(given: str, where: str) -> tuple[bytes, str]:
    """A member of a local archive, named as ``zip://member::archive``: its content and its name."""
    member, _, archive = given.removeprefix("zip://").partition("::")
    try:
        with _archive(archive).open(member) as file:
            return file.read(), member
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise CorpusError(f"{where} cannot be read from {given} ({error}): restore the archive") from error


@lru_cache(maxsize=8)
def _archive(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _sniff(content: bytes, where: str) -> str:
    """The usual suffix of an audio file's content."""
    try:
        kind = soundfile.info(BytesIO(content)).format
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{where} holds {len(content)} bytes that are no audio ({error.error_string.strip().rstrip('.')}): "
            "take it out of the dataset"
        ) from error
    return _SUFFIXES.get(kind, f".{kind.lower()}")
