"""Every analysis that reads rows of a store names the one that is not finite: layer, store, utterance, time."""

import numpy as np
import planted
import pytest

from layertool.errors import RowError
from layertool.layerwise import declared

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
    "cca": lambda _, bad: declared("cca")(target="phone", **FEW).run(bad),
    "cca, the target": lambda good, bad: declared("cca")(target=f"{bad.path}:T2", unit="phone", layers="T1", **FEW).run(
        good
    ),
    "cka": lambda _, bad: declared("cka")(unit="phone").run(bad),
    "cka, the other store": lambda good, bad: declared("cka")(unit="phone").run(good, bad),
    "rsa": lambda _, bad: declared("cka")(unit="phone", measure="rsa").run(bad),
    "mi": lambda _, bad: declared("mi")(labels="phone", clusters=3).run(bad),
    "neighbours": lambda _, bad: declared("probe neighbours")(labels="phone").run(bad),
    "discrimination": lambda _, bad: declared("probe discrimination")(min_seconds=0.05).run(bad),
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
