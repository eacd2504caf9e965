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
from layertool.feed import discrimination, neighbours, segmentation, sentences, word_similarity

from layertool import FeatureStore, figures, results
from layertool.layerwise.rows import Sampling, parse_where
from layertool.layerwise.stores import merged
from layertool.probes.segmentation import grid
from layertool.probes.word_similarity import read
from layertool.report.choosing import drawn

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


def in_python(command, name="one", **options):
    """What the arguments of ``PLAIN`` ask for, of one store."""
    store, where = FeatureStore(name), options.pop("layers", "all")
    if command == "discrimination":
        return discrimination.discrimination_rows(
            store, layers=where, options=discrimination.Options(**{"min_seconds": 0.3, **options})
        )
    if command == "similarity":
        options = word_similarity.Options(**{"embeddings": [Path("glove.txt")], **options})
        return word_similarity.word_similarity_rows(store, read("tasks"), layers=where, options=options)
    if command == "segmentation":
        cells = options.pop("cells", None) or grid(windows=(1, 2), prominences=(0.1, 1))
        return segmentation.segmentation_rows(store, where, segmentation.Options(cells=cells, **options))
    if command == "sentences":
        return sentences.sentence_rows(store, layers=where, options=sentences.Options(**options))
    return neighbours.neighbour_rows(
        store,
        options.pop("labels", "phone"),
        layers=where,
        options=neighbours.Options(**{"methods": ("knn", "centroid"), **options}),
    )


def records(found):
    return results.records(results.table(merged(found)))


@cache
def both(command):
    return results.table(merged([row for name in STORES for row in in_python(command, name)]))


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
def test_a_plain_run(name):
    """Every number of the layers stands in the table, beside its layer."""
    expected = results.table(in_python(name))
    first = succeeds("probe", name, "one", *PLAIN[name])
    targets = ["mean over tasks", "men"] if name == "similarity" else list(expected["target"].unique())
    hidden = expected["variant"].str.startswith(("chosen", "lenient p", "lenient r", "token p", "token r"))
    for layer in ("T0", "T1"):
        lines = [line.split() for line in first.stdout.splitlines() if line.split()[:1] == [layer]]
        chosen = (expected["layer"] == layer) & expected["target"].isin(targets) & ~hidden
        cells = {cell for line in lines for cell in line}
        assert {f"{value:.3f}" for value in expected[chosen]["value"]} <= cells, first.stdout


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
def test_json_alone_on_stdout(name):
    loud = succeeds("probe", name, "one", *PLAIN[name], "--json", "-o", "x.csv")
    assert "x.csv" in loud.stderr
    assert json.loads(loud.stdout, parse_constant=pytest.fail) == records(in_python(name))
    quiet = succeeds("probe", name, "one", *PLAIN[name], "--json", "--quiet")
    assert (quiet.stdout, quiet.stderr) == (loud.stdout, "")


@pytest.mark.parametrize("name", PLAIN)
def test_panels(name):
    """A panel for each number that is drawn; a curve for the network, a line for mel and for each baseline."""
    table = results.read([f"{name}.csv"])
    figure = figures.draw_layer_curves(drawn(table))
    assert len(figure.axes) == PANELS[name]
    names = {"one", "mel", *BASELINES.get(name, ())}
    for axis in figure.axes:
        lines = {line.get_label(): line for line in axis.get_lines() if not line.get_label().startswith("_")}
        assert names <= set(lines)
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["T0", "T1"]
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert names <= legend
    assert legend - names <= {"chance", "chance of each curve"}


def test_which_metrics_are_drawn():
    table = drawn(results.read(["segmentation.csv"]))
    assert list(dict.fromkeys(results.metrics_of(table))) == ["F1", "R-value", "token F1"]
    table = drawn(results.read(["similarity.csv"]))
    assert set(table["target"]) == {"mean over tasks", "mean over pairs"}
    assert len(drawn(results.read(["neighbours.csv"]))) == 2 * (2 + 1 + 1)


