"""MelHuBERT's checkpoints: the original ones, dense and pruned, and folders of our own (spec speat.md 3.5, 4.1 to 4.3).

Sizes come from the weights, so that pruned networks are what they are: the lists of pruned heads in
some checkpoints count from wherever the last pruning left off, and are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from layertool.errors import ModelError
from layertool.files import whole_file, write_json
from layertool.models.checkpoint_files import described, refuse_adapter
from layertool.models.computing import shapes_only
from layertool.models.foreign import (
    MELHUBERTS,
    check_tensors,
    filled,
    read_checkpoint,
    read_safetensors,
    refuse_other_tools,
    whole_step,
)
from layertool.models.melhubert.network import Config, MelHuBERT
from layertool.models.strangers import listed, opening, shown

MODEL_TYPE = "melhubert"
WEIGHTS = "model.safetensors"
_CONVOLUTION = "encoder.pos_conv.0."
_POSITIONS = f"{_CONVOLUTION}parametrizations.weight."  # as torch spells weight norm today
_SPELLINGS = {f"{_CONVOLUTION}weight_g": f"{_POSITIONS}original0", f"{_CONVOLUTION}weight_v": f"{_POSITIONS}original1"}
_BLOCK = re.compile(r"encoder\.layers\.(\d+)\.")
# The heads with which a distilled student predicts its teacher's layers are no part of its own layers.
_LEFT_OUT = re.compile(r"output_layer\.\d+\.(weight|bias)")
MOST = 20  # names in one message

State = dict[str, torch.Tensor]


@opening
def load(path: Path | str) -> tuple[MelHuBERT, Config]:
    """The network of an original checkpoint, or of a folder that ``save`` wrote, in float32 and evaluation mode.

    Takes dense, head-, row- and weight-pruned checkpoints, weight norm in both spellings, and students
    of a distillation (without their prediction heads); ``final_proj`` may be missing.
    Raises ModelError for anything else, and for names that are missing or too many.
    """
    path = Path(path)
    state, settings = (_read_folder if path.is_dir() else _read_original)(path)
    config = of_weights(state, settings, str(path))
    counted = {
        "encoder_layers": "blocks",
        "encoder_embed_dim": "numbers a frame between blocks",
        "feat_emb_dim": "numbers a frame in its input",
        "conv_pos": "positions in its convolution",
        "conv_pos_groups": "groups in its convolution",
    }
    for name, what in counted.items():
        if name in settings and settings[name] != getattr(config, name):
            there = f" (there are blocks {', '.join(map(str, _blocks(state)))})" if name == "encoder_layers" else ""
            raise ModelError(
                f"{path} says {name} = {shown(settings[name])}, but its weights have {getattr(config, name)} {what}: "
                f"weights are missing or too many{there}; copy it again"
            )
    with shapes_only():
        model = MelHuBERT(config)
    return filled(model, state, path), config


def save(model: MelHuBERT, config: Config, folder: Path | str) -> None:
    """Write ``config.json`` and ``model.safetensors``, which ``load`` reads; sizes as the weights have them now."""
    write_state(model.state_dict(), config, Path(folder))


def write_state(state: State, config: Config, folder: Path) -> None:
    """What ``save`` does, of a state dict."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    config = of_weights(state, asdict(config), str(folder))
    with whole_file(folder / WEIGHTS) as temporary:
        safetensors.torch.save_file(state, temporary, metadata={"format": "pt"})
    write_json(folder / "config.json", {"model_type": MODEL_TYPE, **asdict(config)})


def is_folder(path: Path | str) -> bool:
    """Whether a folder's config.json says that it is a MelHuBERT of ``save``."""
    return described(Path(path)).get("model_type") == MODEL_TYPE


def _read_folder(folder: Path) -> tuple[State, dict]:
    refuse_adapter(str(folder), None)
    settings = described(folder)
    if settings.pop("model_type", None) != MODEL_TYPE:
        raise ModelError(
            f"{folder} has no config.json with the model type '{MODEL_TYPE}': give the folder that layertool wrote, "
            f"or the file of an original checkpoint"
        )
    return read_safetensors(folder / WEIGHTS), settings


def _read_original(path: Path) -> tuple[State, dict]:
    checkpoint = read_checkpoint(path)
    state, upstream = checkpoint.get("model"), checkpoint.get("Upstream_Config")
    refuse_other_tools(path, checkpoint, "melhubert")
    if not isinstance(state, Mapping) or not isinstance(upstream, Mapping):
        lacking = [name for name in ("model", "Upstream_Config") if not isinstance(checkpoint.get(name), Mapping)]
        raise ModelError(
            f"{path} is no checkpoint of MelHuBERT: it has no {' and no '.join(lacking)}, only "
            f"{listed(sorted(map(str, checkpoint)), MOST)}; give a file that its training wrote"
        )
    settings = next((upstream[name] for name in MELHUBERTS if isinstance(upstream.get(name), Mapping)), None)
    if settings is None:
        raise ModelError(
            f"{path} is of an unknown architecture: its Upstream_Config has the keys "
            f"{listed(sorted(map(str, upstream)), MOST)}, and not one of "
            f"{', '.join(MELHUBERTS)}; give a checkpoint of MelHuBERT"
        )
    return _plain_state(state, path), {**settings, "step": whole_step(checkpoint.get("Step"))}


