"""Word embeddings and word attributes from text files: the targets of cca-glove, cca-agwe, cca-semantic, cca-syntactic.

Formats and their sizes: spec layerwise.md 3.7 and 7.1. A file is read once, line by line, and only the lines
that the asked words want are kept (GloVe 840B has 2.2 million of them, 5 GB).
"""

from __future__ import annotations

import ast
import gzip
import io
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from layertool.errors import CorpusError
from layertool.spelling import is_number, nfc

_HEAD_LINES = 100  # lines that tell the format and the number of dimensions
_LONGEST_LINE = 2**20  # bytes, over 80000 dimensions; longer ones are no lines of text
_BLANK = b" \t\r\n"
# Of bytes, not of text: the no-break space and U+0085 are words of GloVe, and str.split() would eat them.
_FIELD = re.compile(rb"[^ \t]+")
_HEADER = re.compile(rb"\d{1,18}[ \t]+(\d{1,9})")  # number of words, number of dimensions
_ATTRIBUTE_LINE = re.compile(rb"[^\t]+\t\s*\{")
_FORMATS = "lines 'word 0.1 -0.2 …', or 'word<TAB>{\"attribute\": 0.3, …}'"

_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class Embeddings:
    """What a file has about the words that were asked for.

    ``vectors`` (n_rows, d), float64: one row for each word of the file that is used, in the order of the file.
    ``columns``: the d names of the attributes, in the order in which the file first names them; [] for vectors.
    ``index`` (n_words,): the row of each asked word, -1 where the file has none; two labels ("The", "the") can
    share a row. ``missing``: the asked words without a row, each once, in the order asked.
    """

    vectors: np.ndarray
    columns: list[str]
    index: np.ndarray
    missing: list[str]

    def name_missing(self, limit: int = 5) -> str:
        """The missing words for a message: "'a', 'b' and 12 more"; empty when there are none."""
        named = ", ".join(f"'{word}'" for word in self.missing[:limit])
        more = len(self.missing) - limit
        return f"{named} and {more} more" if more > 0 else named


def read(path: Path | str, words: Sequence[str]) -> Embeddings:
    """The vectors or attributes of ``words`` in a text file; its lines tell which of the two it has.

    Vectors (GloVe, AGWE, word2vec and fastText as text): ``word v1 v2 … vd``, separated by spaces or tabs, after
    an optional header ``n d``. d is what most of the first 100 lines have; the last d fields are the vector, so
    a word can contain spaces (". . ." in GloVe 840B). Attributes (qvec): ``word<TAB>{"attribute": weight, …}``,
    a literal that is parsed, never run; attributes that a word does not have are 0. Either may be gzipped.

    A label takes the word of the file that equals it; else the one that equals it in lower case; else the first
    that differs only in case (``str.casefold``). Of equal words in the file the first wins. Text is UTF-8, compared in
    NFC; a word with other bytes stays in the file, where no label equals it.

    Raises CorpusError, with the line, for a file that is missing, empty, binary or in neither format, for
    vectors of different lengths, and for an attribute line or the vector of an asked word that is not finite
    numbers (the numbers of other words are not looked at).
    """
    path, words = Path(path), [nfc(str(word)) for word in words]
    if not path.exists():
        raise CorpusError(f"{path} does not exist: check the path of the embeddings")
    try:
        with path.open("rb") as raw:
            gzipped = raw.peek(2)[:2] == b"\x1f\x8b"
            return _read(path, gzip.GzipFile(fileobj=raw) if gzipped else raw, words)
    except (OSError, EOFError, zlib.error) as error:  # the last two: a gzipped file that is cut short or damaged
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(f"{path} could not be read ({reason}): give a whole file that you may read") from error


def _read(path: Path, file: io.BufferedIOBase, words: Sequence[str]) -> Embeddings:
    lines = _lines(path, file)
    head = list(islice(lines, _HEAD_LINES))
    if not head:
        raise CorpusError(f"{path} is empty: embeddings are {_FORMATS}")
    lines = chain(head, lines)
    columns: dict[str, int] = {}
    if _ATTRIBUTE_LINE.match(head[0][1]):
        weights, index = _choose(_attribute_entries(path, lines, columns), words)
        vectors = np.zeros((len(weights), len(columns)))
        for row, weights_of_word in enumerate(weights):
            vectors[row, [columns[name] for name in weights_of_word]] = list(weights_of_word.values())
    else:
        width, header_lines = _layout(path, head)
        chosen, index = _choose(_vector_entries(path, islice(lines, header_lines, None), width), words)
        vectors = np.array([_numbers(path, number, line, width) for number, line in chosen], np.float64)
        vectors = vectors.reshape(len(chosen), width)
    missing = dict.fromkeys(str(word) for word, row in zip(words, index, strict=True) if row < 0)
    return Embeddings(vectors, list(columns), index, list(missing))


