"""Word and phone segments by forced alignment with pocketsphinx (US English, 39 phones of CMUdict)."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from importlib.metadata import version
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd

from layertool import audio, columns
from layertool.corpora import labels
from layertool.corpora.alignments import Progress
from layertool.corpora.corpus import Corpus
from layertool.corpora.segments import Entry, SegmentRows
from layertool.corpora.texts import read_text
from layertool.errors import AudioError, CorpusError, LayertoolError, MissingExtraError, UsageError
from layertool.non_speech import NOISE, PHONE, non_speech
from layertool.spelling import nfc

FRAMES_PER_SECOND = 100  # of pocketsphinx: every boundary is a multiple of 10 ms

# The phones of CMUdict and of pocketsphinx's en-us model.
_PHONES = re.compile(
    "AA|AE|AH|AO|AW|AY|B|CH|D|DH|EH|ER|EY|F|G|HH|IH|IY|JH|K|L|M|N|NG|OW|OY|P|R|S|SH|T|TH|UH|UW|V|W|Y|Z|ZH"
)

# "bestpath" rescoring moves words to where their phones no longer fit: of 19 clean utterances it makes three fail
# and takes the last word from a fourth. pocketsphinx's own beams (1e-48, 1e-48, 7e-29) lose 23 of 72 synthetic
# utterances, nearly all of accents that the model was not trained on, so that a corpus of accents would lose them
# unequally; these lose none, align clean speech the same and take 15 % longer.
SEARCH = {"bestpath": False, "beam": 1e-250, "pbeam": 1e-250, "wbeam": 1e-200}

_CHUNK = 4  # utterances sent to a worker at once
_MISSING_SHOWN = 10

Tiers = dict[str, list[Entry]]  # labels by tier
Task = tuple[audio.Excerpt, list[str]]  # one utterance for a worker: its audio, and the words to be found in it


def align(
    corpus: Corpus,
    dictionary: Path | str | None = None,
    max_failures: int = 0,
    jobs: int = 1,
    progress: Progress | None = None,
    replacing: bool = True,
) -> Corpus:
    """Give every utterance the segments of the words in its ``text`` and of their phones.

    The tiers ``word`` and ``phone`` of the corpus are replaced, which is an error unless ``replacing``, other tiers
    stay. Words are the text's own, in lower case; phones are the 39 of CMUdict plus SIL for silence; times are
    multiples of 10 ms. The result does not depend on ``jobs`` or on the order of the utterances. Forced alignment
    trusts the text: words that were never said are mostly placed somewhere all the same.

    ``dictionary``: a file of pronunciations in CMUdict format (``word  P H ON ES``, alternatives as
    further lines) for words that pocketsphinx does not know, or says differently. ``max_failures``:
    how many utterances may stay without segments because their words do not fit their audio or their audio
    cannot be read; they are named in ``provenance["alignment_failures"]``. ``jobs``: worker processes (started afresh,
    so a script that asks for several needs ``if __name__ == "__main__":``). ``progress``: called
    with the number of utterances done and the number of all.

    Raises MissingExtraError, CorpusError (no texts, words without pronunciation, too many failures),
    AudioError.
    """
    if find_spec("pocketsphinx") is None:
        raise MissingExtraError("pocketsphinx", "align", "forced alignment")
    if jobs < 1:
        raise UsageError(f"--jobs {jobs} is no number of processes: give 1 or more")
    utterances = corpus.utterances
    if (known := sorted({*labels.TIERS} & {*corpus.tiers})) and not replacing:
        raise CorpusError(
            f"{corpus.name} has {' and '.join(known)} segments already: write to another corpus with -o, "
            "or replace them with --overwrite"
        )
    columns.require(utterances, ["text"], corpus.name, "add the words of each utterance, or rename their column")
    pronunciations = {} if dictionary is None else read_dictionary(dictionary)
    aligner = _Aligner({})
    tasks = _tasks(corpus, aligner, pronunciations)
    used = {word for _, words in tasks for word in words}
    needed = {word: spoken for word, spoken in pronunciations.items() if word in used}

    rows, failures = SegmentRows(), {}
    with closing(_run(aligner, needed, tasks, jobs)) as results:
        for done, (utterance, result) in enumerate(zip(utterances["utterance"], results, strict=True), 1):
            if isinstance(result, str):
                failures[utterance] = result
                if len(failures) > max_failures:
                    first, reason = next(iter(failures.items()))
                    raise CorpusError(
                        f"utterance '{first}' cannot be aligned: {reason} ({len(failures)} failed among the first "
                        f"{done} of {len(tasks)}); correct its text or audio, or leave such utterances without "
                        f"segments with --max-failures {len(failures)} or more"
                    )
            else:
                for tier, entries in result.items():
                    rows.add(utterance, tier, entries)
            if progress is not None:
                progress(done, len(tasks))

    segments = rows.table()
    kept = corpus.segments[~corpus.segments["tier"].isin(labels.TIERS)]
    if len(kept):
        segments = pd.concat([kept, segments], ignore_index=True)
    # what was said of the segments that are gone
    replaced = ("textgrid", "segments", "labels", "non_speech", "notes", "zero_length", "alignment")
    provenance = {key: value for key, value in corpus.provenance.items() if not key.startswith(replaced)}
    provenance["alignment"] = f"pocketsphinx {version('pocketsphinx')}, en-us"
    if failures:
        provenance["alignment_failures"] = failures
    return Corpus.ordered(utterances, segments, corpus.name, provenance)


def tokens(text: str, known: Callable[[str], bool]) -> list[str]:
    """The words of a text: lower case, without punctuation, hyphenated words in their parts.

    An apostrophe stays inside a word; at its edge it stays where ``known`` says that the word is
    written like that (``'em``), else it was a quotation mark.
    """
    text = nfc(text).lower().replace("\u2019", "'").replace("\u02bc", "'")
    words = []
    for piece in re.findall(r"(?:[^\W_]|')+", text):
        forms = (piece, piece.rstrip("'"), piece.lstrip("'"), piece.strip("'"))
        if forms[-1]:
            words.append(next((form for form in forms if known(form)), forms[-1]))
    return words


def read_dictionary(path: Path | str) -> dict[str, list[str]]:
    """Read pronunciations in CMUdict format: word (lower case) to its pronunciations, "P H ON ES" each.

    Stress digits, alternatives marked ``word(2)``, comments (``#``, ``;;;``) and empty lines are
    allowed. Raises CorpusError for a missing file, a line without phones or with an unknown phone.
    """
    path = Path(path)
    pronunciations: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        fields = line.split(";;;")[0].split(" #")[0].split()
        if not fields or fields[0].startswith("#"):
            continue
        word = nfc(re.sub(r"\(\d+\)$", "", fields[0])).lower()
        phones = [re.sub(r"[012]$", "", phone.upper()) for phone in fields[1:]]
        # checked here because pocketsphinx crashes on a word without phones
        wrong = [given for given, phone in zip(fields[1:], phones, strict=True) if not _PHONES.fullmatch(phone)]
        if wrong or not phones:
            problem = f"'{wrong[0]}' is no phone of CMUdict" if wrong else f"'{fields[0]}' has no phones"
            raise CorpusError(f"{path}, line {number}: {problem}; write lines like 'layer  L EY ER'")
        pronunciations.setdefault(word, []).append(" ".join(phones))
    return pronunciations


def _tasks(corpus: Corpus, aligner: _Aligner, pronunciations: dict[str, list[str]]) -> list[Task]:
    """What to align; raises CorpusError when any text of the corpus has words without pronunciation."""

    def known(word: str) -> bool:
        return word in pronunciations or aligner.knows(word)

    tasks: list[Task] = []
    missing: dict[str, str] = {}
    for row in corpus.utterances.itertuples():
        words = [] if pd.isna(row.text) else tokens(str(row.text), known)
        missing |= {word: row.utterance for word in words if word not in missing and not known(word)}
        channel, start, end = (None if pd.isna(value) else value for value in (row.channel, row.start, row.end))
        tasks.append((audio.Excerpt(row.audio, channel, start, end, row.n_samples), words))
    if missing:
        more = len(missing) - _MISSING_SHOWN
        raise CorpusError(
            f"the texts of {corpus.name} have {len(missing)} word{'s' if len(missing) > 1 else ''} that the dictionary "
            f"does not know: {', '.join(list(missing)[:_MISSING_SHOWN])}{f' and {more} more' if more > 0 else ''} "
            f"(the first in utterance '{next(iter(missing.values()))}'): give their pronunciations with "
            "--dictionary FILE, lines like 'layer  L EY ER', and write numbers out as words"
        )
    return tasks


class _Aligner:
    """A pocketsphinx decoder that knows some more words."""

    def __init__(self, pronunciations: dict[str, list[str]]):
        from pocketsphinx import Decoder

        self._decoder = Decoder(lm=None, loglevel="FATAL", **SEARCH)
        self.add(pronunciations)

    def knows(self, word: str) -> bool:
        return self._decoder.lookup_word(word) is not None

    def add(self, pronunciations: dict[str, list[str]]) -> None:
        """Add pronunciations beside those that are there: word, word(2), word(3)…, as CMUdict counts them."""
        for word, spoken in pronunciations.items():
            for phones in spoken:
                for number in count(1):
                    entry = word if number == 1 else f"{word}({number})"
                    there = self._decoder.lookup_word(entry)
                    if there is None:
                        self._decoder.add_word(entry, phones, False)
                    if there in (None, phones):
                        break

    def align(self, task: Task) -> Tiers | str:
        """The words and phones of one utterance, or the reason why there are none."""
        excerpt, wanted = task
        if not wanted:
            return "its text has no words"
        try:
            samples = excerpt.read()
        except AudioError as error:
            return str(error)
        pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2").tobytes()
        try:
            # the first pass finds the words, the second the phones inside them
            self._decoder.set_align_text(" ".join(wanted))
            self._decode(pcm)
            self._decoder.set_alignment()
            self._decode(pcm)
        except RuntimeError:
            return "its words do not fit its audio"
        alignment = self._decoder.get_alignment()  # to be kept: words and phones point into it
        tiers: Tiers = {"word": [], "phone": []}
        for word in alignment.words():
            # fillers are written <sil>, [NOISE], ...
            if word.name[0] not in "<[":
                tiers["word"].append((*_seconds(word), re.sub(r"\(\d+\)$", "", word.name)))
            for phone in word:
                _add_phone(phone, tiers["phone"])
        if [label for _, _, label in tiers["word"]] != wanted:
            return "some of its words are not found in its audio"
        return tiers

    def _decode(self, pcm: bytes) -> None:
        # The estimate of the background noise outlives an utterance: without this an alignment would depend
        # on the utterances before it.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, full_utt=True)
        self._decoder.end_utt()


def _seconds(entry) -> tuple[float, float]:
    return entry.start / FRAMES_PER_SECOND, (entry.start + entry.duration) / FRAMES_PER_SECOND


def _add_phone(phone, phones: list[Entry]) -> None:
    """Add a phone; none for noise, and for silence that only prolongs the one before a longer one."""
    kind = non_speech(PHONE, phone.name)
    if kind == NOISE:
        return
    start, end = _seconds(phone)
    label = labels.SILENT if kind else phone.name.lower()
    if kind and phones and phones[-1][1:] == (start, label):
        start, _, _ = phones.pop()
    phones.append((start, end, label))


def _run(
    aligner: _Aligner, pronunciations: dict[str, list[str]], tasks: list[Task], jobs: int
) -> Generator[Tiers | str]:
    """The results of all tasks in their order."""
    jobs = min(jobs, -(-len(tasks) // _CHUNK))
    if jobs == 1:
        aligner.add(pronunciations)
        yield from map(aligner.align, tasks)
        return
    # spawned, never forked: the parent may hold threads of other libraries
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(pronunciations,)) as pool:
        try:
            yield from pool.map(_align_in_worker, tasks, chunksize=_CHUNK)
        except BrokenProcessPool as error:
            raise LayertoolError(
                "a process that aligns ended without a word, most likely for lack of memory: run again with --jobs 1"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_worker: _Aligner  # of a worker process, made when it starts


def _start_worker(pronunciations: dict[str, list[str]]) -> None:
    global _worker
    _worker = _Aligner(pronunciations)


def _align_in_worker(task: Task) -> Tiers | str:
    return _worker.align(task)
