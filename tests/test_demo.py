"""The demo on a part of its corpus: every file that it promises, and words that follow from the numbers."""

from importlib import resources

import numpy as np
import pandas as pd
import pytest

import layertool
from layertool import demo, results
from layertool.corpora import espeak
from layertool.models import melhubert
from layertool.probes import neighbours
from layertool.store import FeatureStore, verify


@pytest.mark.slow
def test_the_demo_keeps_its_promises(tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader")
    make = espeak.make_corpus
    monkeypatch.setattr(espeak, "make_corpus", lambda folder, **o: make(folder, espeak.VOICES[1:5], **o))
    monkeypatch.setattr(demo, "MIN_TOKENS", 12)  # all four voices
    said: list[str] = []
    made = demo.run(tmp_path / "d", said.append, lambda what: None)
    table = results.read([tmp_path / "d" / "demo.csv"])
    assert len(table) == len(made.table) == 3 * (2 * 7 + 2)
    assert ((table["ci_low"] <= table["value"]) & (table["value"] <= table["ci_high"])).all()
    assert made.figure.read_bytes().startswith(b"\x89PNG")
    assert len(made.findings) == 2 * len(demo.QUESTIONS)
    for name in ("melhubert", "untrained", *demo.ACOUSTIC):
        assert verify(FeatureStore(tmp_path / "d" / name)) == []
    phones = table[table["target"] == "phone"].set_index(["model", "layer"])["value"]
    assert phones[demo.NETWORK].max() > phones[demo.UNTRAINED].max() + 0.03  # it has learned something
    blocks = phones[demo.UNTRAINED][[f"T{k}" for k in range(6)]]
    assert blocks.max() - blocks.min() < demo.FLAT
    again = demo.run(tmp_path / "d", said.append, lambda what: None)
    assert any("using the corpus" in line for line in said)
    pd.testing.assert_frame_equal(again.table, made.table)


def test_the_network_in_the_package():
    """It is as small as promised, has halves on the disk, and is computed in float32."""
    folder = resources.files(layertool) / "data" / "demo_model"
    with resources.as_file(folder) as path:
        assert sum(file.stat().st_size for file in path.iterdir()) < 2.1e6
        network, config = melhubert.load(path)
    assert config.step == 2500
    assert (
        {value.dtype for value in network.parameters()} == {melhubert.torch.float32}
        if hasattr(melhubert, "torch")
        else True
    )
    assert sum(value.numel() for value in network.parameters()) < 1.05e6


N, GROUPS = 400, np.repeat(np.arange(10), 40).astype(str)


def answers(name: str, shares: dict[str, float], target: str = "phone") -> list[demo.Answer]:
    """Layers that find so many of the same rows: the first ones."""
    out = []
    for index, (layer, share) in enumerate(shares.items()):
        found = np.tile(np.arange(40) < round(40 * share), 10)
        score = neighbours.Accuracy(share, share - 0.02, share + 0.02, 0.1, 0.1, N, 6, found)
        row = results.Result(
            "probe neighbours", "accuracy", name, "c", "phone", layer, index, target, share, chance=0.1
        )
        out.append(demo.Answer(row, score, GROUPS))
    return out


@pytest.mark.parametrize(
    ("trained", "random", "said"),
    [
        ((0.5, 0.7, 0.6), (0.3, 0.3, 0.3), ("rises from T0 (50.0%) to T1 (70.0%) and falls to T2 (60.0%)", "flat: 30% to 30%, below")),
        ((0.5, 0.5, 0.5), (0.5, 0.4, 0.3), ("is highest in T0 (50.0%) and stays level to T2", "not flat: 30% to 50%, level with")),
        ((0.5, 0.6, 0.7), (0.9, 0.9, 0.9), ("rises from T0 (50.0%) to T2 (70.0%);", "flat: 90% to 90%, above")),
    ],
)  # fmt: skip
def test_the_words_follow_from_the_numbers(trained, random, said):
    names = [f"T{k}" for k in range(3)]
    asked = {
        demo.NETWORK: answers(demo.NETWORK, {"C1": 0.99, **dict(zip(names, trained, strict=True))}),
        demo.UNTRAINED: answers(demo.UNTRAINED, dict(zip(names, random, strict=True))),
        "mel": answers("mel", {"mel": 0.35}),
        "mfcc": answers("mfcc", {"mfcc": 0.4}),
    }
    text = " ".join(demo.findings("phone", asked))
    for part in said:
        assert part in text, text
    assert "mfcc has 40%, below it" in text
    assert "chance is 10%" in text


def test_a_difference_within_its_interval_is_no_trend():
    """One row more of four hundred: the interval of the paired difference holds 0."""
    one, other = answers("a", {"T0": 0.5, "T1": 0.5})
    other.score.found[3 * 40 + 39] = True
    value, low, high = neighbours.difference(other.score, one.score, GROUPS)
    assert value == pytest.approx(1 / N)
    assert low == 0 < high
    assert not demo._above(other, one)
