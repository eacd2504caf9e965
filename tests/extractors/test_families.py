"""Every family of waveform models against plain forwards of the same weights, one clip at a time.

Relative errors are those of the worst frame of a clip. References are in float64 (references.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import models
import numpy as np
import pytest
import references
import torch
from torch import nn

from layertool.extractors.base import Extractor, Item
from layertool.extractors.load import open_extractor
from layertool.geometry import Window
from layertool.models import padding

LENGTHS = (16_000, 400, 719, 5_003, 12_345, 15_999)
WITH_GROUP_NORM = {
    "wav2vec2-base",
    "hubert-base",
    "hubert-batch-norm",
    "distilhubert",
    "wavlm-base",
    "unispeech",
    "unispeech-sat-base",
    "conformer-rotary",
}
# families with padded convolutions that see more than zeros where a clip has ended
WITH_CONVOLUTIONS_TO_MASK = {"hubert-batch-norm", "data2vec-audio", "conformer-relative", "conformer-rotary"}
FINAL_NORM = {
    "wav2vec2-large",
    "hubert-large",
    "wavlm-large",
    "unispeech-sat-large",
    "conformer-relative",
    "conformer-rotary",
}


@dataclass
class Family:
    """A saved model, its extractor, and the same weights as transformers loads them, in float64."""

    name: str
    folder: Path
    extractor: Extractor
    network: nn.Module

    def reference(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        """Layers of the second implementation, given the recorded waveform."""
        if models.FAMILIES[self.name][2]:
            waveform = references.standardised(waveform)
        return references.speech_layers(self.network, waveform)


@pytest.fixture(scope="module", params=list(models.FAMILIES))
def family(request, tmp_path_factory) -> Family:
    folder = models.save(request.param, tmp_path_factory.mktemp(request.param))
    return Family(request.param, folder, open_extractor(str(folder)), references.load(folder))


def clips() -> list[np.ndarray]:
    return [models.speech_like(n_samples, seed) for seed, n_samples in enumerate(LENGTHS)]


def n_frames(layer: str, n_samples: int) -> int:
    hop, field = references.CONVOLUTIONS.get(layer, (320, 400))
    return (n_samples - field) // hop + 1


def extract(extractor, waveforms) -> list[dict[str, np.ndarray]]:
    """One batch through an extractor; each clip's own frames of each layer."""
    items = []
    for k, waveform in enumerate(waveforms):
        window = Window(0, len(waveform), 0, len(waveform))
        item = Item(k, f"clip{k}", len(waveform), window, extractor.normalise(waveform))
        extractor.prepare(item)
        items.append(item)
    batch = {}

    def emit(name, frames):
        assert name not in batch, f"{name} came out twice"
        batch[name] = frames.clone().numpy()

    extractor.forward(items, list(extractor.layers), emit)
    assert list(extractor.layers) == sorted(batch, key=list(extractor.layers).index)
    return [
        {name: frames[k, : n_frames(name, len(waveform))] for name, frames in batch.items()}
        for k, waveform in enumerate(waveforms)
    ]


