"""MelHuBERT's layers against a plain forward of its own (melhuberts.py), from checkpoint to store."""

from __future__ import annotations

import json

import melhuberts
import models
import numpy as np
import pytest
import references
import torch
from melhuberts import SMALL, random_state, write

import layertool
from layertool.errors import AudioError, ModelError, UsageError
from layertool.extractors.base import Item
from layertool.extractors.load import open_extractor
from layertool.geometry import Window
from layertool.models import melhubert
from layertool.models.melhubert import input as melhubert_input

LENGTHS = (8_000, 400, 559, 560, 719, 720, 880, 5_003, 7_999)
HEAD_DIM = 8


def opened(path, **asked):
    return open_extractor(f"melhubert:{path}", "cpu", **asked)


TABLES = json.loads(melhubert_input._TABLES.read_text())


class Case:
    """A written checkpoint, its extractor, and what the second implementation gives."""

    def __init__(self, folder, stride: int, norm_first: bool):
        self.settings = {**SMALL, "feat_emb_dim": 4 * stride, "layer_norm_first": norm_first}
        self.state = random_state(self.settings, seed=stride)
        self.path = write(folder / "checkpoint-epoch-7.ckpt", self.state, self.settings, step=12_345)
        self.stride = stride
        self.extractor = opened(self.path)

    def reference(self, waveform, statistics: str = "960") -> dict[str, np.ndarray]:
        of = TABLES[statistics]
        features = melhuberts.inputs(waveform, self.stride, of["mean"], of["std"])
        layers = melhuberts.layers(self.state, self.settings, features, HEAD_DIM)
        return {name: layers[name] for name in layers if name != "logits"}


@pytest.fixture(scope="module", params=[(20, False), (10, False), (20, True)], ids=["20ms", "10ms", "20ms-pre-norm"])
def case(request, tmp_path_factory) -> Case:
    return Case(tmp_path_factory.mktemp("case"), *request.param)


def clips() -> list[np.ndarray]:
    return [models.speech_like(n, seed) for seed, n in enumerate(LENGTHS)]


def extract(extractor, waveforms) -> list[dict[str, np.ndarray]]:
    """One batch; each clip's own frames of each layer."""
    items = []
    for k, waveform in enumerate(waveforms):
        item = Item(k, f"clip{k}", len(waveform), Window(0, len(waveform), 0, len(waveform)), waveform)
        extractor.prepare(item)
        items.append(item)
    batch = {}
    extractor.forward(items, list(extractor.layers), lambda name, frames: batch.update({name: frames.clone().numpy()}))
    assert set(batch) == set(extractor.layers)
    return [
        {name: batch[name][k, : layer.geometry.n_frames(len(waveform))] for name, layer in extractor.layers.items()}
        for k, waveform in enumerate(waveforms)
    ]


def worst(got, expected) -> float:
    assert set(got) == set(expected)
    return max(references.worst_row(got[name], expected[name]) for name in expected)


def test_layers_and_their_geometry(case):
    names = ["C1", "T0", "T1", "T2"] + (["final"] if case.settings["layer_norm_first"] else [])
    assert list(case.extractor.layers) == names
    hop, field = {10: (160, 400), 20: (320, 560)}[case.stride]
    for layer in case.extractor.layers.values():
        assert (layer.width, layer.geometry.hop, layer.geometry.field, layer.geometry.offset) == (32, hop, field, 0)
    assert case.extractor.min_samples == 400


@pytest.mark.parametrize("n_samples", [400, 560, 719, 720, 8_000])
def test_a_clip_equals_the_plain_reference(case, n_samples):
    waveform = models.speech_like(n_samples, seed=3)
    assert worst(extract(case.extractor, [waveform])[0], case.reference(waveform)) < 1e-5


def test_a_padded_batch_equals_single_clips(case):
    for waveform, got in zip(clips(), extract(case.extractor, clips()), strict=True):
        assert worst(got, extract(case.extractor, [waveform])[0]) < 1e-6
        assert worst(got, case.reference(waveform)) < 1e-5


def test_no_clip_hears_its_neighbours(case):
    waveforms = clips()
    expected = extract(case.extractor, waveforms)
    waveforms[0] = np.full_like(waveforms[0], 0.9)
    for k, (got, clean) in enumerate(zip(extract(case.extractor, waveforms), expected, strict=True)):
        assert (worst(got, clean) < 1e-6) == (k != 0)


def test_what_identifies_the_model(case):
    said = case.extractor.provenance
    import hashlib

    assert said["sha256"] == hashlib.sha256(case.path.read_bytes()).hexdigest()
    assert (said["family"], said["id"], said["step"]) == ("MelHuBERT", "checkpoint-epoch-7.ckpt", 12_345)
    assert (said["statistics"], said["random_init"], said["revision"]) == ("960", None, None)
    json.dumps(said)
    assert case.extractor.n_parameters == sum(value.numel() for value in case.state.values())


def test_statistics_of_another_subset(case, tmp_path):
    waveform = models.speech_like(4_000, seed=1)
    other = opened(case.path, statistics="100")
    assert worst(extract(other, [waveform])[0], case.reference(waveform, "100")) < 1e-5
    assert worst(extract(other, [waveform])[0], case.reference(waveform)) > 0.01
    assert other.provenance["statistics"] == "100"
    np.save(tmp_path / "own.npy", np.array([TABLES["100"]["mean"], TABLES["100"]["std"]]))
    own = opened(case.path, statistics=str(tmp_path / "own.npy"))
    assert worst(extract(own, [waveform])[0], extract(other, [waveform])[0]) == 0
    assert own.provenance["statistics"].startswith("sha256:")
    with pytest.raises(UsageError, match="choose 100, 360, 960"):
        opened(case.path, statistics="1000")


