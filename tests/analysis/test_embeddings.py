import gzip
import tracemalloc

import numpy as np
import pytest
from refusals import refused

from layertool.analysis import embeddings
from layertool.errors import CorpusError

GLOVE = "the 0.1 -0.2 3e-1\nof 1 2 3\n. . . 4 5 6\nThe 7 8 9\nof 9 9 9\nat name@domain.com -1 -2 -3\n"
QVEC = (
    'abandon\t{"semcor.verb.social": 0.4, "semcor.noun.act": 0.6}\n'
    "time\t{'semcor.noun.time': 1.0}\n"
    'age\t{"semcor.noun.time": 0.25, "semcor.verb.social": 0.75}\n'
)


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes, name: str = "words.txt"):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def found(path, words) -> dict:
    """The row of each word as a list, None where there is none."""
    read = embeddings.read(path, words)
    return {w: read.vectors[i].tolist() if i >= 0 else None for w, i in zip(words, read.index, strict=True)}


def test_vectors(write):
    read = embeddings.read(str(write(GLOVE)), ["of", "nowhere", "the", "of"])
    np.testing.assert_array_equal(read.vectors, [[0.1, -0.2, 0.3], [1, 2, 3]])  # in the order of the file
    assert read.vectors.dtype == np.float64
    assert (read.columns, read.missing) == ([], ["nowhere"])
    np.testing.assert_array_equal(read.index, [1, -1, 0, 1])
    assert np.issubdtype(read.index.dtype, np.integer)


def test_attributes(write):
    read = embeddings.read(write(QVEC), ["age", "nowhere", "time"])
    # every word of the file counts for the columns, wanted or not
    assert read.columns == ["semcor.verb.social", "semcor.noun.act", "semcor.noun.time"]
    np.testing.assert_array_equal(read.vectors, [[0, 0, 1], [0.75, 0, 0.25]])
    np.testing.assert_array_equal(read.index, [1, -1, 0])
    assert read.missing == ["nowhere"]


def test_words_with_spaces_have_the_last_fields(write):
    assert found(write(GLOVE), [". . .", "at name@domain.com", ".", "at"]) == {
        ". . .": [4, 5, 6],
        "at name@domain.com": [-1, -2, -3],
        ".": None,
        "at": None,
    }


def test_words_with_spaces_may_come_first(write):
    assert found(write(". . . 4 5\n. . 6 7\nthe 1 2\n"), ["the", ". ."]) == {"the": [1, 2], ". .": [6, 7]}
    assert found(write("the 1 2\nnew\tyork 3 4\n"), ["new york"]) == {"new york": [3, 4]}


@pytest.mark.parametrize(
    "text",
    [
        "the\t1\t2\nof\t3\t4\n",
        "the\t1 2\nof\t3 4\n",
        "  the  1   2 \nof 3\t 4\t\n",
        "the 1 2\r\n\r\nof 3 4\r\n",
        "\n\nthe 1 2\n \nof 3 4",
        "\ufeffthe 1 2\nof 3 4\n",
        "2 2\nthe 1 2\nof 3 4\n",
        "2 2 \nthe 1 2 \nof 3 4 \n",  # word2vec and fastText end their lines with a space
        "\ufeff2\t2\nthe 1 2\nof 3 4\n",
        "the 1 2\n 5 6\nof 3 4\n",  # wikipedia2vec has a line break as a word
    ],
)
def test_layouts(write, text):
    assert found(write(text), ["the", "of", "2", "5"]) == {"the": [1, 2], "of": [3, 4], "2": None, "5": None}


def test_numbers_are_words_too(write):
    numbers = "1999 1 2\n7 3 4\nthe 5 6\n"
    assert found(write(numbers), ["7", "1999"]) == {"7": [3, 4], "1999": [1, 2]}
    assert found(write("7 3\nthe 5\n"), ["7", "the"]) == {"7": [3], "the": [5]}  # announces 3, has 1: no header
    assert found(write("2 1\n7 3\nthe 5\n"), ["7", "2"]) == {"7": [3], "2": None}
    assert found(write("1 3\nthe 5 6 7\n"), ["1", "the"]) == {"1": None, "the": [5, 6, 7]}


@pytest.mark.parametrize("separator", [" ", "\t"])
@pytest.mark.parametrize("word", ["\u00a0", "\u0085", "a\u00a0b", "a\vb", "\u3000", "café", "ΟΔΟΣ"])
def test_only_spaces_and_tabs_separate(write, word, separator):
    """GloVe has U+0085 and no-break spaces as words; a reader that splits text there is a number short."""
    path = write("".join(separator.join(fields) + "\n" for fields in (["the", "1", "2"], [word, "3", "4"])))
    assert found(path, [word, "the"]) == {word: [3, 4], "the": [1, 2]}


