"""Names and labels are text everywhere: no markup, no formulas, nothing a terminal obeys; results are kept first."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import models
import pandas as pd
import pytest
import reporting
import small
from commands import refused, run, succeeds

import layertool
from layertool import figures, report, result_rows, results
from layertool.commands import delivery, output
from layertool.corpora.corpus import Corpus
from layertool.errors import StoreError
from layertool.figures.canvas import plain
from layertool.spelling import visible

PACKAGE = Path(layertool.__file__).parent
# What reads markup, formulas, codes of a terminal, ends of lines, or runs in a browser or a spreadsheet.
HOSTILE = [
    "[pilot]",
    "[/b]",
    "[/]",
    "[red]x[/red]",
    "[link=file:///x]",
    ":smile:",
    "$x$",
    "$\\frac{",
    "$a",
    "a_b^c",
    "%s %(x)d",
    "{0}",
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\a\b\b",
    "a\rb",
    "a\nb",
    "a\tb",
    "a\x0b\x0cb",
    "\x7f",
    "\u202eabc",
    "a\u200bb",
    "a\u2028b",
    "\ufeffa",
    "</script><b>x",
    "=1+1",
    "\\",
    "50%25",
    "_x",
    "'\"",
    "a\x00b",
    "\x00",
]
NOT_OF_FILES = str.maketrans({"/": "|", "\x00": "0"})


def is_clean(text: str) -> bool:
    """Whether a terminal shows all of it and obeys nothing but ends of lines."""
    return all(letter.isprintable() or letter == "\n" for letter in text)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Stores of a corpus in which ids, labels, columns, cells, folders and the model are all hostile."""
    folder = tmp_path_factory.mktemp("made")
    n, names = 12, [text for text in HOSTILE if text.strip()]
    whole = small.corpus(folder / "audio", n, 9000)
    ids = [f"{names[k]}{k}" for k in range(n)]
    utterances = whole.utterances.assign(
        utterance=ids,
        speaker=[names[-1 - k % 2] for k in range(n)],
        kind=[("[/b]", "$x$\x1b[31m")[k % 2] if k < n // 2 else None for k in range(n)],
        valence=[("good\x1b[31m", "[/]\nx")[k % 2] if k >= n // 2 else None for k in range(n)],
        **{name: [names[k]] * n for k, name in enumerate(names)},
    )
    rename = dict(zip(whole.utterances["utterance"], ids, strict=True))
    labels = {label: names[3 * k] for k, label in enumerate("abcdexyz")}
    segments = whole.segments.astype({"utterance": str, "tier": str})
    segments = segments.assign(utterance=segments["utterance"].map(rename), label=segments["label"].map(labels))
    named = Corpus.build(utterances, segments, "corpus [/b]\x1b[31m$x$\n")
    named.write(folder / "corpus")
    shape = {"hidden_size": 16, "conv_dim": (8,) * 7}
    for name in ("[pilot]", "[/final]$x$\x1b[31m\n_\u202e"):
        name = name.translate(NOT_OF_FILES)
        network = models.save("wav2vec2-base", folder / "models" / f"_{name}", **shape)
        layertool.extract(str(network), named, folder / "runs" / name, ("frame", "phone", "word", "utterance"), "T0,T1")
    return folder


@pytest.fixture
def stores(made, tmp_path, monkeypatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    return sorted((made / "runs").iterdir())


def test_what_is_made_visible():
    assert visible("ascii, é, ɪ, 日本") == "ascii, é, ɪ, 日本"
    assert visible("\x1b[0m\x9b\a\t\n\u202e\u200b\ud800") == "\\x1b[0m\\x9b\\x07\\t\\n\\u202e\\u200b\\ud800"
    assert visible("a\nb\t", keep="\n") == "a\nb\\t"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_a_table_facts_and_json(text, capsys):
    output.echo(text)
    assert capsys.readouterr().out == visible(text) + "\n"
    output.note(text)
    assert capsys.readouterr().err == visible(text) + "\n"
    output.facts(text, [(text, text)])
    said = capsys.readouterr().out
    assert is_clean(said)
    assert said.count("\n") == 2
    output.table(text, [text, "n"], [[text, 1], ["b", 2]])
    said = capsys.readouterr().out
    assert is_clean(said)
    assert said.count(visible(text).strip()) >= 3
    output.as_json({text: [text]})
    said = capsys.readouterr().out
    assert is_clean(said)
    assert json.loads(said) == {text: [text]}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_wrong_argument_is_told_as_text(text):
    text = text.translate(NOT_OF_FILES)
    for arguments in (
        ["info", text],
        ["cca", text],
        [f"x{text}"],
        ["extract", text, "c", "-o", "s"],
        ["info", "a", f"b{text}"],
    ):
        result = run(*arguments)
        assert result.exit_code in (1, 2)
        assert is_clean(result.stdout)
        assert is_clean(result.stderr)
        assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_an_argument_that_is_no_text():
    assert "'a\\udcff' is not text in UTF-8" in refused("info", os.fsdecode(b"a\xff"))


COMMANDS = {
    "info": lambda stores: [("info", stores[0]), ("info", stores[1], "--json")],
    "verify": lambda stores: [("verify", store) for store in stores],
    "corpus": lambda stores: [("corpus", "info", stores[0].parents[1] / "corpus")],
    "cca": lambda stores: [("cca", *stores, "--with", "phone", "--n-folds", 6, "-o", "r.csv", "--plot", "r.png")],
    "cka": lambda stores: [
        ("cka", *stores, "--unit", "phone", "--plot", "r.svg"),
        ("compare", *stores, "--unit", "phone"),
    ],
    "mi": lambda stores: [
        ("mi", *stores, "--labels", "phone", "--clusters", 4, "-o", "r.csv", "--plot", "r.pdf"),
        ("compare", "r.csv"),
        ("report", "r.csv", "-o", "r.html"),
    ],
    "neighbours": lambda stores: [
        ("probe", "neighbours", *stores, "--labels", "speaker", "--unit", "utterance"),
        ("probe", "neighbours", *stores, "--labels", "phone", "--json"),
    ],
    "speat": lambda stores: [
        (
            "speat",
            *stores,
            "--target",
            "kind=[/b]:$x$\x1b[31m",
            "--attribute",
            "valence=good\x1b[31m:[/]\nx",
            "--permutations",
            100,
            "--n-resamples",
            100,
            "--layers",
            "T0,T1",
            "--plot",
            "r.png",
        )
    ],
    "npy": lambda stores: [("export", store, "-o", "out") for store in stores],
    "npz": lambda stores: [("export", stores[0], "-o", "out", "--to", "npz")],
    "fastabx": lambda stores: [("export", stores[0], "-o", "out", "--to", "fastabx")],
    "errors": lambda stores: [
        ("cca", stores[1], "--with", "$x$\x1b"),
        ("mi", stores[1], "--labels", "\x1b"),
        ("cca", stores[1], "--with", "phone", "--layers", "\x1b[3m"),
    ],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_hostile_names_through_a_command(name, stores):
    said = ""
    for arguments in COMMANDS[name](stores):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of fonts
            result = run(*arguments)
        assert result.exit_code == 0 or name == "errors", result.output
        assert is_clean(result.stdout), result.output
        assert is_clean(result.stderr), result.output
        said += result.output
        if "--json" in arguments:
            json.loads(result.stdout)
    if name in ("info", "verify", "cca", "cka", "mi"):  # as it stands, though rich would take [pilot] for markup
        assert stores[0].name in said


def rows_called(name: str) -> pd.DataFrame:
    """Two curves of models and stores of this name, for two targets."""
    return results.table(
        [
            one
            for k, target in enumerate((name, f"{name} 2"))
            for one in reporting.curve(
                0.2 + 0.1 * k, model=f"{name}{k}", store=f"runs/{name}{k}", corpus=name, target=target
            )
        ]
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_a_figure_draws_names_as_they_stand(name):
    figure = figures.draw(rows_called(name))
    figure.draw_without_rendering()  # raises for a formula that is none
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert [text.replace(r"\$", "$").replace("\n", " ").strip() for text in shown][:2] == [
        " ".join(visible(re.split(r"[/\\]", f"{name}{k}")[-1], keep="\n").split()) for k in (0, 1)
    ]
    for text in figure.findobj(lambda thing: hasattr(thing, "_preprocess_math")):
        assert not text._preprocess_math(text.get_text())[1] or "mathdefault" in text.get_text()
    assert plain(name).count("$") == plain(name).count(r"\$")


def test_every_figure_takes_names_of_formulas(tmp_path):
    matrix = results.table(reporting.matrix()).assign(model="$x$", store="runs/$\\frac$", corpus="$")
    figures.draw(matrix, tmp_path / "a.png")
    series = results.table(reporting.checkpoints()).assign(model="$x$", corpus="_$y$")
    figures.draw(series, tmp_path / "b.svg", x="step")
    bias = results.table(reporting.bias()).assign(corpus="$z$", model=lambda t: "$" + t["model"])
    figures.draw(bias, tmp_path / "c.pdf")
    lexical = results.table(reporting.lexical()).assign(model="$\\bad$")
    figures.draw(lexical[lexical["analysis"] == "lexical"], tmp_path / "d.png")
    figures.draw(lexical[lexical["analysis"] != "lexical"], tmp_path / "e.png")
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("name", HOSTILE)
def test_a_report_has_names_as_text(name, tmp_path):
    results.write(rows_called(name), tmp_path / "r.parquet")
    text = report.write([tmp_path / "r.parquet"], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "</script><b>" not in text
    back = results.read([tmp_path / "r.parquet"])
    assert back["model"].tolist() == rows_called(name)["model"].tolist()


@pytest.mark.parametrize("suffix", result_rows.FORMATS)
def test_result_files_give_names_back(suffix, tmp_path):
    for name in HOSTILE:
        if suffix == ".csv" and "\x00" in name:
            continue  # pandas's parser ends a cell there; no command gives such a target
        rows = rows_called(name)
        back = results.read([results.write(rows, tmp_path / f"r{suffix}")])
        assert back["target"].tolist() == rows["target"].tolist()


def test_text_that_is_none_is_named_and_leaves_the_file(tmp_path):
    for suffix in result_rows.FORMATS:
        out = tmp_path / f"r{suffix}"
        out.write_text("before")
        rows = rows_called("a").astype(object)
        rows["store"] = pd.Series(["st\udcffore"] * len(rows), dtype=object)
        with pytest.raises(StoreError, match=r"st\\udcff.*UTF-8"):
            results.write(rows, out)
        assert out.read_text() == "before"


# results first


def test_results_are_there_though_printing_fails(tmp_path, monkeypatch):
    rows = rows_called("a")

    def show(_text):
        assert (tmp_path / "r.csv").exists()
        raise RuntimeError("no terminal")

    monkeypatch.setattr(output, "shown", show)
    with pytest.raises(RuntimeError):
        delivery.deliver(rows, out=tmp_path / "r.csv", quiet=True)
    assert len(results.read([tmp_path / "r.csv"])) == len(rows)


def test_numbers_are_seen_though_there_is_no_room_for_them(tmp_path, monkeypatch):
    shown = []

    def full(*_):
        raise StoreError("the disk is full")

    monkeypatch.setattr(result_rows, "write", full)
    monkeypatch.setattr(output, "shown", shown.append)
    with pytest.raises(StoreError, match="full"):
        delivery.deliver(rows_called("a"), out=tmp_path / "r.csv", quiet=True)
    assert len(shown) == 1


def layertool_in_a_shell(command: str, **environment) -> subprocess.CompletedProcess:
    """A shell's line in which $L is the command."""
    program = f'{sys.executable} -c "from layertool.cli import main; main()"'
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command.replace('$L', program)}"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), **environment},
    )


def test_a_reader_that_goes_ends_the_printing_not_the_work(tmp_path):
    results.write(rows_called("a"), tmp_path / "a.csv")
    where = f"{tmp_path}/a.csv -o {tmp_path}/b.csv --plot {tmp_path}/b.png"
    done = layertool_in_a_shell(f"$L compare {where} | true")
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
    assert len(results.read([tmp_path / "b.csv"])) == 8
    assert (tmp_path / "b.png").exists()


def test_a_terminal_without_the_letters(tmp_path):
    results.write(rows_called("日本ɪ−"), tmp_path / "a.csv")
    done = layertool_in_a_shell(f"$L compare {tmp_path}/a.csv -o {tmp_path}/b.csv", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert b"\\u65e5" in done.stdout


# by construction


def test_nothing_else_prints():
    """What reaches the terminal goes through ``layertool.commands.output``."""
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE) in (Path("commands/output.py"), Path("corpora/espeak_worker.py")):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("print", "click.echo", "click.secho"), f"{path}:{node.lineno}"
                assert not called.startswith(("sys.stdout", "sys.stderr", "rich.")), f"{path}:{node.lineno}"
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("rich"), f"{path}:{node.lineno}"


def test_texts_of_figures_go_through_one_function():
    """In matplotlib's hands a name may be a formula: what sets a text calls ``plain``, ``wrap``, or has one of ours."""
    setters = (
        "set_title",
        "set_xlabel",
        "set_ylabel",
        "set_label",
        "set_xticks",
        "set_ticks",
        "legend",
        "text",
        "annotate",
    )
    for path in (PACKAGE / "figures").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "label":
                said = ast.unparse(node.value)
                assert "plain(" in said or isinstance(node.value, ast.Constant) or said in ("name", "OWN_CHANCE"), said
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in setters:
                for given in node.args[-1:]:
                    assert not isinstance(given, ast.Name) or given.id in ("text", "labels"), (
                        path,
                        node.lineno,
                    )


def test_no_markup_in_refused_sentences(tmp_path):
    said = refused("info", tmp_path / "[bold]\x1b[31m")
    assert "[bold]\\x1b[31m" in said
    assert "[bold]" in succeeds("corpus", "info", small.corpus(tmp_path, 2).write(tmp_path / "[bold]")).stdout