def worst(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    assert set(got) == set(expected)
    return {name: references.worst_row(got[name], expected[name]) for name in expected}


# --- one clip --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_layers_are_named_in_the_order_of_the_network(family):
    n_blocks = family.network.config.num_hidden_layers
    names = [f"C{k}" for k in range(1, 8)] + [f"T{k}" for k in range(n_blocks + 1)]
    assert list(family.extractor.layers) == names + (["final"] if family.name in FINAL_NORM else [])
    widths = {name: layer.width for name, layer in family.extractor.layers.items()}
    assert widths == {name: 24 if name.startswith("C") else 48 for name in family.extractor.layers}
    for name, layer in family.extractor.layers.items():
        assert (layer.geometry.hop, layer.geometry.field) == references.CONVOLUTIONS.get(name, (320, 400))


@pytest.mark.parametrize("n_samples", [400, 8_000, 8_319])
def test_a_single_clip_equals_a_plain_forward(family, n_samples, record_property):
    waveform = models.speech_like(n_samples, seed=3)
    errors = worst(extract(family.extractor, [waveform])[0], family.reference(waveform))
    record_property("worst", max(errors.values()))
    assert max(errors.values()) < 1e-5, errors


def test_blocks_equal_the_hidden_states_of_transformers(family):
    """The middle of the list that transformers gives is the blocks; its last entry depends on its version."""
    waveform = models.speech_like(6_000, seed=4)
    got = extract(family.extractor, [waveform])[0]
    given = references.standardised(waveform) if models.FAMILIES[family.name][2] else waveform.astype(np.float64)
    with torch.no_grad():
        out = family.network(torch.from_numpy(given)[None], output_hidden_states=True)
    states, last = [state[0].numpy() for state in out.hidden_states], out.last_hidden_state[0].numpy()
    n_blocks = family.network.config.num_hidden_layers
    assert len(states) == n_blocks + 1
    for k in range(n_blocks):
        assert references.worst_row(got[f"T{k}"], states[k]) < 1e-5, k
    top = got[f"T{n_blocks}"]
    if family.name in FINAL_NORM:
        assert references.worst_row(got["final"], last) < 1e-5
        with torch.no_grad():
            normed = family.network.encoder.layer_norm(torch.from_numpy(top).double()).numpy()
        assert references.worst_row(normed, last) < 1e-5
        assert references.worst_row(top, last) > 0.1  # the residual stream is not what its norm gives
        assert min(references.worst_row(states[-1], expected) for expected in (top, last)) < 1e-5
    else:
        assert references.worst_row(top, last) < 1e-5
        assert references.worst_row(top, states[-1]) < 1e-5


@pytest.mark.parametrize("changes", [{"add_adapter": True, "output_hidden_size": 48}, {"adapter_attn_dim": 8}])
def test_adapters_are_part_of_no_layer_or_of_their_block(changes, tmp_path):
    """An adapter after the encoder (XLS-R for translation) is above the layers; those of MMS are inside the blocks."""
    folder = models.save("wav2vec2-large", tmp_path, **changes)
    waveform = models.speech_like(4_000, seed=5)
    got = extract(open_extractor(str(folder)), [waveform])[0]
    expected = references.speech_layers(references.load(folder), references.standardised(waveform))
    assert max(worst(got, expected).values()) < 1e-5


# --- a padded batch --------------------------------------------------------------------------------


def test_a_padded_batch_equals_single_clips(family, record_property):
    waveforms = clips()
    together = extract(family.extractor, waveforms)
    largest: dict[str, float] = {}
    for waveform, got in zip(waveforms, together, strict=True):
        alone = extract(family.extractor, [waveform])[0]
        for expected in (alone, family.reference(waveform)):
            for name, error in worst(got, expected).items():
                largest[name] = max(error, largest.get(name, 0.0))
    record_property("worst", max(largest.values()))
    assert max(largest.values()) < 1e-4, largest


def test_a_clip_gives_the_same_after_a_padded_batch(family):
    """No length of an earlier batch is left in the norms and masks."""
    waveform = models.speech_like(5_003, seed=3)
    before = extract(family.extractor, [waveform])[0]
    extract(family.extractor, clips())
    after = extract(family.extractor, [waveform])[0]
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_no_clip_hears_its_neighbours(family):
    """One clip with samples that are not finite leaves the others of its batch as they are."""
    waveforms = clips()
    expected = extract(family.extractor, waveforms)
    waveforms[3] = np.full_like(waveforms[3], np.nan)
    for k, (got, clean) in enumerate(zip(extract(family.extractor, waveforms), expected, strict=True)):
        if k == 3:
            assert not np.isfinite(got["T0"]).any()
        else:
            assert max(worst(got, clean).values()) < 1e-5, k


# --- these tests can fail --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM's own
@pytest.mark.parametrize("name", sorted(WITH_GROUP_NORM))
def test_a_plain_padded_batch_of_transformers_disagrees(name, tmp_path):
    """Attention mask alone: the first GroupNorm has its statistics from the padding too."""
    folder = models.save(name, tmp_path)
    network, waveforms = references.load(folder), clips()
    if models.FAMILIES[name][2]:
        waveforms = [references.standardised(waveform) for waveform in waveforms]
    batch = torch.zeros(len(waveforms), max(LENGTHS), dtype=torch.float64)
    for k, waveform in enumerate(waveforms):
        batch[k, : len(waveform)] = torch.from_numpy(waveform.astype(np.float64))
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    with torch.no_grad():
        last = network(batch, attention_mask=mask).last_hidden_state.numpy()
    for k, waveform in enumerate(waveforms):
        layers = references.speech_layers(network, waveform)
        error = references.worst_row(last[k, : n_frames("T0", len(waveform))], list(layers.values())[-1])
        if len(waveform) == max(LENGTHS):
            assert error < 1e-9
        elif len(waveform) <= 12_345:
            assert error > 0.02


def test_without_the_zeroing_of_padding_some_families_disagree(family, monkeypatch):
    monkeypatch.setattr(padding, "silenced", lambda hidden, _outside: hidden)
    got = extract(open_extractor(str(family.folder)), clips())[3]
    error = max(worst(got, family.reference(clips()[3])).values())
    assert (error > 1e-3) == (family.name in WITH_CONVOLUTIONS_TO_MASK), error


def test_without_own_statistics_the_group_norm_families_disagree(family, monkeypatch):
    monkeypatch.setattr(padding, "clipwise", lambda norm, hidden, _lengths: torch.nn.GroupNorm.forward(norm, hidden))
    got = extract(open_extractor(str(family.folder)), clips())[3]
    error = max(worst(got, family.reference(clips()[3])).values())
    assert (error > 1e-2) == (family.name in WITH_GROUP_NORM), error


# --- what only training does is off ----------------------------------------------------------------

RANDOM = {
    "mask_time_prob": 0.9,
    "mask_time_length": 2,
    "mask_feature_prob": 0.5,
    "mask_feature_length": 2,
    "layerdrop": 0.9,
    "hidden_dropout": 0.5,
    "attention_dropout": 0.5,
    "activation_dropout": 0.5,
    "feat_proj_dropout": 0.5,
}


def test_masking_dropout_and_layerdrop_are_off(family, tmp_path):
    extra = {"conformer_conv_dropout": 0.5} if family.name.startswith("conformer") else {}
    folder = models.save(family.name, tmp_path, **RANDOM, **extra)
    extractor = open_extractor(str(folder))
    config = extractor.network.config
    assert config.layerdrop == config.mask_time_prob == 0.9
    assert config.hidden_dropout == 0.5
    waveform = models.speech_like(8_000, seed=3)
    first, second = extract(extractor, [waveform])[0], extract(extractor, [waveform])[0]
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert max(worst(first, family.reference(waveform)).values()) < 1e-5  # the family's own model has none of these

    config.mask_feature_prob = 0.0  # transformers 5.23 cannot train WavLM with it
    given = torch.from_numpy(extractor.normalise(waveform))[None]
    with torch.no_grad():
        evaluated = extractor.network(given).last_hidden_state[0]
        trained = extractor.network.train()(given).last_hidden_state[0]
    assert references.worst_row(trained, evaluated) > 0.1  # they would have made a difference


# --- the input -------------------------------------------------------------------------------------


def test_the_waveform_is_normalised_as_the_checkpoint_says(family):
    from transformers import Wav2Vec2FeatureExtractor

    preprocessor = Wav2Vec2FeatureExtractor.from_pretrained(family.folder)
    assert preprocessor.do_normalize == models.FAMILIES[family.name][2]
    assert family.extractor.provenance["normalise"] is preprocessor.do_normalize
    for seed, n_samples in enumerate(LENGTHS):
        waveform = models.speech_like(n_samples, seed)
        expected = preprocessor(waveform, sampling_rate=16_000)["input_values"][0]
        got = family.extractor.normalise(waveform)
        assert got.dtype == np.float32
        assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def test_silence_is_normalised_to_zeros(family):
    assert not family.extractor.normalise(np.zeros(800, np.float32)).any()


def test_what_is_asked_goes_before_what_the_checkpoint_says(tmp_path):
    folder = models.save("wav2vec2-base", tmp_path)
    waveform = models.speech_like(4_000, seed=1)
    assert np.array_equal(open_extractor(str(folder), normalise=False).normalise(waveform), waveform)
    asked = open_extractor(str(folder), normalise=True)
    assert np.allclose(asked.normalise(waveform), references.standardised(waveform), atol=1e-5)
    assert asked.provenance["normalise"] is True
    got = extract(asked, [waveform])[0]
    expected = references.speech_layers(references.load(folder), references.standardised(waveform))
    assert max(worst(got, expected).values()) < 1e-5


@pytest.mark.parametrize(("name", "expected"), [("wav2vec2-base", False), ("wav2vec2-large", True)])
def test_without_a_preprocessor_the_front_end_decides(name, expected, tmp_path):
    folder = models.save(name, tmp_path)
    (folder / "preprocessor_config.json").unlink()
    assert open_extractor(str(folder)).provenance["normalise"] is expected
