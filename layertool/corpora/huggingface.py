"""Reading a Hugging Face dataset: saved on disk, a folder of parquet or audio files, or from the hub.

The library ``datasets`` finds and downloads the tables; it decodes nothing (that would need
torchcodec) and runs no code of the dataset: what an audio column holds is copied byte by byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa

from layertool import audio, columns
from layertool.corpora import cells
from layertool.corpora.alignments import Progress
from layertool.corpora.corpus import AUDIO_COLUMNS, Corpus, check_unique
from layertool.corpora.failures import Failures
from layertool.errors import CorpusError, MissingExtraError
from layertool.spelling import nfc

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_SCALARS = re.compile(r"(large_)?string|u?int\d+|float\d+|bool")
_BATCH = 16  # rows of audio in memory at once


def read(
    source: Path | str,
    out: Path | str,
    split: str | None = None,
    config: str | None = None,
    audio_column: str | None = None,
    id_column: str | None = None,
    text_column: str | None = None,
    name: str | None = None,
    channel: str | None = None,
    progress: Progress | None = None,
    max_failures: int = 0,
) -> Corpus:
    """Make a corpus from one split of a dataset, one utterance per row.

    ``source``: a folder (written by ``save_to_disk``, or one that ``load_dataset`` reads) or a hub id,
    optionally ``id@revision``. Audio is written to ``out``/audio: embedded files unchanged, arrays
    (``array``, ``sampling_rate``; one or (channels, samples) dimensions) as 32-bit float WAV. Files that
    a local dataset only names stay where they are. Columns of text, numbers, truth values and
    class labels (by name) become metadata, ``text_column`` under the name ``text``; those named
    like a column of the corpus itself get ``source_`` before their name; all others are listed in
    ``provenance["columns_left_out"]``. Utterance ids come from ``id_column``, else from ``id`` or
    ``utterance`` if these are unique, else they are row numbers. Up to ``max_failures`` rows with unusable audio
    are left out, with their errors in ``provenance["left_out"]``. ``progress``: called with the number
    of rows done and the number of all.

    Raises MissingExtraError, CorpusError (what is asked for is not there, or a choice is needed), AudioError.
    """
    channel = audio.check_channel(channel)
    audio_column, id_column, text_column = (name and nfc(name) for name in (audio_column, id_column, text_column))
    dataset, facts, root = load(source, split, config)
    source, column = str(source), _audio_column(dataset, audio_column, str(source))
    scalars = [c for c, feature in dataset.features.items() if c != column and is_scalar(feature)]
    table = scalar_table(dataset, scalars)
    ids, id_column = _ids(table, id_column, source)
    metadata = _metadata(table, id_column, text_column, source)
    left_out = Failures(max_failures)
    audio_cells = arrow_cells(dataset, [column])
    paths = cells.write_all(out, audio_cells, ids, source, root, channel, left_out, progress)
    provenance: dict = {"reader": "huggingface", **facts, "audio_column": column}
    if others := [c for c in dataset.column_names if c not in (column, *scalars)]:
        provenance["columns_left_out"] = others
    utterances = pd.concat([pd.DataFrame({"utterance": ids, "channel": channel}, dtype=object), metadata], axis=1)
    utterances = utterances[utterances["utterance"].isin(paths)].assign(audio=list(paths.values()))
    name = name or (root.name if root is not None else source.partition("@")[0].rpartition("/")[2])
    return Corpus.build(utterances, None, name, provenance, max_failures, left_out)


def _is_local(source: str, of_parquet: bool) -> bool:
    """Whether ``source`` is a folder, or a file of parquet where that may be, and not a hub id. Raises CorpusError."""
    path = Path(source)
    if path.is_dir() or (of_parquet and path.is_file() and path.suffix.lower() == ".parquet"):
        return True
    if path.exists():
        raise CorpusError(f"{source} is a file: give the folder that it is in")
    if path.is_absolute() or source.startswith((".", "~")) or source.partition("@")[0].count("/") > 1:
        raise CorpusError(f"{source} does not exist: check the folder, or give the id of a dataset on the hub")
    return False


def load(
    source: Path | str, split: str | None, config: str | None, usual_split: str | None = None
) -> tuple[Dataset, dict, Path | None]:
    """One split of a dataset, the facts of where it came from (config, revision, split), and its folder if it has one.

    ``source``: a folder or a hub id; or, where there is a ``usual_split``, which is taken of several if ``split`` is
    None, one parquet file. Raises MissingExtraError, CorpusError.
    """
    source = str(source)
    local = _is_local(source, usual_split is not None)
    place = Path(source).resolve()
    origin: dict = {"source": str(place) if local else source}
    try:
        import datasets
        import huggingface_hub
    except ImportError as error:
        raise MissingExtraError("datasets", "huggingface", "reading a Hugging Face dataset") from error
    huggingface_hub.utils.logging.set_verbosity_error()  # retries without network are told by the error below

    class UndecodedAudio(datasets.Audio):
        """An Audio column of paths and bytes; the library's own asks for torchcodec even to store a path."""

        def encode_example(self, value):
            if isinstance(value, dict):
                return {"bytes": value.get("bytes"), "path": value.get("path")}
            return {"bytes": None, "path": str(value)}

    try:
        if local and any((place / file).is_file() for file in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(str(place))
        else:
            path, _, revision = (str(place), "", "") if local else source.partition("@")
            files = {usual_split: path} if place.is_file() else None
            path = "parquet" if files else path
            builder = datasets.load_dataset_builder(path, name=config, revision=revision or None, data_files=files)
            if getattr(builder, "BASE_FEATURE", None) is datasets.Audio:
                builder.BASE_FEATURE = UndecodedAudio
            builder.download_and_prepare()
            loaded = builder.as_dataset()
            if files is None:
                origin["config"] = builder.config.name
            if not local:
                commit = re.fullmatch("[0-9a-f]{40}", builder.hash or "")
                origin["revision"] = commit[0] if commit else revision or None
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, datasets.exceptions.DatasetsError) as error:
        raise CorpusError(_load_message(source, local, error)) from error
    dataset, origin["split"] = _choose_split(loaded, split, usual_split, source)
    names = {name: nfc(name) for name in dataset.column_names}
    if len(set(names.values())) < len(names):
        raise CorpusError(f"{source} has two columns whose names are the same letters: rename one of them")
    root = None if not local else place if place.is_dir() else place.parent
    return dataset.rename_columns(names), origin, root


