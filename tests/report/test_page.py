"""The page says the numbers of the rows and nothing else, and nothing in a row can run."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import re
import sys

import pandas as pd
import pytest
from commands import run, succeeds
from reporting import (
    EVIL,
    LAYERS,
    about,
    bias,
    checkpoints,
    curve,
    curves,
    data_of,
    everything,
    lexical,
    matrix,
    methods_of,
    parsed,
    put,
    row,
    rows_of,
    write,
)

import layertool
from layertool import report, result_rows
from layertool.errors import MissingExtraError, StoreError, UsageError
from layertool.layerwise.cca import CCA
from layertool.report import inputs, page, references, sections

NUMBERS = ("value", "ci_low", "ci_high", "chance", "n", "seed", "step")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(page, rows) of everything."""
    return write(tmp_path_factory.mktemp("report"), everything())


def figures_of(path):
    return data_of(path)["figures"]


def traces(figure):
    return [trace for panel in figure["panels"] for trace in panel["data"]]


def points(figure):
    """(row, number) of every point that is drawn."""
    for trace in traces(figure):
        if trace["type"] == "heatmap":
            yield from (
                (k, v)
                for ks, vs in zip(trace["customdata"], trace["z"], strict=True)
                for k, v in zip(ks, vs, strict=True)
            )
        elif "customdata" in trace:
            yield from zip(trace["customdata"], trace["y"], strict=True)


def same(one, other) -> bool:
    if one is None or other is None or one != one or other != other:
        return (one is None or one != one) and (other is None or other != other)
    return float(one) == float(other)


# numbers


@pytest.mark.slow
def test_the_numbers_of_the_page_are_the_rows(whole):
    path, rows = whole
    there = rows_of(data_of(path))
    assert list(there.columns) == result_rows.COLUMNS
    assert len(there) == len(rows)
    for name in NUMBERS:
        assert all(map(same, there[name], rows[name])), name
    for name in set(result_rows.COLUMNS) - set(NUMBERS) - {"layer_index"}:
        assert [v if isinstance(v, str) else None for v in there[name]] == [
            v if isinstance(v, str) else None for v in rows[name]
        ], name
    assert there["ci_low"].isna().any()
    assert -math.inf in there["value"].astype(float).tolist()


def test_every_point_is_the_value_of_its_row(whole):
    path, rows = whole
    n_points = 0
    for figure in figures_of(path):
        for k, value in points(figure):
            n_points += 1
            known = rows["value"][k]
            assert value == known or (value is None and not math.isfinite(known))
        assert {k for k, _ in points(figure)} <= set(figure["rows"])
    assert n_points > 100


def test_bands_are_the_intervals(tmp_path):
    path, rows = write(tmp_path, curve(layers=("T0", "T1", "T2", "T3", "T4")))
    (figure,) = figures_of(path)
    band, line = (trace for trace in traces(figure) if trace["meta"] == "s0")
    known = rows[rows["ci_low"].notna()]
    assert {y for y in band["y"] if y is not None} == {*known["ci_low"][1:], *known["ci_high"][1:]}  # T0 stands alone
    assert line["error_y"]["array"][0] == pytest.approx(0.03)
    assert line["error_y"]["array"][1:] == [0] * 4


def test_the_pointer_reads_number_interval_chance_and_n(whole):
    path, _ = whole
    texts = [text for trace in traces(figures_of(path)[0]) for text in trace.get("hovertext", [])]
    assert "base, T1<br><b>0.3667</b> [0.3367 to 0.3967]<br>chance 0.1 (above)<br>n = 1 133" in texts
    assert "base, T0<br><b>0.3333</b><br>chance 0.1<br>n = 1 133" in texts


def test_every_row_is_in_a_figure_or_a_table(whole):
    path, rows = whole
    text = path.read_text(encoding="utf-8")
    shown = {k for figure in figures_of(path) for k in figure["rows"]}
    for k in set(rows.index) - shown:
        assert rows["metric"][k] in text or rows["item"][k] in text


# which figures


def test_one_panel_per_target_and_levels_for_what_has_no_layers(tmp_path):
    path, _ = write(tmp_path, curves())
    (figure,) = figures_of(path)
    assert [panel["title"] for panel in figure["panels"]] == ["phone", "word"]
    assert [mark["name"] for mark in figure["legend"]] == ["base", "large", "mel", "most frequent label", "chance"]
    assert figure["panels"][0]["layout"]["xaxis"]["categoryarray"] == list(LAYERS)
    mel = [trace for trace in figure["panels"][0]["data"] if trace["name"] == "mel" and trace["hoverinfo"] == "text"]
    assert mel[0]["y"] == [0.2] * 4
    looks = [(mark["dash"], mark["symbol"]) for mark in figure["legend"]]
    assert len(set(looks)) == len(looks), "told apart by colour only"


