"""What --dry-run says of time: how it is counted, not how long it is."""

from itertools import pairwise

import models
import numpy as np
import pytest

from layertool.extractors import forecast
from layertool.extractors.extraction import Extraction
from layertool.extractors.prepare import prepare
from layertool.geometry import windows

LENGTHS = [4_000, 8_000, 30_000]


class Ticking:
    """A clock that goes on by the same step at every look."""

    def __init__(self, step: float):
        self.now, self.step = 0.0, step

    def perf_counter(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return models.corpus(tmp_path_factory.mktemp("corpus"), [models.speech_like(n, k) for k, n in enumerate(LENGTHS)])


def prepared_with(extractor_name, corpus, folder, **options):
    model = models.save(extractor_name, folder / "model") if extractor_name != "mel" else "mel"
    return prepare(str(model), corpus, Extraction(units=("utterance",), **options), device="cpu")


@pytest.fixture
def calls(monkeypatch):
    """Sizes of the batches that were run."""
    seen = []

    def watch(extractor):
        forward = extractor.forward

        def counting(items, layers, emit):
            seen.append([len(item.samples) for item in items])
            forward(items, layers, emit)

        monkeypatch.setattr(extractor, "forward", counting)
        return seen

    return watch


@pytest.mark.parametrize("name", ["mel", "wav2vec2-base"])
def test_time_is_that_of_a_batch_times_what_is_to_be_computed(name, corpus, tmp_path, monkeypatch, calls):
    prepared = prepared_with(name, corpus, tmp_path)
    seen = calls(prepared.extractor)
    monkeypatch.setattr(forecast, "time", Ticking(0.5))
    found = forecast.forecast(prepared, batch_seconds=28_000 / 16_000)
    assert seen == [[14_000, 14_000]] * (1 + forecast.N_BATCHES)  # two of the mean length fit
    assert found == pytest.approx(0.5 * sum(LENGTHS) / 28_000)


def test_a_slow_model_is_not_waited_for(corpus, tmp_path, monkeypatch, calls):
    prepared = prepared_with("mel", corpus, tmp_path)
    seen = calls(prepared.extractor)
    monkeypatch.setattr(forecast, "time", Ticking(2 * forecast.PATIENCE_SECONDS))
    found = forecast.forecast(prepared, batch_seconds=1)
    assert len(seen) == 1
    assert found == pytest.approx(2 * forecast.PATIENCE_SECONDS * sum(LENGTHS) / 14_000)


def test_what_windows_share_is_counted_twice(corpus, tmp_path):
    extractor = prepared_with("mel", corpus, tmp_path).extractor
    longest, overlap = 12_800, 1_280
    shared = sum(left.end - right.start for left, right in pairwise(windows(30_000, longest, overlap)))
    assert shared >= overlap
    assert forecast.computed_samples(extractor, LENGTHS, longest, overlap) == sum(LENGTHS) + shared


def test_padding_is_counted(corpus, tmp_path):
    prepared = prepare(
        str(models.whisper(tmp_path / "whisper")), corpus, Extraction(units=("utterance",)), device="cpu"
    )
    found = forecast.computed_samples(prepared.extractor, LENGTHS, 480_000, 160_000)
    assert found == len(LENGTHS) * 480_000
    assert forecast.forecast(prepared, batch_seconds=1) > 0


def test_batches_are_no_larger_than_the_corpus(corpus, tmp_path, calls):
    prepared = prepared_with("mel", corpus, tmp_path)
    seen = calls(prepared.extractor)
    assert forecast.forecast(prepared, batch_seconds=1000) > 0
    assert {len(batch) for batch in seen} == {len(LENGTHS)}


def test_nothing_is_left_in_the_model(corpus, tmp_path):
    """A forecast between two passes changes no feature."""
    prepared = prepared_with("wav2vec2-base", corpus, tmp_path)
    item = forecast._item(prepared.extractor, 0, models.speech_like(8_000, 0), None)
    found = []
    for _ in range(2):
        prepared.extractor.forward([item], ["T3"], lambda _, frames: found.append(frames.numpy(force=True).copy()))
        forecast.forecast(prepared, batch_seconds=1)
    np.testing.assert_array_equal(found[0], found[1])
