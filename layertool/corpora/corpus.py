"""A corpus: a folder with the tables ``utterances`` and ``segments``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd
import xxhash

from layertool import audio, columns
from layertool.audio_files import resampled_length
from layertool.conditions import Condition, conditions, holds
from layertool.corpora import on_disk
from layertool.corpora import segments as of_segments
from layertool.corpora.failures import Failures
from layertool.corpora.labels import Rules
from layertool.corpora.segments import CODED, SEGMENT_COLUMNS, blocks, no_segments, places
from layertool.corpora.table_files import AUDIO_NAMES, read_one_of
from layertool.errors import AudioError, CorpusError, UsageError
from layertool.geometry import SAMPLE_RATE, seconds_to_samples
from layertool.kinds import CORPUS, mistaken
from layertool.non_speech import is_speech
from layertool.spelling import nfc_values

SCHEMA = 1
_LOCATED = ("audio", "start", "end")  # columns whose types `build` sees to
# Columns of `utterances` that say where the audio is; every other column is metadata.
AUDIO_COLUMNS = ["utterance", "audio", "start", "end", "channel", "sample_rate", "n_samples"]
_FEW_SEGMENTS = 1_000_000  # their fingerprint takes less than a second


@dataclass(repr=False)
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
        self.segments = of_segments.coded(self.segments)

    def __repr__(self) -> str:
        tiers = f"tiers {', '.join(self.tiers)}" if self.tiers else "no segments"
        return f"<Corpus '{self.name}': {len(self.utterances)} utterances, {self.seconds / 3600:.3g} h, {tiers}>"

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
        rules: Rules | None = None,
    ) -> Corpus:
        """Make a corpus from tables or lists of dicts: probe the audio, order the segments, check both.

        ``utterances`` needs ``utterance`` and ``audio``. ``rules``: what is done to the labels, None for nothing.
        Segments of zero length are left out and counted in ``provenance["zero_length_segments"]``. Up to
        ``max_failures`` utterances are left out, with their errors in ``provenance["left_out"]``: those with unusable
        audio or segments that are not in it, and before them ``left_out``, which its reader found unusable (id to
        error; in ``utterances`` or not). ``stretches``: what label files say they cover (``segments.fit_stretches``).
        Utterances without ``text`` get it from their words (``provenance["text_from_words"]``: how many).
        Raises CorpusError or AudioError.
        """
        if not isinstance(utterances, pd.DataFrame):
            utterances = pd.DataFrame(utterances, dtype=object)  # pandas would make floats of integers with gaps
        utterances, known = utterances.reset_index(drop=True), dict(provenance or {})
        segments = no_segments() if segments is None or not len(segments) else pd.DataFrame(segments)
        what, what_segments = (f"the table of {table} of {name}" for table in on_disk.TABLES)
        unusable = Failures(max_failures, left_out)
        if utterances.empty and not unusable:
            raise CorpusError(f"{name} has no utterances: check the source folder and the kind of corpus")
        unusable.check(len(utterances))
        columns.require(utterances, ["utterance", "audio"], what)
        columns.require(segments, SEGMENT_COLUMNS, what_segments)
        columns.require_filled(utterances, ["utterance", "audio"], what)
        said = list(known.pop("notes", ()))
        if rules is not None:
            segments, facts = rules.apply(segments)
            said += facts.pop("notes", ())
            known |= facts
        columns.require_filled(segments, ["utterance", "tier", "label"], what_segments)
        for column in utterances.columns.intersection(("utterance", "text")):  # digits that are spoken are words, too
            utterances[column] = columns.texts(utterances[column])
        utterances, notes = columns.settled(utterances, what=f"the utterances of {name}", leave=_LOCATED)
        check_unique(utterances["utterance"], f"the corpus {name}")
        utterances = _probe(columns.seconds(utterances, what), unusable)
        if unusable:
            known["left_out"] = dict(unusable)
            segments = segments[~nfc_values(segments["utterance"].astype(str)).isin(unusable)]
        known["notes"] = said
        return cls.ordered(utterances, segments, name, known, max_failures, stretches).noting(notes)

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
        segments, dropped = of_segments.in_order(segments, utterances["utterance"], f"the table of segments of {name}")
        provenance = dict(provenance)
        notes = list(provenance.pop("notes", ()))
        if dropped:
            provenance["zero_length_segments"] = dropped
        faults: dict[str, str] = {}
        if stretches is not None and len(stretches):
            segments, faults, told = of_segments.fit_stretches(segments, stretches, utterances)
            notes += told
        corpus = cls(utterances, segments, name, provenance).noting(notes)
        if faults := corpus.faults() | faults:
            left_out = {**provenance.get("left_out", {}), **faults}
            Failures(max_failures, left_out).check(len(utterances) - len(faults))
            corpus.provenance["left_out"] = left_out
            corpus.utterances = utterances[~utterances["utterance"].isin(faults)].reset_index(drop=True)
            kept = ~corpus.segments["utterance"].isin(faults).to_numpy()
            corpus.segments = of_segments.of_utterances(corpus.segments, kept)
        corpus._add_texts()
        return corpus

    def subset(
        self,
        where: str | Sequence[str] | Sequence[Condition] = (),
        first: int | None = None,
        sample: int | None = None,
        seed: int = 0,
        name: str | None = None,
    ) -> Corpus:
        """Some of the utterances, in their order, with their segments.

        ``where``: conditions like ``gender=female`` or ``split!=test`` (``conditions.parse_where``), one or several.
        ``first``: so many from the beginning of those that meet them; or ``sample``: so many drawn, which ``seed``
        decides. All, where they are not more. ``provenance["subset"]`` says what was taken of how many.
        Raises UsageError for a column that is not there, for conditions that no utterance meets, for numbers below 1,
        and for ``first`` and ``sample`` together.
        """
        wanted = conditions(where)
        if first is not None and sample is not None:
            raise UsageError("the first utterances and a sample of them are two things: give --first or --sample")
        for n in (first, sample):
            if n is not None and not (isinstance(n, Integral) and n >= 1):
                raise UsageError(f"{n!r} is no number of utterances: give a whole number from 1")
        chosen = np.flatnonzero(holds(self.utterances, wanted, f"the corpus {self.name}"))
        if sample is not None:
            chosen = np.sort(np.random.default_rng(seed).permutation(chosen)[:sample])
        chosen = chosen[:first]
        kept = of_segments.of_utterances(self.segments, np.isin(self.owners(), chosen))
        facts = {
            "of": f"{self.name} ({len(self.utterances)} utterances, fingerprint {self.fingerprint})",
            "where": [str(condition) for condition in wanted],
            "first": first,
            "sample": sample,
            "seed": None if sample is None else seed,
        }
        provenance = {key: value for key, value in self.provenance.items() if key not in ("notes", "subset")}
        taken = {key: fact for key, fact in facts.items() if fact not in (None, [])}
        provenance["subset"] = [*self.provenance.get("subset", ()), taken]
        utterances = self.utterances.iloc[chosen].reset_index(drop=True)
        return Corpus(utterances, kept, name or self.name, provenance)

    def noting(self, notes: Sequence[str]) -> Corpus:
        """The same corpus, with sentences for the user in ``provenance["notes"]``."""
        if notes:
            self.provenance["notes"] = [*self.provenance.get("notes", []), *notes]
        return self

    @classmethod
    def read(cls, folder: Path | str, channel: str | None = None, in_full: bool = False) -> Corpus:
        """Read a corpus folder: ``utterances`` and ``segments`` as .parquet, .csv or .tsv.

        ``channel``: which to take of the audio of tables made by hand that do not say so themselves. Tables with a
        record, corpus.json, must be those that it describes: by their checksums, or, where metadata were changed
        since, by the fingerprint; ``in_full``: by the fingerprint in any case. Raises CorpusError.
        """
        folder = Path(folder)
        if problem := mistaken(folder, CORPUS):
            raise CorpusError(problem)
        if not folder.is_dir():
            is_file = folder.is_file()
            raise CorpusError(
                f"{folder} {'is a file, a corpus is a folder' if is_file else 'does not exist'}: make a corpus with "
                f"'layertool corpus folder AUDIO -o {'CORPUS' if is_file else folder}'"
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
                f"{folder} is an unfinished corpus: run the command that makes it again, with the same -o, and it is "
                "finished"
            )
        notes: list[str] = []
        tables = {name: on_disk.table_at(folder, name, about) for name in on_disk.TABLES}
        is_whole = all(on_disk.is_named(about, name, path) for name, path in tables.items())
        utterances = read_one_of(folder, tables["utterances"].stem, say=notes.append)
        if utterances is None:
            raise CorpusError(
                f"{folder} is not a corpus (no utterances.parquet or utterances.csv in it): "
                f"make one from it with 'layertool corpus folder {folder} -o CORPUS'"
            )
        segments = read_one_of(folder, tables["segments"].stem, CODED, notes.append)
        provenance = {key: value for key, value in (about or {}).items() if key not in on_disk.FACTS}
        name = provenance.pop("name", folder.resolve().name)
        if "utterance" in utterances and (audio_column := columns.named(utterances, AUDIO_NAMES)) is not None:
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
            root = folder.resolve()
            utterances, notes = columns.settled(self.utterances, what=f"the utterances of {self.name}", leave=_LOCATED)
            utterances["audio"] = [
                str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path
                for path in utterances["audio"]
            ]
            segments = self.segments.astype(dict.fromkeys(CODED, str))  # plain text for whoever else reads it
            about = {"schema": SCHEMA, "name": self.name, "fingerprint": self.fingerprint}
            place.put({"utterances": utterances, "segments": segments}, about | self.noting(notes).provenance)
        return folder

    def _compare(self, folder: Path, about: Mapping, in_full: bool) -> None:
        """Raise CorpusError where the tables are not those of the record."""
        wanted, sealed = about.get("fingerprint"), "tables" in about
        if wanted is None or not (in_full or sealed or len(self.segments) <= _FEW_SEGMENTS):
            return
        if self.fingerprint != wanted and (sealed or not self._was_so(folder, wanted)):
            raise CorpusError(
                f"{folder} holds other utterances or segments than its corpus.json describes (fingerprint "
                f"{self.fingerprint}, "
                f"there {wanted}): make the corpus again with --overwrite, or delete {folder / on_disk.RECORD} to "
                "take the "
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

    def facts(self) -> dict:
        """What there is to say of it, for programs: counts, values of metadata, fingerprint, provenance."""
        segments = self.segments.groupby("tier", observed=True)["label"].agg(["size", "nunique"])
        return {
            "name": self.name,
            "utterances": len(self.utterances),
            "seconds": self.seconds,
            "segments": {
                tier: {"count": int(row["size"]), "labels": int(row["nunique"])} for tier, row in segments.iterrows()
            },
            "metadata": {c: int(self.utterances[c].nunique()) for c in self.metadata_columns},
            "fingerprint": self.fingerprint,
            "provenance": dict(self.provenance),
        }

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
        for fault in self.faults().values():
            raise CorpusError(fault)

    def faults(self) -> dict[str, str]:
        """Utterances with segments that do not lie in them, with reasons. Raises CorpusError for ids that are wrong."""
        for row, one in enumerate(self.utterances["utterance"]):
            if not isinstance(one, str):
                raise CorpusError(
                    f"the utterances of {self.name} have {one!r} for an id in row {row + 1}: ids are text"
                )
        check_unique(self.utterances["utterance"], f"the corpus {self.name}")
        owners = self.owners()
        unknown = owners < 0
        if unknown.any():
            first = self.segments["utterance"].iloc[int(unknown.argmax())]
            raise CorpusError(
                f"segments of {self.name} name the utterance '{first}', which is not in its utterances "
                f"({int(unknown.sum())} such segments): add it there or take its segments out"
            )
        return of_segments.misplaced(self.segments, owners, self.utterances["n_samples"].to_numpy(np.int64))

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


def _bytes(values: pd.Series, column: str) -> Iterator[bytes]:
    """What the fingerprint is made of: samples as eight bytes, texts as one list in JSON. Part by part, for it is
    long."""
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


def _probe(utterances: pd.DataFrame, unusable: Failures) -> pd.DataFrame:
    """Fill start, end, channel, sample_rate and n_samples from the audio, without the utterances ``unusable``.

    What cannot be used is added to these.
    """
    utterances = utterances[~utterances["utterance"].isin(unusable)].reset_index(drop=True)
    for column in ("start", "end", "channel"):
        if column not in utterances:
            utterances[column] = None if column == "channel" else np.nan
    utterances["channel"] = pd.Series([_channel(c) for c in utterances["channel"]], dtype=object)
    utterances["audio"] = [str(Path(path).resolve()) for path in utterances["audio"]]
    files = audio.probe_all(utterances["audio"].unique())
    located = {}
    for row in utterances.itertuples():
        try:
            located[row.utterance] = _located(row, files[row.audio])
        except AudioError as error:
            unusable[row.utterance] = str(error)
    unusable.check(len(located), AudioError)
    utterances = utterances[~utterances["utterance"].isin(unusable)].reset_index(drop=True)
    utterances[["sample_rate", "n_samples"]] = np.array(list(located.values()), dtype=np.int64)
    return utterances[AUDIO_COLUMNS + [c for c in utterances.columns if c not in AUDIO_COLUMNS]]


def _located(row, info: audio.AudioInfo | AudioError) -> tuple[int, int]:
    """The file's rate, and the samples of an utterance at 16 kHz. Raises AudioError where it is not in the file."""
    if isinstance(info, AudioError):
        raise info
    audio.require_channel(row.audio, info.channels, row.channel)
    first, stop = audio.cut(row.audio, info, *(None if np.isnan(time) else time for time in (row.start, row.end)))
    return info.sample_rate, resampled_length(stop - first, info.sample_rate, SAMPLE_RATE)


def _channel(value) -> str | None:
    if pd.isna(value):
        return None
    # a column of numbers with gaps is one of floats
    return audio.check_channel(str(int(value) if isinstance(value, float) and value.is_integer() else value))
