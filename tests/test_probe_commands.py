"""probe: its commands print, write and draw what the Python functions return; bad input gets one sentence."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import planted
import pytest
from commands import run, succeeds

import layertool
from layertool import FeatureStore, results
from layertool.probes.word_similarity import read
from layertool.result_rows import records

pytestmark = pytest.mark.slow

USAGE, DATA, N = 2, 1, 8
STORES = ("one", "mel")
WORDS = ["longer", "another", "speech", "hello"]
PLAIN = {
    "discrimination": ["--min-seconds", 0.3],
    "similarity": ["--benchmark", "tasks", "--embeddings", "glove.txt"],
    "segmentation": ["--window", "1,2", "--prominence", "0.1,1"],
    "sentences": [],
    "neighbours": ["--labels", "phone"],
}
PANELS = {"discrimination": 1, "similarity": 2, "segmentation": 3, "sentences": 1, "neighbours": 2}
BASELINES = {"similarity": {"edit distance", "glove.txt"}, "neighbours": {"most frequent label"}}


ASKED = {
    "discrimination": {"min_seconds": 0.3},
    "similarity": {"benchmark": "tasks", "embeddings": "glove.txt"},
    "segmentation": {"window": (1, 2), "prominence": (0.1, 1)},
    "sentences": {},
    "neighbours": {"labels": "phone"},
}


def in_python(command, stores="one", **options):
    """Rows of what the arguments of ``PLAIN`` ask for, with other options."""
    return getattr(layertool.probe, command)(stores, **ASKED[command] | options).rows


@cache
def both(command):
    return in_python(command, STORES)


def rows_of(*arguments):
    """What ``--json`` prints, by a parser that knows no NaN."""
    return json.loads(succeeds("probe", *arguments, "--json", "-q").stdout, parse_constant=pytest.fail)


def same(found, expected):
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True), check_dtype=False, check_exact=True)


def fails(code, arguments, *says):
    """It ends with ``code`` and one sentence that holds everything in ``says``, and no result."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert result.stderr.count("Error: ") == 1
    assert all(text in last for text in says), last


