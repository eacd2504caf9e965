"""Metadata of utterances from tables: one row for each file, or one for each speaker, session or whatever else a
key names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from layertool import audio, columns
from layertool.corpora.corpus import AUDIO_COLUMNS
from layertool.corpora.source_files import UNREADABLE
from layertool.corpora.table_files import ID_NAMES, read_table, with_text
from layertool.errors import CorpusError, UsageError
from layertool.spelling import nfc

Paths = Path | str | Sequence[Path | str] | None
EXAMPLE = r"(?P<speaker>\d+)_.*"


def added(utterances: pd.DataFrame, described: pd.DataFrame) -> pd.DataFrame:
    """The utterances with columns that describe them, row by row, which win over those that were there."""
    others = utterances.drop(columns=described.columns, errors="ignore")
    return pd.concat([others, described.reset_index(drop=True)], axis=1)


def pairs(metadata: Paths, by: str | Sequence[str] | None) -> list[tuple[Path, str | None]]:
    """Each table with the key that it is joined by, None for one row a file: the keys belong to the last tables.

    Raises UsageError for more keys than tables, and more than one table without a key.
    """
    tables = [metadata] if isinstance(metadata, (str, Path)) else list(metadata or ())
    keys: list[str | None] = [by] if isinstance(by, str) else list(by or ())
    if len(keys) > len(tables):
        raise UsageError(f"--by {keys[-1]} says how a table of metadata is joined: name the table with --metadata")
    if len(tables) > len(keys) + 1:
        raise UsageError(
            f"one table of metadata has one row a file, but {len(tables)} are given: say with --by what joins "
            f"{tables[-1]}, and each "
            "after the first"
        )
    return list(zip(map(Path, tables), [None] * (len(tables) - len(keys)) + keys, strict=True))


def of_files(
    path: Path,
    id_column: str | None,
    ids: Sequence[str],
    source: Path,
    provenance: dict,
    text_column: str | None = None,
) -> pd.DataFrame:
    """The columns of a table with one row a file, for those of ``ids`` that have one, by these and in their order.

    Facts and sentences for the user go to the provenance. What names the file stands in ``id_column``, else in the
    first of ``ID_NAMES`` that is there. The rows decide what is in the corpus: files without one are left out. Raises
    CorpusError where no row fits, or more than one.
    """
    notes = provenance.setdefault("notes", [])
    table = with_text(read_table(path, say=notes.append), text_column, path)
    remedy = "say which one names the utterance with --id-column, or what else joins the table with --by"
    id_column = columns.one_of(table, ID_NAMES, str(path), remedy) if id_column is None else nfc(id_column)
    columns.require(table, [id_column], str(path), "correct --id-column")
    if parts := columns.named(table, ("start", "end")):
        raise CorpusError(
            f"{path} has the column '{parts}', so its utterances are parts of files: use "
            f"'layertool corpus csv {path}', or rename the column if it means something else"
        )
    rows = _match_rows(table[id_column], ids, path)
    if not rows:
        raise CorpusError(
            f"no row of {path} fits an utterance of {source}: its column '{id_column}' says "
            f"'{table[id_column].iloc[0] if len(table) else ''}', the utterances are called like '{ids[0]}'; "
            "name another column with --id-column, correct the ids, or say with --by what else joins the table"
        )
    taken = [one for one in ids if one in rows]
    values = [(text,) for text in columns.texts(table[id_column])]
    places = np.array([rows.get(one, -1) for one in ids])
    n_unused, n_without = _tell_gaps(notes, path, [id_column], values, ids, places, "they are left out")
    provenance |= {"metadata": str(path.resolve()), "metadata_rows_without_audio": n_unused}
    if n_without:
        provenance["audio_without_metadata"] = n_without
    return _described(table, [id_column], provenance).iloc[[rows[one] for one in taken]].set_axis(taken)


def _tell_gaps(
    notes: list[str],
    path: Path,
    names: Sequence[str],
    values: Sequence[tuple[str, ...]],
    ids: Sequence[str],
    places: np.ndarray,
    so: str,
    keys: Sequence[tuple[str, ...] | None] = (),
) -> tuple[int, int]:
    """Tell of rows of a table that fit no utterance, and of utterances without a row; how many there are of both.

    ``values``: of the columns ``names``, which are the key, in each row. ``places``: the row of each utterance, -1 for
    none, ``so`` what follows from that; ``keys``: what they have for a key, if that is not their name.
    """
    unused = np.setdiff1d(np.arange(len(values)), places)
    if len(unused):
        notes.append(
            f"{len(unused)} of {len(values)} rows of {path} fit no utterance (the first: "
            f"{_said(names, values[unused[0]])}): add what they name, or leave it so"
        )
    without = np.flatnonzero(places < 0)
    if len(without):
        key = keys[without[0]] if keys else None
        notes.append(
            f"{len(without)} of {len(ids)} utterances have no row in {path}, so {so} (the first: '{ids[without[0]]}'"
            f"{f', {_said(names, key)}' if key else ''}): add the rows, or leave it so"
        )
    return len(unused), len(without)


def of_keys(
    utterances: pd.DataFrame, tables: Sequence[tuple[Path, str | None]], root: Path, provenance: dict
) -> pd.DataFrame:
    """The utterances with the columns of each table, joined by its key; see ``of_key``."""
    for path, by in tables:
        utterances = added(utterances, of_key(path, by or "", utterances, root, provenance))
    return utterances


def of_key(path: Path, by: str, utterances: pd.DataFrame, root: Path, provenance: dict) -> pd.DataFrame:
    r"""The columns of a table with one row for each value of a key, for every utterance; empty for those without a row.

    ``by``: a column of the table. The utterances have it too, or one level of the folders below ``root`` has its
    values. Or a regular expression with named groups, the columns of the table, which fits the id or the file name of
    an utterance, or a part of them: ``(?P<speaker>\d+)_.*``. Keys are compared as texts. Raises UsageError for a key
    that is not there, CorpusError where a key stands twice in the table or no utterance has a row.
    """
    notes = provenance.setdefault("notes", [])
    table = read_table(path, say=notes.append)
    names, keys = _keys(path, by, table, utterances, root)
    columns.require_filled(table, names, str(path))
    values = list(zip(*(columns.texts(table[name]) for name in names), strict=True))
    rows: dict[tuple[str, ...], int] = {}
    for row, value in enumerate(values):
        if rows.setdefault(value, row) != row:
            raise CorpusError(
                f"{path} has two rows for the {_said(names, value)} (rows {rows[value] + 1} and {row + 1}): take one "
                "out, or join by more, with a pattern of several named groups"
            )
    places = np.array([-1 if key is None else rows.get(key, -1) for key in keys])
    if (places < 0).all():
        first = keys[0]
        has = f"has the {_said(names, first)}" if first else f"does not fit the pattern '{by}'"
        raise CorpusError(
            f"no utterance has a row in {path}: '{utterances['utterance'].iloc[0]}' {has}, the first row the "
            f"{_said(names, values[0]) if values else 'nothing'}: correct --by"
        )
    ids = utterances["utterance"].tolist()
    n_unused, n_without = _tell_gaps(notes, path, names, values, ids, places, "its columns are empty there", keys)
    facts = {
        "table": str(path.resolve()),
        "rows_without_utterances": n_unused,
        "utterances_without_row": n_without,
    }
    described = _described(table, names, facts)
    if twice := [name for name in described.columns if name in utterances]:
        raise CorpusError(f"{path} has the column '{twice[0]}', which the utterances have already: rename one of them")
    cells: dict[str, list] = {}
    for k, name in enumerate(names):  # the key is known, also of who has no row
        if name not in utterances:
            cells[name] = [key[k] if key else None for key in keys]
    for name in described.columns:
        values_of = columns.exact(described[name]).tolist()
        cells[name] = [values_of[place] if place >= 0 else None for place in places]
    provenance.setdefault("metadata_by", {})[by] = facts
    return pd.DataFrame(cells, dtype=object, index=ids)


def _described(table: pd.DataFrame, keys: Sequence[str], facts: dict) -> pd.DataFrame:
    """The columns of a table that describe: neither its key nor what says where audio is, which goes to the facts."""
    left_out = [column for column in table.columns if column in AUDIO_COLUMNS and column not in keys]
    if left_out:
        facts["metadata_columns_left_out"] = left_out
    return table.drop(columns=[*keys, *left_out])


def _said(names: Sequence[str], key: Sequence[str]) -> str:
    return ", ".join(f"{name} '{value}'" for name, value in zip(names, key, strict=True))


def _keys(
    path: Path, by: str, table: pd.DataFrame, utterances: pd.DataFrame, root: Path
) -> tuple[list[str], list[tuple[str, ...] | None]]:
    """The columns of the table that are the key, and the key of each utterance (None: it has none)."""
    there = ", ".join(map(str, table.columns))
    pattern = None
    if by not in table.columns and "(?" in by:
        try:
            pattern = re.compile(nfc(re.sub(r"\(\?<(?=\w)", "(?P<", by)))
        except re.error as error:
            raise UsageError(f"--by '{by}' is no pattern ({error}): write one like '{EXAMPLE}'") from error
    as_group = {re.sub(r"\W", "_", name): name for name in table.columns}  # a group cannot be called "Actor ID"
    names = [as_group.get(group, group) for group in pattern.groupindex] if pattern else [nfc(by)]
    if absent := [name for name in names if name not in table.columns]:
        raise UsageError(
            f"{path} has no column '{absent[0]}' (columns there: {there}): give --by one of them, or a pattern with "
            "the name of one, like "
            f"'{EXAMPLE}'"
        )
    if not names:
        raise UsageError(
            f"--by '{by}' has no named group: name the part that is the key after a column of {path} ({there}), like "
            f"'{EXAMPLE}'"
        )
    if pattern:
        return names, [_of_pattern(pattern, *texts) for texts in zip(*_places(utterances, root), strict=True)]
    if names[0] in utterances:
        return names, [None if value is None else (value,) for value in columns.texts(utterances[names[0]])]
    return names, _of_level(path, names[0], table, _places(utterances, root)[1], root)


def _places(utterances: pd.DataFrame, root: Path) -> tuple[list[str], list[str]]:
    """The id of each utterance, and the path of its audio below ``root``."""
    above = f"{root.as_posix()}/"
    return list(utterances["utterance"]), [nfc(str(path).removeprefix(above)) for path in utterances["audio"]]


def _of_pattern(pattern: re.Pattern[str], utterance: str, path: str) -> tuple[str, ...] | None:
    """The groups of a pattern in the first of these that it fits as a whole, else in the first that it fits
    somewhere."""
    stem = str(PurePosixPath(path).with_suffix(""))
    texts = [PurePosixPath(utterance).name, PurePosixPath(stem).name, PurePosixPath(path).name, utterance, stem, path]
    fits = next(filter(None, map(pattern.fullmatch, texts)), None) or next(
        filter(None, map(pattern.search, texts)), None
    )
    return None if fits is None or None in fits.groupdict().values() else tuple(fits.groupdict().values())


def _of_level(
    path: Path, name: str, table: pd.DataFrame, below: Sequence[str], root: Path
) -> list[tuple[str, ...] | None]:
    """The name of the folder, of the one level below ``root`` where such names are values of the table's column."""
    values = set(columns.texts(table[name]))
    folders = [PurePosixPath(one).parts[:-1] for one in below]
    levels = [
        k for k in range(max(map(len, folders))) if any(values.intersection(parts[k : k + 1]) for parts in folders)
    ]
    group = re.sub(r"\W", "_", name)
    if not levels:
        raise UsageError(
            f"the utterances have no column '{name}', and no folder below {root} has the name of one in {path} "
            f"({columns.shown(table[name], 3)}): give --by another column, or a pattern that finds it in file names, "
            "like "
            f"'(?P<{group}>[^_]+)_.*'"
        )
    if len(levels) > 1:
        raise UsageError(
            f"folders of {len(levels)} levels below {root} have names that stand in '{name}' of {path}: say which "
            "with a pattern, like "
            f"'(?P<{group}>[^/]+)/.*'"
        )
    return [(parts[levels[0]],) if len(parts) > levels[0] else None for parts in folders]