def test_what_kinds_of_figures_there_are(whole):
    titles = [figure["title"] for figure in figures_of(whole[0])]
    for name in (
        "CCA over layers",
        "CKA: linear CKA",
        "MI over layers",
        "MI over training",
        "SpEAT over layers",
        "SpEAT over parameters removed",
        "SpEAT",
        "Lexical: single stimuli",
        "Lexical",
        "Lexical lens over layers",
        "My own over layers",
        "My own",
    ):
        assert name in titles


def test_a_map_is_the_matrix(tmp_path):
    path, rows = write(tmp_path, matrix())
    ((trace,),) = (panel["data"] for panel in figures_of(path)[0]["panels"])
    assert trace["x"] == trace["y"] == list(LAYERS)
    for i, y in enumerate(trace["y"]):
        for j, x in enumerate(trace["x"]):
            assert trace["z"][i][j] == rows[(rows["layer"] == x) & (rows["target"] == y)]["value"].item()


def test_steps_far_apart_have_a_logarithm_with_a_linear_start(tmp_path):
    path, _ = write(tmp_path, checkpoints())
    figure = next(figure for figure in figures_of(path) if "over training" in figure["title"])
    line = next(trace for trace in traces(figure) if trace["name"] == "T1" and "customdata" in trace)
    assert line["x"] == pytest.approx([0, 1, 1 + math.log10(250)])
    axis = figure["panels"][0]["layout"]["xaxis"]
    assert dict(zip(axis["ticktext"], axis["tickvals"], strict=True)) == pytest.approx(
        {"0": 0, "100": 1, "1 000": 2, "10 000": 3}
    )


def test_bias_has_stars_and_parameters_removed(tmp_path):
    path, _ = write(tmp_path, bias())
    figure = next(figure for figure in figures_of(path) if "removed" in figure["title"])
    line = next(trace for trace in traces(figure) if "customdata" in trace and trace["name"] != "unpruned")
    assert line["x"] == [2e5, 4e5]
    assert line["y"] == pytest.approx([0.5, 0.6])
    assert "0.60 [0.40, 0.80] p 0.010 **" in path.read_text(encoding="utf-8")


def test_numbers_of_minus_infinity_are_counted(tmp_path):
    path, _ = write(tmp_path, lexical())
    assert re.search(r"SSN</th><td>8</td>(<td>[^<]*</td>){3}<td>1</td>", path.read_text(encoding="utf-8"))


def test_figures_are_what_plotly_knows(whole):
    objects = pytest.importorskip("plotly.graph_objects")
    for figure in figures_of(whole[0]):
        for panel in figure["panels"]:
            objects.Figure({"data": panel["data"], "layout": panel["layout"]})  # raises on what it does not know


def test_contradicting_rows_are_said_and_stay_in_a_table(tmp_path):
    path, _ = write(tmp_path, [*curve(), *curve(0.7, seed=1)])
    text = path.read_text(encoding="utf-8")
    assert figures_of(path) == []
    assert "A figure is left out: layer C1 of base has 2 results" in text
    assert "they differ in seed, value" in text or "they differ in seed" in text
    assert "0.7333" in text


def test_bars_begin_at_zero(tmp_path):
    path, _ = write(tmp_path, lexical())
    figure = next(figure for figure in figures_of(path) if figure["title"] == "Lexical")
    for panel in figure["panels"]:
        low, high = panel["layout"]["yaxis"]["range"]
        assert low < -130
        assert high >= 0


# nothing runs


def test_names_cannot_become_code(whole):
    path, _ = whole
    text = path.read_text(encoding="utf-8")
    page_parts = parsed(path)
    assert len(page_parts.scripts) == 3
    assert EVIL not in text
    assert EVIL in rows_of(data_of(path))["model"].tolist()
    assert not [
        tag for tag, attributes in page_parts.tags if tag == "img" or any(name.startswith("on") for name in attributes)
    ]
    drawn = [trace for figure in figures_of(path) for trace in traces(figure)]
    names = [trace.get("name", "") for trace in drawn]
    read = [text for trace in drawn for text in trace.get("hovertext", []) if isinstance(text, str)]
    assert any("&lt;img" in text for text in read)
    assert not [text for text in (*names, *read) if re.search(r"<(?!/?b>|br>)", text)], "plotly would read HTML"