def make(path, model, layers, seed, longer=0, **columns):
    """One corpus for every model: 8 utterances of words, each of two phones, 4 sentence pairs."""
    random = np.random.default_rng(0)
    lengths, segments = [40_000 + longer + 321 * k for k in range(N)], []
    for k in range(N):
        for i in range(5):
            start, name = 500 + 7_500 * i, WORDS[int(random.integers(4))]
            end = start + 5_000 + 300 * int(random.integers(6))
            segments += [(k, "word", start, end, name), (k, "phone", start, start + 2_000, name[0]),
                         (k, "phone", start + 2_000, end, name[-1])]  # fmt: skip
    centre = {name: random.standard_normal(6) for name in [*WORDS, *"lasrhtghohe"]}
    random = np.random.default_rng(seed)
    frames, rows = {}, {unit: {} for unit in ("phone", "word", "utterance")}
    for name, hop in layers.items():
        frames[name] = [random.standard_normal((planted.n_frames(n, hop), 6)) for n in lengths]
        for k, tier, start, end, label in segments:
            if tier == "word":
                frames[name][k][start // hop : end // hop] += 2 * centre[label]
        for unit in ("phone", "word"):
            mine = [centre[s[4]] for s in segments if s[1] == unit]
            rows[unit][name] = np.stack(mine) + random.standard_normal((len(mine), 6))
        rows["utterance"][name] = random.standard_normal((N, 6)) + 1
    given = {"speaker": [f"s{k % 4}" for k in range(N)], "gender": ["fm"[k % 4 % 2] for k in range(N)],
             "pair": [f"p{k // 2}" for k in range(N)], "side": ["ab"[k % 2] for k in range(N)],
             "similarity": [float((k // 2 * 3) % 5) for k in range(N)]}  # fmt: skip
    return planted.store(path, lengths, segments, frames, rows, layers, model=model, **{**given, **columns})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes")
    make(folder / "one", "org/one", {"T0": 320, "T1": 320}, 1)
    make(folder / "mel", "mel", {"mel": 160}, 2)
    make(folder / "tune", "org/one", {"T0": 320, "T1": 320}, 3, longer=50)
    planted.store(folder / "bare", [900] * 4, rows={"utterance": {"T0": planted.matrix(4)}})
    (folder / "tasks").mkdir()
    pairs = [("longer", "another", 3.0), ("Speech", "hello", 2.0), ("longer", "speech", 1.0), ("another", "hello", 4.0)]
    for name, some in (("men", pairs), ("rare", [*pairs[:3], ("never", "hello", 1.5), ("longer", "hello", 2.5)])):
        lines = [f"{a},{b},{r + 0.1 * (name == 'rare')}" for a, b, r in some]
        (folder / "tasks" / f"{name}.csv").write_text("\n".join(["word1,word2,similarity", *lines]) + "\n")
    (folder / "glove.txt").write_text("longer 1 0 2\nanother 0.5 1 1\nspeech 3 1 0\nhello -1 2 1\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command, arguments in PLAIN.items():
            succeeds("probe", command, *STORES, *arguments, "-o", f"{command}.csv", "-q")
    return folder


@pytest.fixture(autouse=True)
def here(made, tmp_path, monkeypatch):
    """A folder of the test's own, from which the stores have short names."""
    monkeypatch.chdir(tmp_path)
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


@pytest.mark.parametrize("name", PLAIN)
def test_written_results_and_figures(name, made):
    """Of two stores: the numbers are those of Python, to the last digit."""
    told = succeeds("probe", name, *STORES, *PLAIN[name], "-o", "new/x.csv", "--plot", "figures/x.svg").stderr
    expected = both(name)
    same(results.read(["new/x.csv"]), expected)
    same(results.read([f"{name}.csv"]), expected)
    assert f"{len(expected)} rows in new/x.csv" in told
    assert "figure in figures/x.svg" in told
    assert Path("figures/x.svg").read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize("name", PLAIN)
def test_panels(name):
    """A panel for each number that is drawn; a curve for the network, a line for mel and for each baseline."""
    figure = results.Results.read(f"{name}.csv").plot()
    assert len(figure.axes) == PANELS[name]
    names = {"one", "mel", *BASELINES.get(name, ())}
    for axis in figure.axes:
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["T0", "T1"]
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert names <= legend
    assert legend - names <= {"chance", "chance of each curve"}


def test_baselines_stand_once():
    """Two stores of one corpus have the same."""
    for name, models in BASELINES.items():
        table = results.read([f"{name}.csv"])
        below = table[table["layer"] == "baseline"]
        assert set(below["model"]) == models
        assert not below.duplicated(["model", "settings", "target"]).any()


# fmt: off
OPTIONS = [
    ("discrimination", "--distance dtw", {"distance": "dtw"}),
    ("discrimination", "--cross-speaker", {"cross_speaker": True}),
    ("discrimination", "--min-characters 6 --min-seconds 0.35", {"min_characters": 6, "min_seconds": 0.35}),
    ("discrimination", "--per-label 4 --seed 3", {"per_label": 4, "seed": 3}),
    ("discrimination", "--top-labels 3", {"top_labels": 3}),
    ("discrimination", "--max-utterances 5", {"max_utterances": 5}),
    ("discrimination", "--resample speakers", {"resample": "speakers"}),
    ("discrimination", "--resample none", {"resample": "none"}),
    ("discrimination", "--where gender=f", {"where": "gender=f"}),
    ("similarity", "--min-tokens 8", {"min_tokens": 8}),
    ("similarity", "--max-tokens 2 --seed 5", {"max_tokens": 2, "seed": 5}),
    ("similarity", "--where gender=m", {"where": ["gender=m"]}),
    ("segmentation", "--tune-on tune --tune-for R-value", {"tune_on": "tune", "tune_for": "R-value"}),
    ("segmentation", "--tune-for token_F1", {"tune_for": "token F1"}),
    ("segmentation", "--distance cosine --window 4 --prominence 0.03", {"distance": "cosine", "window": (1, 2, 4), "prominence": "0.1,1,0.03"}),
    ("segmentation", "--tolerance 30", {"tolerance": 30}),
    ("segmentation", "--max-utterances 4 --seed 1", {"max_utterances": 4, "seed": 1}),
    ("segmentation", "--resample speakers --where gender=f", {"resample": "speakers", "where": "gender=f"}),
    ("sentences", "--across-speakers --resample none", {"across_speakers": True, "resample": "none"}),
    ("sentences", "--resample speakers --seed 4", {"resample": "speakers", "seed": 4}),
    ("sentences", "--speaker gender --resample speakers", {"speaker": "gender", "resample": "speakers"}),
    ("neighbours", "--method knn -k 3 --n-folds 4", {"method": "knn", "neighbours": 3, "n_folds": 4}),
    ("neighbours", "--method centroid --groups speaker", {"method": "centroid", "groups": "speaker"}),
    ("neighbours", "--labels gender", {"labels": "gender"}),
    ("neighbours", "--per-label 5 --seed 9", {"per_label": 5, "seed": 9}),
    ("neighbours", "--sample all --where gender=f", {"sample": "all", "where": "gender=f"}),
]
# fmt: on


@pytest.mark.parametrize(("command", "arguments", "options"), OPTIONS)
def test_options(command, arguments, options):
    typed = [text.replace("_", " ") for text in arguments.split()]
    found = rows_of(command, "one", *PLAIN[command], "--layers", "T1", *typed)
    assert found == records(in_python(command, layers="T1", **options))
    assert [row for row in found if row["layer"] == "T1"] != usual(command)


@cache
def usual(command):
    return [row for row in records(in_python(command, layers="T1")) if row["layer"] == "T1"]


def test_what_python_takes():
    """Texts, lists and ready objects alike."""
    tasks, one = read("tasks"), FeatureStore("one")
    plain = records(in_python("similarity"))
    for benchmark in (Path("tasks"), ["tasks/men.csv", Path("tasks/rare.csv")], tasks, [tasks[0], "tasks/rare.csv"]):
        assert records(in_python("similarity", one, benchmark=benchmark, embeddings=[Path("glove.txt")])) == plain
    tuned = [records(in_python("segmentation", tune_on=other)) for other in ("tune", FeatureStore("tune"))]
    assert tuned[0] == tuned[1]


# the files, side by side


@pytest.mark.parametrize("name", PLAIN)
def test_files_are_compared(name):
    """The same tables and figures as when they were made."""
    made = succeeds("probe", name, *STORES, *PLAIN[name]).stdout
    again = succeeds("compare", f"{name}.csv", "--plot", "b.svg").stdout
    assert again == made
    assert Path("b.svg").stat().st_size > 2_000
    assert all(model in again for model in BASELINES.get(name, ()))


def test_one_task_is_compared():
    """What a person chooses is shown and drawn, though no figure of all tasks has it."""
    shown = succeeds("compare", "similarity.csv", "--target", "men", "--plot", "men.svg", "-o", "men.csv").stdout
    table = results.read(["men.csv"])
    assert set(table["target"]) == {"men"}
    for row in table[table["layer"].isin(["T0", "T1"])].itertuples():
        (line,) = [line.split() for line in shown.splitlines() if line.split()[:1] == [row.layer]]
        assert f"{row.value:.3f}" in line
    assert set(table["item"]) == {"men"}
    assert Path("men.svg").exists()


def test_all_probes_in_one_figure():
    files = [f"{name}.csv" for name in PLAIN]
    shown = succeeds("compare", *files, "--plot", "all.svg").stdout
    assert "Word segmentation of one" in shown
    assert "Word similarity of one" in shown
    assert Path("all.svg").stat().st_size > 2_000


def test_frames_of_two_rates_are_one_figure():
    """mel has twice the frames of a network: the share of the most frequent label is another, by a little."""
    arguments = ["--labels", "phone", "--unit", "frame", "--method", "centroid", "--sample", "all"]
    succeeds("probe", "neighbours", *STORES, *arguments, "-o", "frames.csv", "--plot", "frames.svg")
    assert Path("frames.svg").exists()


# errors


@pytest.mark.parametrize(
    ("code", "arguments", "says"),
    [
        (DATA, "discrimination nowhere", ["nowhere is not a feature store"]),
        (USAGE, "discrimination bare", ["bare has no word rows", "--units word,utterance"]),
        (USAGE, "discrimination one --min-seconds 3", ["none of 40 word rows", "--min-seconds"]),
        (USAGE, "discrimination one --layers T9", ["T9"]),
        (USAGE, "discrimination one --where town=x", ["no column 'town'"]),
        (USAGE, "discrimination one --unit phone --min-characters 9", ["none of 80 phone rows"]),
        (USAGE, "discrimination one -o x.txt", ["x.txt has no known format"]),
        (USAGE, "discrimination one --plot x.gif", ["x.gif has no known figure format"]),
        (DATA, "similarity one --benchmark nothing.csv", ["nothing.csv does not exist"]),
        (DATA, "similarity one --benchmark similarity.csv", ["no column 'word1'"]),
        (DATA, "similarity one --benchmark tasks --embeddings nothing.txt", ["nothing.txt"]),
        (USAGE, "similarity one --benchmark tasks --min-tokens 400", ["no task has 3 pairs"]),
        (USAGE, "segmentation bare", ["bare has no frame rows"]),
        (USAGE, "segmentation one --tune-on one", ["all utterances to tune on are scored", "--tune-on"]),
        (USAGE, "segmentation one --tune-on mel", ["hold different models"]),
        (USAGE, "segmentation one --distance manhattan", ["'manhattan' is no distance", "euclidean or cosine"]),
        (USAGE, "segmentation one --window 1,x", ["--window takes whole numbers", "'x'"]),
        (USAGE, "segmentation one --window 2.5", ["--window takes whole numbers", "'2.5'"]),
        (USAGE, "segmentation one --window 0", ["a window takes 1 frame or more"]),
        (USAGE, "segmentation one --prominence many", ["--prominence takes numbers", "'many'"]),
        (USAGE, "segmentation one --prominence nan", ["--prominence takes numbers"]),
        (USAGE, "sentences bare", ["no column 'pair'", "--pair"]),
        (USAGE, "sentences one --rating gender", ["column 'gender' is no number everywhere"]),
        (USAGE, "neighbours one --labels mood", ["no column 'mood'"]),
        (USAGE, "neighbours bare --labels phone", ["bare has no phone rows"]),
        (USAGE, "neighbours one --labels gender --per-label 3", ["--max-utterances"]),
        (USAGE, "neighbours one --labels gender --groups room", ["no column 'room'"]),
    ],
)
def test_errors(code, arguments, says):
    fails(code, ["probe", *arguments.split()], *says)


@pytest.mark.parametrize(
    "arguments",
    ["discrimination", "similarity one", "neighbours one", "discrimination one --distance far", "neighbours one --labels phone -k 0",
     "neighbours one --labels phone --n-folds 1", "segmentation one --tune-for F2", "discrimination one --workers 0"],
)  # fmt: skip
def test_what_click_refuses(arguments):
    result = run("probe", *arguments.split())
    assert result.exit_code == USAGE
    assert "Error: " in result.stderr
    assert result.stdout == ""