def test_baselines_stand_once():
    """Two stores of one corpus have the same."""
    for name, models in BASELINES.items():
        table = results.read([f"{name}.csv"])
        below = table[table["layer"] == "baseline"]
        assert set(below["model"]) == models
        assert not below.duplicated(["model", "variant", "target"]).any()


def test_tables_of_similarity():
    shown = succeeds("probe", "similarity", *STORES, *PLAIN["similarity"]).stdout
    assert shown.count("word similarity of one,") == shown.count("word similarity of mel,") == 1
    assert shown.count("edit distance") == shown.count("glove.txt") == 2
    (line, _) = [line for line in shown.splitlines() if line.strip().startswith("pairs (coverage)")]
    assert "4 (100%)" in line
    assert "4 (80%)" in line


def test_tables_of_segmentation():
    shown = succeeds("probe", "segmentation", "one", *PLAIN["segmentation"]).stdout
    (head,) = [line.split() for line in shown.splitlines() if line.split()[:1] == ["layer"]]
    assert head[1:5] == ["F1", "precision", "recall", "over-segmentation"]
    (line,) = [line for line in shown.splitlines() if line.split()[:1] == ["T1"]]
    rows = [row for row in in_python("segmentation") if row.layer == "T1" and row.variant.startswith("chosen")]
    for half in ("half 1", "half 2"):
        p, n, d = [row.value for row in rows if half in row.variant]
        assert f"{('euclidean', 'cosine')[int(d)]} {n:g} {p:g}" in line
    (chance,) = [line.split() for line in shown.splitlines() if line.strip().startswith("chance (highest)")]
    highest = max(row.chance for row in in_python("segmentation") if row.variant.startswith("F1,"))
    assert chance[2] == f"{highest:.3f}"
    plain = succeeds("probe", "segmentation", "one", "--distance", "cosine", "--window", 2, "--prominence", 0.1).stdout
    assert "smoothing, prominence" not in plain.splitlines()[1]
    assert "cosine distance, smoothed over 2, prominence 0.1" in plain


# fmt: off
OPTIONS = [
    ("discrimination", "--distance dtw", {"distance": "dtw"}),
    ("discrimination", "--cross-speaker", {"cross_speaker": True}),
    ("discrimination", "--min-characters 6 --min-seconds 0.35", {"min_characters": 6, "min_seconds": 0.35}),
    ("discrimination", "--per-label 4 --seed 3", {"sampling": Sampling(per_label=4), "seed": 3}),
    ("discrimination", "--top-labels 3", {"sampling": Sampling(top_labels=3)}),
    ("discrimination", "--max-utterances 5", {"sampling": Sampling(utterances=5)}),
    ("discrimination", "--resample speakers", {"resample": "speakers"}),
    ("discrimination", "--resample none", {"resample": "none"}),
    ("discrimination", "--where gender=f", {"where": parse_where(["gender=f"])}),
    ("similarity", "--min-tokens 8", {"min_tokens": 8}),
    ("similarity", "--max-tokens 2 --seed 5", {"max_tokens": 2, "seed": 5}),
    ("similarity", "--where gender=m", {"where": parse_where(["gender=m"])}),
    ("segmentation", "--tune-on tune --tune-for R-value", {"tune_store": "tune", "criterion": "R-value"}),
    ("segmentation", "--tune-for token_F1", {"criterion": "token F1"}),
    ("segmentation", "--distance cosine --window 4 --prominence 0.03", {"cells": grid(("cosine",), (1, 2, 4), (0.1, 1, 0.03))}),
    ("segmentation", "--tolerance 30", {"tolerance": 480}),
    ("segmentation", "--max-utterances 4 --seed 1", {"sampling": Sampling(utterances=4), "seed": 1}),
    ("segmentation", "--resample speakers --where gender=f", {"resample": "speakers", "where": parse_where(["gender=f"])}),
    ("sentences", "--across-speakers --resample none", {"across_speakers": True, "resample": "none"}),
    ("sentences", "--resample speakers --seed 4", {"resample": "speakers", "seed": 4}),
    ("sentences", "--speaker gender --resample speakers", {"speaker": "gender", "resample": "speakers"}),
    ("neighbours", "--method knn -k 3 --folds 4", {"methods": ("knn",), "n_neighbours": 3, "n_folds": 4}),
    ("neighbours", "--method centroid --groups speaker", {"methods": ("centroid",), "groups": "speaker"}),
    ("neighbours", "--labels gender", {"labels": "gender"}),
    ("neighbours", "--per-label 5 --seed 9", {"sampling": Sampling(per_label=5), "seed": 9}),
    ("neighbours", "--sample all --where gender=f", {"sampling": Sampling(), "where": parse_where(["gender=f"])}),
]
# fmt: on


