"""English Consistent Confusion Corpus (ECCC): words in noise and what listeners heard (spec lexical.md 2)."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from layertool import audio
from layertool.corpora.corpus import Corpus
from layertool.errors import AudioError, CorpusError, UsageError
from layertool.geometry import SAMPLE_RATE

TABLE = "confusionCorpus_*.csv"
WAVS = "confusionWavs"
LICENCE = "CC BY 4.0"
PADDING_SAMPLES = 3200  # 200 ms before the word, and as many after it
TENTHS = {"train": 8, "dev": 1, "test": 1}  # of the stimuli; whole numbers, so that shortfalls are exact
SPLITS = ("split", "split_by_target")
COLUMNS = (
    "ID Length Masker SNR Speaker Target Responses N-Listeners Counts Confusion Consistency "
    "Target-frequency Confusion-frequency Phoneme-distance"
).split()  # and Raw, which is counted where it is there


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
    content = path.read_bytes()
    rows = _rows(path, content)
    wavs = {row["ID"]: path.parent / WAVS / f"T_{row['ID']}.wav" for row in rows}
    missing = {one for one, wav in wavs.items() if not wav.exists()}
    absence = f"does not exist ({len(missing)} of {len(rows)} WAVs are missing): unpack all of {WAVS}"
    if max_failures < len(missing) < len(rows):
        absence += f", or leave them out with --max-failures {len(missing)}"
    stimuli: list[dict] = []
    segments: list[dict] = []
    left_out: dict[str, str] = {}
    for row in rows:
        wav = wavs[row["ID"]]
        try:
            stimulus = _stimulus(row, path.name)
            if row["ID"] in missing:
                raise AudioError(f"{wav} {absence}")
            length = int(row["Length"])
            _check_audio(wav, length)
        except (CorpusError, AudioError) as error:
            left_out[wav.stem] = str(error)
            if len(left_out) > max_failures:
                raise
            continue
        stimuli.append({"utterance": wav.stem, "audio": str(wav)} | stimulus)
        segments.append(
            {
                "utterance": wav.stem,
                "tier": "word",
                "start": PADDING_SAMPLES / SAMPLE_RATE,
                "end": (PADDING_SAMPLES + length) / SAMPLE_RATE,
                "label": stimulus["target"],
            }
        )
    if not stimuli:
        raise CorpusError(f"none of the {len(rows)} stimuli can be used; the first: {next(iter(left_out.values()))}")
    table = pd.DataFrame(stimuli)
    table["split"] = _by_masker(table, split_seed)
    table["split_by_target"] = _by_target(table, split_seed)
    provenance: dict = {
        "reader": "eccc",
        "source": str(path.parent.resolve()),
        "csv": path.name,
        "csv_sha256": hashlib.sha256(content).hexdigest(),
        "licence": LICENCE,
        "rows": len(rows),
        "split_seed": split_seed,
    }
    provenance |= {f"{column}_stimuli": _numbers(table, column) for column in SPLITS}
    return Corpus.build(table, segments, name or "eccc", provenance, max_failures, left_out)


def _locate(source: Path) -> Path:
    """The table, in ``source`` or in a folder in it."""
    if not source.is_dir():
        raise CorpusError(f"{source} {'is not a folder' if source.exists() else 'does not exist'}: check the path")
    found = sorted(source.glob(TABLE)) or sorted(source.glob(f"*/{TABLE}"))
    if not found:
        raise CorpusError(f"{source} has no {TABLE}: give the folder EnglishCCC_v1.2 of the archive, unpacked")
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(source)) for path in found)
        raise CorpusError(f"{source} has several tables ({names}): keep one, or give the folder of one")
    return found[0]


def _rows(path: Path, content: bytes) -> list[dict[str, str]]:
    """The rows as they stand there, all text ("null" is a word); each with an ID of its own."""
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        lines = [[cell.strip() for cell in line] for line in reader if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path} cannot be read as a table ({error}): unpack the archive again") from error
    header, lines = (lines[0], lines[1:]) if lines else ([], [])
    absent = [column for column in COLUMNS if column not in header]
    if absent:
        raise CorpusError(
            f"{path} has no column '{absent[0]}' (columns there: {', '.join(header) or 'none'}): unpack the archive again"
        )
    rows: dict[str, dict[str, str]] = {}
    for number, line in enumerate(lines, 1):
        if len(line) != len(header):
            raise CorpusError(
                f"{path}, row {number}: {len(line)} cells below a header of {len(header)}; correct the row"
            )
        row = dict(zip(header, line, strict=True))
        if not row["ID"]:
            raise CorpusError(f"{path}, row {number}: ID is empty; fill it in or take the row out")
        if row["ID"] in rows:
            raise CorpusError(f"{path}, row {number}: the ID {row['ID']} stands in a row above too; take one out")
        rows[row["ID"]] = row
    if not rows:
        raise CorpusError(f"{path} has no rows: unpack the archive again")
    return list(rows.values())


def _stimulus(row: Mapping[str, str], table: str) -> dict:
    """The metadata of one stimulus. Raises CorpusError where the row contradicts itself."""

    def wrong(what: str) -> CorpusError:
        return CorpusError(f"{table}, ID {row['ID']}: {what}; correct the row")

    def whole(column: str) -> int:
        if not _is_positive(row[column]):
            raise wrong(f"{column} is '{row[column]}', which is no whole number above 0")
        return int(row[column])

    def number(column: str, may_be_empty: bool) -> float:
        if may_be_empty and not row[column]:
            return math.nan
        try:
            value = float(row[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise wrong(f"{column} is '{row[column]}', which is no number")
        return value

    for column in ("Masker", "Speaker", "Target", "Confusion"):
        if not row[column]:
            raise wrong(f"{column} is empty")
    whole("Length")
    responses = [one.strip() for one in row["Responses"].split("|")]
    counts, listeners = row["Counts"].split(), whole("N-Listeners")
    lower = [one.lower() for one in responses]
    repeated = [one for k, one in enumerate(responses) if lower[k] in lower[:k]]
    no_counts = [count for count in counts if not _is_positive(count)]
    if "" in responses:
        raise wrong(f"Responses '{row['Responses']}' has an empty response")
    if repeated:
        raise wrong(f"Responses has '{repeated[0]}' more than once")
    if len(counts) != len(responses):
        raise wrong(f"Responses has {len(responses)} words, but Counts {len(counts)} numbers")
    if no_counts:
        raise wrong(f"Counts has '{no_counts[0]}', which is no whole number above 0")
    if sum(map(int, counts)) != listeners:
        raise wrong(f"the Counts {' + '.join(counts)} make {sum(map(int, counts))}, but N-Listeners is {listeners}")
    # only how many: Responses merges homophones, so that the words of Raw may be others
    if "Raw" in row and len(row["Raw"].split("|")) != listeners:
        raise wrong(f"Raw has {len(row['Raw'].split('|'))} responses, but N-Listeners is {listeners}")
    return {
        "channel": "sum",
        "speaker": row["Speaker"],
        "masker": row["Masker"],
        "snr": number("SNR", False),
        "target": row["Target"],
        "text": row["Target"],
        "responses": "|".join(responses),
        "counts": " ".join(counts),
        "listeners": listeners,
        "confusion": row["Confusion"],
        "consistency": whole("Consistency"),
        "target_frequency": number("Target-frequency", True),
        "confusion_frequency": number("Confusion-frequency", True),
        "phoneme_distance": number("Phoneme-distance", True),
    }


def _is_positive(text: str) -> bool:
    return re.fullmatch(r"0*[1-9][0-9]*", text) is not None


def _check_audio(wav: Path, length: int) -> None:
    """Raise AudioError when a WAV is not of the published layout; ``length``: samples of the word."""
    info = audio.probe(wav)
    if info.channels != 2:
        raise AudioError(
            f"{wav} has {info.channels} channel{'s' if info.channels > 1 else ''}, but the layout says two channels: "
            "word left, masker right; restore the file"
        )
    if info.sample_rate != SAMPLE_RATE:
        raise AudioError(f"{wav} has {info.sample_rate} Hz, the corpus {SAMPLE_RATE} Hz: restore the file")
    if info.n_frames != length + 2 * PADDING_SAMPLES:
        raise AudioError(
            f"{wav} has {info.n_frames} samples, but its Length is {length}, which with 200 ms before and after the "
            f"word makes {length + 2 * PADDING_SAMPLES}: restore the file, or correct Length"
        )


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
    chosen = {}
    for target in sorted(numbers.index, key=lambda target: _draw(seed, target)):
        own = numbers.loc[target].to_numpy()
        k = int(np.argmax(lacking @ own))
        lacking[k] -= 10 * own
        chosen[target] = list(TENTHS)[k]
    return [chosen[target] for target in table["target"]]


def _numbers(table: pd.DataFrame, column: str) -> dict[str, dict[str, int]]:
    """How many stimuli of each part and masker."""
    numbers = pd.crosstab(table["masker"], table[column]).reindex(columns=list(TENTHS), fill_value=0)
    return {part: {str(masker): int(n) for masker, n in numbers[part].items()} for part in numbers}