def test_a_folder_gives_the_same_layers(case, tmp_path):
    model, config = melhubert.load(case.path)
    melhubert.save(model, config, tmp_path / "folder")
    saved = opened(tmp_path / "folder")
    for got, expected in zip(extract(saved, clips()), extract(case.extractor, clips()), strict=True):
        assert all(np.array_equal(got[name], expected[name]) for name in expected)
    assert (saved.provenance["id"], saved.provenance["step"]) == ("folder", 12_345)
    assert len(saved.provenance["sha256"]) == 64


def test_weights_drawn_anew(case):
    one, two, three = (opened(case.path, random_init=seed) for seed in (0, 0, 1))
    waveform = [models.speech_like(4_000, seed=1)]
    first, second, third, trained = (extract(e, waveform)[0] for e in (one, two, three, case.extractor))
    assert worst(second, first) == 0
    assert worst(third, first) > 0.1
    assert worst(trained, first) > 0.1
    assert one.provenance["sha256"] == two.provenance["sha256"] != three.provenance["sha256"]
    assert (one.provenance["step"], one.provenance["random_init"]) == (0, 0)  # untrained


def test_weights_that_are_pruned_are_counted(tmp_path):
    state, name = random_state(SMALL), "encoder.layers.0.fc1.weight"
    mask = torch.zeros_like(state[name], dtype=torch.bool)
    mask[:, 5] = True
    whole = opened(write(tmp_path / "a.ckpt", state, SMALL))
    state = {**state, f"{name}_orig": state[name], f"{name}_mask": mask}
    del state[name]
    pruned = opened(write(tmp_path / "b.ckpt", state, SMALL))
    assert whole.n_parameters == pruned.n_parameters == whole.n_nonzero
    assert pruned.n_nonzero == whole.n_nonzero - mask.numel() + 24


def test_blocks_above_the_highest_asked_layer_are_dropped(case):
    extractor = opened(case.path)
    item = Item(0, "clip", 4_000, Window(0, 4_000, 0, 4_000), models.speech_like(4_000, seed=1))
    extractor.prepare(item)
    expected = extract(case.extractor, [item.samples])[0]
    for asked, n_blocks in ((["T0"], 1), (["C1"], 1), (["C1", "T1"], 1), (["T2"], 2)):
        extractor.restrict(asked)
        assert len(extractor.network.encoder.layers) == n_blocks
        got = {}
        extractor.forward([item], asked, lambda name, frames, got=got: got.update({name: frames[0].numpy()}))
        assert {name: worst({name: got[name]}, {name: expected[name]}) for name in asked} == dict.fromkeys(asked, 0)
    if case.settings["layer_norm_first"]:
        extractor.restrict(["final"])
        assert len(extractor.network.encoder.layers) == 2


def test_input_of_no_pipeline(tmp_path):
    path = write(tmp_path / "a.ckpt", melhuberts.golden_state(), melhuberts.GOLDEN)
    with pytest.raises(ModelError, match="takes 8 numbers a frame"):
        opened(path)


def test_there_is_no_mask_of_the_wav2vec_kind(case):
    with pytest.raises(UsageError, match="mask-seed"):
        case.extractor.time_mask(0)


# --- to a store ------------------------------------------------------------------------------------


def test_a_store_has_the_frames_and_words_of_the_reference(case, tmp_path):
    lengths = (8_000, 720, 5_003)
    waveforms = [models.speech_like(n, seed) for seed, n in enumerate(lengths)]
    corpus = models.corpus(tmp_path / "corpus", waveforms, models.random_segments(lengths))
    store = layertool.extract(opened(case.path), corpus, tmp_path / "s", ("frame", "word", "utterance"))
    expected = [case.reference(waveform) for waveform in waveforms]
    hop = 16 * case.stride
    rows = store.rows("frame")
    field = {10: 400, 20: 560}[case.stride]
    assert np.allclose((rows["end"] - rows["start"]) * 16_000, field)
    words = store.rows("word")
    for name in store.layers:
        frames = np.concatenate([layers[name] for layers in expected])
        assert references.worst_row(store.read("frame", name), frames) < 1e-5
        means = [layers[name].mean(axis=0) for layers in expected]
        assert references.worst_row(store.read("utterance", name), means) < 1e-5
        pooled = []
        for utterance, start, end in zip(words["utterance"], words["start"], words["end"], strict=True):
            of = expected[int(utterance[1:])][name]
            chosen = references.segment_frames(round(start * 16_000), round(end * 16_000), hop, len(of))
            pooled.append(references.pooled(of, chosen))
        assert references.worst_row(store.read("word", name), pooled) < 1e-5
    assert store.configuration["model"]["step"] == 12_345
    assert store.about["parameters"]["all"] == case.extractor.n_parameters


def test_long_audio_in_windows_stands_on_the_same_frames(case, tmp_path):
    """Windows begin on whole frames of both rates: the projection, which sees one frame, is the same."""
    waveform = models.speech_like(80_123, seed=2)
    corpus = models.corpus(tmp_path / "corpus", [waveform])
    store = layertool.extract(
        opened(case.path), corpus, tmp_path / "s", ("frame",), window_seconds=2, overlap_seconds=0.5
    )
    assert references.worst_row(store.read("frame", "C1"), case.reference(waveform)["C1"]) < 1e-5


def test_audio_that_is_too_short(case, tmp_path):
    corpus = models.corpus(tmp_path / "corpus", [models.speech_like(399, seed=0)])
    with pytest.raises(AudioError, match="399 samples"):
        layertool.extract(opened(case.path), corpus, tmp_path / "s", ("utterance",))
