"""Printed tables hold the numbers of the rows, fit the terminal, and say how the numbers were made."""

from __future__ import annotations

import re

import pytest
import reporting
from reporting import LAYERS, row

from layertool import figures, result_rows, tables
from layertool.errors import UsageError
from layertool.layerwise.lexical_rows import LIKELIHOOD, TAU, TOP_1, TOP_N
from layertool.result_rows import Result

DEEP = tuple(f"T{k}" for k in range(25))
METRICS = ("pwcca", "mean cca", "svcca", "pwcca-x", "pwcca-y")


def printed(rows, **options) -> str:
    return tables.text(result_rows.table(rows), **options)


def line(text: str, name: str) -> str:
    """The first line of a table that begins with a name."""
    return next(one for one in text.split("\n") if re.match(rf"{re.escape(name)}(\s|$)", one))


def pairs(steps=(0, 100, 25_000), layers=LAYERS) -> list[Result]:
    return [
        row(
            "mi",
            {},
            analysis="mi",
            model="run",
            layer=layer,
            layer_index=k,
            step=step,
            store=f"run/{step}",
            value=n + k / 10,
        )
        for n, step in enumerate(steps)
        for k, layer in enumerate(layers)
    ]


WIDE = {
    "many metrics": [one for metric in METRICS for one in reporting.curve(metric=metric, layers=DEEP)],
    "many stores": [one for k in range(9) for one in reporting.curve(model=f"a-rather-long-name-{k}", store=f"s/{k}")],
    "many layers": [
        row("linear cka", {}, analysis="cka", layer=x, layer_index=k, target=y, value=0.5)
        for k, x in enumerate(DEEP)
        for y in DEEP
    ],
    "a long series": pairs(range(0, 1_000_000, 100_000), DEEP),
    "tests": reporting.bias(),
    "lexical": reporting.lexical(),
    "long targets": [one for t in "ab" for one in reporting.curve(target=t * 90)],
    "everything": reporting.everything(),
}


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("width", [80, 60])
def test_tables_fit(name, width):
    for brief in (False, True):
        text = printed(WIDE[name], brief=brief, width=width)
        assert max(map(len, text.split("\n"))) <= width


def test_layers_stand_down_and_what_differs_across():
    text = printed([one for metric in ("pwcca", "mean cca") for one in reporting.curve(metric=metric)])
    lines = text.split("\n")
    assert lines[0] == "CCA of base, phone"
    assert lines[1].split() == ["layer", "pwcca", "mean", "cca"]
    assert lines[3:7] == [
        "C1      0.300 [0.27, 0.33]  0.300 [0.27, 0.33]",
        "T0                   0.333               0.333",
        "T1      0.367 [0.34, 0.40]  0.367 [0.34, 0.40]",
        "T2      0.400 [0.37, 0.43]  0.400 [0.37, 0.43]",
    ]
    assert line(text, "chance").split() == ["chance", "0.100", "0.100"]
    assert lines[-2:] == ["  n = 1 133", "  protocol held-out"]


def test_brief_tables_have_main_metrics_without_intervals():
    about = {"analysis": "word segmentation", "unit": "frame", "target": "word boundaries"}
    rows = [one for metric in ("F1", "recall") for one in reporting.curve(metric=metric, **about)]
    assert "recall" in printed(rows)
    assert "recall" not in printed(rows, brief=True)
    assert line(printed(rows, brief=True), "C1").split() == ["C1", "0.300"]


def test_stores_of_one_network_order_and_what_has_no_layers_below():
    rows = [
        *reporting.curve(layers=("T0", "D0")),
        *reporting.curve(model="other", store="s/o", layers=("C1", "T0", "T1")),
        row(layer="mel", model="mel", store="s/mel", value=0.2, ci_low=0.1, ci_high=0.25),
        row(layer="baseline", model="most frequent label", store=None, value=0.15),
    ]
    text = printed(rows)
    assert [one.split()[0] for one in text.split("\n")[3:7]] == ["C1", "T0", "T1", "D0"]
    assert "  mel: 0.200 [0.10, 0.25]" in text
    assert "  baseline, most frequent label: 0.150" in text


def test_models_of_different_depth():
    rows = [*reporting.curve(layers=("T0", "T1", "T2")), *reporting.curve(model="deep", store="s/d", layers=DEEP[:5])]
    text = printed(rows, x="depth")
    assert [one.split()[0] for one in text.split("\n")[3:8]] == ["0.00", "0.25", "0.50", "0.75", "1.00"]


def test_labels_are_those_of_the_figure_or_as_asked():
    rows = result_rows.table([*reporting.curve(), *reporting.curve(store="stores/other")])
    assert tables.text(rows).split("\n")[1].split() == ["layer", "base,", "base", "base,", "other"]
    (axis,) = figures.draw(rows).axes
    assert [line.get_label() for line in axis.lines][-2:] == ["base, base", "base, other"]
    assert tables.text(rows, names=["one", "two"]).split("\n")[1].split() == ["layer", "one", "two"]
    with pytest.raises(UsageError, match="3 labels for 2 stores"):
        tables.text(rows, names=["one", "two", "three"])


def test_settings_that_differ_stand_in_heads_and_the_others_below():
    rows = [one for method in ("knn", "centroid") for one in reporting.curve(settings={"folds": 5, "method": method})]
    text = printed(rows)
    assert text.split("\n")[1].split() == ["layer", "method", "knn", "method", "centroid"]
    assert text.endswith("\n  folds 5")


