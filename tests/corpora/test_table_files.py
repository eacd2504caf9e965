"""What a person may have typed into a table: separators, blanks, encodings, names, types."""

import random

import pandas as pd
import pytest

from layertool import columns
from layertool.corpora import table_files
from layertool.corpora.table_files import read_one_of, read_table
from layertool.errors import CorpusError, MissingExtraError


def read(tmp_path, content, name="t.csv", notes=None):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, say=(notes if notes is not None else []).append)


def cells(table):
    """Every cell as it is written."""
    return {name: columns.texts(table[name]).tolist() for name in table.columns}


NUMBERS = {
    "whole": ["27", "40", "-3", "0"],
    "gaps": ["1000000000000000001", "", "4"],
    "point": ["0.5", "1.0", "2.25"],
    "mixed": ["-5", "0", "2.5"],
    "decimals": ["7.10", "2.99", "11.00"],
    "small": ["1e-07", "0.5"],
}
TEXTS = {
    "leading zeros": ["007", "8"],
    "plus": ["+1", "2"],
    "exponent": ["1e5", "2"],
    "21 digits": ["100000000000000000000", "1"],
    "more than 64 bits": ["9223372036854775808"],
    "digits that floats lack": ["0.12345678901234567", "0.1"],
    "versions": ["1.1", "1.10"],
    "countries": ["NA", "DE"],
    "names": ["nan", "None", "null", "inf", "NaN"],
    "truth": ["True", "False"],
    "minus zero": ["-0", "1"],
    "minus zero point": ["-0.0", "0.0"],
    "hexadecimal": ["0x1F", "1"],
    "underscores": ["1_000"],
    "dates": ["2020-01-31"],
    "other digits": ["٢٧"],
    "a number and a word": ["27", "old"],
    "point at an end": ["1.", ".5"],
}


@pytest.mark.parametrize("values", NUMBERS.values(), ids=NUMBERS)
def test_numbers_that_give_back_every_cell(tmp_path, values):
    column = read(tmp_path, "n,k\n" + "".join(f"{value},x\n" for value in values))["n"]
    assert pd.api.types.is_numeric_dtype(column)
    assert [None if pd.isna(value) else value for value in columns.exact(column)] == [
        None if value == "" else float(value) if "." in "".join(values) else int(value) for value in values
    ]


@pytest.mark.parametrize("values", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_the_rest_stays_text(tmp_path, values, suffix):
    table = read(tmp_path, "n\n" + "".join(f"{value}\n" for value in values), f"t{suffix}")
    assert table["n"].tolist() == values


def test_distinct_cells_stay_distinct(tmp_path):
    """Whatever stands in a column, no two cells become one value, and cells that stay text stay what they are."""
    drawn = random.Random(18)
    parts = [
        "",
        "0",
        "00",
        "1",
        "7",
        "10",
        "27",
        "999",
        "1000000000000000001",
        "1000000000000000002",
        ".5",
        ".50",
        ".0",
        "-",
        "+",
        "e5",
        "E5",
        "x",
        "nan",
        "NA",
        "inf",
        " ",
        "_",
        "9223372036854775807",
        "1e-7",
        "٣",
    ]
    for trial in range(300):
        kind = drawn.choice([parts, parts[1:12], parts[1:7]])
        values = ["".join(drawn.choices(kind, k=drawn.choice([1, 1, 2]))).strip() for _ in range(5)]
        table = read(tmp_path, "n,k\n" + "".join(f"{value},x\n" for value in values))
        written = [text or "" for text in columns.texts(table["n"])]
        assert len(set(written)) == len(set(values)), (trial, values)
        if not pd.api.types.is_numeric_dtype(table["n"]):
            assert written == values, trial
        else:
            assert [float(text) for text in written if text] == [float(value) for value in values if value], trial


def test_ids_and_times_are_never_numbers(tmp_path):
    table = read(tmp_path, "utterance,speaker,start,label\n1,2,0.50,3\n")
    assert cells(table) == {"utterance": ["1"], "speaker": ["2"], "start": ["0.50"], "label": ["3"]}
    assert all(isinstance(table[name][0], str) for name in table)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("file, gender ,n\n a.wav , f,1 \n b.wav,\tm ,2\n", "t.csv"),
        ("file;gender;n\na.wav;f;1\nb.wav;m;2\n", "t.csv"),
        ("file\tgender\tn\na.wav\tf\t1\nb.wav\tm\t2\n", "t.csv"),
        ("file,gender,n\na.wav,f,1\nb.wav,m,2\n", "t.tsv"),
        ("file|gender|n\na.wav|f|1\nb.wav|m|2\n", "t.txt"),
        ("file\tgender\tn\na.wav\tf\t1\nb.wav\tm\t2\n", "t.TSV"),
        ("file,gender,n\na.wav,f,1\nb.wav,m,2\n", "T.CSV"),
        ("file,gender,n,\na.wav,f,1,\nb.wav,m,2,\n", "t.csv"),
        ("sep=;\r\nfile;gender;n\r\na.wav;f;1\r\nb.wav;m;2\r\n", "t.csv"),
        ("\n\nfile,gender,n\n\na.wav,f,1\nb.wav,m,2\n,,\n,,\n", "t.csv"),
        ('"file", "gender", "n"\n"a.wav" , "f", 1\n"b.wav", "m", 2\n', "t.csv"),
        ("file,gender,n\ra.wav,f,1\rb.wav,m,2", "t.csv"),
        ("file,gender,n\na.wav,f,1\nb.wav,m,2\n".encode("utf-8-sig"), "t.csv"),
        ("file,gender,n\na.wav,f,1\nb.wav,m,2\n".encode("utf-16"), "t.csv"),
        (b"\xfe\xff" + "file\tgender\tn\r\na.wav\tf\t1\r\nb.wav\tm\t2\r\n".encode("utf-16-be"), "t.txt"),
    ],
)
def test_one_table_in_many_habits(tmp_path, content, name):
    notes = []
    table = read(tmp_path, content, name, notes)
    assert cells(table) == {"file": ["a.wav", "b.wav"], "gender": ["f", "m"], "n": ["1", "2"]}
    assert table["n"].dtype == "int64"
    assert notes == []


