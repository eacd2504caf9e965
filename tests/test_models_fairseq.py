"""fairseq's checkpoints against the transformers models that they were written from (fairseq_writer.py).

What fairseq itself writes and computes is in oracle/.
"""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path

import fairseq_writer as writer
import models
import numpy as np
import pytest
import references
import torch

from layertool.errors import ModelError
from layertool.models import fairseq
from layertool.models.fairseq_names import convolutions

FAMILIES = list(writer.FAMILIES)


def same_outputs(network, expected) -> float:
    waveform = models.speech_like(4_000, seed=1)
    got = references.speech_layers(network.double(), waveform)
    wanted = references.speech_layers(expected.double(), waveform)
    return max(references.worst_row(got[name], value) for name, value in wanted.items())


def with_settings(folder: Path, family: str = "wav2vec2-base", **settings) -> Path:
    """A small checkpoint whose settings say something else."""
    return writer.write(family, folder, cfg=writer.settings(family, "cfg", **settings))


# --- what is read ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("finetuned", [False, True], ids=["pretrained", "finetuned"])
@pytest.mark.parametrize("style", writer.STYLES)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_and_style_gives_the_model_it_was_written_from(name, style, finetuned, tmp_path):
    path = writer.write(name, tmp_path, style, finetuned)
    network, facts = fairseq.read(path)
    expected = writer.network(name, tmp_path / "again")
    assert type(network) is type(expected)
    assert not network.training
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in network.parameters())
    state, wanted = network.state_dict(), expected.state_dict()
    assert set(state) == set(wanted)
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)
    assert same_outputs(network, expected) < 1e-12
    assert facts.family == network.config.model_type
    assert facts.normalise is writer.FAMILIES[name][3]
    assert facts.step == 4200
    assert facts.is_finetuned is finetuned
    assert network.config.hidden_size == 48
    assert tuple(network.config.conv_kernel) == (10, 3, 3, 3, 3, 2, 2)


@pytest.mark.parametrize("name", FAMILIES)
def test_training_only_tensors_are_named(name, tmp_path):
    expected = set(writer.pretraining_tensors(writer.FAMILIES[name][1], 24, 48))
    expected |= {"_ema"} if name == "data2vec-audio" else set()
    assert set(fairseq.read(writer.write(name, tmp_path))[1].training_only) == expected
    tuned = fairseq.read(writer.write(name, tmp_path, finetuned=True))[1]
    assert set(tuned.training_only) == {"w2v_encoder.proj.weight", "w2v_encoder.proj.bias"}


def test_a_read_model_survives_save_pretrained(tmp_path):
    from transformers import AutoModel

    network = fairseq.load(writer.write("wav2vec2-large", tmp_path))
    network.save_pretrained(tmp_path / "saved")
    again = AutoModel.from_pretrained(tmp_path / "saved").eval()
    assert same_outputs(again, network) < 1e-12


