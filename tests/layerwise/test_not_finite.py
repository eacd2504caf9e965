"""Every analysis that reads rows of a store names the one that is not finite: layer, store, utterance, time."""

import numpy as np
import planted
import pytest

import layertool
from layertool.errors import RowError

N, PHONES = 12, 6


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A sound store, and one whose row of u5's second phone in T2 holds a NaN; phones are words, too."""
    folder = tmp_path_factory.mktemp("finite")
    segments = [
        (k, tier, 2_000 * i, 2_000 * i + 1_600, f"{tier}{(k + i) % 5}")
        for k in range(N)
        for tier in ("phone", "word")
        for i in range(PHONES)
    ]
    sound = {name: planted.matrix(N * PHONES, 4, seed) for seed, name in enumerate(("T1", "T2"))}
    damaged = sound | {"T2": sound["T2"].copy()}
    damaged["T2"][5 * PHONES + 1, 3] = np.nan
    speaker = [f"s{k % 4}" for k in range(N)]
    return tuple(
        planted.store(folder / name, [12_000] * N, segments, rows={"phone": rows, "word": rows}, speaker=speaker)
        for name, rows in (("sound", sound), ("damaged", damaged))
    )


FEW = {"n_folds": 4, "trials": 1}
ANALYSES = {
    "cca": lambda _, bad: layertool.cca(bad, target="phone", **FEW),
    "cca, the target": lambda good, bad: layertool.cca(good, target=f"{bad.path}:T2", unit="phone", layers="T1", **FEW),
    "cka": lambda _, bad: layertool.cka(bad, unit="phone"),
    "cka, the other store": lambda good, bad: layertool.cka(good, bad, unit="phone"),
    "rsa": lambda _, bad: layertool.cka(bad, unit="phone", measure="rsa"),
    "compare": lambda good, bad: layertool.compare([good, bad], unit="phone", same_layer=True),
    "mi": lambda _, bad: layertool.mi(bad, labels="phone", clusters=3),
    "neighbours": lambda _, bad: layertool.probe.neighbours(bad, labels="phone"),
    "discrimination": lambda _, bad: layertool.probe.discrimination(bad, min_seconds=0.05),
}


@pytest.mark.parametrize("analysis", ANALYSES)
def test_the_row_is_named(stores, analysis):
    with pytest.raises(RowError) as caught:
        ANALYSES[analysis](*stores)
    told = str(caught.value)
    unit = "word" if analysis == "discrimination" else "phone"
    assert told.startswith(
        f"layer T2 of {stores[1].path}: the {unit} row of utterance 'u5' at 0.12 s is not all finite"
    )
    assert told.endswith("leave the utterance out with --where 'utterance!=u5', or extract it again")
