"""Speech Accent Archive (accent.gmu.edu), and the groups of speakers that SpEAT compares (spec 1.8)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from layertool import columns
from layertool.corpora.corpus import Corpus
from layertool.corpora.groups import build, counted, equal_numbers, exact_pairs, extremes
from layertool.corpora.source_files import files_below, unread
from layertool.corpora.table_files import read_table
from layertool.errors import CorpusError, UsageError

SELECTIONS = ("published", "matched", "all")
N_EXTREMES = 60  # youngest and oldest that "matched" starts from
N_GENDER_PAIRS = 60
SUFFIXES = (".wav", ".flac", ".mp3")  # the first that is there is taken
# column here -> what it is called on the website and in the Kaggle mirror
COLUMNS = {
    "speaker": ("speakerid", "id"),
    "name": ("filename", "name"),
    "sex": ("sex",),
    "age": ("age",),
    "native_language": ("native_language",),
    "birth_place": ("birth_place", "birthplace"),
    "country": ("country",),
    "age_of_english_onset": ("age_of_english_onset", "age_onset"),
}
REQUIRED = ("speaker", "sex", "age", "native_language", "birth_place")
MISSPELT = {"famale": "female"}  # taiwanese7 in the Kaggle mirror
SEXES = {"female": "female", "f": "female", "male": "male", "m": "male", **MISSPELT}
# What the table must say of a listed speaker, when it says anything: ages are those of the published groups.
EXPECTED: dict[str, Callable[[pd.Series], bool]] = {
    "young": lambda one: not one["age"] > 19,
    "old": lambda one: not one["age"] < 57,
    "us": lambda one: one["us_native"] or pd.isna(one["birth_place"]),
    "korean": lambda one: one["korean_native"] or pd.isna(one["birth_place"]),
    "female": lambda one: one["sex"] != "male",
    "male": lambda one: one["sex"] != "female",
}
RULES = {
    "age_group": f"the {N_EXTREMES} youngest and {N_EXTREMES} oldest US natives (half of them each if they are fewer), "
    "then as many of each sex and age group as the smallest of these four has",
    "native": "each Korean with one US native of the same age and sex, each at most once",
    "gender": f"US natives, each woman with one man of the same age, each at most once; {N_GENDER_PAIRS} pairs drawn",
}
Groups = dict[str, dict[str, list[str]]]  # column -> value -> speakers


def read(
    source: Path | str,
    metadata: Path | str | None = None,
    selection: str = "published",
    seed: int = 0,
    name: str | None = None,
    max_failures: int = 0,
) -> Corpus:
    """Make a corpus of the Speech Accent Archive; an utterance is a speaker, its id the speaker's number.

    ``source``: a folder with a table of the speakers at its top (or given as ``metadata``) and the audio anywhere
    below. The table is the website's (columns id, name, birth_place, native_language, age, sex) or that of the
    Kaggle mirror rtatman/speech-accent-archive (speakerid, filename, birthplace, ...). Audio is called by the name
    (english102.mp3) or by the number (65.wav); of several files of one speaker WAV goes before FLAC before MP3.
    Several channels are averaged. Columns: speaker, name, sex, age (years), native_language, birth_place, country,
    age_of_english_onset (years), us_native, uk_native, korean_native (born there, with that first language).

    ``selection``: "published" are the people of the three tests of SpEAT (Slaughter et al. 2023), found by their
    number, which is the same in the mirror (a table that contradicts more than a tenth of the lists is refused);
    "matched" draws them anew by ``RULES`` from those with age and sex; "all" is every speaker with audio.
    The first two give the columns age_group (young, old), native (us, korean), gender (female, male), empty for
    who is not in that test, and gender_pair and native_pair (matched only: the published pairs of us and korean are
    not known). Where published speakers have no usable audio, groups are kept equal: the partner of a gender pair
    leaves too; of age_group and native, which are equal within each sex, those who leave are drawn with ``seed``.
    ``provenance`` lists all of them. Raises UsageError, CorpusError, or AudioError.
    """
    if selection not in SELECTIONS:
        raise UsageError(f"'{selection}' is no selection of speakers: choose from {', '.join(SELECTIONS)}")
    source = Path(source)
    files = files_below(source)
    path = _find_table(source) if metadata is None else Path(metadata)
    people, notes = _people(path)
    people["audio"], found = _audio(people, files, source)
    provenance = {
        "reader": "speech_accent_archive",
        "source": str(source.resolve()),
        "speakers_from": str(path.resolve()),
        **notes,
        **found,
        "selection": selection,
        "notes": unread(files, source, ()),
    }

    def choose(unusable: Mapping[str, str]) -> tuple[pd.DataFrame, dict]:
        there = people.copy()
        there.loc[list(unusable), "audio"] = None
        if selection == "all":
            return _utterances(there, {}, {}), provenance | {
                "speakers_without_audio": counted(list(there.index[there["audio"].isna()]))
            }
        groups, pairs, more = (_published if selection == "published" else _matched)(there, seed, path)
        if empty := [(group, column) for column, parts in groups.items() for group in parts if not parts[group]]:
            raise CorpusError(
                f"nobody is left of the group '{empty[0][0]}' ({empty[0][1]}) in {source}: too few of its speakers "
                "have audio there, or none has a counterpart; add the audio, or take every speaker with "
                "--selection all"
            )
        members = {group: ids for parts in groups.values() for group, ids in parts.items()}
        return _utterances(there, groups, pairs), provenance | {
            "seed": seed,
            **more,
            "speakers_per_group": {group: len(ids) for group, ids in members.items()},
            "mean_age_per_group": {g: round(float(there.loc[ids, "age"].mean()), 2) for g, ids in members.items()},
        }

    return build(choose, name or f"speech-accent-archive-{selection}", max_failures)


def _find_table(source: Path) -> Path:
    """The only table of speakers at the top of the folder."""
    tables = []
    for path in sorted(p for p in source.iterdir() if p.suffix.lower() in (".csv", ".tsv") and p.name[0] != "."):
        try:
            there = _translation(read_table(path))
        except CorpusError:  # whatever it is, it is not the table
            continue
        if "speaker" in there and len(set(REQUIRED) & set(there)) > 2:
            tables.append(path)
    if not tables:
        raise CorpusError(
            f"{source} has no table of the speakers (a .csv or .tsv at its top with the columns id, age, sex, "
            "native_language, birth_place; or Kaggle's speakers_all.csv): put it there, or name it with --metadata"
        )
    if len(tables) > 1:
        raise CorpusError(
            f"{source} has several tables of speakers ({', '.join(p.name for p in tables)}): choose with --metadata"
        )
    return tables[0]


def _translation(table: pd.DataFrame) -> dict[str, str]:
    """Column here -> column of the table."""
    return {ours: name for ours, theirs in COLUMNS.items() if (name := columns.named(table, theirs)) is not None}


def _people(path: Path) -> tuple[pd.DataFrame, dict]:
    """The speakers by id, in order of it, and what to note of the table."""
    raw = read_table(path)
    there = _translation(raw)
    for ours in REQUIRED:
        columns.one_of(raw, COLUMNS[ours], str(path))
    text = {ours: _text(raw[theirs]) for ours, theirs in there.items()}
    people = pd.DataFrame({column: text[column] for column in COLUMNS if column in text})
    people["speaker"] = ids = people["speaker"].str.removesuffix(".0")
    language = _text(raw["language"]) if "language" in raw else people["native_language"]
    people["synthesised"] = (language == "synthesized") | (people["native_language"] == "synthesized")
    wrong = people["sex"].isin(MISSPELT)
    people["sex"] = pd.Series([SEXES.get(s) for s in people["sex"]], people.index, dtype=object)
    for column in ("age", "age_of_english_onset"):
        if column in people:
            people[column] = pd.to_numeric(people[column], errors="coerce").astype(float)
    people.loc[people["age"] <= 0, "age"] = np.nan  # what the archive writes for voices without an age
    place = people["birth_place"].fillna("")
    if "country" not in people:
        people["country"] = people["birth_place"].str.split(",").str[-1].str.strip()
    english = (people["native_language"] == "english") & ~people["synthesised"]
    people["us_native"] = english & place.str.contains(", usa", regex=False)
    people["uk_native"] = english & place.str.contains(r", uk|, ireland|ireland,", regex=True)
    people["korean_native"] = (people["native_language"] == "korean") & place.str.contains("korea", regex=False)
    people = people[ids.notna() & ~ids.duplicated()].set_index("speaker", drop=False).rename_axis(None)
    order = sorted(people.index, key=lambda one: (not one.isdecimal(), int(one) if one.isdecimal() else 0, one))
    return people.loc[order], {
        "layout": "Kaggle" if "name" in there and str(there["name"]).strip().lower() == "filename" else "website",
        "speakers_in_the_table": len(people),
        "misspelt_sex_corrected": int(wrong.sum()),
        "rows_without_a_speaker_id": int(ids.isna().sum()),
        "speakers_listed_twice_first_row_taken": list(ids[ids.duplicated() & ids.notna()].unique()),
    }


def _text(values: pd.Series) -> pd.Series:
    """Lower-case text; empty cells, NA and nan are missing."""
    text = ["" if pd.isna(value) else str(value).strip().lower() for value in values]
    return pd.Series([None if t in ("", "na", "nan") else t for t in text], values.index, dtype=object)


def _audio(people: pd.DataFrame, files: list[Path], source: Path) -> tuple[pd.Series, dict]:
    """The audio file of each speaker, and how many were found in which way."""
    audible = [path for path in files if path.suffix.lower() in SUFFIXES]
    there = {(path.stem.lower(), path.suffix.lower()): path for path in reversed(audible)}
    if not there:
        raise CorpusError(f"{source} has no audio files (looked for {', '.join(SUFFIXES)}): check the folder")
    names = people["name"] if "name" in people else pd.Series(None, people.index, dtype=object)
    found: list[str | None] = []
    ways = {"name": 0, "speaker id": 0}
    used: set[tuple[str, str]] = set()
    for speaker, name in zip(people.index, names, strict=True):
        stems = {"name": None if name is None else name.removesuffix(".mp3"), "speaker id": speaker}
        keys = [(way, (stem, suffix)) for suffix in SUFFIXES for way, stem in stems.items() if stem is not None]
        hits = [(way, key) for way, key in keys if key in there]
        found.append(str(there[hits[0][1]]) if hits else None)
        used |= {key for _, key in hits}
        if hits:
            ways[hits[0][0]] += 1
    if not used:
        raise CorpusError(
            f"none of the {len(there)} audio files in {source} belongs to a speaker of the table: they are called like "
            f"'{audible[0].name}', not english102.mp3 or 65.wav; give them these names"
        )
    return pd.Series(found, people.index, dtype=object), {
        "audio_found_by": ways,
        "audio_of_no_speaker_in_the_table": len(there.keys() - used),
        "audio_copies_passed_over": len(audible) - len(there),
    }


def _published(people: pd.DataFrame, seed: int, path: Path) -> tuple[Groups, dict[str, dict[str, str]], dict]:
    """The published groups, as far as they have audio, kept equal; pairs by column; and what to note."""
    lists = json.loads(resources.files("layertool.corpora").joinpath("speat_ids.json").read_text(encoding="utf-8"))
    published: Groups = {c: {g: [str(i) for i in ids] for g, ids in p.items()} for c, p in lists["tests"].items()}
    listed = {group: ids for parts in published.values() for group, ids in parts.items()}
    known = {group: [i for i in ids if i in people.index] for group, ids in listed.items()}
    otherwise = {g: [i for i in ids if not EXPECTED[g](people.loc[i])] for g, ids in known.items()}
    n_wrong, n_known = (sum(map(len, parts.values())) for parts in (otherwise, known))
    if n_wrong > n_known / 10:
        raise CorpusError(
            f"{path} describes {n_wrong} of {n_known} published speakers otherwise than the lists (sex, age, origin), "
            "so its speaker ids are not those of accent.gmu.edu: give the website's table with --metadata"
        )
    heard = people["audio"].notna()
    there = {group: [i for i in ids if heard[i]] for group, ids in known.items()}
    groups: Groups = {}
    for k, (column, parts) in enumerate(published.items()):
        groups[column] = {group: there[group] for group in parts}
        if column == "gender":
            couples = list(zip(parts["female"], parts["male"], strict=True))
            whole = [c for c in couples if all(i in there[group] for i, group in zip(c, parts, strict=True))]
            groups[column] = {group: [c[side] for c in whole] for side, group in enumerate(parts)}
        elif any(len(there[group]) < len(ids) for group, ids in parts.items()):
            groups[column] = equal_numbers(people, groups[column], "sex", np.random.default_rng([seed, k]))
    pairs = {"gender_pair": {i: f"gender {k:02}" for k, c in enumerate(couples, 1) for i in c if c in whole}}
    kept = {group: set(ids) for parts in groups.values() for group, ids in parts.items()}
    by_group = {
        "published_but_not_in_the_table": {g: [i for i in ids if i not in people.index] for g, ids in listed.items()},
        "published_but_without_usable_audio": {g: [i for i in ids if not heard[i]] for g, ids in known.items()},
        "left_out_to_keep_groups_equal": {g: [i for i in ids if i not in kept[g]] for g, ids in there.items()},
        "published_but_described_otherwise_in_the_table": otherwise,
    }
    return (
        groups,
        pairs,
        {"speaker_lists": lists["source"]}
        | {key: {g: counted(ids) for g, ids in parts.items() if ids} for key, parts in by_group.items()},
    )


def _matched(people: pd.DataFrame, seed: int, path: Path) -> tuple[Groups, dict[str, dict[str, str]], dict]:
    """Groups by ``RULES``, pairs by column, and what to note."""
    pool = people[people["audio"].notna() & people["age"].notna() & people["sex"].notna() & ~people["synthesised"]]
    us, korean = list(pool.index[pool["us_native"]]), list(pool.index[pool["korean_native"]])
    random = [np.random.default_rng([seed, k]) for k in range(3)]

    young, old = extremes(pool, us, "age", N_EXTREMES, "sex", random[0])
    groups: Groups = {"age_group": {"young": young, "old": old}}
    sexes = {sex: [i for i in us if pool.loc[i, "sex"] == sex] for sex in ("female", "male")}
    couples = exact_pairs(pool, sexes["female"], sexes["male"], ["age"], random[2])
    drawn = sorted(random[2].permutation(len(couples))[:N_GENDER_PAIRS])
    found = {
        "native": exact_pairs(pool, us, korean, ["age", "sex"], random[1]),
        "gender": [couples[k] for k in drawn],
    }
    for column, names in (("native", ("us", "korean")), ("gender", ("female", "male"))):
        groups[column] = {group: [c[side] for c in found[column]] for side, group in enumerate(names)}
    pairs = {f"{c}_pair": {i: f"{c} {k:02}" for k, couple in enumerate(p, 1) for i in couple} for c, p in found.items()}
    return (
        groups,
        pairs,
        {
            "matched_by": RULES,
            "us_natives_to_choose_from": len(us),
            "koreans_to_choose_from": len(korean),
        },
    )


def _utterances(people: pd.DataFrame, groups: Groups, pairs: dict[str, dict[str, str]]) -> pd.DataFrame:
    """The table of utterances: who is in a group, or everybody with audio when there are none."""
    columns = {c: {i: group for group, ids in parts.items() for i in ids} for c, parts in groups.items()} | pairs
    chosen = {i for of_speaker in columns.values() for i in of_speaker} if columns else set(people.index)
    table = people[people["audio"].notna() & people.index.isin(chosen)].drop(columns="synthesised")
    for column, of_speaker in columns.items():
        table[column] = pd.Series([of_speaker.get(i) for i in table.index], table.index, dtype=object)
    table.insert(0, "utterance", table["speaker"])
    table["channel"] = "mix"
    return table.reset_index(drop=True)
