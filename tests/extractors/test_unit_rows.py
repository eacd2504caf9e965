"""The rows of each utterance, made when they are asked for, against a plain loop over all segments."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from layertool.corpora.corpus import Corpus
from layertool.errors import UsageError
from layertool.extractors.unit_rows import CorpusRows
from layertool.geometry import seconds_to_samples

N_UTTERANCES, N_SEGMENTS = 7, 300


def corpus(is_ordered: bool) -> Corpus:
    """Utterance u3 has no segments; of the others some segments have no sample, and some begin together."""
    random = np.random.default_rng(0)
    names = np.array([f"u{k}" for k in range(N_UTTERANCES)])
    utterances = pd.DataFrame({"utterance": names, "n_samples": 16_000 + np.arange(N_UTTERANCES), "audio": "none"})
    start = random.integers(0, 50, N_SEGMENTS) / 100
    segments = pd.DataFrame(
        {
            "utterance": names[random.choice([0, 1, 2, 4, 5, 6], N_SEGMENTS)],
            "tier": random.choice(["phone", "word", "stress"], N_SEGMENTS),
            "start": start,
            "end": start + random.integers(0, 4, N_SEGMENTS) / 100,
            "label": random.choice(["ß", "a", "B", "10", "9"], N_SEGMENTS),
        }
    )
    if is_ordered:
        segments = segments.sort_values(["utterance", "tier", "start", "end"], ignore_index=True)
    return Corpus(utterances, segments)


@pytest.mark.parametrize("block_rows", [1, 7, 1_000])
@pytest.mark.parametrize("is_ordered", [True, False])
def test_rows_equal_a_plain_loop(block_rows, is_ordered, monkeypatch):
    monkeypatch.setattr("layertool.corpora.segments.BLOCK_ROWS", block_rows)
    made = corpus(is_ordered)
    rows = CorpusRows(made, ["frame", "word", "utterance", "phone"])
    segments = made.segments
    assert list(rows.labels) == ["word", "phone"]
    n_rows = dict.fromkeys(rows.labels, 0)
    for tier, names in rows.labels.items():
        assert names == sorted(set(segments.loc[segments["tier"] == tier, "label"]))
        for k, utterance in enumerate(made.utterances["utterance"]):
            own = segments[(segments["tier"] == tier) & (segments["utterance"] == utterance)]
            spans = zip(seconds_to_samples(own["start"]), seconds_to_samples(own["end"]), own["label"], strict=True)
            expected = sorted((a, b, label) for a, b, label in spans if b > a)
            found = rows.of(k)[tier]
            assert [(a, b) for a, b, _ in expected] == list(zip(found.start, found.end, strict=True))
            assert expected == sorted(
                (a, b, names[code]) for a, b, code in zip(found.start, found.end, found.label, strict=True)
            )
            n_rows[tier] += len(expected)
    assert rows.counts == {"utterance": N_UTTERANCES, **n_rows}
    of_tiers = segments["tier"].isin(["word", "phone"])
    assert rows.n_empty == of_tiers.sum() - sum(n_rows.values()) > 0
    whole = rows.of(3)["utterance"]
    assert (whole.start.tolist(), whole.end.tolist(), whole.label.tolist()) == ([0], [16_003], [-1])


def test_what_is_asked_for_is_there():
    with pytest.raises(UsageError, match="'syllable' is no unit: choose among frame, phone, word, utterance"):
        CorpusRows(corpus(True), ["syllable"])
    made = corpus(True)
    made.segments = made.segments[made.segments["tier"] == "phone"]
    with pytest.raises(UsageError, match=r"has no word segments \(tiers there: phone\)"):
        CorpusRows(made, ["word"])
