"""English Consistent Confusion Corpus (ECCC): words in noise and what listeners heard (spec lexical.md 2)."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from layertool import audio, columns
from layertool.corpora.corpus import Corpus, check_unique
from layertool.corpora.failures import Failures
from layertool.corpora.segments import SegmentRows
from layertool.corpora.source_files import require_folder
from layertool.corpora.table_files import read_table
from layertool.errors import AudioError, CorpusError, UsageError
from layertool.geometry import SAMPLE_RATE

TABLE = "confusionCorpus_*.csv"
WAVS = "confusionWavs"
PADDING_SAMPLES = 3200  # 200 ms before the word, and as many after it
TENTHS = {"train": 8, "dev": 1, "test": 1}  # of the stimuli; whole numbers, so that shortfalls are exact
COLUMNS = (
    "ID Length Masker SNR Speaker Target Responses N-Listeners Counts Confusion Consistency "
    "Target-frequency Confusion-frequency Phoneme-distance"
).split()  # and Raw, which is counted where it is there
NUMBERS = ("SNR", "Target-frequency", "Confusion-frequency", "Phoneme-distance")  # all but the first may be missing


def read(source: Path | str, split_seed: int = 0, name: str | None = None, max_failures: int = 0) -> Corpus:
    """Make a corpus of the stimuli ``confusionWavs/T_{ID}.wav`` in the order of ``confusionCorpus_*.csv``.

    ``source``: the folder with both (``EnglishCCC_v1.2``) or the one above. The left channel is the clean word, the
    right one the masker; listeners heard their sum, which is the channel of every utterance. Columns: speaker, masker,
    snr (dB), target, text (the target), responses (all different ones, joined by ``|``), counts (of each response, in
    the same order, joined by spaces), listeners, confusion (the most common response that is not the target),
    consistency (its count), target_frequency, confusion_frequency, phoneme_distance (empty cells are NaN).
    One tier ``word``: the target, without the 200 ms before and after it.

    Two columns of parts (80 % train, 10 % dev, 10 % test), made here because none are published: ``split`` takes a
    tenth of each masker for test and for dev; in ``split_by_target`` no target is in two parts, and the parts are
    near these numbers for each masker. They follow from ``split_seed`` and the stimuli in the corpus, in any order.

    A bad row and unusable audio leave up to ``max_failures`` stimuli out together, with their errors in
    ``provenance["left_out"]``; a table without a column or with an ID twice is always an error.
    Raises UsageError, CorpusError or AudioError.
    """
    if split_seed < 0:
        raise UsageError(f"the seed {split_seed} is negative: take a whole number from 0")
    path = _locate(Path(source))
    # as they stand there, all text ("null" is a word), empty where nothing stands
    raw = read_table(path, as_text=True)
    columns.require(raw, COLUMNS, str(path), "unpack the archive again")
    columns.require_filled(raw, ["ID"], str(path))
    if raw.empty:
        raise CorpusError(f"{path} has no rows: unpack the archive again")
    check_unique(raw["ID"], str(path))
    rows = raw.fillna("").to_dict("records")
    wavs = {row["ID"]: path.parent / WAVS / f"T_{row['ID']}.wav" for row in rows}
    missing = {one for one, wav in wavs.items() if not wav.exists()}
    absence = f"does not exist ({len(missing)} of {len(rows)} WAVs are missing): unpack all of {WAVS}"
    if max_failures < len(missing) < len(rows):
        absence += f", or leave them out with --max-failures {len(missing)}"
    stimuli: list[dict] = []
    segments = SegmentRows()
    left_out = Failures(max_failures)
    for row in rows:
        wav = wavs[row["ID"]]
        with left_out.tolerated(wav.stem):
            stimulus = _stimulus(row, path.name)
            if row["ID"] in missing:
                raise AudioError(f"{wav} {absence}")
            length = int(row["Length"])
            _check_audio(wav, length)
            stimuli.append({"utterance": wav.stem, "audio": str(wav)} | stimulus)
            span = (PADDING_SAMPLES / SAMPLE_RATE, (PADDING_SAMPLES + length) / SAMPLE_RATE)
            segments.add(wav.stem, "word", [(*span, stimulus["target"])])
    left_out.check(len(stimuli))
    table = pd.DataFrame(stimuli)
    table["split"] = _by_masker(table, split_seed)
    table["split_by_target"] = _by_target(table, split_seed)
    provenance = {
        "reader": "eccc",
        "source": str(path.parent.resolve()),
        "csv": path.name,
        "csv_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "licence": "CC BY 4.0",
        "rows": len(rows),
        "split_seed": split_seed,
        "split_stimuli": _numbers(table, "split"),
        "split_by_target_stimuli": _numbers(table, "split_by_target"),
    }
    return Corpus.build(table, segments.table(), name or "eccc", provenance, max_failures, left_out)


def _locate(source: Path) -> Path:
    """The table, in ``source`` or in a folder in it."""
    require_folder(source)
    found = sorted(source.glob(TABLE)) or sorted(source.glob(f"*/{TABLE}"))
    if not found:
        raise CorpusError(f"{source} has no {TABLE}: give the folder EnglishCCC_v1.2 of the archive, unpacked")
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(source)) for path in found)
        raise CorpusError(f"{source} has several tables ({names}): keep one, or give the folder of one")
    return found[0]


def _stimulus(row: Mapping[str, str], table: str) -> dict:
    """The metadata of one stimulus. Raises CorpusError where the row contradicts itself."""
    responses = [one.strip() for one in row["Responses"].split("|")]
    counts, raw = row["Counts"].split(), row.get("Raw")
    known = Counter(one.lower() for one in responses)
    repeated = next((one for one in reversed(responses) if known[one.lower()] > 1), "")
    no_count = next((count for count in counts if not _is_positive(count)), None)
    total = 0 if no_count else sum(map(int, counts))
    listeners = row["N-Listeners"]
    empty = next((column for column in ("Masker", "Speaker", "Target", "Confusion") if not row[column]), None)
    no_whole = next((c for c in ("Length", "N-Listeners", "Consistency") if not _is_positive(row[c])), None)
    no_number = next((c for c in NUMBERS if not _is_number(row[c]) and (row[c] or c == "SNR")), None)
    n_raw = listeners if raw is None else len(raw.split("|"))  # Responses merges homophones: its words may be others
    faults = {
        f"{empty} is empty": empty,
        f"{no_whole} is '{row.get(no_whole or '')}', which is no whole number above 0": no_whole,
        f"{no_number} is '{row.get(no_number or '')}', which is no number": no_number,
        f"Responses '{row['Responses']}' has an empty response": "" in responses,
        f"Responses has '{repeated}' more than once": repeated,
        f"Responses has {len(responses)} words, but Counts {len(counts)} numbers": len(counts) != len(responses),
        f"Counts has '{no_count}', which is no whole number above 0": no_count,
        f"the Counts {' + '.join(counts)} make {total}, but N-Listeners is {listeners}": str(total) != listeners,
        f"Raw has {n_raw} responses, but N-Listeners is {listeners}": str(n_raw) != listeners,
    }
    if found := [fault for fault, is_there in faults.items() if is_there]:
        raise CorpusError(f"{table}, ID {row['ID']}: {found[0]}; correct the row")
    return {
        "channel": "sum",
        "speaker": row["Speaker"],
        "masker": row["Masker"],
        "snr": float(row["SNR"]),
        "target": row["Target"],
        "text": row["Target"],
        "responses": "|".join(responses),
        "counts": " ".join(counts),
        "listeners": int(listeners),
        "confusion": row["Confusion"],
        "consistency": int(row["Consistency"]),
        **{column.lower().replace("-", "_"): float(row[column] or "nan") for column in NUMBERS[1:]},
    }


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _is_positive(text: str) -> bool:
    return re.fullmatch(r"0*[1-9][0-9]*", text) is not None


def _check_audio(wav: Path, length: int) -> None:
    """Raise AudioError when a WAV is not of the published layout; ``length``: samples of the word."""
    info = audio.probe(wav)
    n_wanted = length + 2 * PADDING_SAMPLES
    faults = {
        f"{info.channels} channel{'s' if info.channels > 1 else ''}, but the layout says two channels: word left, "
        "masker right; restore the file": info.channels != 2,
        f"{info.sample_rate} Hz, the corpus {SAMPLE_RATE} Hz: restore the file": info.sample_rate != SAMPLE_RATE,
        f"{info.n_frames} samples, but its Length is {length}, which with 200 ms before and after the word makes "
        f"{n_wanted}: restore the file, or correct Length": info.n_frames != n_wanted,
    }
    if found := [fault for fault, is_there in faults.items() if is_there]:
        raise AudioError(f"{wav} has {found[0]}")


def _draw(seed: int, text: str) -> float:
    """A number from 0 to 1 of this text alone: one stimulus less leaves the order of the others as it was."""
    return np.random.default_rng([seed, *text.encode()]).random()


def _by_masker(table: pd.DataFrame, seed: int) -> list[str]:
    """Parts: of each masker, in an order that is drawn, the first tenth is test, the next dev, the rest train."""
    part = dict.fromkeys(table["utterance"], "train")
    for _, own in table.groupby("masker"):
        drawn = sorted(own["utterance"], key=lambda utterance: _draw(seed, utterance))
        n = (len(drawn) + 5) // 10  # rounded half up
        part |= dict.fromkeys(drawn[:n], "test") | dict.fromkeys(drawn[n : 2 * n], "dev")
    return list(part.values())


def _by_target(table: pd.DataFrame, seed: int) -> list[str]:
    """Parts without a common target: in an order that is drawn, each target goes where stimuli like its lack most.

    That is where it lowers the sum over parts and maskers of (wanted - there)² most: of the differences d of a part
    and the target's own numbers v, it becomes |d - v|² = |d|² - 2 d·v + |v|², so the part with the largest d·v.
    """
    numbers = pd.crosstab(table["target"], table["masker"])
    lacking = np.outer(list(TENTHS.values()), numbers.sum())  # (parts, maskers), tenths of stimuli
    parts = {}
    for target in sorted(numbers.index, key=lambda target: _draw(seed, target)):
        own = numbers.loc[target].to_numpy()
        k = int(np.argmax(lacking @ own))
        lacking[k] -= 10 * own
        parts[target] = list(TENTHS)[k]
    return [parts[target] for target in table["target"]]


def _numbers(table: pd.DataFrame, column: str) -> dict[str, dict[str, int]]:
    """How many stimuli of each part and masker."""
    numbers = pd.crosstab(table["masker"], table[column]).reindex(columns=list(TENTHS), fill_value=0)
    return {part: {str(masker): int(n) for masker, n in numbers[part].items()} for part in numbers}
