"""Text files of 100 000 lines, words or marks that mean nothing are read in time that grows as they do.

A quadratic expression would take minutes on each; the time limit is the only clock.
"""

from __future__ import annotations

from contextlib import suppress

import pytest

from layertool import results
from layertool.analysis import embeddings
from layertool.analysis.lexical.lexicon import read_words
from layertool.corpora import label_files, textgrid
from layertool.corpora.align import read_dictionary
from layertool.corpora.table_files import read_table
from layertool.corpora.texts import read_text
from layertool.errors import LayertoolError

GRID = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'
READERS = {  # name of the file: how it begins, what reads it
    "x.TextGrid": (GRID, textgrid.voices),
    "x.ctm": ("u 1 0.0 0.5 a\n", label_files.of_many),
    "x.mlf": ('#!MLF!#\n"*/a.lab"\n0 10 a\n', label_files.of_many),
    "x.lab": ("0 1000000 a\n", lambda path: label_files.voices({"word": path}, path.with_suffix(".wav"))),
    "x.phn": ("0 100 a\n", lambda path: label_files.voices({"phone": path}, path.with_suffix(".wav"))),
    "x.words": ("header\n#\n0.5 121 a; x\n", lambda path: label_files.voices({"word": path}, path.with_suffix(".wav"))),
    "x.txt": ("", lambda path: label_files.transcript(read_text(path), path, path, False)),
    "x.csv": ("a,b\n1,2\n", read_table),
    "x.tsv": ("a\tb\n1\t2\n", read_table),
    "results.csv": ("analysis,value\n", lambda path: results.read([path])),
    "dictionary.txt": ("the DH AH0\n", read_dictionary),
    "words.txt": ("the\n", read_words),
    "vectors.vec": ("the 1.0 2.0\n", lambda path: embeddings.read(path, ["the"])),
}  # fmt: skip
PARTS = (
    "\n",
    "   \n",
    "\t\n",
    "\r",
    '"',
    '"" ',
    "- ",
    "! x ",
    ".",
    "1",
    "a ",
    "= ",
    "<",
    "item [1]:\n",
    "#",
    "\u00a0",
    "0 1 a\n",
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", READERS)
def test_long_files_are_read_in_linear_time(name, tmp_path):
    begin, read = READERS[name]
    for part in PARTS:
        (tmp_path / name).write_text(begin + part * 100_000, encoding="utf-8")
        with suppress(LayertoolError):
            read(tmp_path / name)
