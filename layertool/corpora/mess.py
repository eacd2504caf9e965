"""Morgan Emotional Speech Set (MESS): pleasant and unpleasant speech, the attributes of SpEAT (spec 1.7)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from layertool import columns
from layertool.corpora.corpus import Corpus
from layertool.corpora.groups import build, counted, draw
from layertool.corpora.source_files import files_below, unread
from layertool.corpora.table_files import read_table
from layertool.errors import CorpusError, UsageError

SELECTIONS = ("rated", "all")
SEED = 431137  # of the paper
CLIP = re.compile(r"[ACHS][FM][1-3][MTV]\d{2}_SCR\.wav", re.IGNORECASE)
CODE = re.compile(r"([ACHS][FM][1-3][MTV]\d{2})(_SCR)?(\.WAV)?")  # what a rating sheet may call a clip
CODE_COLUMNS = ("code", "file", "filename", "file name", "file_name", "clip", "stimulus")
EMOTIONS = {"A": ("angry", "negative"), "C": ("calm", "positive"), "H": ("happy", "positive"), "S": ("sad", "negative")}


def read(
    source: Path | str,
    ratings: Path | str | None = None,
    selection: str = "rated",
    seed: int = SEED,
    n_per_speaker: int = 10,
    name: str | None = None,
    max_failures: int = 0,
) -> Corpus:
    """Make a corpus of the clips ``AF1M01_SCR.wav`` ... below ``source``, with the groups positive and negative.

    The name says the emotion (angry, calm, happy, sad), the speaker (F1 to M3), the cue (M, T, V) and the item.
    Columns: speaker, sex, emotion, cue, item, valence (positive, negative), and, when there are ratings,
    valence_rating and arousal_rating (means of the listeners, in the sheet's own units). There is no column gender:
    that is a group of people in the Speech Accent Archive, and the two corpora are joined for SpEAT.

    ``ratings``: "Coded stimuli final.xlsx", which comes with the set, or a .csv or .tsv of it; without, it is looked
    for below ``source``. It has the column valence, perhaps arousal, and one of ``CODE_COLUMNS`` (the case does not
    matter) with codes like AF1M01, with or without _SCR and .wav. Of each speaker the ``n_per_speaker`` clips of
    highest valence are positive and as many of lowest valence negative, as in SpEAT (Slaughter et al. 2023); one
    shuffle with ``seed`` decides between equal ratings. Only clips that are there are chosen from.
    Without a sheet, happy and calm clips are positive, angry and sad ones negative: not the set of the paper. Then all
    clips are taken, but of each speaker equally many of both; ``seed`` draws the ones that leave.

    ``selection``: "rated" keeps the clips of the two groups, "all" every clip (valence empty outside the groups).
    Raises UsageError, CorpusError, AudioError, or MissingExtraError (for .xlsx without the package openpyxl).
    """
    if selection not in SELECTIONS:
        raise UsageError(f"'{selection}' is no selection of clips: choose from {', '.join(SELECTIONS)}")
    if n_per_speaker < 1:
        raise UsageError(f"{n_per_speaker} clips per speaker cannot be compared: take at least 1")
    source = Path(source)
    files = files_below(source)
    path = _find_sheet(files) if ratings is None else Path(ratings)
    clips, facts = _clips(files, source, path)
    provenance = {
        "reader": "mess",
        "source": str(source.resolve()),
        "selection": selection,
        "seed": seed,
        **facts,
        "notes": unread(files, source, ()),
    }
    sheet = None if path is None else _ratings(path)
    if sheet is not None and path is not None:
        if not set(sheet.index) & set(clips["code"]):
            raise CorpusError(
                f"{path} rates none of the {len(clips)} clips in {source}: its codes are like '{sheet.index[0]}', the "
                f"clips like '{clips['code'].iloc[0]}'; correct the sheet"
            )
        for column in sheet:
            clips[column] = clips["code"].map(sheet[column]).astype(float)
        rated = sheet.index[sheet["valence_rating"].notna()]
        provenance |= {
            "ratings_from": str(path.resolve()),
            "valence_from": f"the sheet: per speaker the {n_per_speaker} clips of highest and lowest mean rating",
            "clips_without_a_valence_rating": counted(sorted(set(clips["code"]) - set(rated))),
        }
    else:
        provenance["valence_from"] = (
            "the emotions in the file names (happy, calm: positive; angry, sad: negative), because there is no rating "
            "sheet: this is not the set of the paper"
        )

    def choose(unusable: Mapping[str, str]) -> tuple[pd.DataFrame, dict]:
        there = clips[~clips["utterance"].isin(unusable)].copy()
        groups, more = _by_emotion(there, seed) if sheet is None else _by_rating(there, sheet, seed, n_per_speaker)
        there["valence"] = pd.Series([groups.get(code) for code in there["code"]], there.index, dtype=object)
        per_speaker = there.groupby("speaker")["valence"].value_counts().unstack().loc[:, "positive"]
        more |= {"clips_per_speaker_and_group": {str(s): int(n) for s, n in per_speaker.items()}}
        if selection == "rated":
            there = there[there["valence"].notna()]
        ratings_last = [c for c in there if not c.endswith("_rating")] + [c for c in there if c.endswith("_rating")]
        return there[ratings_last].drop(columns="code"), provenance | more

    return build(choose, name or ("mess" if sheet is not None else "mess-by-emotion"), max_failures)


def _find_sheet(files: list[Path]) -> Path | None:
    """Coded stimuli final.xlsx, or a table saved from it: that is taken first, because it needs nothing else."""
    sheets = {path.suffix.lower(): path for path in reversed(files) if path.stem.lower() == "coded stimuli final"}
    return next((sheets[suffix] for suffix in (".csv", ".tsv", ".xlsx") if suffix in sheets), None)


def _clips(files: list[Path], source: Path, sheet: Path | None) -> tuple[pd.DataFrame, dict]:
    """The clips in order of their code, and how many files are something else."""
    found: dict[str, Path] = {}
    copies, others = [], []
    for path in files:
        if CLIP.fullmatch(path.name):
            code = path.name[:6].upper()
            if code in found:
                copies.append(str(path.relative_to(source)))
            found.setdefault(code, path)
        elif sheet is None or path.resolve() != sheet.resolve():
            others.append(str(path.relative_to(source)))
    if not found:
        raise CorpusError(
            f"{source} has no clips of MESS: they are called like AF1M01_SCR.wav (emotion A, C, H or S; speaker F1 to "
            "M3; cue M, T or V; item); unpack the set there"
        )
    rows = [
        {
            "utterance": f"{code}_SCR",
            "audio": str(path),
            "code": code,
            "speaker": code[1:3],
            "sex": {"F": "female", "M": "male"}[code[1]],
            "emotion": EMOTIONS[code[0]][0],
            "cue": code[3],
            "item": int(code[4:]),
            "channel": "mix",
        }
        for code, path in sorted(found.items())
    ]
    return pd.DataFrame(rows), {
        "clips_there": len(rows),
        "other_files": {"count": len(others), "first": others[:5]},
        "copies_passed_over": counted(copies),
    }


def _ratings(path: Path) -> pd.DataFrame:
    """Ratings by code, in order of it: valence_rating and, if the sheet has it, arousal_rating."""
    raw = read_table(path, column="valence")
    code = columns.one_of(raw, CODE_COLUMNS, str(path), "add or rename the one with the codes of the clips")
    columns.one_of(raw, ["valence"], str(path))
    matches = [CODE.fullmatch(str(value).strip().upper()) for value in raw[code]]
    sheet = pd.DataFrame(index=[match[1] if match else None for match in matches])
    for name in ("valence", "arousal"):
        if (column := columns.named(raw, [name])) is not None:
            sheet[f"{name}_rating"] = pd.to_numeric(raw[column], errors="coerce").to_numpy(dtype=float)
    sheet = sheet[sheet.index.notna()].sort_index(kind="stable")
    if sheet.empty or sheet["valence_rating"].isna().all():
        raise CorpusError(
            f"{path} has no row with a code like AF1M01 in '{code}' and a number in 'valence': correct it"
        )
    if len(repeated := sheet.index[sheet.index.duplicated()]):
        raise CorpusError(
            f"{path} rates the clip '{repeated[0]}' more than once ({len(repeated)} such rows): give one mean per clip"
        )
    return sheet


def _by_rating(clips: pd.DataFrame, sheet: pd.DataFrame, seed: int, n: int) -> tuple[dict[str, str], dict]:
    """Group by code, from ratings; and what of the sheet is not on the disk."""
    valence = sheet["valence_rating"].dropna()
    # one shuffle of all codes, so that which clips are there does not change who wins a tie
    shuffled = valence.iloc[np.random.default_rng(seed).permutation(len(valence))].sort_values(kind="stable")
    present = set(clips["code"])
    groups: dict[str, str] = {}
    intended: list[str] = []
    for speaker in sorted({code[1:3] for code in present}):
        every = [code for code in shuffled.index if code[1:3] == speaker]
        here = [code for code in every if code in present]
        if len(here) < 2 * n:
            raise CorpusError(
                f"the speaker {speaker} has {len(here)} rated clips, but {n} positive and {n} negative ones are "
                f"wanted: add clips or ratings, or lower --n-per-speaker to {len(here) // 2}"
            )
        groups |= dict.fromkeys(here[:n], "negative") | dict.fromkeys(here[-n:], "positive")
        intended += every[:n] + every[-n:]
    return groups, {
        "rated_but_not_there": counted(sorted(set(valence.index) - present)),
        "replaced_in_the_groups_because_not_there": counted(sorted(set(intended) - present)),
    }


def _by_emotion(clips: pd.DataFrame, seed: int) -> tuple[dict[str, str], dict]:
    """Group by code, from the emotion in the name; equally many of both for every speaker."""
    random = np.random.default_rng(seed)
    groups: dict[str, str] = {}
    for speaker, own in clips.groupby("speaker"):
        parts = {
            value: [code for code in own["code"] if EMOTIONS[code[0]][1] == value] for value in ("positive", "negative")
        }
        n = min(map(len, parts.values()))
        if empty := [value for value, codes in parts.items() if not codes]:
            raise CorpusError(f"the speaker {speaker} has no {empty[0]} clips: unpack the whole set")
        for value, codes in parts.items():
            groups |= dict.fromkeys(draw(codes, n, random), value)
    return groups, {"left_out_to_keep_groups_equal": counted(sorted(set(clips["code"]) - set(groups)))}