def test_words_in_another_encoding_do_not_disturb(write):
    read = found(write("café 1 2\nthe 3 4\n".encode("latin-1")), ["café", "the"])
    assert read == {"café": None, "the": [3, 4]}


@pytest.mark.parametrize("text", [GLOVE, QVEC])
def test_gzipped(write, text):
    words = ["the", "age", "of", "time"]
    assert found(write(gzip.compress(text.encode())), words) == found(write(text), words)


def test_order_of_matching(write):
    path = write("PARIS 1\nParis 2\nparis 3\nROME 4\nRome 5\nStraße 6\nOslo 7\nOSLO 8\noSLO 9\n")
    assert found(path, ["PARIS", "Paris", "paris", "pARIS"]) == {"PARIS": [1], "Paris": [2], "paris": [3], "pARIS": [3]}
    assert found(path, ["rome", "Rome", "rOME"]) == {"rome": [4], "Rome": [5], "rOME": [4]}
    assert found(path, ["STRASSE", "strasse"]) == {"STRASSE": [6], "strasse": [6]}
    assert found(path, ["OSLO"]) == {"OSLO": [8]}  # though another word that differs in case comes first
    assert found(path, ["oslo"]) == {"oslo": [7]}


def test_lower_case_goes_before_the_first_in_the_file(write):
    assert found(write("The 1\nthe 2\n"), ["THE"]) == {"THE": [2]}
    assert embeddings.read(write("The 1\nthe 2\n"), ["THE"]).vectors.tolist() == [[2]]  # only what is used


def test_labels_share_a_row(write):
    read = embeddings.read(write("the 1 2\nof 3 4\n"), ["The", "of", "the", "THE"])
    assert read.vectors.tolist() == [[1, 2], [3, 4]]
    assert read.index.tolist() == [0, 1, 0, 0]
    assert read.missing == []


def test_first_of_equal_words_wins(write):
    assert found(write(GLOVE), ["of"]) == {"of": [1, 2, 3]}
    read = embeddings.read(write('a\t{"x": 1}\nb\t{"y": 2}\na\t{"z": 3}\n'), ["a"])
    assert (read.vectors.tolist(), read.columns) == ([[1, 0, 0]], ["x", "y", "z"])


@pytest.mark.parametrize("text", [GLOVE, QVEC])
def test_order_of_words_changes_nothing(write, text):
    path = write(text)
    words = ["the", "The", "THE", "of", "OF", "nowhere", ". . .", "time", "Age", "AGE", "abandon"]
    straight = embeddings.read(path, words)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(words))
        shuffled = embeddings.read(path, [words[i] for i in order])
        np.testing.assert_array_equal(shuffled.vectors, straight.vectors)
        np.testing.assert_array_equal(shuffled.index, straight.index[order])
        assert shuffled.columns == straight.columns
        assert sorted(shuffled.missing) == sorted(straight.missing)


@pytest.mark.parametrize(("text", "width"), [(GLOVE, 3), (QVEC, 3)])
def test_nothing_found_and_nothing_asked(write, text, width):
    for words in (["nowhere"], []):
        read = embeddings.read(write(text), words)
        assert read.vectors.shape == (0, width)
        assert read.missing == words


def test_missing_words_are_named_once_in_the_order_asked(write):
    read = embeddings.read(write(GLOVE), [*"zyxw", "the", *"zabc"])
    assert read.missing == list("zyxwabc")
    assert read.name_missing() == "'z', 'y', 'x', 'w', 'a' and 2 more"
    assert read.name_missing(7) == "'z', 'y', 'x', 'w', 'a', 'b', 'c'"
    assert embeddings.read(write(GLOVE), ["the"]).name_missing() == ""


def test_memory_does_not_grow_with_the_file(write):
    row = " 0.123456789" * 300
    path = write("".join(f"w{i}{row}\n" for i in range(3000)))
    tracemalloc.start()
    read = embeddings.read(path, ["w5", "w2999"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read.vectors.shape == (2, 300)
    assert peak < path.stat().st_size / 4


def test_numbers_of_other_words_are_not_looked_at(write):
    path = write("the 1 2\nof 1 x\nand 3 4\n")
    assert found(path, ["the", "and"]) == {"the": [1, 2], "and": [3, 4]}
    refused(
        r"words\.txt, line 2 has 'x' among its last 2 fields", embeddings.read, path, ["the", "of"], error=CorpusError
    )


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "0x1", "1,5", "é"])
def test_vectors_that_are_not_finite_numbers(write, value):
    refused(
        rf"line 3 has '{value}' .*finite",
        embeddings.read,
        write(f"of 1 2\n\nthe 1 {value}\nand 1 2\n"),
        ["the"],
        error=CorpusError,
    )


