"""A corpus: a folder with the tables ``utterances`` and ``segments``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import xxhash

from layertool import audio, columns
from layertool.audio_files import resampled_length
from layertool.corpora import on_disk
from layertool.corpora.table_files import AUDIO_NAMES, named, read_one_of
from layertool.corpora.times import fit_stretches
from layertool.errors import AudioError, CorpusError
from layertool.geometry import END_TOLERANCE, SAMPLE_RATE, seconds_to_samples
from layertool.kinds import CORPUS, mistaken
from layertool.non_speech import is_speech
from layertool.spelling import nfc_values

SCHEMA = 1
_LOCATED = ("audio", "start", "end")  # columns whose types `build` sees to
SEGMENT_COLUMNS = ["utterance", "tier", "start", "end", "label"]
# Columns of `utterances` that say where the audio is; every other column is metadata.
AUDIO_COLUMNS = ["utterance", "audio", "start", "end", "channel", "sample_rate", "n_samples"]
_CODED = ["utterance", "tier"]  # columns of `segments` with few values, kept as categories: half of the memory
_FEW_SEGMENTS = 1_000_000  # their fingerprint takes less than a second
BLOCK_ROWS = 1 << 13  # segments that are looked at at a time: LibriSpeech has 44 million


@dataclass
class Corpus:
    """Utterances with their audio and metadata, and the labelled segments inside them.

    ``utterances``: DataFrame, one row each, in corpus order. ``utterance`` is the id, ``audio`` the
    absolute path, ``start`` and ``end`` seconds in that file (missing: the whole file), ``channel``
    which channel to take (missing: the file is mono), ``sample_rate`` the file's own, ``n_samples``
    the length at 16 kHz; all other columns are metadata (speaker, gender, text, ...).
    ``segments``: DataFrame utterance, tier (``phone``, ``word``, ...), start, end (seconds from the
    start of the utterance), label; ordered by utterance, tier and start. ``utterance`` and ``tier`` are
    categories (pandas.Categorical), in alphabetical order.
    """

    utterances: pd.DataFrame
    segments: pd.DataFrame
    name: str = "corpus"
    provenance: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.segments = _coded(self.segments)

    @classmethod
    def build(
        cls,
        utterances,
        segments=None,
        name: str = "corpus",
        provenance: dict | None = None,
        max_failures: int = 0,
        left_out: Mapping[str, str] | None = None,
        stretches: pd.DataFrame | None = None,
    ) -> Corpus:
        """Make a corpus from tables or lists of dicts: probe the audio, order the segments, check both.

        ``utterances`` needs ``utterance`` and ``audio``. Segments of zero length are left out and
        counted in ``provenance["zero_length_segments"]``. Up to ``max_failures`` utterances are left out, with
        their errors in ``provenance["left_out"]``: those with unusable audio or segments that are not in it, and before
        them ``left_out``, which its reader found unusable (id to error; in ``utterances`` or not). ``stretches``: what label
        files say they cover (``times.fit_stretches``). Utterances without ``text`` get it from their words
        (``provenance["text_from_words"]``: how many). Raises CorpusError or AudioError.
        """
        utterances = columns.frame(utterances)
        segments = pd.DataFrame(segments if segments is not None else [], columns=None)
        if segments.empty:
            segments = pd.DataFrame({c: pd.Series(dtype=t) for c, t in zip(SEGMENT_COLUMNS, "OOffO", strict=True)})
        unusable = dict(left_out or {})
        if len(unusable) > max_failures:
            raise CorpusError(_too_many(unusable, max_failures))
        if utterances.empty and not unusable:
            raise CorpusError(f"{name} has no utterances: check the source folder and the kind of corpus")
        _some_are_left(utterances, unusable)
        _require(utterances, ["utterance", "audio"], f"the utterances of {name}")
        _require(segments, SEGMENT_COLUMNS, f"the segments of {name}")
        _filled(utterances, ["utterance", "audio"], f"the utterances of {name}")
        _filled(segments, ["utterance", "tier", "label"], f"the segments of {name}")
        for column in utterances.columns.intersection(("utterance", "text")):  # digits that are spoken are words, too
            utterances[column] = columns.texts(utterances[column])
        utterances, notes = columns.settled(utterances, f"the utterances of {name}", _LOCATED)
        check_unique(utterances["utterance"], f"the corpus {name}")
        provenance = dict(provenance or {})
        utterances = _probe(utterances, max_failures, unusable)
        if unusable:
            provenance["left_out"] = unusable
            segments = segments[~nfc_values(segments["utterance"].astype(str)).isin(unusable)]
        return cls.ordered(utterances, segments, name, provenance, max_failures, stretches).noting(notes)

    @classmethod
    def ordered(
        cls,
        utterances: pd.DataFrame,
        segments: pd.DataFrame,
        name: str,
        provenance: dict,
        max_failures: int = 0,
        stretches: pd.DataFrame | None = None,
    ) -> Corpus:
        """A corpus of utterances whose audio was probed before: what ``build`` does with their segments."""
        segments, dropped = _order(segments, utterances["utterance"], name)
        provenance = dict(provenance)
        if dropped:
            provenance["zero_length_segments"] = dropped
        faults: dict[str, str] = {}
        if stretches is not None and len(stretches):
            segments, faults, told = fit_stretches(segments, stretches, utterances)
            provenance["notes"] = [*provenance.get("notes", ()), *told]
        corpus = cls(utterances, segments, name, provenance)
        corpus._check_ids()
        faults |= {one: fault for one, fault in corpus.misplaced().items() if one not in faults}
        if faults:
            corpus._leave_out(faults, provenance.get("left_out", {}), max_failures)
        corpus._add_texts()
        if not corpus.provenance.get("notes", True):
            del corpus.provenance["notes"]
        return corpus

    def noting(self, notes: Sequence[str]) -> Corpus:
        """The same corpus, with sentences for the user in ``provenance["notes"]``."""
        if notes:
            self.provenance["notes"] = [*self.provenance.get("notes", []), *notes]
        return self

    @classmethod
    def read(cls, folder: Path | str, channel: str | None = None, in_full: bool = False) -> Corpus:
        """Read a corpus folder: ``utterances`` and ``segments`` as .parquet, .csv or .tsv.

        ``channel``: which to take of the audio of tables made by hand that do not say so themselves. Tables with a record,
        corpus.json, must be those that it describes: by their checksums, or, where metadata were changed since, by the
        fingerprint; ``in_full``: by the fingerprint in any case. Raises CorpusError.
        """
        folder = Path(folder)
        if problem := mistaken(folder, CORPUS):
            raise CorpusError(problem)
        if folder.is_file():
            raise CorpusError(
                f"{folder} is a file, a corpus is a folder: make one with 'layertool corpus folder AUDIO -o CORPUS'"
            )
        if not folder.is_dir():
            raise CorpusError(
                f"{folder} does not exist: make a corpus with 'layertool corpus folder AUDIO -o {folder}'"
            )
        while True:
            about = on_disk.read_record(folder)
            try:
                corpus = cls._read(folder, about, channel, in_full)
            except CorpusError:
                if on_disk.read_record(folder) == about:
                    raise
            else:
                if on_disk.read_record(folder) == about:  # else it was replaced meanwhile
                    return corpus

    @classmethod
    def _read(cls, folder: Path, about: dict | None, channel: str | None, in_full: bool) -> Corpus:
        """The corpus that a record describes, or tables made by hand."""
        if on_disk.is_unfinished(folder):
            raise CorpusError(
                f"{folder} is an unfinished corpus: run the command that makes it again, with the same -o, and it is finished"
            )
        notes: list[str] = []
        places = {name: on_disk.table_at(folder, name, about) for name in on_disk.TABLES}
        is_whole = all(on_disk.is_named(about, name, path) for name, path in places.items())
        utterances = read_one_of(folder, places["utterances"].stem, say=notes.append)
        if utterances is None:
            raise CorpusError(
                f"{folder} is not a corpus (no utterances.parquet or utterances.csv in it): "
                f"make one from it with 'layertool corpus folder {folder} -o CORPUS'"
            )
        segments = read_one_of(folder, places["segments"].stem, _CODED, notes.append)
        provenance = {key: value for key, value in (about or {}).items() if key not in on_disk.FACTS}
        name = provenance.pop("name", folder.resolve().name)
        if "utterance" in utterances and (audio_column := named(utterances, AUDIO_NAMES)) is not None:
            utterances = utterances.rename(columns={audio_column: "audio"})
            utterances["audio"] = [
                path if pd.isna(path) else str((folder / str(path)).resolve()) for path in utterances["audio"]
            ]
        if about is not None and "n_samples" in utterances:  # written by `write`: probed and ordered already
            corpus = cls(utterances, segments if segments is not None else no_segments(), name, provenance)
            corpus.check()
            if in_full or not is_whole:  # tables that somebody has changed may have other metadata
                corpus._compare(folder, about, in_full)
            return corpus
        if channel is not None and "channel" not in utterances:
            utterances["channel"] = channel
        return cls.build(utterances, segments, name, provenance).noting(notes)

    def write(self, folder: Path | str) -> Path:
        """Write the corpus to ``folder``; audio below it is named by relative paths, other audio by absolute ones.

        Raises CorpusError where ``folder`` is a feature store, which has a table of utterances too.
        """
        folder = Path(folder)
        with on_disk.CorpusFolder(folder) as place:
            tables = self._as_written(folder.resolve())
            about = {"schema": SCHEMA, "name": self.name, "fingerprint": self.fingerprint, **self.provenance}
            place.put(tables, about)
        return folder

    def _as_written(self, root: Path) -> dict[str, pd.DataFrame]:
        """The tables as the folder ``root`` holds them."""
        utterances, notes = columns.settled(self.utterances, f"the utterances of {self.name}", _LOCATED)
        self.noting(notes)
        utterances["audio"] = [
            str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path
            for path in utterances["audio"]
        ]
        segments = self.segments.astype(dict.fromkeys(_CODED, str))  # plain text for whoever else reads it
        return {"utterances": utterances, "segments": segments}

    def _compare(self, folder: Path, about: Mapping, in_full: bool) -> None:
        """Raise CorpusError where the tables are not those of the record."""
        wanted, sealed = about.get("fingerprint"), "tables" in about
        if wanted is None or not (in_full or sealed or len(self.segments) <= _FEW_SEGMENTS):
            return
        if self.fingerprint != wanted and (sealed or not self._was_so(folder, wanted)):
            raise CorpusError(
                f"{folder} holds other utterances or segments than its corpus.json describes (fingerprint {self.fingerprint}, "
                f"there {wanted}): make the corpus again with --overwrite, or delete {folder / on_disk.RECORD} to take the "
                "tables as they are"
            )

    def _was_so(self, folder: Path, wanted: str) -> bool:
        """Whether tables of 0.1.0, which kept labels in whatever form of Unicode they were, have a fingerprint."""
        utterances, segments = (folder / f"{name}.parquet" for name in on_disk.TABLES)
        if not (utterances.exists() and segments.exists()):
            return False
        return (
            replace(
                self, utterances=columns.read_parquet(utterances), segments=columns.read_parquet(segments)
            ).fingerprint
            == wanted
        )

    @property
    def tiers(self) -> list[str]:
        """The tiers that have segments, in alphabetical order."""
        return sorted(self.segments["tier"].unique())

    @property
    def metadata_columns(self) -> list[str]:
        """The columns of ``utterances`` that describe rather than locate."""
        return [column for column in self.utterances.columns if column not in AUDIO_COLUMNS]

    @property
    def seconds(self) -> float:
        """Seconds of audio in all utterances."""
        return float(self.utterances["n_samples"].sum()) / SAMPLE_RATE

    @property
    def fingerprint(self) -> str:
        """Hash of what decides the rows of a store: ids, lengths, cuts, and the segments with their labels.

        Metadata and the place of the audio do not count: adding a column or moving a folder does not
        make the features of a store wrong.
        """
        digest = xxhash.xxh3_128()
        for names, table in (
            (["utterance", "start", "end", "channel", "n_samples"], self.utterances),
            (SEGMENT_COLUMNS, self.segments),
        ):
            for column in names:
                for part in _bytes(table[column], column):
                    digest.update(part)
        return digest.hexdigest()

    def owners(self) -> np.ndarray:
        """Position (n_segments,) of each segment's utterance in ``utterances``, int32; -1 where it is not there."""
        return places(self.segments["utterance"], self.utterances["utterance"])

    def check(self) -> None:
        """Raise CorpusError when ids repeat or a segment does not lie in its utterance (20 ms beyond its end pass)."""
        self._check_ids()
        for fault in self.misplaced().values():
            raise CorpusError(fault)

    def misplaced(self) -> dict[str, str]:
        """Utterances with segments that run backwards or do not lie in them (20 ms beyond the end pass), with reasons."""
        owners = self.owners()
        starts, ends = (self.segments[column].to_numpy(float) for column in ("start", "end"))
        backwards = ~((ends >= starts) & np.isfinite(starts) & np.isfinite(ends))  # or missing
        lengths = self.utterances["n_samples"].to_numpy(np.int64)
        wrong = backwards.copy()
        for rows in blocks(len(owners)):
            there = ~backwards[rows]
            length, start = lengths[owners[rows]], seconds_to_samples(np.where(there, starts[rows], 0))
            end = seconds_to_samples(np.where(there, ends[rows], 0))
            wrong[rows] |= there & ((start < 0) | (start >= length) | (end > length + END_TOLERANCE))
        if not wrong.any():
            return {}
        faults = {}
        bad_rows = np.flatnonzero(wrong)
        whose, first, counts = np.unique(owners[bad_rows], return_index=True, return_counts=True)
        for owner, row, count in zip(whose, bad_rows[first], counts, strict=True):
            bad, length = self.segments.iloc[row], lengths[owner]
            if backwards[row]:
                faults[bad.utterance] = (
                    f"utterance '{bad.utterance}', tier {bad.tier}: the segment '{bad.label}' goes from {bad.start} "
                    f"to {bad.end} s; correct its times"
                )
                continue
            faults[bad.utterance] = (
                f"utterance '{bad.utterance}' lasts {length / SAMPLE_RATE:.3f} s, but its {bad.tier} '{bad.label}' "
                f"goes from {bad.start:.3f} to {bad.end:.3f} s ({count} such segments): "
                "is this the right TextGrid for this audio?"
            )
        return faults

    def _check_ids(self) -> None:
        for row, one in enumerate(self.utterances["utterance"]):
            if not isinstance(one, str):
                raise CorpusError(
                    f"the utterances of {self.name} have {one!r} for an id in row {row + 1}: ids are text"
                )
        check_unique(self.utterances["utterance"], f"the corpus {self.name}")
        unknown = self.owners() < 0
        if unknown.any():
            first = self.segments["utterance"].iloc[int(unknown.argmax())]
            raise CorpusError(
                f"segments of {self.name} name the utterance '{first}', which is not in its utterances "
                f"({int(unknown.sum())} such segments): add it there or take its segments out"
            )

    def _leave_out(self, faults: Mapping[str, str], before: Mapping[str, str], max_failures: int) -> None:
        """Leave out utterances with faults, beside those that were ``before``; raise CorpusError when they are too many."""
        allowed = max_failures - len(before)
        if len(faults) > allowed:
            raise CorpusError(list(faults.values())[max(allowed, 0)])
        if len(faults) == len(self.utterances):
            raise CorpusError(f"none of the utterances can be used; the first: {next(iter(faults.values()))}")
        self.provenance["left_out"] = {**before, **faults}
        self.utterances = self.utterances[~self.utterances["utterance"].isin(faults)].reset_index(drop=True)
        segments = self.segments[~self.segments["utterance"].isin(faults)].reset_index(drop=True)
        self.segments = _coded(segments.assign(**{column: segments[column].astype(str) for column in _CODED}))

    def _add_texts(self) -> None:
        """Fill ``text``, where it is missing, from the words of the utterance, in order of time."""
        words = self.segments[self.segments["tier"] == "word"]
        given = self.utterances.get("text", pd.Series(None, self.utterances.index, dtype=object))
        missing = (given.isna() | (given.astype(str).str.strip() == "")).to_numpy()
        if words.empty or not missing.any():
            return
        speech = {label for label in words["label"].unique() if is_speech("word", label)}
        words = words[words["label"].isin(speech)]
        owners = places(words["utterance"], self.utterances["utterance"])  # segments are in order of these and of time
        bounds = np.searchsorted(owners, np.arange(len(missing) + 1))
        labels, texts = words["label"].to_numpy(object), given.to_numpy(object).copy()
        for k in np.flatnonzero(missing & (np.diff(bounds) > 0)):
            texts[k] = " ".join(labels[bounds[k] : bounds[k + 1]])
        n_filled = int((missing & (np.diff(bounds) > 0)).sum())
        if n_filled:
            self.utterances["text"] = texts
            self.provenance["text_from_words"] = n_filled