def test_quoted_cells_hold_anything(tmp_path):
    table = read(tmp_path, 'file,text\r\na.wav,"say ""hi"",\r\nyou"\r\nb.wav,5" tape\r\n')
    assert table["text"].tolist() == ['say "hi",\r\nyou', '5" tape']
    assert read(tmp_path, 'file\ttext\na.wav\tsay "hi\n', "t.tsv")["text"].tolist() == ['say "hi']


def test_decimal_commas_are_told(tmp_path):
    notes = []
    table = read(tmp_path, "file;score;n\na.wav;1,5;1\nb.wav;-2,25;2\nc.wav;;3\n", notes=notes)
    assert table["score"].tolist()[:2] == [1.5, -2.25]
    assert notes == [f"{tmp_path}/t.csv: decimal commas are read as points in score (1,5 is 1.5)"]
    notes.clear()
    assert read(tmp_path, "file;score\na.wav;1,500\n", notes=notes)["score"].tolist() == ["1,500"]
    assert "the commas in score may be of decimals or of thousands, so it stays text" in notes[0]
    assert read(tmp_path, "file;text\na.wav;1,5\n")["text"].tolist() == ["1,5"]


def test_words_for_nothing_among_numbers_are_told(tmp_path):
    notes = []
    table = read(tmp_path, "age,country,name\n27,NA,nan\nNA,DE,27x\n007,FR,\n", notes=notes)
    assert cells(table) == {"age": ["27", "NA", "007"], "country": ["NA", "DE", "FR"], "name": ["nan", "27x", None]}
    assert notes == []  # 007 is no number either
    read(tmp_path, "age\n27\nNA\nn/a\n40\n", notes=notes)
    assert notes == [
        f"{tmp_path}/t.csv: age would be numbers but for 'NA', 'n/a', so it stays text: leave cells without a value "
        "empty"
    ]


def test_a_column_without_a_name_is_told(tmp_path):
    notes = []
    assert list(read(tmp_path, ",file\n1,a.wav\n2,b.wav\n", notes=notes)) == ["file"]  # as R and pandas number rows
    assert notes == [f"{tmp_path}/t.csv: column 1 has no name and was left out; give it one if it is needed"]