def _match_rows(values: pd.Series, ids: Sequence[str], path: Path) -> dict[str, int]:
    """The row number of each utterance that ``values`` names.

    A value names an utterance when the two are the same path or one is the tail of the other
    (``a``, ``a.wav``, ``/data/speaker1/a.wav`` for ``speaker1/a``).
    """
    known = set(ids)
    tails: dict[str, list[str]] = {}
    for utterance in ids:
        for tail in _tails(utterance):
            tails.setdefault(tail, []).append(utterance)
    columns.require_filled(values.to_frame(), [str(values.name)], str(path))
    rows: dict[str, int] = {}
    for row, value in enumerate(columns.texts(values)):
        whole = PurePosixPath(nfc(value).strip().replace("\\", "/"))
        stem = whole.with_suffix("") if whole.suffix.lower() in audio.SUFFIXES | UNREADABLE else whole
        fits: list[str] = []
        for form in (str(whole), str(stem)):
            fits = fits or ([form] if form in known else tails.get(form, []))
        fits = fits or [tail for tail in _tails(str(stem)) if tail in known][:1]
        if len(fits) > 1:
            raise CorpusError(
                f"{path}, row {row + 1}: '{value}' fits {len(fits)} utterances ('{fits[0]}', '{fits[1]}'): "
                f"write the path below the source folder into '{values.name}'"
            )
        if fits and fits[0] in rows:
            raise CorpusError(
                f"{path} has two rows for the utterance '{fits[0]}' (rows {rows[fits[0]] + 1} and {row + 1}): take "
                "one out"
            )
        if fits:
            rows[fits[0]] = row
    return rows


def _tails(path: str) -> list[str]:
    """``a/b/c`` to ``a/b/c``, ``b/c`` and ``c``."""
    parts = path.strip("/").split("/")
    return ["/".join(parts[k:]) for k in range(len(parts))]