@pytest.mark.parametrize("axis", [{}, {"x": "step"}])
def test_a_series_has_steps_down_and_layers_across(axis):
    text = printed(pairs(), **axis)
    assert text.split("\n")[:3] == [
        "MI of run, phone: MI (nats)",
        "step       C1     T0     T1     T2",
        "──────────────────────────────────",
    ]
    assert line(text, "25 000") == "25 000  2.000  2.100  2.200  2.300"


def test_a_matrix_has_layers_down_and_across():
    text = printed(reporting.matrix())
    assert text.split("\n")[0] == "CKA of base, phone rows (across) with itself (down): linear CKA"
    assert line(text, "T0") == "T0  0.50  1.00  0.50  0.33"


def test_tests_have_d_its_interval_and_p():
    text = printed(reporting.bias())
    assert text.split("\n")[0] == "SpEAT, valence=positive:negative"
    assert "0.40 [0.20, 0.60] p 0.010 **" in line(text, "whole")


@pytest.mark.parametrize(("alternative", "marked"), [("greater", True), ("less", True), ("two-sided", False)])
def test_a_bias_of_the_other_way_is_not_hidden(alternative, marked):
    about = {
        "analysis": "speat",
        "unit": "utterance",
        "target": reporting.TARGET,
        "settings": {"alternative": alternative},
    }
    values = {"d": -1.2, "p": 0.998, "p bonferroni": 1.0, "p benjamini-hochberg": 0.999}
    text = printed([row(name, **about, value=value) for name, value in values.items()])
    assert ("p 0.998 †" in text) == marked
    assert ("p of the other side is below .05" in text) == marked


def test_one_test_alone_has_one_star():
    about = {"analysis": "speat", "target": reporting.TARGET}
    values = {"d": 1.2, "p": 0.001, "p bonferroni": 0.001, "p benjamini-hochberg": 0.001}
    assert "p 0.001 *\n" in printed([row(name, **about, value=value) for name, value in values.items()])


def test_tasks_stand_across_with_how_many_pairs_they_have():
    about = {"analysis": "word similarity", "unit": "word", "settings": {}}
    rows = [
        row("spearman", **about, layer=layer, layer_index=k, target=task, item=task, value=k / 10, n=n)
        for k, layer in enumerate(LAYERS)
        for task, n in (("MEN", 300), ("RW", 200))
    ]
    rows += [
        row("coverage", **about, layer="model", target=task, value=0.5, n=n, chance=None)
        for task, n in (("MEN", 300), ("RW", 200))
    ]
    text = printed(rows)
    assert line(text, "layer").split() == ["layer", "MEN", "RW"]
    assert line(text, "n").split() == ["n", "300", "200"]


def test_maskers_stand_down_metrics_across_and_stimuli_are_counted():
    text = printed(reporting.lexical()[:-4])
    assert line(text, "model").split() == ["model", "target", LIKELIHOOD.name, "Kendall", "tau-b"]
    assert [one.split()[1] for one in text.split("\n") if one.startswith("whisper")] == ["all", "SSN", "BMN3"]
    assert "15 of log-likelihood" in text
    assert "silent" not in text
    assert {TAU.name, TOP_1.name, TOP_N.name} & set(re.findall("Kendall tau-b|top", text)) == {TAU.name}


def test_rows_of_the_first_version_print_what_they_say(tmp_path):
    old = result_rows.table(reporting.curve()).drop(columns=list(result_rows.LATER))
    old["variant"] = "pwcca, mean of both directions, held-out"
    old.to_csv(tmp_path / "old.csv", index=False)
    text = tables.text(result_rows.read([tmp_path / "old.csv"]))
    assert text.split("\n")[0] == "CCA of base, phone: PWCCA, mean of both directions"
    assert text.endswith("  mean of both directions, held-out")


def test_two_numbers_of_one_place_are_an_error():
    with pytest.raises(UsageError, match="layer C1 of base has 2 results"):
        printed([*reporting.curve(), *reporting.curve(0.7, seed=1)])


def test_names_are_shown_and_never_obeyed():
    text = printed(reporting.curve(model="a\x1b[31mb\u202e", target="[bold]x"))
    assert "\x1b" not in text
    assert "[bold]x" in text
    html = tables.html(result_rows.table(reporting.curve(model=reporting.EVIL)))
    assert "<img" not in html


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.66449, "0.664"),
        (-0.0001, "0.000"),
        (-120.54, "-120.5"),
        (1133.0, "1 133"),
        (float("-inf"), "−∞"),
        (float("nan"), ""),
    ],
)
def test_numbers(value, said):
    assert tables.number(value) == said


def test_the_same_tables_are_html():
    text = tables.html(result_rows.table(reporting.curve()))
    assert '<th scope="row">C1</th><td>0.300 [0.27, 0.33]</td>' in text
    assert tables.html(result_rows.table([])) == ""


def test_long_settings_give_way_to_the_numbers():
    settings = [{"predicted_by": "frequencies in the whole train part, " * n} for n in (2, 3)]
    about = {"analysis": "lexical", "layer": "", "target": "all", "value": -26.4, "ci_low": -29.7, "ci_high": -19.5}
    text = printed([row(LIKELIHOOD.name, one, model="a baseline", **about) for k, one in enumerate(settings)])
    assert max(map(len, text.split("\n"))) <= 80
    assert text.count("-26.4 [-29.7, -19.5]") == 2
