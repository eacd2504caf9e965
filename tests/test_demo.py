"""The demo on a part of its corpus: every file that it promises, and words that follow from the numbers."""

import pandas as pd
import pytest

from layertool import demo, results
from layertool.corpora import espeak
from layertool.store import FeatureStore, verify

pytest.importorskip("espeakng_loader")


@pytest.mark.slow
def test_the_demo_keeps_its_promises(tmp_path, monkeypatch):
    make = espeak.make_corpus
    monkeypatch.setattr(espeak, "make_corpus", lambda folder, **o: make(folder, espeak.VOICES[:3], **o))
    monkeypatch.setattr(demo, "MIN_TOKENS", 9)  # half the voices
    said: list[str] = []
    made = demo.run(tmp_path / "d", said.append, lambda what: None)
    table = results.read([tmp_path / "d" / "demo.csv"])
    assert len(table) == len(made.table) == 3 * (14 + 3)
    assert ((table["ci_low"] <= table["value"]) & (table["value"] <= table["ci_high"])).all()
    assert made.figure.read_bytes().startswith(b"\x89PNG")
    assert len(made.findings) == 3
    for name in ("untrained", *demo.ACOUSTIC):
        assert verify(FeatureStore(tmp_path / "d" / name)) == []
    phones = table[table["target"] == "phone"].set_index("layer")["value"]
    assert phones["mfcc"] > phones["T6"] + 0.2  # an untrained network loses phones on the way up
    again = demo.run(tmp_path / "d", said.append, lambda what: None)
    assert any("using the corpus" in line for line in said)
    pd.testing.assert_frame_equal(again.table, made.table)


def row(model: str, value: float, spread: float, target: str) -> dict:
    interval = {"ci_low": value - spread, "ci_high": value + spread, "chance": 0.1}
    return {"model": model, "layer": "L", "target": target, "value": value, **interval}


@pytest.mark.parametrize(("network", "verdict"), [(0.9, "is above"), (0.5, "is level with"), (0.2, "is below")])
def test_the_words_follow_from_the_numbers(network, verdict):
    rows = [row(m, v, 0.05, t) for t in demo.QUESTIONS for m, v in ((demo.UNTRAINED, network), ("mel", 0.5))]
    assert all(verdict in finding for finding in demo.findings(pd.DataFrame(rows)))