@pytest.mark.parametrize(("command", "arguments", "options"), OPTIONS)
def test_options(command, arguments, options):
    if "tune_store" in options:
        options = {**options, "tune_store": FeatureStore(options["tune_store"])}
    typed = [text.replace("_", " ") for text in arguments.split()]
    found = rows_of(command, "one", *PLAIN[command], "--layers", "T1", *typed)
    assert found == records(in_python(command, layers="T1", **options))
    assert [row for row in found if row["layer"] == "T1"] != usual(command)


@cache
def usual(command):
    return [row for row in records(in_python(command, layers="T1")) if row["layer"] == "T1"]


def test_workers_do_not_change_a_digit():
    for name, arguments in (("segmentation", PLAIN["segmentation"]), ("neighbours", PLAIN["neighbours"])):
        one, two = (succeeds("probe", name, "one", *arguments, "--workers", n, "--json").stdout for n in (1, 3))
        assert one == two


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
    figure = figures.draw_layer_curves(drawn(table))
    assert len(figure.axes) == 1
    labels = {line.get_label() for line in figure.axes[0].get_lines()}
    assert {"one", "mel", "edit distance", "glove.txt"} <= labels
    assert Path("men.svg").exists()


def test_one_metric_is_compared():
    succeeds("compare", "segmentation.csv", "--variant", "lenient", "--plot", "x.svg", "-o", "lenient.csv")
    figure = figures.draw_layer_curves(drawn(results.read(["lenient.csv"])))
    assert len(figure.axes) == 3
    succeeds("compare", "segmentation.csv", "--variant", "chosen prominence", "--layers", "T0,T1")


def test_all_probes_in_one_figure():
    files = [f"{name}.csv" for name in PLAIN]
    shown = succeeds("compare", *files, "--plot", "all.svg").stdout
    assert "word boundaries of one" in shown
    assert "word similarity of one" in shown
    assert Path("all.svg").stat().st_size > 2_000


def test_frames_of_two_rates_are_one_figure():
    """mel has twice the frames of a network: the share of the most frequent label is another, by a little."""
    arguments = ["--labels", "phone", "--unit", "frame", "--method", "centroid", "--sample", "all"]
    succeeds("probe", "neighbours", *STORES, *arguments, "-o", "frames.csv", "--plot", "frames.svg")
    assert Path("frames.svg").exists()


def test_stores_that_are_named_twice():
    assert rows_of("sentences", "one") == rows_of("sentences", "one", "one")


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
        (USAGE, "segmentation one --prominence nan", ["prominence 0 or more"]),
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
     "neighbours one --labels phone --folds 1", "segmentation one --tune-for F2", "discrimination one --workers 0"],
)  # fmt: skip
def test_what_click_refuses(arguments):
    result = run("probe", *arguments.split())
    assert result.exit_code == USAGE
    assert "Error: " in result.stderr
    assert result.stdout == ""
