"""Comparisons in Python: results are joined and chosen by whole names, stores are compared, models have sizes."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import planted
import pytest

import layertool
from layertool.comparison import with_sizes
from layertool.errors import UsageError
from layertool.result_rows import PARAMETERS
from layertool.results import Results

N = 12
SIZES = {"base": 1000, "p20": 800, "mel": None}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Three stores of one corpus; two say how many parameters their model has."""
    folder, out = tmp_path_factory.mktemp("comparison"), {}
    groups = {"gender": ["x", "y"] * 3 + [None] * 6, "valence": [None] * 6 + ["a", "b"] * 3}
    for seed, (name, size) in enumerate(SIZES.items()):
        rows = {layer: planted.matrix(N, 5, 10 * seed + k) for k, layer in enumerate(("T0", "T1"))}
        store = planted.store(folder / name, [16_000] * N, rows={"utterance": rows}, model=f"org/{name}", **groups)
        about = json.loads((store.path / "store.json").read_text())
        about["parameters"] = {"nonzero": size} if size else None
        (store.path / "store.json").write_text(json.dumps(about))
        out[name] = layertool.FeatureStore(store.path)
    return out


@pytest.fixture(scope="module")
def biases(stores):
    return layertool.speat(list(stores.values()), target="gender=x:y", attribute="valence=a:b", permutations=50)


def test_results_files_and_both_are_joined_once(biases, stores, tmp_path):
    similar = layertool.cka(stores["base"], unit="utterance")
    file = similar.write(tmp_path / "cka.parquet")
    both = pd.concat([biases.rows, similar.rows], ignore_index=True)
    for inputs in ([biases, similar], [biases, file], [biases, str(file), similar]):
        pd.testing.assert_frame_equal(layertool.compare(inputs).rows, both, check_dtype=False)
    assert len(layertool.compare(biases)) == len(biases)


def test_rows_are_chosen_by_whole_names(biases):
    chosen = layertool.compare(biases, metric="d", layers="T1", x="step")
    assert list(chosen.rows["metric"].unique()) == ["d"]
    assert list(chosen.rows["layer"].unique()) == ["T1"]
    assert chosen.shown == {"x": "step"}
    with pytest.raises(
        UsageError, match=r"no result has the metric 'p b' \(there are d, p, p bonferroni, p benjamini-hochberg\)"
    ):
        layertool.compare(biases, metric="p b")


def test_stores_are_patterns_paths_and_open(stores):
    asked = {"unit": "utterance", "device": "cpu", "workers": 2}
    expected = layertool.cka(stores["base"], stores["p20"], unit="utterance", device="cpu").rows
    folder = stores["base"].path.parent
    for inputs in ([stores["base"], stores["p20"]], [f"{folder}/base", folder / "p20"], f"{folder}/[bp]*"):
        pd.testing.assert_frame_equal(layertool.compare(inputs, **asked).rows, expected)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"measure": "rsa"}, "--measure does nothing for result files: leave it out, and choose among results"),
        ({"same_layer": True}, "--same-layer does nothing for result files"),
        ({"where": "gender=x"}, "--where does nothing for result files"),
        ({"layers": "T7"}, "'T7' is no layer of these results"),
    ],
)
def test_options_that_do_nothing_for_results(biases, options, says):
    with pytest.raises(UsageError, match=says):
        layertool.compare(biases, **options)


def test_results_and_stores_are_not_compared(biases, stores):
    with pytest.raises(UsageError, match="compare either result files or stores"):
        layertool.compare([biases, stores["base"]])
    with pytest.raises(UsageError, match="nowhere does not exist: name result files or feature stores"):
        layertool.compare("nowhere")


def test_sizes_of_models(biases, stores):
    """One row a store that says one, whatever the analysis; those that are there already are kept."""
    sized = with_sizes(biases.rows)
    sizes = sized[sized["metric"] == PARAMETERS]
    assert dict(zip(sizes["store"], sizes["value"], strict=True)) == {
        str(stores[name].path): size for name, size in SIZES.items() if size
    }
    assert set(sizes["layer"]) == set(sizes["target"]) == {"model"}
    assert set(sizes["layer_index"]) == {2}
    assert sizes["model"].to_list() == ["org/base", "org/p20"]
    pd.testing.assert_frame_equal(sized.iloc[: len(biases)], biases.rows, check_dtype=False)
    pd.testing.assert_frame_equal(with_sizes(sized), sized)
    assert len(biases.over(x="parameters")) == len(sized)
    assert len(biases.over(x="step")) == len(biases)


def test_sizes_that_cannot_be_known(biases, stores, tmp_path):
    with pytest.raises(UsageError, match="which store they are of"):
        with_sizes(biases.rows.assign(store=None))
    of_mel = biases.rows[biases.rows["store"] == str(stores["mel"].path)]
    with pytest.raises(UsageError, match="none of these stores says how many parameters"):
        with_sizes(of_mel)
    copy = shutil.copytree(stores["base"].path, tmp_path / "gone")
    found = layertool.cka(copy, unit="utterance").rows
    shutil.rmtree(copy)
    with pytest.raises(UsageError, match="gone is not there, which says how large its model is"):
        with_sizes(found)
    assert len(Results(found).over(x="depth")) == len(found)