def check_unique(ids: pd.Series, where: str) -> None:
    """Raise CorpusError when an utterance id stands twice."""
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise CorpusError(
            f"{where} has the utterance id '{repeated.iloc[0]}' more than once "
            f"({len(repeated)} repeated ids): give each utterance an id of its own"
        )


def blocks(n_rows: int) -> Iterator[slice]:
    """Rows [0, n_rows) in stretches of ``BLOCK_ROWS``."""
    return (slice(first, min(first + BLOCK_ROWS, n_rows)) for first in range(0, n_rows, BLOCK_ROWS))


def places(values: pd.Series, among: Sequence[str] | pd.Series) -> np.ndarray:
    """Position (n,) of each value in ``among``, where all differ, int32; -1 where it is not there."""
    coded = values.astype("category").cat
    found = np.append(pd.Index(among).get_indexer(coded.categories), -1)  # a missing value has the code -1
    return found.astype(np.int32)[coded.codes]


def _bytes(values: pd.Series, column: str) -> Iterator[bytes]:
    """What the fingerprint is made of: samples as eight bytes, texts as one list in JSON. Part by part, for it is long."""
    if column == "n_samples":
        yield values.to_numpy(dtype="<i8").tobytes()
        return
    if column in ("start", "end"):
        for rows in blocks(len(values)):
            yield seconds_to_samples(values.iloc[rows].astype(float).fillna(-1.0)).astype("<i8").tobytes()
        return
    before = "["
    for rows in blocks(len(values)):
        part = values.iloc[rows]
        if part.dtype == object:  # 1 and True are equal, their texts are not
            part = part.where(part.notna(), "").map(str)
        codes, names = pd.factorize(part)  # each text that occurs is made once
        texts = [*(json.dumps(str(name)) for name in names), '""']  # missing: the code -1
        yield (before + ", ".join(map(texts.__getitem__, codes.tolist()))).encode()
        before = ", "
    yield b"]" if len(values) else b"[]"