def _lines(path: Path, file: io.BufferedIOBase) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, without their ends, each with its number from 1."""
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if b"\0" in line or len(line) == _LONGEST_LINE:
            raise CorpusError(
                f"{path}, line {number} is not text: embeddings are {_FORMATS} in UTF-8; "
                "unpack an archive, convert a binary file"
            )
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # byte-order mark
        if line := line.rstrip(_BLANK):
            yield number, line


def _choose(entries: Iterable[tuple[str, _Entry]], words: Sequence[str]) -> tuple[list[_Entry], np.ndarray]:
    """The entries that the words take, in the order of the file, and the place (len(words),) of each word's or -1."""
    exact = {*words, *(word.lower() for word in words)}
    folds = {word.casefold() for word in exact}
    kept: dict[str, _Entry] = {}
    first: dict[str, str] = {}  # of the words that are equal but for case
    for word, entry in entries:
        fold = word.casefold()
        if fold in folds and word not in kept and (word in exact or fold not in first):
            kept[word] = entry
            first.setdefault(fold, word)
    taken: list[str | None] = []
    for label in words:
        same = [word for word in (label, label.lower()) if word in kept]
        taken.append(same[0] if same else first.get(label.casefold()))
    used = set(taken)
    place = {word: row for row, word in enumerate(word for word in kept if word in used)}
    index = np.array([-1 if word is None else place[word] for word in taken], np.int64)
    return [kept[word] for word in place], index


def _layout(path: Path, head: list[tuple[int, bytes]]) -> tuple[int, int]:
    """Number of dimensions, and of header lines (0 or 1), from the first lines of a file."""
    widths = [_n_trailing_numbers(_FIELD.findall(line)) for _, line in head]
    header = _HEADER.fullmatch(head[0][1]) if len(head) > 1 else None
    # the commonest, not the smallest: then a line that is cut short is the one to blame
    width = Counter(widths[1:] if header else widths).most_common(1)[0][0]
    if header and int(header[1]) == width:
        return width, 1
    if header and width > 1:
        raise CorpusError(
            f"{path}, line {head[0][0]} announces vectors of {int(header[1])} numbers, but the lines below have "
            f"{width}: correct the line or take it out"
        )
    if width == 0:
        raise CorpusError(f"{path} is in neither format of embeddings: write {_FORMATS}")
    return width, 0


def _n_trailing_numbers(fields: list[bytes]) -> int:
    """How many fields at the end are numbers; the first never counts, it is the word."""
    n = 0
    while n < len(fields) - 1 and is_number(fields[-1 - n]):
        n += 1
    return n


def _vector_entries(
    path: Path, lines: Iterable[tuple[int, bytes]], width: int
) -> Iterator[tuple[str, tuple[int, bytes]]]:
    """The word of each line, and the line with its number: parsing 300 numbers is left to those who want them."""
    for number, line in lines:
        end = line.find(b" ")
        if end > 0 and line.count(b" ") == width and b"  " not in line and b"\t" not in line:
            word = line[:end]  # nearly every line; splitting them all would take eight times as long
        else:
            fields = _FIELD.findall(line)
            inner = fields[1:-width]  # what a word with spaces has after the first
            if len(fields) == width and end == 0 and is_number(fields[0]):
                continue  # the word itself is blank, which no label is
            if len(fields) <= width or (inner and all(map(is_number, inner))):
                raise CorpusError(
                    f"{path}, line {number} has {_n_trailing_numbers(fields)} numbers after the word, "
                    f"other lines have {width}: complete the line or take it out"
                )
            word = b" ".join(fields[:-width])
        yield nfc(word.decode("utf-8", "replace")), (number, line)


def _numbers(path: Path, number: int, line: bytes, width: int) -> list[float]:
    values = []
    for field in _FIELD.findall(line)[-width:]:
        value = float(field) if is_number(field) else math.nan
        if not math.isfinite(value):
            raise CorpusError(
                f"{path}, line {number} has '{field.decode('utf-8', 'replace')}' among its last {width} fields, "
                "which must be finite numbers: correct the line or take it out"
            )
        values.append(value)
    return values


def _attribute_entries(
    path: Path, lines: Iterable[tuple[int, bytes]], columns: dict[str, int]
) -> Iterator[tuple[str, dict[str, float]]]:
    """The word and the weights of each line; ``columns`` receives every name with its place."""
    for number, line in lines:
        word, _, literal = line.partition(b"\t")
        weights = _weights(literal)
        if weights is None:
            raise CorpusError(
                f"{path}, line {number} ('{word.decode('utf-8', 'replace')[:40]}') needs, after a tab, names with "
                'finite numbers like {"noun": 0.7, "verb": 0.3}: correct the line or take it out'
            )
        for name in weights:
            columns.setdefault(name, len(columns))
        yield nfc(word.strip().decode("utf-8", "replace")), weights


def _weights(literal: bytes) -> dict[str, float] | None:
    """A dict of str and finite numbers from its literal, or None if it is anything else; nothing is run."""
    try:
        value = ast.literal_eval(literal.decode("utf-8").strip())
        # bool is an int, and an int too large for a float raises OverflowError
        fine = isinstance(value, dict) and all(
            isinstance(name, str) and type(weight) in (int, float) and math.isfinite(weight)
            for name, weight in value.items()
        )
    except (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError):
        return None  # all that literal_eval raises for malformed text, says the documentation of ast
    return value if fine else None