def _load_message(source: str, local: bool, error: Exception) -> str:
    cause = error.__cause__ or error
    text = " ".join(str(cause).split()).rstrip(".")
    if isinstance(cause, ImportError):
        return (
            f"{source} has a layout that datasets cannot read here ({text}): install that, "
            "or unpack the audio files and use 'layertool corpus folder'"
        )
    if "scripts are no longer supported" in text:
        other = (
            "a version without it" if local else f"its parquet files, {source.partition('@')[0]}@refs/convert/parquet"
        )
        return f"{source} would have to run its own code, which layertool never does: give {other}"
    if re.match(r"Config name is missing|BuilderConfig '.*' not found", text):
        return f"{source} needs another --config NAME ({text.partition(' Example of usage')[0]})"
    remedy = "check its files" if local else "check the id and the connection (private datasets: set HF_TOKEN)"
    return f"{source} cannot be read as a dataset ({text}): {remedy}"


def _choose_split(
    loaded: Dataset | DatasetDict, split: str | None, usual: str | None, source: str
) -> tuple[Dataset, str | None]:
    if not isinstance(loaded, dict):
        there = None if loaded.split is None else str(loaded.split)
        if split not in (None, there):
            raise CorpusError(
                f"{source} is the single split '{there or 'without name'}', not '{split}': leave out --split"
            )
        return loaded, there
    names = ", ".join(loaded)
    if split is None:
        if len(loaded) > 1 and usual not in loaded:
            raise CorpusError(f"{source} has the splits {names}: choose one with --split NAME")
        split = usual if usual in loaded else next(iter(loaded))
    if split not in loaded:
        raise CorpusError(f"{source} has no split '{split}': choose from {names} with --split NAME")
    return loaded[split], split


