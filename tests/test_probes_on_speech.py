"""Probes of real speech through real weights: whisper-tiny.en and mel on 19 English utterances."""

from __future__ import annotations

import pytest

import layertool
from layertool.corpora import folder as folder_reader
from layertool.layerwise.discrimination import Discrimination
from layertool.layerwise.neighbours import Neighbours
from layertool.layerwise.segmentation import Segmentation

pytestmark = pytest.mark.slow

UNITS = ("frame", "phone", "word")
NAMES = ["T0", "T1", "T2", "T3", "T4"]


@pytest.fixture(scope="module")
def stores(shared, tmp_path_factory):
    speech = shared / "data/speech/english"
    corpus = folder_reader.read(speech, metadata=speech / "manifest.tsv")
    folder = tmp_path_factory.mktemp("speech")
    whisper = layertool.extract(str(shared / "models/whisper-tiny.en"), corpus, folder / "whisper", UNITS, "T0-T4")
    return whisper, layertool.extract("mel", corpus, folder / "mel", UNITS)


def of_layers(analysis, stores):
    """Layer -> row, of all stores."""
    return {row.layer: row for row in analysis.run(stores) if row.layer != "baseline"}


def test_phones_are_told_better_the_higher_the_layer(stores, record_property):
    analysis = Neighbours(labels="phone", method="centroid", sample="all")
    found = of_layers(analysis, stores)
    record_property("accuracy", {name: round(row.value, 3) for name, row in found.items()})
    assert set(found) == {*NAMES, "mel"}
    assert found["T1"].value < found["T2"].value < found["T3"].value
    best = max((found[name] for name in NAMES), key=lambda row: row.value)
    assert best.ci_low > found["mel"].ci_high
    assert found["mel"].ci_low > found["mel"].chance
    assert all(row.chance < 0.1 for row in found.values())
    majority = analysis.run(stores[0])[-1]
    assert 0.05 < majority.value < 0.15 < found["mel"].value


def test_words_are_told_better_by_the_last_layer_than_by_mel(stores, record_property):
    found = of_layers(Discrimination(min_characters=2, min_seconds=0.1), stores)
    record_property("average precision", {name: round(row.value, 3) for name, row in found.items()})
    assert found["T4"].ci_low > found["mel"].ci_high
    assert len({row.chance for row in found.values()}) == 1
    assert found["mel"].ci_low > found["mel"].chance


def test_frames_of_words_are_warped(stores, record_property):
    analysis = Discrimination(distance="dtw", min_characters=4, min_seconds=0.2, layers="T0,T4")
    found = of_layers(analysis, stores[:1])
    record_property("average precision", {name: round(row.value, 3) for name, row in found.items()})
    assert found["T4"].value > found["T0"].value
    assert found["T4"].ci_low > found["T4"].chance


def test_boundaries_are_found(stores, record_property):
    found = {}
    for row in Segmentation().run(stores):
        found.setdefault(row.layer, {})[row.metric] = row
    record_property("F1", {name: round(rows["F1"].value, 3) for name, rows in found.items()})
    record_property("chance", {name: round(rows["F1"].chance, 3) for name, rows in found.items()})
    assert found["T4"]["F1"].ci_low > found["T4"]["F1"].chance
    assert (
        found["mel"]["F1"].value > found["mel"]["F1"].chance
    )  # tuned anew in every resample: .23 and more, chance .23
    assert found["T4"]["token F1"].value > found["T4"]["token F1"].chance
