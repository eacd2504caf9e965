"""Every analysis gives the rows that it gave: its numbers, to the last digits, whatever its words for them are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from golden import run_all

from layertool.result_rows import FORMERLY

SHARED = Path(os.environ.get("LAYERTOOL_SHARED") or Path(__file__).parents[3] / "shared")
NEEDS_SHARED = ("shared/", "{speech}", "{eccc}")
SLOW = (*NEEDS_SHARED, "{ctc}", "demo")
SVCCA = {f"SVCCA ({share} of the variance)": "svcca" for share in (0.7, 0.99)}
# What the first part of a variant is called in the column metric.
RENAMED = (
    FORMERLY | SVCCA | {f"{k} nearest neighbours": "accuracy" for k in range(1, 10)} | {"nearest centroid": "accuracy"}
)
# Metrics of a case that it has no more: --metric names one, where --variant, a part of its words, named two.
GONE = {"compare files, chosen": "corrected MI (nats)"}


@pytest.fixture(scope="module")
def golden() -> pd.DataFrame:
    table = pd.read_parquet(run_all.GOLDEN)
    made, here = table.attrs["made_with"], run_all.libraries()
    other = ", ".join(
        f"{name} {value}, not {here.get(name)}" for name, value in made.items() if value != here.get(name)
    )
    if other:
        pytest.skip(f"the golden rows are of another machine, which adds in another order ({other})")
    return table


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> run_all.Inputs:
    return run_all.Inputs(tmp_path_factory.mktemp("golden").resolve(), SHARED)


def test_every_case_has_rows(golden):
    assert list(dict.fromkeys(golden["case"])) == list(run_all.CASES)


def cases():
    for name, arguments in run_all.CASES.items():
        marks = [pytest.mark.slow] if any(text in arguments for text in SLOW) else []
        yield pytest.param(name, marks=marks, id=name.replace(" ", "-"))


@pytest.mark.parametrize("case", list(cases()))
def test_rows(case, golden, inputs):
    if any(text in run_all.CASES[case] for text in NEEDS_SHARED) and not (SHARED / "data").is_dir():
        pytest.skip("the shared folder is not here (set LAYERTOOL_SHARED)")
    rows = inputs.rows_of(case)
    found = numbered(rows)
    expected = golden[(golden["case"] == case) & (golden["metric"] != GONE.get(case))]
    expected = expected[
        ~expected["metric"].str.startswith("chosen ")
    ]  # cells of a grid: in the settings of its scores now
    names = expected["analysis"].replace({"probe neighbours": "neighbours"})  # as the demo called it
    expected = numbered(expected.assign(metric=expected["metric"].replace(RENAMED), analysis=names))
    missing, new = expected.index.difference(found.index), found.index.difference(expected.index)
    assert not len(missing), f"{case}: {len(missing)} rows are gone and {len(new)} are new: {missing[:3]}, {new[:3]}"
    assert not len(new), f"{case}: {len(new)} rows are new: {new[:3]}"
    found = found.loc[expected.index]
    for name, tolerance in [*((name, 1e-12) for name in run_all.NUMBERS), *((name, 0.0) for name in run_all.EXACT)]:
        one, other = found[name].to_numpy(), expected[name].to_numpy()
        off = ~np.isclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)
        at = int(off.argmax())
        assert not off.any(), (
            f"{case}: {name} of {off.sum()} of {len(off)} rows is another: {one[at]!r}, it was {other[at]!r}, "
            f"of {dict(zip(run_all.KEY, found.index[at], strict=False))}"
        )


def numbered(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by their key, and by their order among those of one key."""
    rows = rows.assign(number=rows.groupby(run_all.KEY).cumcount())
    return rows.set_index([*run_all.KEY, "number"])[[*run_all.NUMBERS, *run_all.EXACT]]