def _audio_column(dataset: Dataset, audio_column: str | None, source: str) -> str:
    """The column that holds the audio: the one asked for, or the only one that looks like audio."""
    features = dataset.features
    there = ", ".join(features)
    if audio_column is not None:
        columns.require(features, [audio_column], source, "choose one with --audio-column NAME")
        if not may_hold_audio(features[audio_column]):
            raise CorpusError(
                f"the column '{audio_column}' of {source} holds no audio, paths or bytes: "
                f"choose another of {there} with --audio-column NAME"
            )
        return audio_column
    found = [column for column, feature in features.items() if _is_audio(feature)]
    if len(found) == 1:
        return found[0]
    raise CorpusError(
        f"{source} has the audio columns {', '.join(found)}: choose one with --audio-column NAME"
        if found
        else f"{source} has no column of audio (columns there: {there}): "
        "if one holds the paths or bytes of audio files, name it with --audio-column NAME"
    )


def may_hold_audio(feature) -> bool:
    """Whether a feature is audio, or text (paths) or bytes, which may be."""
    return _is_audio(feature) or getattr(feature, "dtype", "") in ("string", "large_string", "binary", "large_binary")


def _is_audio(feature) -> bool:
    """Whether a feature is Audio, or a dict of the same content without that name."""
    from datasets import Audio

    return isinstance(feature, Audio) or (
        isinstance(feature, dict) and ({"bytes", "path"} <= set(feature) or {"array", "sampling_rate"} <= set(feature))
    )


def is_scalar(feature) -> bool:
    """Whether a feature is text, numbers, truth values or class labels."""
    from datasets import ClassLabel, Value

    return isinstance(feature, ClassLabel) or (
        isinstance(feature, Value) and _SCALARS.fullmatch(feature.dtype) is not None
    )


def scalar_table(dataset: Dataset, columns: list[str]) -> pd.DataFrame:
    """The scalar columns as they are; class labels by their names, missing ones None."""
    from datasets import ClassLabel

    table = {}
    for column in columns:
        values = dataset.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()
        feature = dataset.features[column]
        if isinstance(feature, ClassLabel):
            # -1 stands for an unknown label (test splits)
            values = [None if value is None or value < 0 else feature.names[value] for value in values]
        table[column] = pd.Series(values, dtype=object)
    return pd.DataFrame(table, index=range(len(dataset)))


def _ids(table: pd.DataFrame, id_column: str | None, source: str) -> tuple[list[str], str | None]:
    """Utterance ids, and the column they come from (None: row numbers)."""
    if id_column is not None:
        columns.require(table, [id_column], f"the table of text and numbers of {source}", "choose another --id-column")
        columns.require_filled(table, [id_column], source, "choose another --id-column")
        ids = [nfc(str(value)) for value in table[id_column]]
        check_unique(pd.Series(ids), f"the column '{id_column}' of {source}")
        return ids, id_column
    for column in ("id", "utterance"):
        ids = [nfc(str(value)) for value in table.get(column, ())]
        if ids and table[column].notna().all() and len(set(ids)) == len(table):
            return ids, column
    width = len(str(len(table) - 1))
    return [f"{row:0{width}d}" for row in range(len(table))], None


def _metadata(table: pd.DataFrame, id_column: str | None, text_column: str | None, source: str) -> pd.DataFrame:
    """The other columns, ``text_column`` as ``text``, and none named like one that says where the audio is."""
    texts = [] if text_column is None else [text_column]
    columns.require(table, texts, f"the table of text and numbers of {source}", "choose another --text-column")
    names: dict[str, str] = {}
    for column in [*texts, *(column for column in table if column not in (id_column, text_column))]:
        name = "text" if column == text_column else column
        while name in AUDIO_COLUMNS or name in names.values():
            name = f"source_{name}"
        names[column] = name
    return table[list(names)].rename(columns=names)


def arrow_cells(dataset: Dataset, columns: Sequence[str]) -> Iterator[pa.Scalar]:
    """The cells of ``columns``, one row after the other, undecoded; few rows are in memory at once."""
    for batch in dataset.select_columns(list(columns)).with_format("arrow").iter(_BATCH):
        yield from chain.from_iterable(zip(*(batch.column(column) for column in columns), strict=True))
