"""speat: what is typed is what ``layertool.speat`` is asked; its table and figures; bad input gets one sentence."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import commands
import models
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
from commands import run

import layertool
from layertool import result_rows
from layertool.comparison import with_sizes
from layertool.result_rows import PARAMETERS

USAGE, DATA, N, N_TARGETS = 2, 1, 44, 28
CHECKPOINTS = ("checkpoint-1000", "checkpoint-2000")
PRUNED = ("weights/p20", "weights/p50", "heads/p30")
VALENCE = "valence=positive:negative"
FEW = ["--permutations", 2000, "--n-resamples", 300]
GENDER = ["--target", "gender=female:male", "--attribute", VALENCE, *FEW]
FIGURES = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
STARS = re.compile(r"(-?\d\.\d\d)(?: \[(-?\d\.\d\d), (-?\d\.\d\d)\])? p (\d\.\d{3}|\de-\d+)(?: (\*+))?")


def succeeds(*arguments):
    return commands.succeeds("speat", *arguments)


def rows_of(*arguments) -> list[dict]:
    return json.loads(succeeds(*arguments, "--json", "-q").stdout, parse_constant=pytest.fail)


def in_python(stores, targets=("gender=female:male",), **options) -> pd.DataFrame:
    options = {"permutations": 2000, "n_resamples": 300, **options}
    return layertool.speat(stores, target=targets, attribute=VALENCE, **options).rows


def records(found: pd.DataFrame) -> list[dict]:
    return result_rows.records(found)


def table_of(k):
    """gender differs as valence does in sound, age not at all; t0 to t5 with more and more exceptions."""
    out = {
        "gender": pick(k, ("female", "male")[k % 2]),
        "age": pick(k, ("young", "old")[k // 2 % 2]),
        "valence": ("positive", "negative")[k % 2] if k >= N_TARGETS else None,
        "one": "me" if k == 0 else pick(k, "others"),
        "sex": ("f", "m")[k // 4 % 2],
        "pair": f"p{k // 2}",
    }
    for j, n_exceptions in enumerate((6, 8, 10, 11, 12, 14)):
        out[f"t{j}"] = pick(k, "xy"[(k + (k in [5 * i % N_TARGETS for i in range(n_exceptions)])) % 2])
    return out


def pick(k, value):
    return value if k < N_TARGETS else None


def waveform(k, n):
    noise = np.random.default_rng(k).standard_normal(n + 1)
    share = np.random.default_rng(1000 + k).uniform(0.05, 0.4) + 0.5 * (k % 2)
    dull, sharp = np.convolve(noise, np.ones(8) / 8, "same")[:n], np.diff(noise)[:n]
    return (0.05 * ((1 - share) * dull + share * sharp)).astype(np.float32)


def prune(source: Path, folder: Path, share: float) -> Path:
    """A copy of a network with the smallest of its weights set to 0."""
    shutil.copytree(source, folder)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    for name, value in weights.items():
        if value.ndim == 2:
            value[value.abs() < value.abs().flatten().quantile(share)] = 0
            weights[name] = value
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speat")
    waveforms = [waveform(k, 4_800 + 131 * (k % 5)) for k in range(N)]
    tables = [table_of(k) for k in range(N)]
    corpus = models.corpus(folder / "audio", waveforms, **{name: [t[name] for t in tables] for name in tables[0]})
    corpus.write(folder / "corpus")
    networks = {
        name: models.save("hubert-base", folder / "models" / name, seed=k) for k, name in enumerate(CHECKPOINTS)
    }
    networks["base"] = networks[CHECKPOINTS[0]]
    for name in PRUNED:
        networks[name] = prune(networks["base"], folder / "models" / name, int(name[-2:]) / 100)
    for name, network in networks.items():
        layertool.extract(str(network), corpus, folder / name, ("utterance",), "T0-T3")
    for name in ("mel", "mfcc"):
        layertool.extract(name, corpus, folder / name, ("utterance",))
    layertool.extract("mel", corpus, folder / "noise", ("utterance",), cmvn=True, pooling={"utterance": "max"})
    about = (folder / "noise" / "store.json").read_text()
    (folder / "noise" / "store.json").write_text(about.replace('"utterance": "max"', '"utterance": "mean"'))
    old = shutil.copytree(folder / PRUNED[0], folder / "old")
    about = json.loads((old / "store.json").read_text())
    del about["parameters"]
    (old / "store.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(autouse=True)
def here(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (*CHECKPOINTS, "base", "weights", "heads", "mel", "mfcc", "noise", "old"):
        (tmp_path / name).symlink_to(made / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.txt").write_text("u0\nu2\nu99\n")
    (tmp_path / "y.txt").write_text("u1\nu3\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x93")
    return tmp_path


def cells(stdout: str, model: str) -> list[tuple]:
    """d, ends of the interval, p, and stars of each category in a model's lines of the first tables, which stand below
    each other where they would be too wide."""
    lines = [line for line in stdout.splitlines() if line.split()[:1] == [model] and " p " in line]
    return [cell for line in lines for cell in STARS.findall(line)]


def printed(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}".replace("e-0", "e-")


# --- the table --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_table():
    """d, interval, p and stars of every model and category, then each layer."""
    targets = ("gender=female:male", "age=young:old")
    found = in_python([*CHECKPOINTS, "mfcc"], targets)
    asked = [part for text in targets for part in ("--target", text)]
    told = succeeds(*CHECKPOINTS, "mfcc", *asked, "--attribute", VALENCE, *FEW)
    assert told.stdout == succeeds(*CHECKPOINTS, "mfcc", *asked, "--attribute", VALENCE, *FEW).stdout
    assert told.stderr == ""
    for model in (*CHECKPOINTS, "mfcc"):
        together = found[(found["store"] == model) & (found["layer"].str.contains("-") | (model == "mfcc"))]
        together = together.drop_duplicates(["target", "metric"])
        for target, (d, low, high, p, stars) in zip(targets, cells(told.stdout, model), strict=True):
            mine = together[together["target"] == f"{target}, {VALENCE}"]
            value = dict(zip(mine["metric"], mine["value"], strict=True))
            row = mine.iloc[0]
            assert [d, low, high] == [f"{v:.2f}" for v in (row["value"], row["ci_low"], row["ci_high"])]
            assert p == printed(value["p"])
            below = [value[name] < 0.05 for name in ("p", "p benjamini-hochberg", "p bonferroni")]
            assert len(stars) == sum(below)
    assert all(name in told.stdout for name in (*targets, VALENCE, "6 tests together", "relabellings 2000"))
    alone = found[(found["metric"] == "d") & ~found["layer"].str.contains("-") & (found["store"] == CHECKPOINTS[1])]
    for _, row in alone.iterrows():
        line = next(
            line
            for part in told.stdout.split("\n\n")
            if part.startswith(f"SpEAT, {row['target']}")
            for line in part.splitlines()
            if line.split()[:1] == [row["layer"]]
        )
        assert f"{row['value']:.3f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]" in line


def test_stars():
    """None, one, two and three; without intervals eight tests stand beside each other."""
    targets = ["gender=female:male", "age=young:old", *(f"t{j}=x:y" for j in range(6))]
    asked = ["--resample", "none", "--aggregate", "mean", "--attribute", VALENCE, "--permutations", 3000]
    told = succeeds("mfcc", *(part for text in targets for part in ("--target", text)), *asked)
    found = in_python(["mfcc"], targets, aggregate=("mean",), resample="none", permutations=3000)
    p = {name: found[found["metric"] == name]["value"].to_numpy() for name in
         ("p", "p benjamini-hochberg", "p bonferroni")}  # fmt: skip
    expected = sum((values < 0.05).astype(int) for values in p.values())
    assert set(expected) == {0, 1, 2, 3}, p
    assert [len(cell[-1]) for cell in cells(told.stdout, "mfcc")] == list(expected)
    assert "[" not in cells(told.stdout, "mfcc")[0]
    assert (
        "* p < .05, ** also after Benjamini and Hochberg, *** also after Bonferroni, of 8 tests together"
        in " ".join(told.stdout.split())
    )


def test_stores_of_one_model_are_told_apart(made, here):
    """The same network pooled over time in two ways gives two lines with names of their own."""
    network, corpus = str(made / "models" / CHECKPOINTS[0]), layertool.Corpus.read(made / "corpus")
    layertool.extract(network, corpus, here / "largest", ("utterance",), "T0-T3", pooling={"utterance": "max"})
    told = succeeds("base", "largest", *GENDER, "--aggregate", "mean").stdout
    names = [
        line.split(" p ")[0][: STARS.search(line).start()].strip() for line in told.splitlines() if STARS.search(line)
    ]
    assert len(names) == len(set(names)) == 2, told


@pytest.mark.parametrize("twice", [["mfcc"], ["--target", "gender=female:male"], ["--attribute", VALENCE]])
def test_a_test_that_is_asked_twice_is_one_of_the_family(twice):
    once = rows_of("mel", "mfcc", *GENDER, "--aggregate", "mean")
    found = rows_of("mel", "mfcc", *twice, *GENDER, "--aggregate", "mean")
    assert found == once


# fmt: off
OPTIONS = [
    ("--aggregate max,min --aggregate concat", {"aggregate": ("max", "min", "concat")}),
    ("--aggregate normalized-mean,speat-compat,last", {"aggregate": ("normalized-mean", "speat-compat", "last")}),
    ("--alternative less", {"alternative": "less"}),
    ("--alternative two-sided", {"alternative": "two-sided"}),
    ("--permutations 77", {"permutations": 77}),
    ("--n-resamples 150", {"n_resamples": 150}),
    ("--resample all", {"resample": "all"}),
    ("--resample none", {"resample": "none"}),
    ("--strata sex", {"strata": "sex"}),
    ("--pairs pair", {"pairs": "pair"}),
    ("--layers T1-T2", {"layers": "T1-T2"}),
    ("--where utterance!=u5 --where sex=f", {"where": ["utterance!=u5", "sex=f"]}),
    ("--seed 3", {"seed": 3}),
]
# fmt: on


@pytest.mark.parametrize(("typed", "options"), OPTIONS)
def test_options(typed, options):
    found = rows_of(CHECKPOINTS[0], *GENDER, *typed.split())
    assert found == records(in_python([CHECKPOINTS[0]], **options))
    assert found != records(in_python([CHECKPOINTS[0]]))


# --- files and figures ------------------------------------------------------------------------------------


def texts(path="x.svg") -> str:
    return "\n".join(re.findall(r"<!-- (.*?) -->", Path(path).read_text()))


def is_dashed(path="x.svg") -> bool:
    return "stroke-dasharray" in Path(path).read_text()


def test_curves_over_layers():
    succeeds(*CHECKPOINTS, "mfcc", *GENDER, "--target", "age=young:old", "--plot", "x.svg")
    lines = texts().splitlines()
    assert {"T0", "T1", "T2", "T3", "layer", "SpEAT d", *CHECKPOINTS, "mfcc"} <= set(lines)
    assert all(any(name in line for line in lines) for name in ("gender=female:male", "age=young:old"))


@pytest.mark.parametrize("stores", [("mel", "mfcc"), CHECKPOINTS, ("mel",)])
def test_bars(stores):
    succeeds(*stores, *GENDER, "--target", "age=young:old", "--aggregate", "mean", "--plot", "x.svg")
    lines = texts().splitlines()
    assert {"gender=female:male", "age=young:old", "SpEAT d", *stores} <= set(lines)
    assert "layer" not in lines


def test_over_training_steps():
    succeeds(*CHECKPOINTS[::-1], *GENDER, "--x", "step", "--plot", "x.svg")
    lines = texts().splitlines()
    assert {"step", "SpEAT d"} <= set(lines)
    assert "layer" not in lines
    assert any("1000" in line or "1k" in line for line in lines)


REMOVED = [*PRUNED, *GENDER, "--x", "parameters", "--reference", "base"]


def test_rows_over_parameters_removed():
    """The reference is a model of the table; it may be named among the stores, too."""
    found = rows_of(*REMOVED)
    assert found == records(with_sizes(in_python(["base", *PRUNED]))) == rows_of("base", *REMOVED)
    sizes = {row["store"]: row["value"] for row in found if row["metric"] == PARAMETERS}
    removed = {name: sizes["base"] - sizes[name] for name in PRUNED}
    assert 0 < removed["weights/p20"] < removed["heads/p30"] < removed["weights/p50"]
    assert list(sizes) == ["base", *PRUNED]


def test_the_figure_over_parameters_removed():
    """The reference is a dashed line."""
    succeeds(*REMOVED, "--plot", "x.svg")
    assert {"parameters removed", "SpEAT d", "unpruned", "weights", "heads"} <= set(texts().splitlines())
    assert is_dashed()
    succeeds(*PRUNED[:2], *REMOVED[3:], "--plot", "y.svg")
    assert {"compressed", "unpruned"} <= set(texts("y.svg").splitlines())
    table = succeeds(*REMOVED).stdout
    for row in (row for row in rows_of(*REMOVED) if row["metric"] == "d" and row["layer"] == "T0-T3"):
        assert f"{row['value']:.3f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]" in table


def test_over_training_steps_layers_alone():
    """Where nothing was put together, a line for each layer."""
    succeeds(*CHECKPOINTS, *GENDER, "--x", "step", "--aggregate", "each", "--plot", "x.svg")
    assert {"step", "SpEAT d", "T0", "T1", "T2", "T3"} <= set(texts().splitlines())


# --- mistakes ---------------------------------------------------------------------------------------------

BROKEN = """
nowhere GENDER | nowhere is not a feature store (it does not exist)
base empty GENDER | empty is not a feature store
base GENDER --x parameters --reference nowhere | nowhere is not a feature store
"""
REFUSED = """
mfcc --target gender=woman:male VALENCE | gender=woman | female, male
mfcc --target gendre=female:male VALENCE | no column 'gendre' | gender, age, valence
mfcc --target gender=female:female VALENCE | overlap in 14 items | 'u0'
mfcc --target gender=female:male --attribute sex=f:m | overlap
mfcc --target one=me:others VALENCE | one=me has 1 item | two or more
mfcc --target gender VALENCE | 'gender' names no two groups | COLUMN=VALUE:VALUE | NAME=@FILE:@FILE
mfcc --target gender=female VALENCE | 'gender=female' names no two groups
mfcc --target gender=female:male --attribute good | 'good' names no two groups
mfcc --target gender=female:male | --attribute
mfcc VALENCE | --target
GENDER | STORE
mfcc --target who=@x.txt:@y.txt VALENCE | no utterance 'u99' | 'x'
mfcc --target who=@no.txt:@y.txt VALENCE | no.txt does not exist | one id on each line
mfcc --target who=@binary.txt:@y.txt VALENCE | binary.txt
mfcc --target who=@empty:@y.txt VALENCE | empty
mfcc GENDER --aggregate mode | 'mode' | --aggregate | normalized-mean
mfcc GENDER --alternative more | 'more'
mfcc GENDER --permutations 0 | permutations
mfcc GENDER --n-resamples 5 | resamples
mfcc GENDER --layers T0 | 'T0' is no layer of mfcc
mfcc GENDER --unit word | mfcc has no word rows (it has utterance)
mfcc GENDER --pairs sex | more than once
mfcc GENDER --strata sx | no column 'sx'
mfcc GENDER --where sex=x | sex=x | f, m
noise GENDER | noise | numerical noise | --cmvn
base GENDER --reference weights/p20 | --x parameters
base GENDER --x size | 'size'
PLOT checkpoint-1000 GENDER --x step | step 1000 | two or more
PLOT mfcc checkpoint-1000 GENDER --x step | mfcc has no step
PLOT base GENDER --x parameters --reference base | nothing to draw beside the reference
PLOT old GENDER --x parameters --reference base | old does not say how many parameters | extract it again
PLOT mfcc GENDER --x parameters --reference base | mfcc | parameters
"""
CASES = [(code, line) for code, text in ((DATA, BROKEN), (USAGE, REFUSED)) for line in text.strip().splitlines()]


@pytest.mark.parametrize(("code", "line"), CASES)
def test_what_is_refused(code, line):
    typed, *says = line.split(" | ")
    drawn = typed.startswith("PLOT ")
    typed = typed.removeprefix("PLOT ").replace("GENDER", shlex.join(map(str, GENDER)))
    arguments = shlex.split(typed.replace("VALENCE", f"--attribute {VALENCE}")) + ["--plot", "x.svg"] * drawn
    result = run("speat", *arguments)
    assert result.exit_code == code, result.output
    assert drawn or result.stdout == ""
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert result.stderr.count("Error: ") == 1
    assert all(text in last for text in says), last
    assert not Path("x.svg").exists()


def test_two_lists_of_one_name_are_refused(here):
    """Else the table would show d of one with p of the other."""
    for folder, (x, y) in {"a": ("x", "y"), "b": ("y", "x")}.items():
        (here / folder).mkdir()
        for name, ids in ((x, "u0\nu2\n"), (y, "u1\nu3\n")):
            (here / folder / f"{name}.txt").write_text(ids)
    asked = [part for k in "ab" for part in ("--target", f"g=@{k}/x.txt:@{k}/y.txt")]
    done = run("speat", "mfcc", *asked, "--attribute", VALENCE)
    assert done.exit_code == 2
    assert "two different pairs of groups are called 'g=x:y': give one of them another NAME" in done.stderr