@pytest.mark.parametrize(
    ("line", "n"),
    [("of 1 2", 2), ("of", 0), ("of 1 2 3 4", 4), (" of 1 2", 2), ("of  1 2", 2), ("1 2 3", 2), ("of\t1\t2", 2)],
)
@pytest.mark.parametrize("where", [1, 2, 500])
def test_vectors_of_different_lengths(write, line, n, where):
    """Whoever asks for what: a file that is not whole is never half read."""
    lines = [f"w{i} 1 2 3" for i in range(600)]
    lines[where - 1] = line
    refused(
        rf"words\.txt, line {where} has {n} numbers .* other lines have 3",
        embeddings.read,
        write("\n".join(lines)),
        ["w9"],
        error=CorpusError,
    )


def test_of_two_lines_the_first_is_the_measure(write):
    refused(
        r"line 2 has 2 numbers .* other lines have 3",
        embeddings.read,
        write("the 1 2 3\nof 1 2\n"),
        ["the"],
        error=CorpusError,
    )


def test_header_that_is_not_true(write):
    refused(
        "line 1 announces vectors of 300 numbers, but the lines below have 3",
        embeddings.read,
        write("6 300\n" + GLOVE),
        ["the"],
        error=CorpusError,
    )


@pytest.mark.parametrize(
    "literal",
    [
        '{"a": __import__("pathlib").Path("MARK").touch()}',
        '__import__("pathlib").Path("MARK").touch()',
        '{**{"a": 1}}',
        '["a", 1]',
        '{"a"}',
        '{"a": "1"}',
        '{"a": True}',
        '{"a": None}',
        '{"a": 1j}',
        '{"a": 1e999}',
        '{"a": -1e999}',
        '{"a": 1' + "0" * 400 + "}",
        "{1: 1}",
        '{"a": 1',
        '{"a": 1}}',
        '{["a"]: 1}',
        '{"a": ' + "(" * 500 + "1" + ")" * 500 + "}",
        "{" * 100000,
        "",
        "\ufffd",
    ],
    ids=lambda literal: literal[:20],
)
def test_attributes_that_are_not_are_refused_and_never_run(write, tmp_path, literal):
    mark = tmp_path / "mark"
    text = literal.replace("MARK", str(mark))
    refused(
        r"words\.txt, line 4 \('time'\) needs, after a tab",
        embeddings.read,
        write(f"{QVEC}time\t{text}\nage\t{{}}\n"),
        ["abandon"],
        error=CorpusError,
    )
    with pytest.raises(CorpusError):  # in the line that tells the format
        embeddings.read(write(f"time\t{text}\n{QVEC}"), ["abandon"])
    assert not mark.exists()


def test_attribute_lines_without_tab_or_in_another_encoding(write):
    refused(r"line 4 \('age \{", embeddings.read, write(QVEC + 'age {"a": 1}\n'), ["age"], error=CorpusError)
    refused(
        r"line 1 \('age'\)", embeddings.read, write('age\t{"é": 1}\n'.encode("latin-1")), ["age"], error=CorpusError
    )
    # a line of attributes among vectors
    refused("line 7 has 0 numbers", embeddings.read, write(GLOVE + 'age\t{"a": 1}\n'), ["the"], error=CorpusError)


def test_missing_file_and_folder(tmp_path):
    refused(r"none\.txt does not exist: check", embeddings.read, tmp_path / "none.txt", ["the"], error=CorpusError)
    refused(r"could not be read \(.+\): give", embeddings.read, tmp_path, ["the"], error=CorpusError)


@pytest.mark.parametrize("text", ["", "\n \n\t\n", "\ufeff"])
def test_empty_file(write, text):
    refused(r"words\.txt is empty: embeddings are lines", embeddings.read, write(text), ["the"], error=CorpusError)


@pytest.mark.parametrize(
    "text",
    [
        "Once upon a time\nthere was a file of 7\nwithout any vectors.\n",
        "the,0.1,0.2\nof,0.3,0.4\n",
        "the\nof\n",
        '{"the": [0.1, 0.2]}\n',
    ],
)
def test_neither_format(write, text):
    refused(r"words\.txt is in neither format", embeddings.read, write(text), ["the"], error=CorpusError)


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04\x14\x00\x00\x00glove",
        b"2 2\nthe \x00\x00\x80\x3f\x00\x00\x00\x40\n",  # word2vec's binary format
        "the 1 2\n".encode("utf-16"),
        b"x" * (2**20 + 1),
    ],
)
def test_binary_files(write, data):
    refused(r"words\.txt, line \d is not text: .*unpack", embeddings.read, write(data), ["the"], error=CorpusError)


@pytest.mark.parametrize("spoil", [lambda data: data[:-12], lambda data: data[:20] + b"\xff\xff" + data[22:]])
def test_gzipped_file_that_is_damaged(write, spoil):
    whole = gzip.compress("".join(f"w{i} {i} {i % 7}\n" for i in range(5000)).encode())
    refused(r"words\.txt could not be read", embeddings.read, write(spoil(whole)), ["w1"], error=CorpusError)
