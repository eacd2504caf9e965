"""Checkpoints with fairseq's names and settings, written without fairseq from random transformers models.

The names are spelled out module by module; nothing here is shared with the package's own table.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import models
import torch

CONVOLUTIONS = "[(24, 10, 5)] + [(24, 3, 2)] * 4 + [(24,2,2)] + [(24,2,2)]"
SMALL = {
    "encoder_layers": 3,
    "encoder_embed_dim": 48,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "conv_feature_layers": CONVOLUTIONS,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "layer_norm_first": False,
    "extractor_mode": "default",
    "conv_bias": False,
    "activation_fn": "gelu",
    "mask_prob": 0.65,
    "mask_length": 10,
}
STABLE = {"layer_norm_first": True, "extractor_mode": "layer_norm", "conv_bias": True}
# name -> (family of tests/models.py, fairseq's architecture, its settings beyond SMALL, task.normalize)
FAMILIES: dict[str, tuple[str, str, dict, bool]] = {
    "wav2vec2-base": ("wav2vec2-base", "wav2vec2", {}, False),
    "wav2vec2-large": ("wav2vec2-large", "wav2vec2", STABLE, True),  # LV-60, XLSR, XLS-R
    "hubert-base": ("hubert-base", "hubert", {}, False),
    "hubert-large": ("hubert-large", "hubert", STABLE, True),
    "hubert-batch-norm": ("hubert-batch-norm", "hubert", {"conv_pos_batch_norm": True}, False),
    "data2vec-audio": (
        "data2vec-audio",
        "data2vec_audio",
        {"extractor_mode": "layer_norm", "conv_pos": 57, "pos_conv_depth": 3},
        True,
    ),
}
STYLES = ("cfg", "args")


def network(name: str, folder: Path, **changes) -> torch.nn.Module:
    """The random transformers model that a checkpoint of a family is written from, in evaluation mode."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(models.save(FAMILIES[name][0], folder, **changes)).eval()


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a transformers model by fairseq's names (weight norm as weight_g and weight_v)."""
    state: dict[str, torch.Tensor] = {"mask_emb": model.masked_spec_embed}

    def put(name: str, module: torch.nn.Module) -> None:
        for key, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            state[f"{name}.{key}"] = value

    for k, block in enumerate(model.feature_extractor.conv_layers):
        put(f"feature_extractor.conv_layers.{k}.0", block.conv)
        norm = getattr(block, "layer_norm", None)
        if isinstance(norm, torch.nn.GroupNorm):
            put(f"feature_extractor.conv_layers.{k}.2", norm)
        elif norm is not None:
            put(f"feature_extractor.conv_layers.{k}.2.1", norm)
    put("layer_norm", model.feature_projection.layer_norm)
    put("post_extract_proj", model.feature_projection.projection)
    positions = model.encoder.pos_conv_embed
    if hasattr(positions, "layers"):
        for k, layer in enumerate(positions.layers):
            put(f"encoder.pos_conv.{k}.0", layer.conv)
    elif getattr(positions, "batch_norm", None) is not None:
        put("encoder.pos_conv.0", positions.batch_norm)
        put("encoder.pos_conv.1", positions.conv)
    else:
        weight = positions.conv.parametrizations.weight
        state["encoder.pos_conv.0.bias"] = positions.conv.bias
        state["encoder.pos_conv.0.weight_g"] = weight.original0
        state["encoder.pos_conv.0.weight_v"] = weight.original1
    for k, block in enumerate(model.encoder.layers):
        for letter in ("k", "v", "q", "out"):
            put(f"encoder.layers.{k}.self_attn.{letter}_proj", getattr(block.attention, f"{letter}_proj"))
        put(f"encoder.layers.{k}.self_attn_layer_norm", block.layer_norm)
        put(f"encoder.layers.{k}.fc1", block.feed_forward.intermediate_dense)
        put(f"encoder.layers.{k}.fc2", block.feed_forward.output_dense)
        put(f"encoder.layers.{k}.final_layer_norm", block.final_layer_norm)
    put("encoder.layer_norm", model.encoder.layer_norm)
    return {name: value.detach().clone() for name, value in state.items()}


def pretraining_tensors(architecture: str, conv: int, width: int, final: int = 256, labels: int = 504) -> dict:
    """What fairseq's pre-training models have besides the network: quantizer and projections, or label embeddings."""
    shapes: dict[str, tuple[int, ...]] = {"final_proj.weight": (final, width), "final_proj.bias": (final,)}
    if architecture == "wav2vec2":
        shapes |= {
            "quantizer.vars": (1, 640, final // 2), "quantizer.weight_proj.weight": (640, conv),
            "quantizer.weight_proj.bias": (640,), "project_q.weight": (final, final), "project_q.bias": (final,),
        }  # fmt: skip
    elif architecture == "hubert":
        shapes["label_embs_concat"] = (labels, final)
    return {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}  # one number in the file


def settings(name: str, style: str, finetuned: bool = False, **changes) -> Any:
    """The settings as fairseq stores them: a dict of model and task, or one flat namespace."""
    _, architecture, own, normalise = FAMILIES[name]
    model = {**SMALL, **own, **changes}
    task = "hubert_pretraining" if architecture == "hubert" else "audio_pretraining"
    if style == "args":
        pretrained: Any = Namespace(arch=architecture, task=task, normalize=normalise, sample_rate=16000, **model)
    else:
        pretrained = {
            "_name": None,
            "common": {"seed": 1},
            "model": {"_name": architecture, **model},
            "task": {"_name": task, "normalize": normalise, "sample_rate": 16000},
        }
    if not finetuned:
        return pretrained
    outer = "hubert_ctc" if architecture == "hubert" else "wav2vec_ctc"
    own_settings = {"w2v_path": "/gone/pretrained.pt", "w2v_args": pretrained, "layerdrop": 0.1, "mask_prob": 0.5}
    if style == "args":
        return Namespace(arch=outer, task="audio_pretraining", normalize=normalise, **own_settings)
    return {
        "model": {"_name": outer, "normalize": "${task.normalize}", **own_settings},
        "task": {"_name": "audio_finetuning", "normalize": normalise, "labels": "ltr"},
    }


def checkpoint(name: str, folder: Path, style: str = "cfg", finetuned: bool = False, step: int = 4200) -> dict:
    """All of a checkpoint, as fairseq's trainer puts it together."""
    _, architecture, _, _ = FAMILIES[name]
    state = tensors(network(name, folder / "model"))
    if finetuned:
        state = {f"w2v_encoder.w2v_model.{key}": value for key, value in state.items()}
        state |= {"w2v_encoder.proj.weight": torch.zeros(32, 48), "w2v_encoder.proj.bias": torch.zeros(32)}
    else:
        state |= pretraining_tensors(architecture, 24, 48)
    if architecture == "data2vec_audio" and not finetuned:
        state["_ema"] = {"layers.0.fc1.weight": torch.zeros(64, 48)}
    stored = settings(name, style, finetuned)
    return {
        "args": stored if style == "args" else None,
        "cfg": stored if style == "cfg" else None,
        "model": state,
        "optimizer_history": [{"optimizer_name": "FairseqAdam", "num_updates": 7}, {"num_updates": step}],
        "extra_state": {"epoch": 3, "train_iterator": {"epoch": 4}},
        "task_state": {},
    }


def write(name: str, folder: Path, style: str = "cfg", finetuned: bool = False, **changes) -> Path:
    """Write a checkpoint; ``changes`` replace its entries."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.pt"
    torch.save({**checkpoint(name, folder, style, finetuned), **changes}, path)
    return path
