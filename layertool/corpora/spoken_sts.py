"""Spoken STS: pairs of sentences read aloud, and how similar people find their meanings (spec layerwise.md 5.4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from layertool import audio, columns
from layertool.corpora import cells, huggingface
from layertool.corpora.alignments import Progress
from layertool.corpora.corpus import Corpus, check_unique
from layertool.corpora.failures import Failures
from layertool.corpora.groups import build, counted
from layertool.errors import CorpusError

if TYPE_CHECKING:
    from datasets import Dataset

SPLIT = "test"  # the only one of juice500/spoken_sts
KEY = ["task", "subtask", "pair_id"]  # joined by underscores they name a pair, as in the authors' code
SCALARS = [*KEY, "speaker_id", "similarity"]
SIDES = {"a": "audio_a", "b": "audio_b"}


def read(
    source: Path | str,
    out: Path | str,
    split: str | None = None,
    config: str | None = None,
    name: str | None = None,
    channel: str | None = None,
    max_failures: int = 0,
    progress: Progress | None = None,
) -> Corpus:
    """Make a corpus of the dataset juice500/spoken_sts, of whose rows each is one speaker reading both sentences.

    ``source``: a folder (written by ``save_to_disk``, or of parquet files), one parquet file, or a hub id, optionally
    ``id@revision``. ``split``: by default ``SPLIT``, or the only one. Audio is written to ``out``/audio, unchanged or,
    from arrays, as 32-bit float WAV, at its own rate; files that a local dataset only names stay where they are.

    One utterance for each pair, speaker and side, with the id PAIR_SPEAKER_SIDE, ordered by them and not as the rows
    are. Columns: pair (``task_subtask_pairid``), side (a, b), speaker, similarity (the human score: one per pair),
    task, subtask. A pair may have any number of speakers. Pairs without a similarity are left out and counted in
    ``provenance["pairs_without_a_similarity"]``.

    Up to ``max_failures`` utterances with unusable audio are left out, with their errors in
    ``provenance["left_out"]``; a pair that has no reading of one side any more is left out with them. ``progress``:
    called with the number of utterances done and of all.

    Raises MissingExtraError, UsageError (``channel``), CorpusError (fields are missing, rows contradict each other:
    before anything is written) or AudioError.
    """
    channel = audio.check_channel(channel)
    dataset, facts, root = huggingface.load(source, split, config, SPLIT)
    source = str(source)
    _check_fields(dataset, source)
    readings, unscored = _readings(huggingface.scalar_table(dataset, SCALARS), source)
    table = readings.loc[readings.index.repeat(len(SIDES))].assign(side=[*SIDES] * len(readings))
    names = zip(table["pair"], table["speaker"], table["side"], strict=True)
    table = table.assign(utterance=["_".join(name) for name in names], channel=channel)[
        ["utterance", "channel", "pair", "side", "speaker", "similarity", "task", "subtask"]
    ]
    check_unique(table["utterance"], source)
    failed = Failures(max_failures)
    audio_cells = huggingface.arrow_cells(dataset.select(readings["row"].tolist()), list(SIDES.values()))
    paths = cells.write_all(out, audio_cells, table["utterance"].tolist(), source, root, channel, failed, progress)

    def choose(unusable: Mapping[str, str]) -> tuple[pd.DataFrame, dict]:
        lost = {**failed, **unusable}
        usable = table[~table["utterance"].isin(lost)]
        # what has lost all its readings of one sentence has nothing to be compared with
        sides = usable.groupby("pair")["side"].nunique()
        complete = set(sides.index[sides == len(SIDES)])
        if not complete:
            raise CorpusError(f"no pair of {source} has usable audio of both sentences: {next(iter(lost.values()))}")
        usable = usable[usable["pair"].isin(complete)]
        return usable.assign(audio=usable["utterance"].map(paths)), {
            "reader": "spoken-sts",
            **facts,
            "pairs": len(complete),
            "pairs_without_a_similarity": counted(unscored),
            "pairs_that_lost_a_side": counted(sorted(set(table["pair"]) - complete)),
        }

    return build(choose, name or "spoken-sts", max_failures, failed)


def _check_fields(dataset: Dataset, source: str) -> None:
    """Raise CorpusError when the dataset lacks a field or one holds something else."""
    features = dataset.features
    remedy = "give the split test of juice500/spoken_sts, or rename it"
    columns.require(features, (*SCALARS, *SIDES.values()), source, remedy)
    for field in SCALARS:
        if not huggingface.is_scalar(features[field]):
            raise CorpusError(f"the field '{field}' of {source} holds no text or numbers: correct it in the dataset")
    for field in SIDES.values():
        if not huggingface.may_hold_audio(features[field]):
            raise CorpusError(
                f"the field '{field}' of {source} holds no audio: give it as bytes and path, or as array and "
                "sampling_rate"
            )


def _readings(table: pd.DataFrame, source: str) -> tuple[pd.DataFrame, list[str]]:
    """The rows of pairs with a score, in the order of pairs and speakers; and the pairs without one.

    Columns: row (in the dataset, from 0), pair, speaker, similarity, task, subtask. Raises CorpusError where rows
    lack what names them or contradict each other.
    """
    names = [*KEY, "speaker_id"]
    columns.require_filled(table, names, source)
    table["pair"] = ["_".join(map(str, key)) for key in table[KEY].itertuples(index=False, name=None)]
    table["row"] = range(len(table))
    table = table.sort_values(names, kind="stable")
    if len(again := table[table.duplicated(names)]):
        raise CorpusError(
            f"the pair '{again['pair'].iloc[0]}' of {source} has the speaker '{again['speaker_id'].iloc[0]}' more than "
            f"once ({len(again)} such rows): keep one row for each pair and speaker"
        )
    table["similarity"] = [_score(v, pair, source) for v, pair in zip(table["similarity"], table["pair"], strict=True)]
    for pair, own in table.groupby("pair", sort=False):
        if len(own[KEY].drop_duplicates()) > 1:
            raise CorpusError(
                f"the pair '{pair}' of {source} could be two, because an underscore in a name reads like one between "
                f"names: change one of its {', '.join(KEY)}"
            )
        scores = own["similarity"].unique()
        if len(scores) > 1:
            given = " and ".join("none" if math.isnan(score) else str(score) for score in scores)
            raise CorpusError(
                f"the pair '{pair}' of {source} has several similarities ({given}), but people gave it one: "
                "correct its rows"
            )
    unscored = table["similarity"].isna()
    if unscored.all():
        raise CorpusError(f"no row of {source} has a similarity: give a split with human scores")
    kept = table[~unscored]
    of_texts = kept[["speaker_id", "task", "subtask"]].map(str).set_axis(["speaker", "task", "subtask"], axis=1)
    return kept[["row", "pair", "similarity"]].join(of_texts), list(table.loc[unscored, "pair"].unique())


def _score(value, pair: str, source: str) -> float:
    """A similarity as a number, NaN where there is none. Raises CorpusError for what is no number."""
    if pd.isna(value) or not str(value).strip():
        return math.nan
    try:
        score = float(value)
    except ValueError:
        score = math.inf
    if math.isinf(score):
        raise CorpusError(
            f"the pair '{pair}' of {source} has the similarity '{value}', which is no number: correct it in the dataset"
        )
    return score
