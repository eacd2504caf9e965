"""docs/adding.md does what it says: its own code adds a model family and an analysis."""

import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small
from click.testing import CliRunner

from layertool import FeatureStore
from layertool.commands.analyses import command
from layertool.store import verify

PAGE = (Path(__file__).parents[1] / "docs" / "adding.md").read_text(encoding="utf-8")
MOST_LINES = 60


def blocks(heading: str) -> list[str]:
    """The Python blocks of one section."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adding")
    small.corpus(folder / "corpus", 12).write(folder / "corpus")
    return folder


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    """The page's stores have relative paths."""
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def family(folder) -> dict:
    """What the first section's code leaves behind, run where the corpus lies."""
    names: dict = {"__name__": "adding"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks("A model family"):
            exec(block, names)
    return names


@pytest.mark.parametrize("heading", ["A model family", "An analysis"])
def test_neither_takes_many_lines(heading):
    longest = [sum(bool(line.strip()) for line in block.splitlines()) for block in blocks(heading)]
    assert longest
    assert sum(longest) < MOST_LINES


def test_the_family_writes_a_sound_store(family, folder):
    store = FeatureStore(folder / "toy")
    assert verify(store) == []
    assert store.layers == ["C1", "C2"]
    assert [store.width(layer) for layer in store.layers] == [16, 24]
    assert store.about["parameters"]["all"] == 400 * 16 + 16 + 16 * 24 + 24


def test_its_layers_are_those_of_a_plain_forward(family, folder):
    import torch

    store = FeatureStore(folder / "toy")
    samples = small.noise(int(store.utterances["n_samples"].iloc[0]), seed=0)
    with torch.inference_mode():
        frames = family["ToyExtractor"]().network.cpu()(torch.from_numpy(samples)[None, None])[0].T.numpy()
    mine = store.rows("frame", "C2")["utterance"].to_numpy() == "u00"
    np.testing.assert_allclose(store.read("frame", "C2")[mine], frames, atol=1e-4)  # the file has 16 bits
    np.testing.assert_allclose(store.read("utterance", "C2")[0], frames.mean(0), atol=1e-4)


def test_its_batches_change_nothing(family):
    for unit, layer in (("frame", "C1"), ("frame", "C2"), ("phone", "C2"), ("utterance", "C1")):
        np.testing.assert_allclose(
            family["store"].read(unit, layer), family["alone"].read(unit, layer), rtol=1e-5, atol=1e-6
        )


@pytest.fixture(scope="module")
def analysis(family, folder) -> dict:
    """What the second section's code leaves behind, beside the store of the first."""
    names: dict = {"__name__": "adding"}
    sys.modules["adding"] = types.ModuleType("adding")
    sys.modules["adding"].__dict__.update(names)
    names = sys.modules["adding"].__dict__
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks("An analysis"):
            exec(block, names)
    return names


def test_the_function_is_its_formula(analysis):
    random = np.random.default_rng(0)
    x, codes = random.standard_normal((60, 5)), random.integers(0, 4, 60)
    within = sum(((x[codes == k] - x[codes == k].mean(0)) ** 2).sum() for k in range(4))
    slow = 1 - within / ((x - x.mean(0)) ** 2).sum()
    assert analysis["between"](x, codes) == pytest.approx(slow, rel=1e-12)
    rotation = np.linalg.qr(random.standard_normal((5, 5)))[0]
    assert analysis["between"](x @ rotation + 3, codes) == pytest.approx(slow, rel=1e-12)
    assert analysis["between"](np.eye(4)[codes], codes) == pytest.approx(1)
    permuted = np.mean([analysis["between"](x, random.permutation(codes)) for _ in range(4000)])
    assert permuted == pytest.approx(3 / 59, abs=0.002)


@pytest.fixture
def separation(family, analysis):
    """Its command, made from the declaration."""
    return command(analysis["Separation"])


def test_the_command_gives_rows_like_all_others(family, analysis, separation, folder):
    out, plot = folder / "separation.csv", folder / "separation.png"
    arguments = [str(folder / "toy"), "-o", str(out), "--plot", str(plot), "--layers", "C2"]
    done = CliRunner().invoke(separation, arguments)
    assert done.exit_code == 0, done.output
    rows = pd.read_csv(out)
    assert rows["layer"].tolist() == ["C2"]
    labels = family["store"].rows("phone")["label"]
    codes = np.unique(labels, return_inverse=True)[1]
    assert rows["value"][0] == pytest.approx(analysis["between"](family["store"].read("phone", "C2"), codes), rel=1e-6)
    assert rows["chance"][0] == pytest.approx((len(set(labels)) - 1) / (len(labels) - 1))
    assert rows["ci_low"][0] < rows["value"][0] < rows["ci_high"][0]
    assert json.loads(rows["settings"][0])["labels"] == "phone"
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "separation" in done.output


def test_the_function_gives_the_same(family, analysis, folder):
    found = analysis["found"].rows
    assert found["layer"].tolist() == ["C1", "C2"]
    assert (found["metric"] == "eta squared").all()
    assert "labels" in analysis["separation"].__doc__


def test_the_report_takes_them(family, analysis, folder):
    pytest.importorskip("plotly")
    analysis["found"].report(folder / "report.html")
    assert "share of variance between labels" in (folder / "report.html").read_text(encoding="utf-8")