def test_files_of_before_2020_are_read(tmp_path):
    """torch wrote no zip archives then."""
    stored = writer.checkpoint("wav2vec2-base", tmp_path, "args", finetuned=True)
    torch.save(stored, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    network, facts = fairseq.read(tmp_path / "old.pt")
    assert same_outputs(network, writer.network("wav2vec2-base", tmp_path / "again")) < 1e-12
    assert facts.is_finetuned


def test_loading_leaves_the_random_state_alone(tmp_path):
    path = writer.write("hubert-base", tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fairseq.load(path)
    assert torch.equal(torch.rand(3), expected)


def test_both_spellings_of_weight_norm(tmp_path):
    state = writer.checkpoint("hubert-base", tmp_path)["model"]
    new = dict(state)
    new["encoder.pos_conv.0.parametrizations.weight.original0"] = new.pop("encoder.pos_conv.0.weight_g")
    new["encoder.pos_conv.0.parametrizations.weight.original1"] = new.pop("encoder.pos_conv.0.weight_v")
    network = fairseq.load(writer.write("hubert-base", tmp_path, model=new))
    assert same_outputs(network, writer.network("hubert-base", tmp_path / "again")) < 1e-12
    new["encoder.pos_conv.0.weight_g"] = state["encoder.pos_conv.0.weight_g"]
    with pytest.raises(ModelError, match="one weight in two spellings"):
        fairseq.load(writer.write("hubert-base", tmp_path, model=new))


def test_half_precision_is_read_as_float32(tmp_path):
    state = {key: value.half() for key, value in writer.checkpoint("wav2vec2-large", tmp_path)["model"].items()}
    network = fairseq.load(writer.write("wav2vec2-large", tmp_path, model=state))
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_without_a_projection_it_is_the_identity(tmp_path):
    """fairseq leaves the projection out where the convolutions are as wide as the blocks."""
    wide = "[(48,10,5)]+[(48,3,2)]*4+2*[(48,2,2)]"
    model = writer.network("wav2vec2-base", tmp_path / "wide", conv_dim=(48,) * 7)
    with torch.no_grad():
        model.feature_projection.projection.weight.copy_(torch.eye(48))
        model.feature_projection.projection.bias.zero_()
    state = {key: value for key, value in writer.tensors(model).items() if "post_extract" not in key}
    cfg = writer.settings("wav2vec2-base", "cfg", conv_feature_layers=wide)
    network = fairseq.load(writer.write("wav2vec2-base", tmp_path, model=state, cfg=cfg))
    assert same_outputs(network, model) < 1e-12


@pytest.mark.parametrize(
    ("family", "stored", "used"),
    [
        ("hubert-base", {"activation_fn": "relu"}, {"hidden_act": "relu"}),
        ("hubert-base", {"activation_fn": "gelu_accurate"}, {"hidden_act": "gelu_new"}),
        ("hubert-base", {"activation_fn": "gelu_fast"}, {"hidden_act": "gelu_new"}),
        ("wav2vec2-base", {"layer_norm_first": True}, {"do_stable_layer_norm": True}),  # behind a group norm
    ],
)
def test_settings_have_their_names_in_transformers(family, stored, used, tmp_path):
    network = fairseq.load(with_settings(tmp_path, family, **stored))
    assert same_outputs(network, writer.network(family, tmp_path / "again", **used)) < 1e-12


def test_settings_that_are_left_out_have_fairseqs_defaults(tmp_path):
    """Old files do not have settings that came later."""
    keep = (
        "encoder_layers",
        "encoder_embed_dim",
        "encoder_ffn_embed_dim",
        "encoder_attention_heads",
        "conv_feature_layers",
    )
    args = Namespace(arch="wav2vec2", conv_pos=16, conv_pos_groups=4, **{key: writer.SMALL[key] for key in keep})
    network, facts = fairseq.read(writer.write("wav2vec2-base", tmp_path, "args", args=args))
    assert same_outputs(network, writer.network("wav2vec2-base", tmp_path / "again")) < 1e-12
    assert facts.normalise is False


def test_where_both_styles_are_there_args_go_first(tmp_path):
    args = writer.settings("wav2vec2-base", "args")
    args.normalize = True
    cfg = writer.settings("wav2vec2-base", "cfg", encoder_layers=99)
    assert fairseq.read(writer.write("wav2vec2-base", tmp_path, cfg=cfg, args=args))[1].normalise is True


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 4200),
        ({"optimizer_history": []}, None),
        ({"optimizer_history": [], "extra_state": {"num_updates": 12}}, 12),
        (
            {
                "optimizer_history": None,
                "last_optimizer_state": {"state": {0: {"step": 30}, 1: {"step": torch.tensor(31.0)}}},
            },
            31,
        ),
        ({"optimizer_history": [{"num_updates": 0}]}, 0),
    ],
)
def test_the_step_is_read(changes, expected, tmp_path):
    assert fairseq.read(writer.write("hubert-base", tmp_path, **changes))[1].step == expected