def _coded(segments: pd.DataFrame) -> pd.DataFrame:
    """The same segments with categories, in alphabetical order, in the columns ``_CODED``."""
    coded = {}
    for column in _CODED:
        values = segments[column]
        if not isinstance(values.dtype, pd.CategoricalDtype):
            coded[column] = values.astype("category")
        elif not values.cat.categories.is_monotonic_increasing:
            coded[column] = values.cat.reorder_categories(values.cat.categories.sort_values())
    return segments.assign(**coded) if coded else segments


def _require(table: pd.DataFrame, columns: list[str], where: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        there = ", ".join(map(str, table.columns)) or "none"
        raise CorpusError(f"{where} have no column '{missing[0]}' (columns there: {there}): add or rename it")


def _filled(table: pd.DataFrame, columns: list[str], where: str) -> None:
    for column in columns:
        empty = table[column].isna().to_numpy()
        if empty.any():
            raise CorpusError(
                f"{where} have no '{column}' in row {int(empty.argmax()) + 1} ({int(empty.sum())} such rows): "
                "fill it in or take the row out"
            )


def no_segments() -> pd.DataFrame:
    """A table of segments without any."""
    return pd.DataFrame(
        {c: pd.Series(dtype=t) for c, t in zip(SEGMENT_COLUMNS, ("str", "str", float, float, "str"), strict=True)}
    )


def _probe(utterances: pd.DataFrame, max_failures: int, left_out: dict[str, str]) -> pd.DataFrame:
    """Fill start, end, channel, sample_rate and n_samples from the audio, without the utterances ``left_out``.

    What cannot be used is added to these.
    """
    utterances = utterances[~utterances["utterance"].isin(left_out)].reset_index(drop=True)
    for column in ("start", "end"):
        values = utterances.get(column, pd.Series(np.nan, utterances.index))
        utterances[column] = _numbers(values, f"the utterances' column '{column}'")
    channel = utterances.get("channel", pd.Series([None] * len(utterances)))
    utterances["channel"] = pd.Series([_channel(c) for c in channel], dtype=object)
    utterances["audio"] = [str(Path(path).resolve()) for path in utterances["audio"]]
    files = audio.probe_all(utterances["audio"].unique())
    rates, lengths = [], []
    for row in utterances.itertuples():
        path = row.audio
        try:
            info = files[path]
            if isinstance(info, AudioError):
                raise info
            audio.require_channel(path, info.channels, row.channel)
            first, stop = audio.cut(path, info, _seconds(row.start), _seconds(row.end))
        except AudioError as error:
            left_out[row.utterance] = str(error)
            continue
        rates.append(info.sample_rate)
        lengths.append(resampled_length(stop - first, info.sample_rate, SAMPLE_RATE))
    if len(left_out) > max_failures:
        raise AudioError(_too_many(left_out, max_failures) if lengths else list(left_out.values())[max_failures])
    utterances = utterances[~utterances["utterance"].isin(left_out)].reset_index(drop=True)
    _some_are_left(utterances, left_out)
    utterances["sample_rate"] = np.array(rates, dtype=np.int64)
    utterances["n_samples"] = np.array(lengths, dtype=np.int64)
    return utterances[AUDIO_COLUMNS + [c for c in utterances.columns if c not in AUDIO_COLUMNS]]


def _too_many(left_out: Mapping[str, str], max_failures: int) -> str:
    """The first error that is one too many, and how to go on all the same."""
    n = len(left_out)
    return (
        f"{list(left_out.values())[max_failures]} ({n} utterance{'s' if n > 1 else ''} cannot be used; "
        f"'layertool corpus' leaves {'them' if n > 1 else 'it'} out with --max-failures {n})"
    )


def _some_are_left(utterances: pd.DataFrame, left_out: Mapping[str, str]) -> None:
    if utterances.empty:
        raise CorpusError(
            f"none of the {len(left_out)} utterances can be used; the first: {next(iter(left_out.values()))}"
        )


def _channel(value) -> str | None:
    if pd.isna(value):
        return None
    # a column of numbers with gaps is one of floats
    return audio.check_channel(str(int(value) if isinstance(value, float) and value.is_integer() else value))


def _seconds(value: float) -> float | None:
    return None if np.isnan(value) else value


def _numbers(values: pd.Series, where: str) -> pd.Series:
    """Times as floats; what is no number is a CorpusError."""
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    wrong = numbers.isna() & values.notna()
    if wrong.any():
        raise CorpusError(f"{where} holds '{values[wrong].iloc[0]}', which is no number of seconds: correct it")
    return numbers


def _order(segments: pd.DataFrame, ids: pd.Series, name: str) -> tuple[pd.DataFrame, int]:
    """Segments in corpus order, without those of zero length, and how many of these there were."""
    segments = segments[SEGMENT_COLUMNS].copy()
    for column in ("utterance", "tier", "label"):
        segments[column] = nfc_values(segments[column].astype(str))
    for column in ("start", "end"):
        segments[column] = _numbers(segments[column], f"the segments' column '{column}' of {name}")
    known = {utterance: k for k, utterance in enumerate(ids)}
    segments["_position"] = segments["utterance"].map(known).fillna(len(known))
    segments = segments.sort_values(["_position", "tier", "start", "end"], kind="stable").drop(columns="_position")
    start, end = (segments[column].where(np.isfinite(segments[column])) for column in ("start", "end"))
    zero = seconds_to_samples(end.fillna(-1)) == seconds_to_samples(start.fillna(-2))
    return segments[~zero].reset_index(drop=True), int(zero.sum())