def test_only_the_pages_own_scripts_may_run(whole):
    scripts = parsed(whole[0]).scripts
    (policy,) = [
        attributes["content"] for tag, attributes in parsed(whole[0]).tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]  # fmt: skip
    assert policy.startswith("default-src 'none'; ")
    code = [text for attributes, text in scripts if attributes.get("type") != "application/json"]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in code}
    named = policy.split("script-src ")[1].split(";")[0].split()
    assert set(named) == hashes
    assert "unsafe-eval" not in policy


def test_nothing_is_asked_of_a_network(whole):
    assert [link for link in parsed(whole[0]).asked if not link.startswith(("#", "data:,"))] == []


# reading it


def test_it_can_be_read_without_drawings(whole):
    page_parts = parsed(whole[0])
    tags = [tag for tag, _ in page_parts.tags]
    assert tags.count("table") == tags.count("caption")
    assert all("scope" in attributes for tag, attributes in page_parts.tags if tag == "th")
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), "a level is left out"
    names = [attributes["id"] for _, attributes in page_parts.tags if "id" in attributes]
    assert len(set(names)) == len(names)
    plots = [attributes for _, attributes in page_parts.tags if attributes.get("class") == "plot"]
    assert plots
    assert all(plot["tabindex"] == "0" and plot["aria-label"] for plot in plots)


def test_the_methods_name_every_setting_that_is_there(whole):
    path, rows = whole
    said = methods_of(path)
    for settings in rows["settings"].unique():
        for phrase in result_rows.phrases(json.loads(settings)):
            assert phrase in said
    assert "Pasad et al., 2021" in said
    assert "Lin et al., 2024" in said
    assert "Cuervo and Marxer, 2024" in said
    assert "procrustes" not in said.split("settings")[0].lower()


def test_the_methods_cite_what_is_declared_and_only_what_was_done(tmp_path):
    path, _ = write(tmp_path, curve())
    text, declared = path.read_text(encoding="utf-8"), CCA
    assert "SpEAT" not in methods_of(path)
    assert declared.__doc__.splitlines()[0] in methods_of(path)
    listed = re.findall(r"<li>(.*?)</li>", text.split('class="references"')[1].split("</ul>")[0])
    assert len(listed) == len(declared.cites)
    assert any(entry.startswith("A. Pasad, J.-C. Chou") for entry in listed)
    assert len(set(references.REFERENCES)) == len({words for words, _ in references.REFERENCES.values()})


def test_a_trajectory_is_of_one_training_with_three_checkpoints(tmp_path):
    two, _ = write(tmp_path, [*checkpoints((0, 100)), *curve(analysis="mi", metric="mi")])
    assert not [figure for figure in figures_of(two) if "over training" in figure["title"]]
    control = curve(0.1, analysis="mi", metric="mi", model="run (random init 0)", store="run/random")
    path, rows = write(
        tmp_path, [*checkpoints(), *control, *curve(0.1, analysis="mi", metric="mi", model="x", step=7, store="x/7")]
    )
    (figure,) = [figure for figure in figures_of(path) if "over training" in figure["title"]]
    assert set(rows.loc[figure["rows"], "store"]) == {"run/0", "run/100", "run/25000"}
    (beside,) = [figure for figure in figures_of(path) if figure["title"] == "MI over layers"]
    assert {"run/random", "x/7"} <= set(rows.loc[beside["rows"], "store"])


def test_results_report_themselves(tmp_path):
    found = layertool.Results(curves())
    assert found.report(tmp_path / "r.html") == tmp_path / "r.html"
    assert len(rows_of(data_of(tmp_path / "r.html"))) == len(found)


# provenance


def test_stores_say_what_made_them(tmp_path):
    put(tmp_path / "stores/base", about())
    put(tmp_path / "stores/large", about("org/<large>", "new"))
    put(tmp_path / "stores/mel", "{broken")
    found = [*curve(revision="abc"), *curve(model="large", revision="old", store="stores/large"), row(store="stores/mel", layer="mel"), row(store="gone", model="gone")]  # fmt: skip
    path, _ = write(tmp_path, found)
    text = path.read_text(encoding="utf-8")
    assert '<th scope="row">configuration hash</th><td>c0ffee</td>' in text
    assert "3 utterances, 1.5 min" in text
    assert "C1, T0-T2" in text
    assert "org/&lt;large&gt;" in text
    assert "has revision &#x27;new&#x27; now and &#x27;old&#x27; in the rows" in text
    assert "<h4>gone (1 row)</h4>" in text
    assert "is not here: what made it is known from the rows only" in text
    assert "This store cannot be read" in text


# training runs