@pytest.mark.parametrize("value", [True, False])
def test_normalisation_may_stand_in_the_model_or_be_an_interpolation(value, tmp_path):
    cfg = writer.settings("wav2vec2-base", "cfg", normalize=value)
    del cfg["task"]["normalize"]
    assert fairseq.read(writer.write("wav2vec2-base", tmp_path, cfg=cfg))[1].normalise is value
    cfg["task"]["normalize"] = "${common.wanted}"
    cfg["common"]["wanted"] = value
    assert fairseq.read(writer.write("wav2vec2-base", tmp_path, cfg=cfg))[1].normalise is value


# --- Table 2 of Lin et al. -------------------------------------------------------------------------

SIZES = {"small": (3, 640, 2048, 8), "slim": (12, 384, 768, 8), "base": (12, 768, 3072, 12)}
COUNTS = {
    ("wav2vec2", "small"): 21_252_352,
    ("wav2vec2", "slim"): 20_360_832,
    ("wav2vec2", "base"): 95_044_608,
    ("hubert", "small"): 20_905_344,
    ("hubert", "slim"): 20_013_824,
    ("hubert", "base"): 94_697_600,
}


@pytest.mark.parametrize(("architecture", "size"), COUNTS)
def test_parameter_counts_of_table_2(architecture, size, tmp_path, monkeypatch):
    """Whole pre-training models: what is read, and the training-only tensors that are named."""
    layers, width, ffn, heads = SIZES[size]
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    with torch.device("meta"):
        config = Wav2Vec2Config(
            num_hidden_layers=layers, hidden_size=width, intermediate_size=ffn, num_attention_heads=heads
        )
        shapes = writer.tensors(Wav2Vec2Model(config))
    network = {name: torch.ones(1).expand(value.shape) for name, value in shapes.items()}  # one number in the file
    training = writer.pretraining_tensors(architecture, 512, width)
    cfg = {
        "model": {
            "_name": architecture,
            "encoder_layers": layers,
            "encoder_embed_dim": width,
            "encoder_ffn_embed_dim": ffn,
            "encoder_attention_heads": heads,
        },
        "task": {"normalize": False},
    }
    path = tmp_path / "checkpoint.pt"
    torch.save({"cfg": cfg, "model": {**network, **training}}, path)
    assert path.stat().st_size < 1_000_000
    monkeypatch.setattr(fairseq, "check_tensors", lambda *_: None)  # which refuses to make much of a small file
    read, facts = fairseq.read(path)
    assert set(facts.training_only) == set(training)
    total = sum(p.numel() for p in read.parameters()) + sum(value.numel() for value in training.values())
    assert total == COUNTS[architecture, size]


# --- the parser of convolutions --------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
        "[(512,10,5)]+[(512,3,2)]*4+[(512,2,2)]*2",
        " [(512, 10, 5), (512,3,2)] + 3 * [(512,3,2)] + 2*[(512, 2, 2,),] ",
        "[(512,10,5)" + ",(512,3,2)" * 4 + ",(512,2,2)" * 2 + "]",
    ],
)
def test_convolutions_are_parsed(text):
    assert convolutions(text) == [(512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch HERE')",
        "[(512,10,5)] + [__import__('os')]",
        "[(512,10,5)] + (lambda: 1)()",
        "[(512,10,5)] * 10 ** 9",
        "[(512,3,2)] * 99",
        "[(512,10,5)] * -1",
        "[(512,10)]",
        "[(512,10,5,1)]",
        "[(0,10,5)]",
        "[(512,10,5)] * 0",
        "[(9999999,10,5)]",
        "[]",
        "",
        "(" * 100_000,
        "[" + "(1,1,1)," * 100_000 + "]",
        None,
        [[512, 10, 5]],
        7,
    ],
)
def test_anything_else_is_refused_and_not_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    with pytest.raises(ModelError, match="conv_feature_layers"):
        convolutions(text)
    assert time.monotonic() - began < 2
    assert not list(tmp_path.iterdir())


# --- bad input -------------------------------------------------------------------------------------


def refused(path: Path, *words: str) -> str:
    with pytest.raises(ModelError) as caught:
        fairseq.read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message, message
    return message