def _plain_state(state: Mapping[str, torch.Tensor], path: Path) -> State:
    """Original names and values as the network has them: masks applied, weight norm respelled, float32."""
    check_tensors(state, path, finite=False)
    kept = {name: value for name, value in state.items() if not _LEFT_OUT.fullmatch(name)}
    out: State = {}
    for name, value in kept.items():
        stem, _, ending = name.rpartition("_")
        if ending == "mask" and f"{stem}_orig" in kept:
            continue
        if ending == "orig":
            mask = kept.get(f"{stem}_mask")
            if mask is None or mask.shape != value.shape or stem in kept:
                raise ModelError(
                    f"{path} has weights to be masked, {name}, without a {stem}_mask of their shape, or beside {stem}: "
                    "save it again"
                )
            # chosen, not multiplied: what a mask removes is 0 whatever stood there
            name, value = stem, torch.where(mask != 0, value, torch.zeros_like(value))
        name = _SPELLINGS.get(name, name)
        if name in out:
            raise ModelError(f"{path} has {name} in two spellings: leave one")
        out[name] = value.float()
    check_tensors(out, path)
    return out


def _blocks(state: Iterable[str]) -> list[int]:
    return sorted({int(found[1]) for name in state if (found := _BLOCK.match(name))})


def of_weights(state: State, settings: Mapping, where: str) -> Config:
    """The settings, with all sizes from the weights."""
    known = {field.name: field for field in fields(Config)}
    given: dict[str, Any] = {name: value for name, value in settings.items() if name in known}
    for name, value in given.items():
        default = known[name].default
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            given[name] = float(value)
        elif default is not None and not isinstance(value, type(default)):
            raise ModelError(f"{where} says {name} = {shown(value)}, which is no {type(default).__name__}: correct it")
    config = replace(Config(**given), heads=None, ffn_rows=None)
    (width,) = _shape(state, "encoder.layer_norm.weight", 1, where)
    n_blocks = len(_blocks(state))
    if n_blocks == 0 or config.encoder_attention_heads < 1 or width % config.encoder_attention_heads:
        raise ModelError(
            f"{where} cannot be a MelHuBERT: {n_blocks} blocks of width {width} with {config.encoder_attention_heads} "
            f"heads"
        )
    head_dim = width // config.encoder_attention_heads
    sizes: dict[str, Any] = {"encoder_layers": n_blocks, "encoder_embed_dim": width}
    if "pre_extract_proj.weight" in state:
        sizes["feat_emb_dim"] = _shape(state, "pre_extract_proj.weight", 2, where)[1]
    if f"{_POSITIONS}original1" in state:
        _, per_group, sizes["conv_pos"] = _shape(state, f"{_POSITIONS}original1", 3, where)
        sizes["conv_pos_groups"] = width // max(per_group, 1)
    sizes["num_cluster"] = _shape(state, "final_proj.weight", 2, where)[0] if "final_proj.weight" in state else 0
    heads, rows = [], []
    for k in _blocks(state):
        of_queries = _sized(state, f"encoder.layers.{k}.self_attn.q_proj.weight", n_blocks * head_dim)
        if of_queries % head_dim:
            raise ModelError(
                f"{where} has {of_queries} rows of queries in block {k + 1}, which are no whole heads of {head_dim}: "
                f"its encoder_attention_heads is not that of the network before pruning"
            )
        heads.append(of_queries // head_dim)
        rows.append(_sized(state, f"encoder.layers.{k}.fc1.weight", config.encoder_ffn_embed_dim))
    if set(heads) != {config.encoder_attention_heads}:
        sizes["heads"] = tuple(heads)
    if len(set(rows)) == 1:
        sizes["encoder_ffn_embed_dim"] = rows[0]
    else:
        sizes["ffn_rows"] = tuple(rows)
    return replace(config, **sizes)


def _sized(state: State, name: str, otherwise: int) -> int:
    """Rows of a matrix; what is not there is told later, with all that is not."""
    return state[name].shape[0] if name in state and state[name].ndim else otherwise


def _shape(state: State, name: str, n_dimensions: int, where: str) -> tuple[int, ...]:
    if name not in state or state[name].ndim != n_dimensions:
        what = f"has the shape {tuple(state[name].shape)}" if name in state else "is missing"
        raise ModelError(
            f"{where} is no MelHuBERT: {name} {what}; its weights are {listed(sorted(map(str, state)), MOST)}"
        )
    return tuple(state[name].shape)