def test_training_curves_and_records(tmp_path):
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (run_folder / "losses.csv").write_text("step,loss\n30,3.5\n60,2.25\n", encoding="utf-8")
    record = {"kind": "pre-training", "model": "melhubert", "settings": {"steps": 60, "learning_rate": 1e-4, "batch_size": 4}, "losses": [[30, 3.5]], "finished": True}  # fmt: skip
    (run_folder / "pretrain.json").write_text(json.dumps(record), encoding="utf-8")
    tuned = tmp_path / "sweep" / "a"
    tuned.mkdir(parents=True)
    history = [{"epoch": 0, "step": 0, "loss": None, "dev": -9.5}, {"epoch": 1, "step": 36, "loss": 4.0, "dev": -8.5}]
    (tuned / "finetune.json").write_text(
        json.dumps({"kind": "lexical fine-tuning", "history": history}), encoding="utf-8"
    )
    out = report.write([run_folder / "losses.csv", run_folder, tmp_path / "sweep"], tmp_path / "r.html")
    made = data_of(out)
    assert [figure["title"] for figure in made["figures"]] == [
        "Pre-training",
        "Lexical fine-tuning",
        "Lexical fine-tuning",
    ]
    assert made["losses"] == {
        "columns": ["run", "step", "quantity", "value"],
        "data": [["run", 30, "loss", 3.5], ["run", 60, "loss", 2.25], ["a", 36, "loss", 4.0], ["a", 0, "score of the dev part", -9.5], ["a", 36, "score of the dev part", -8.5]],
    }  # fmt: skip
    assert traces(made["figures"][0])[0]["y"] == [3.5, 2.25]
    assert "Run run: pre-training of melhubert (Lin et al., 2022), 60 steps, learning rate 0.0001" in methods_of(out)


def test_the_records_are_those_that_runs_write():
    from layertool.training import compression_run, ctc_run, distillation_run, engine, lexical, pretraining

    tasks = (
        pretraining.Pretraining,
        compression_run.Compression,
        distillation_run.Student,
        ctc_run.Writer,
        lexical.Listening,
    )
    assert {task.record for task in tasks} == set(inputs.RECORDS)
    assert engine.LOSSES == inputs.LOSSES


def test_names_of_runs_tell_them_apart(tmp_path):
    runs = [inputs.Run(tmp_path / name, {}, {}) for name in ("a/run", "b/run")]
    assert sections.names_of(runs) == ["a/run", "b/run"]


# the command


@pytest.mark.slow
def test_the_command_and_the_same_bytes(tmp_path):
    source = result_rows.write(everything(), tmp_path / "rows.parquet")
    said = succeeds("report", source, "-o", tmp_path / "a.html", "--title", "Layers & <more>")
    assert "page in" in said.stderr
    succeeds("report", source, "-o", tmp_path / "b.html", "--title", "Layers & <more>", "-q")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert "<h1>Layers &amp; &lt;more&gt;</h1>" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_files_may_be_of_every_format_and_rows_are_there_once(tmp_path):
    sources = [result_rows.write(curves(), tmp_path / f"rows{suffix}") for suffix in result_rows.FORMATS]
    out = report.write(sources, tmp_path / "r.html")
    assert len(rows_of(data_of(out))) == len(curves())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rows.csv", "-o", "page.pdf"], "page.pdf is no page: end it in .html"),
        (["gone.csv", "-o", "page.html"], "gone.csv is no result file"),
        (["empty.csv", "-o", "page.html"], "there are no results to report"),
        (["folder", "-o", "page.html"], "folder is no folder of a training run"),
        (["store", "-o", "page.html"], "it is a feature store"),
        (["bad/losses.csv", "-o", "page.html"], "has losses that are no"),
        (["rows.csv", "-o", "folder"], "folder is no page"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    result_rows.write(curves(), tmp_path / "rows.csv")
    result_rows.write(pd.DataFrame(columns=result_rows.COLUMNS), tmp_path / "empty.csv")
    (tmp_path / "folder").mkdir()
    put(tmp_path / "store", about())
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/losses.csv").write_text("step,loss\n1,much\n", encoding="utf-8")
    done = run("report", *arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "page.html").exists()


def test_without_plotly_the_command_to_type_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'layertool[report]'")):
        write(tmp_path, curves())


def test_a_page_is_whole_or_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "page", lambda *_: "half" + chr(0xD800))  # cannot be written
    with pytest.raises(StoreError, match=r"half\\ud800"):
        write(tmp_path, curves())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.csv"]


def test_a_damaged_history_is_said(tmp_path):
    (tmp_path / "finetune.json").write_text('{"history": 3}', encoding="utf-8")
    with pytest.raises(Exception, match="is no list of points"):
        inputs.read([tmp_path])
    with pytest.raises(UsageError):
        inputs.read([tmp_path / "nothing"])