def test_unexpected_and_missing_tensors_are_listed(tmp_path):
    state = writer.checkpoint("wav2vec2-base", tmp_path)["model"]
    more = {**state, "encoder.layers.0.adapter.weight": torch.zeros(2), "extra.bias": torch.zeros(2)}
    refused(writer.write("wav2vec2-base", tmp_path, model=more), "encoder.layers.0.adapter.weight", "extra.bias")
    less = {key: value for key, value in state.items() if key not in ("layer_norm.weight", "encoder.layers.1.fc1.bias")}
    message = refused(writer.write("wav2vec2-base", tmp_path, model=less), "feature_projection.layer_norm.weight")
    assert "encoder.layers.1.feed_forward.intermediate_dense.bias" in message


@pytest.mark.parametrize("key", sorted(set(writer.SMALL) - {"layer_norm_first", "mask_prob", "mask_length"}))
def test_every_size_of_the_settings_is_checked_against_the_tensors(key, tmp_path):
    other = {
        "encoder_layers": 4,
        "encoder_embed_dim": 96,
        "encoder_ffn_embed_dim": 63,
        "encoder_attention_heads": 7,
        "conv_pos": 15,
        "conv_pos_groups": 2,
        "extractor_mode": "layer_norm",
        "conv_bias": True,
        "activation_fn": "sine",
        "conv_feature_layers": writer.CONVOLUTIONS.replace("24,2,2", "24,3,2"),
    }
    refused(with_settings(tmp_path, **{key: other[key]}))


def test_every_single_tensor_is_needed(tmp_path):
    full = writer.checkpoint("hubert-base", tmp_path)
    training = set(writer.pretraining_tensors("hubert", 24, 48)) | {"mask_emb"}
    path = tmp_path / "less.pt"
    for name in sorted(set(full["model"]) - training):
        torch.save({**full, "model": {key: value for key, value in full["model"].items() if key != name}}, path)
        refused(path)


def test_without_a_mask_embedding_there_is_none(tmp_path):
    state = writer.checkpoint("hubert-base", tmp_path)["model"]
    del state["mask_emb"]
    assert not hasattr(fairseq.load(writer.write("hubert-base", tmp_path, model=state)), "masked_spec_embed")


OTHERS = {
    "melhubert": ({"Upstream_Config": {"melhubert": {}}, "model": {}, "Step": 3}, "give it as melhubert:"),
    "compression": ({"Upstream_Config": {"model": {}}, "model": {}}, "Speech-SSL-Compression"),
    "whisper": ({"dims": {"n_mels": 80}, "model_state_dict": {}}, "Whisper"),
    "transformers": ({"wav2vec2.encoder.layers.0.attention.k_proj.weight": torch.zeros(2)}, "Hugging Face"),
    "transformers inside": ({"model": {"encoder.layers.0.attention.k_proj.weight": torch.zeros(2)}}, "Hugging Face"),
    "wavlm": ({"cfg": {"encoder_layers": 12}, "model": {"encoder.layers.0.self_attn.grep_a": torch.zeros(2)}}, "WavLM"),
    "distilhubert": ({"Distiller": {}, "Config": {}}, "DistilHuBERT"),
    "s3prl": ({"model_weight": {}, "task_cfg": {}, "model_cfg": {}}, "converted by s3prl"),
    "nothing": ({"state_dict": {}, "epoch": 3}, "epoch, state_dict"),
    "an unknown architecture": (
        {"cfg": {"model": {"_name": "transformer_lm"}}, "model": {"decoder.embed.weight": torch.zeros(2)}, "epoch": 3},
        "'transformer_lm', which is not read (wav2vec2, hubert, data2vec_audio, wav2vec_ctc, hubert_ctc are); its keys "
        "are cfg, epoch, model, its tensors begin with decoder",
    ),
    "settings without tensors": ({"cfg": {"model": {"_name": "wav2vec2"}}}, "no tensors under 'model'"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_checkpoints_of_other_tools_are_named(name, tmp_path):
    stored, word = OTHERS[name]
    torch.save(stored, tmp_path / "other.pt")
    refused(tmp_path / "other.pt", word)


def test_safetensors_and_folders_are_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    refused(tmp_path / "model.safetensors", "safetensors")
    refused(tmp_path, "is a folder")
    refused(tmp_path / "gone.pt", "does not exist")


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("wav2vec2-base", {"layer_type": "conformer"}, ("layer_type", "fairseq-native")),
        ("wav2vec2-base", {"quantize_input": True}, ("quantize_input", "fairseq-native")),
        ("wav2vec2-base", {"pos_conv_depth": 5}, ("pos_conv_depth", "fairseq-native")),
        ("wav2vec2-base", {"conv_pos_batch_norm": True}, ("conv_pos_batch_norm", "fairseq-native")),
        ("wav2vec2-base", {"attn_type": "espnet"}, ("attn_type", "fairseq-native")),
        ("wav2vec2-base", {"activation_fn": "linear"}, ("activation_fn", "fairseq-native")),
        ("data2vec-audio", {"pos_conv_depth": 1}, ("pos_conv_depth", "fairseq-native")),
        ("data2vec-audio", {"layer_norm_first": True}, ("layer_norm_first", "fairseq-native")),
        ("data2vec-audio", {"extractor_mode": "default"}, ("extractor_mode", "fairseq-native")),
        ("wav2vec2-base", {"crop_seq_to_multiple": 2}, ("crop_seq_to_multiple",)),  # drops frames
    ],
)
def test_networks_that_transformers_has_not_are_refused(family, changes, words, tmp_path):
    refused(with_settings(tmp_path, family, **changes), *words)


