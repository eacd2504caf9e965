"""MelHuBERT's checkpoints in all their spellings, and what is none of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from melhuberts import GOLDEN, SMALL, golden_state, random_state, write

from layertool.errors import ModelError
from layertool.models import melhubert

G, V = "encoder.pos_conv.0.weight_g", "encoder.pos_conv.0.weight_v"
TODAY = "encoder.pos_conv.0.parametrizations.weight.original"


@torch.no_grad()
def states(model, width: int = 8) -> list[np.ndarray]:
    features = torch.sin(0.37 * torch.arange(11.0 * width)).view(1, 11, width)
    return [state[0].numpy() for state in model(features).hidden_states]


def same(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(states(one), states(other), strict=True))


@pytest.fixture
def golden(tmp_path):
    return melhubert.load(write(tmp_path / "golden.ckpt", golden_state(), GOLDEN))[0]


@pytest.mark.parametrize("key", ["melhubert", "hubert", "student"])
def test_keys_of_the_configuration(tmp_path, golden, key):
    model, config = melhubert.load(write(tmp_path / "a.ckpt", golden_state(), GOLDEN, key, step=123))
    assert same(model, golden)
    assert (config.encoder_layers, config.encoder_attention_heads, config.step) == (3, 4, 123)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_today_s_spelling_of_weight_norm(tmp_path, golden):
    state = golden_state()
    state[f"{TODAY}0"], state[f"{TODAY}1"] = state.pop(G), state.pop(V)
    assert same(melhubert.load(write(tmp_path / "a.ckpt", state, GOLDEN))[0], golden)
    with pytest.raises(ModelError, match="two spellings"):
        melhubert.load(write(tmp_path / "b.ckpt", {**state, G: golden_state()[G]}, GOLDEN))


def test_what_is_absent_has_the_defaults_of_the_original(tmp_path):
    kept = {"encoder_attention_heads": 4}
    model, config = melhubert.load(write(tmp_path / "a.ckpt", golden_state(), kept, step=None))
    assert (config.encoder_layers, config.encoder_embed_dim, config.feat_emb_dim) == (3, 16, 8)  # of the weights
    assert (config.conv_pos, config.conv_pos_groups, config.encoder_ffn_embed_dim, config.num_cluster) == (8, 4, 24, 6)
    assert (config.layer_norm_first, config.dropout, config.mask_prob, config.mask_length) == (False, 0.1, 0.8, 10)
    assert config.step is None
    assert not model.training


def test_final_proj_may_be_missing_and_half_precision_is_read(tmp_path, golden):
    state = {name: value for name, value in golden_state().items() if not name.startswith("final_proj")}
    model, config = melhubert.load(write(tmp_path / "a.ckpt", state, GOLDEN))
    assert config.num_cluster == 0
    assert model(torch.zeros(1, 5, 8)).logits is None
    assert same(model, golden)
    halves = {name: value.half() for name, value in state.items()}
    got = states(melhubert.load(write(tmp_path / "b.ckpt", halves, GOLDEN))[0])[-1]
    assert np.abs(got - states(golden)[-1]).max() < 0.01


def test_without_a_projection(tmp_path):
    settings = {**GOLDEN, "feat_emb_dim": 16}
    state = {name: value for name, value in random_state(settings).items() if not name.startswith("pre_extract")}
    model, _ = melhubert.load(write(tmp_path / "a.ckpt", state, settings))
    features = torch.randn(1, 5, 16)
    before = features.clone()
    out = model(features, attention_mask=torch.tensor([[1, 1, 1, 0, 0]]))
    assert torch.equal(out.hidden_states[0][:, :3], before[:, :3])
    assert torch.equal(features, before)


def test_a_student_of_a_distillation_leaves_its_heads(tmp_path, golden):
    state = {name: value for name, value in golden_state().items() if not name.startswith("final_proj")}
    heads = {"output_layer.0.weight": torch.ones(32, 16), "output_layer.0.bias": torch.ones(32)}
    heads |= {"output_layer.2.weight": torch.ones(2, 16, 16), "output_layer.2.bias": torch.ones(1, 1, 2, 16)}
    assert same(melhubert.load(write(tmp_path / "a.ckpt", state | heads, GOLDEN, "student"))[0], golden)


@pytest.mark.parametrize("old_format", [False, True])
def test_both_formats_of_torch(tmp_path, golden, old_format):
    path = tmp_path / "a.ckpt"
    checkpoint = {"model": golden_state(), "Upstream_Config": {"melhubert": GOLDEN}, "Step": 7}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not old_format)
    assert same(melhubert.load(path)[0], golden)


# --- folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_folder_gives_the_same(tmp_path, norm_first):
    settings = {**SMALL, "layer_norm_first": norm_first}
    state = random_state(settings)
    state = {name: value[:-1] if ".1.fc1" in name else value for name, value in state.items()}
    state["encoder.layers.1.fc2.weight"] = state["encoder.layers.1.fc2.weight"][:, :-1]
    model, config = melhubert.load(write(tmp_path / "a.ckpt", state, settings))
    melhubert.save(model, config, tmp_path / "folder")
    again, same_config = melhubert.load(tmp_path / "folder")
    assert same_config == config
    assert (config.ffn_rows, config.step) == ((24, 23), 4000)
    assert all(np.array_equal(a, b) for a, b in zip(states(model, 80), states(again, 80), strict=True))
    assert melhubert.is_folder(tmp_path / "folder")
    assert not melhubert.is_folder(tmp_path)
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["model_type"] == "melhubert"


def test_what_is_saved_has_the_sizes_of_the_weights(tmp_path, golden):
    """A network pruned in place is described as it is, whatever the configuration says."""
    block = golden.encoder.layers[1]
    block.fc1 = torch.nn.Linear(16, 9)
    block.fc2 = torch.nn.Linear(9, 16)
    melhubert.save(golden, golden.config, tmp_path / "folder")
    again, config = melhubert.load(tmp_path / "folder")
    assert config.ffn_rows == (24, 9, 24)
    assert same(again, golden)


def test_damaged_folders(tmp_path, golden):
    with pytest.raises(ModelError, match=r"no config\.json"):
        melhubert.load(tmp_path)
    melhubert.save(golden, golden.config, tmp_path / "folder")
    weights = tmp_path / "folder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cut short"):
        melhubert.load(tmp_path / "folder")
    weights.unlink()
    with pytest.raises(ModelError, match="missing"):
        melhubert.load(tmp_path / "folder")


# --- what is none ----------------------------------------------------------------------------------


def refused(path, *words: str) -> str:
    with pytest.raises(ModelError) as caught:
        melhubert.load(path)
    message = str(caught.value)
    assert str(path) in message
    for word in words:
        assert word in message, message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "gone", ["encoder.layers.1.fc2.bias", "pre_extract_proj.weight", "encoder.layer_norm.weight", G, "final_proj.bias"]
)
def test_a_missing_tensor_is_named(tmp_path, gone):
    state = {name: value for name, value in golden_state().items() if name != gone}
    refused(write(tmp_path / "a.ckpt", state, GOLDEN), gone if gone != G else f"{TODAY}0")


def test_a_missing_block_is_noticed(tmp_path):
    for block in (1, 2):
        state = {name: value for name, value in golden_state().items() if f"layers.{block}." not in name}
        refused(write(tmp_path / "a.ckpt", state, GOLDEN), "encoder_layers = 3", "2 blocks")
    state = {name: value for name, value in golden_state().items() if "layers.1." not in name}
    refused(write(tmp_path / "b.ckpt", state, {"encoder_attention_heads": 4}), "encoder.layers.1.fc1.weight", "lacks")


def test_tensors_too_many_are_named(tmp_path):
    state = {**golden_state(), "label_embs_concat": torch.zeros(3), "encoder.layers.0.extra.bias": torch.zeros(3)}
    refused(write(tmp_path / "a.ckpt", state, GOLDEN), "besides", "label_embs_concat", "encoder.layers.0.extra.bias")


def test_shapes_and_sizes_that_contradict_each_other(tmp_path):
    state = {**golden_state(), "encoder.layers.2.fc2.weight": torch.zeros(16, 23)}
    refused(write(tmp_path / "a.ckpt", state, GOLDEN), "encoder.layers.2.fc2.weight", "(16, 23)", "(16, 24)")
    refused(write(tmp_path / "a.ckpt", golden_state(), {**GOLDEN, "feat_emb_dim": 40}), "feat_emb_dim = 40", "8")
    state = golden_state()
    state["encoder.layers.0.self_attn.q_proj.weight"] = torch.zeros(14, 16)
    refused(write(tmp_path / "a.ckpt", state, GOLDEN), "14 rows", "block 1")
    for wrong in ({"encoder_attention_heads": 5}, {"encoder_attention_heads": "4"}, {"attention_type": "sparse"}):
        refused_settings = {**GOLDEN, **wrong}
        with pytest.raises(ModelError, match=r"heads|attention_type"):
            melhubert.load(write(tmp_path / "a.ckpt", golden_state(), refused_settings))


def test_masks_that_do_not_fit(tmp_path):
    state, name = golden_state(), "encoder.layers.0.fc1.weight"
    value = state.pop(name)
    refused(write(tmp_path / "a.ckpt", {**state, f"{name}_orig": value}, GOLDEN), f"{name}_orig", f"{name}_mask")
    both = {**state, f"{name}_orig": value, f"{name}_mask": torch.ones(24, 15)}
    refused(write(tmp_path / "b.ckpt", both, GOLDEN), f"{name}_mask")
    refused(write(tmp_path / "c.ckpt", {**state, f"{name}_mask": torch.ones(24, 16)}, GOLDEN), f"{name}_mask")


def test_an_unknown_architecture_says_which_keys_were_seen(tmp_path):
    refused(write(tmp_path / "a.ckpt", golden_state(), GOLDEN, "tera"), "unknown architecture", "tera", "task")
    torch.save({"net": golden_state(), "epoch": 3}, tmp_path / "b.ckpt")
    refused(tmp_path / "b.ckpt", "epoch, net", "Upstream_Config")
    torch.save(golden_state(), tmp_path / "c.ckpt")
    refused(tmp_path / "c.ckpt", "encoder.layer_norm.bias")
    torch.save({"model": {"a": 3}, "Upstream_Config": {"melhubert": {}}}, tmp_path / "d.ckpt")
    refused(tmp_path / "d.ckpt", "among its tensors, which is none")


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ({"args": {}, "model": {"feature_extractor.conv_layers.0.0.weight": torch.ones(1)}}, "fairseq:"),
        ({"cfg": {}, "model": {}, "args": None}, "fairseq:"),
        ({"dims": {"n_mels": 80}, "model_state_dict": {}}, "Whisper"),
        ({"Distiller": {}, "Config": {}}, "DistilHuBERT"),
        ({"Featurizer": {}, "Downstream": {}}, "s3prl"),
        ({"wav2vec2.feature_extractor.conv_layers.0.conv.weight": torch.ones(1)}, "wav2vec 2.0"),
        (
            {"model": {"feature_extractor.conv_layers.0.0.weight": torch.ones(1)}, "Upstream_Config": {"model": {}}},
            "wav2vec 2.0",
        ),
    ],
)
def test_a_checkpoint_of_another_family_is_named(tmp_path, checkpoint, words):
    torch.save(checkpoint, tmp_path / "other.pt")
    refused(tmp_path / "other.pt", words)


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.ckpt").write_text("Not Found\n")
    refused(tmp_path / "text.ckpt")
    refused(tmp_path / "nowhere.ckpt", "does not exist")