def test_texts_have_one_spelling_and_paths_stay(tmp_path):
    table = read(tmp_path, "file,e\u0301\ne\u0301.wav,Andre\u0301\n")
    assert cells(table) == {"file": ["e\u0301.wav"], "é": ["André"]}
    table.rename(columns={"é": "e\u0301"}).assign(**{"e\u0301": "Andre\u0301"}).to_parquet(tmp_path / "t.parquet")
    assert cells(read_table(tmp_path / "t.parquet")) == {"file": ["e\u0301.wav"], "é": ["André"]}


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (
            "file,g\na,é\nb,ü\n".encode("latin-1"),
            "t.csv",
            r"t\.csv, line 2 is not UTF-8 \(byte 0xe9, 'é' in Windows'.*\): save it as UTF-8",
        ),
        (
            "file,g\na,b\n".encode("utf-16-le"),
            "t.csv",
            r"t\.csv is no text in UTF-8 \(line 1 holds zero bytes\): save it as text in UTF-8",
        ),
        (b"\xff\xfef", "t.csv", r"t\.csv is cut short \(.* in its UTF-16\): save it again"),
        (b"PK\x03\x04\0\0", "t.csv", r"zero bytes"),
        ("x", "t.xls", r"t\.xls is an old workbook, not a table: save it as \.csv in UTF-8 or as \.xlsx"),
        ("{}", "t.JSON", r"t\.JSON is a JSON file, not a table: save it as"),
        ("x", "t.ods", r"t\.ods is an OpenDocument sheet, not a table"),
        ("a,b,a\n1,2,3\n", "t.csv", r"t\.csv has two columns called 'a': rename one of them"),
        ("a, a\n1,2\n", "t.csv", r"two columns called 'a'"),
        (
            "a,b\n1,2\n3\n",
            "t.csv",
            r"t\.csv, row 2 has fewer cells than its header \(1 for 2 names\): complete the row",
        ),
        (
            "a,b\n1,2\n\n3,4,5\n",
            "t.csv",
            r"t\.csv, row 2 has more cells than its header \(3 for 2 names\): quote cells that hold the separator "
            r"\(commas here\)",
        ),
        ('a,b\n"x\ny",2\n3\n', "t.csv", r"t\.csv, row 2 has fewer cells"),
        ('a,b\n1,"2\n3,4\n', "t.csv", r"cannot be read as a table \(line \d: unexpected end of data\)"),
        (
            "ID  AGE  REGION\n225  23  Southern  England\n226  22\n",
            "t.txt",
            r"t\.txt seems to have blanks between its cells \('ID  AGE  REGION'\): write commas or tabs",
        ),
        ("", "t.csv", r"cannot be read as a table \(it is empty\): save it as UTF-8"),
        (",\n,\n", "t.csv", r"has no column names in its first line: write them there"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path, content, name, message):
    with pytest.raises(CorpusError, match=message):
        read(tmp_path, content, name)


def test_a_header_only(tmp_path):
    table = read(tmp_path, "a;b\n")
    assert (list(table), len(table)) == (["a", "b"], 0)


def test_tables_of_a_folder_in_capitals(tmp_path):
    (tmp_path / "utterances.CSV").write_text("a\n1\n")
    assert read_one_of(tmp_path, "utterances")["a"].tolist() == [1]
    assert read_one_of(tmp_path, "segments") is None


def book(path, rows, formats=()):
    openpyxl = pytest.importorskip("openpyxl")
    made = openpyxl.Workbook()
    for row in rows:
        made.active.append(row)
    for place, code in formats:
        made.active[place].number_format = code
    made.save(path)
    return path


def test_a_workbook(tmp_path):
    import datetime

    rows = [
        ["file", " age ", "id", "coded", "day", "score", "native", None],
        ["a.wav", 27, "0012", 7, datetime.date(2020, 1, 31), 1.5, True, None],
        ["b.wav", None, "0013", 12, datetime.date(2020, 2, 1), 2, False, None],
        [None] * 8,
    ]
    notes = []
    path = book(tmp_path / "t.XLSX", rows, formats=[("D2", "0000"), ("D3", "0000")])
    table = read_table(path, say=notes.append)
    assert cells(table) == {
        "file": ["a.wav", "b.wav"],
        "age": ["27", None],
        "id": ["0012", "0013"],
        "coded": ["0007", "0012"],
        "day": ["2020-01-31", "2020-02-01"],
        "score": ["1.5", "2.0"],
        "native": ["True", "False"],
    }
    assert table["age"].dtype == "Int64"
    assert notes == [f"{path}: dates are written like 2020-01-31"]


def test_other_sheets_and_long_numbers_are_told(tmp_path):
    notes = []
    table = read_table(book(tmp_path / "t.xlsx", [["id"], [10**18]]), say=notes.append)
    assert columns.texts(table["id"]).tolist() == [str(10**18)]
    assert any("a workbook keeps 15 digits of a number" in note for note in notes)
    notes.clear()
    pd_book = tmp_path / "two.xlsx"
    with pd.ExcelWriter(pd_book) as writer:
        pd.DataFrame({"a": [1]}).to_excel(writer, sheet_name="first", index=False)
        pd.DataFrame({"b": [1]}).to_excel(writer, sheet_name="second", index=False)
    assert list(read_table(pd_book, say=notes.append)) == ["a"]
    assert "the sheet 'first' is read, 1 others are not" in notes[0]


def test_a_workbook_without_openpyxl(tmp_path, monkeypatch):
    path = book(tmp_path / "t.xlsx", [["a"], [1]])
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'openpyxl': pip install 'layertool\[xlsx\]'"):
        read_table(path)


def test_what_is_no_workbook(tmp_path):
    pytest.importorskip("openpyxl")
    with pytest.raises(CorpusError, match=r"t\.xlsx cannot be read as a workbook"):
        read(tmp_path, "not a workbook", "t.xlsx")


def test_names_of_audio_are_one_list():
    assert set(table_files.AUDIO_NAMES) < set(table_files.ID_NAMES)
    assert {"audio", "path", "file", "filename"} <= set(table_files.AUDIO_NAMES)