@pytest.mark.parametrize("value", [0, -3, 2.5, "12", True, 10**9, {}, [3]])
@pytest.mark.parametrize("key", ["encoder_layers", "encoder_embed_dim", "conv_pos"])
def test_settings_that_are_no_sizes_are_refused(key, value, tmp_path):
    refused(with_settings(tmp_path, **{key: value}))


@pytest.mark.parametrize("value", [7, -1, "often", None, {}])
def test_settings_that_only_training_uses_hinder_nothing(value, tmp_path):
    path = with_settings(tmp_path, mask_prob=value, dropout=value, mask_length=value)
    assert hasattr(fairseq.load(path), "masked_spec_embed")


def test_fine_tuned_without_the_settings_of_its_pretraining(tmp_path):
    cfg = writer.settings("wav2vec2-base", "cfg", finetuned=True)
    cfg["model"]["w2v_args"] = None
    refused(writer.write("wav2vec2-base", tmp_path, finetuned=True, cfg=cfg), "w2v_args")


def test_pruned_weights_are_named(tmp_path):
    state = writer.checkpoint("wav2vec2-base", tmp_path)["model"]
    state["encoder.layers.0.fc1.weight_orig"] = state.pop("encoder.layers.0.fc1.weight")
    state["encoder.layers.0.fc1.weight_mask"] = torch.ones(64, 48)
    refused(writer.write("wav2vec2-base", tmp_path, model=state), "pruned", "encoder.layers.0.fc1.weight_orig")
    state = writer.checkpoint("wav2vec2-base", tmp_path)["model"]
    state["encoder.layers.1.fc1.weight"] = state["encoder.layers.1.fc1.weight"][:50]
    refused(writer.write("wav2vec2-base", tmp_path, model=state), "layers.1", "(50, 48)", "(64, 48)", "pruned heads")


def test_what_is_no_tensor_is_named(tmp_path):
    state = {**writer.checkpoint("wav2vec2-base", tmp_path)["model"], "mask_emb": [1, 2]}
    refused(writer.write("wav2vec2-base", tmp_path, model=state), "mask_emb", "among its tensors, which is none")


def test_a_truncated_file_is_refused(tmp_path):
    path = writer.write("wav2vec2-base", tmp_path)
    whole = path.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        refused(path)


def test_random_damage_is_a_model_error(tmp_path):
    """Bytes that change inside the pickled part, and inside the tensors: an error, or the same model."""
    path = writer.write("hubert-base", tmp_path)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(20):
        damaged = bytearray(whole)
        for place in random.integers(0, 8_000, 3):
            damaged[place] = random.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            fairseq.read(path)
        except ModelError:
            continue
