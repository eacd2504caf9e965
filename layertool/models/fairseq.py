"""Reading fairseq's speech checkpoints without fairseq, as the transformers model with the same outputs.

wav2vec 2.0 (also XLSR, XLS-R, LV-60), HuBERT and data2vec-audio, pre-trained or fine-tuned with CTC, with settings in
the old style (``args``, a namespace) or the new (``cfg``). No code of the file is run, and every tensor is accounted
for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from layertool.errors import ModelError
from layertool.models.computing import shapes_only
from layertool.models.fairseq_names import (
    FINETUNED,
    TRAINING_ONLY,
    Settings,
    transformers_names,
    transformers_options,
)
from layertool.models.foreign import check_tensors, read_checkpoint, refuse_other_tools, whole_step
from layertool.models.strangers import BROKEN, check_counts, first_line, listed, opening

EPSILON = 1e-5  # added to the variance of a waveform that is normalised (torch's layer_norm)
# fairseq's names of architectures -> transformers' model types
ARCHITECTURES = {"wav2vec2": "wav2vec2", "hubert": "hubert", "data2vec_audio": "data2vec-audio"}
# fine-tuned ones have the settings of the network that they were made from in w2v_args
FINETUNED_ARCHITECTURES = ("wav2vec_ctc", "hubert_ctc")
_MODELS = {
    "wav2vec2": ("Wav2Vec2Config", "Wav2Vec2Model"),
    "hubert": ("HubertConfig", "HubertModel"),
    "data2vec-audio": ("Data2VecAudioConfig", "Data2VecAudioModel"),
}
MOST = 8  # names in a message


@dataclass(frozen=True)
class Facts:
    """What a checkpoint says of itself besides the network.

    ``family``: transformers' model type. ``normalise``: whether it was trained on waveforms of zero mean and unit
    variance. ``step``: updates of its training, None where the file does not say. ``sizes``: the network's settings by
    the names of transformers. ``training_only``: tensors that are in the file and in no layer.
    ``has_identity_projection``: fairseq has no projection where both sides are equally wide; here it is the identity.
    """

    family: str
    normalise: bool
    step: int | None
    is_finetuned: bool
    sizes: dict[str, Any] = field(default_factory=dict)
    training_only: tuple[str, ...] = ()
    has_identity_projection: bool = False


@dataclass(frozen=True)
class Parts:
    """A fairseq checkpoint taken apart: tensors of the network by fairseq's names, and the settings that made it."""

    family: str
    settings: Settings
    tensors: dict[str, torch.Tensor]
    facts: Facts


def load(path: Path | str) -> Any:
    """The transformers model (Wav2Vec2Model, HubertModel or Data2VecAudioModel), in evaluation mode and float32.

    Raises ModelError for what is no such checkpoint, asks for code to run, or has other tensors than its settings say.
    """
    return read(path)[0]


@opening
def read(path: Path | str) -> tuple[Any, Facts]:
    """The model as ``load`` gives it, and what its file says of it."""
    parts = take_apart(path)
    try:
        options = transformers_options(parts.family, parts.settings)
        network, has_identity = _build(parts, options)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return network, replace(parts.facts, sizes=options, has_identity_projection=has_identity)


@opening
def take_apart(path: Path | str) -> Parts:
    """A checkpoint's network, settings and facts by fairseq's names. Raises ModelError as ``load`` does."""
    path = Path(path)
    if path.suffix == ".safetensors":
        raise ModelError(f"{path} is a safetensors file, fairseq writes none: for a Hugging Face model give its folder")
    checkpoint = read_checkpoint(path)
    refuse_other_tools(path, checkpoint, "fairseq")
    outer = _settings(path, checkpoint)
    stored = checkpoint.get("model")
    if not isinstance(stored, Mapping):
        raise ModelError(
            f"{path} has no tensors under 'model' (it has: {listed(sorted(map(str, checkpoint)), MOST)}): give "
            f"fairseq's own file"
        )
    is_finetuned = outer.architecture in FINETUNED_ARCHITECTURES
    inner = outer
    if is_finetuned:
        pretrained = outer.model.get("w2v_args")
        if not isinstance(pretrained, Mapping):
            raise ModelError(
                f"{path} was fine-tuned and does not hold the settings of its pre-trained network (w2v_args): "
                "load it with fairseq once and save it again, or take the pre-trained checkpoint"
            )
        inner = Settings.of(pretrained)
    family = ARCHITECTURES.get(inner.architecture)
    if family is None:
        raise ModelError(
            f"{path} holds the architecture '{inner.architecture}', which is not read "
            f"({', '.join([*ARCHITECTURES, *FINETUNED_ARCHITECTURES])} "
            f"are); its keys are {listed(sorted(map(str, checkpoint)), MOST)}, its tensors begin with "
            f"{listed(sorted({name.split('.')[0] for name in stored}), MOST)}"
        )
    tensors, training_only = _sorted_out(path, stored, FINETUNED if is_finetuned else "")
    check_tensors(tensors, path)
    try:
        normalise = _normalise(outer, inner)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    facts = Facts(family, normalise, _step(checkpoint), is_finetuned, {}, training_only)
    return Parts(family, inner, tensors, facts)


def _settings(path: Path, checkpoint: Mapping) -> Settings:
    for key in ("args", "cfg"):  # where both are there, fairseq takes args
        if isinstance(checkpoint.get(key), Mapping) and checkpoint[key]:
            return Settings.of(checkpoint[key])
    raise ModelError(
        f"{path} is no fairseq checkpoint: it has neither 'cfg' nor 'args', where fairseq keeps the architecture "
        f"(its keys are {listed(sorted(map(str, checkpoint)), MOST)})"
    )


def _sorted_out(path: Path, stored: Mapping, prefix: str) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Tensors of the network without ``prefix``, and the names of those that only training uses."""
    network, training_only = {}, []
    for name, value in stored.items():
        inside = str(name).removeprefix(prefix)
        if TRAINING_ONLY.fullmatch(inside):
            training_only.append(str(name))
        elif not isinstance(value, torch.Tensor):
            raise ModelError(
                f"{path} holds a {type(value).__name__} as '{name}' among its tensors: is the file damaged?"
            )
        elif inside in network:
            raise ModelError(f"{path} holds '{inside}' twice, with and without '{prefix}': is the file damaged?")
        else:
            network[inside] = value
    pruned = [name for name in network if name.endswith(("_orig", "_mask"))]
    if pruned:
        raise ModelError(
            f"{path} holds pruned weights in two parts ({pruned[0]}, ...): make them one with "
            f"torch.nn.utils.prune.remove, and save it again"
        )
    return network, tuple(sorted(training_only))


def _normalise(outer: Settings, inner: Settings) -> bool:
    """fairseq asks the task, then the model; it takes a fine-tuned model only where both trainings agree."""
    for settings in (outer, inner):
        for place in (settings.task, settings.model):
            if settings.value(place, "normalize", None) is not None:
                return settings.flag(place, "normalize")
    return False


def _step(checkpoint: Mapping) -> int | None:
    history, extra = checkpoint.get("optimizer_history"), checkpoint.get("extra_state")
    places = [history[-1]] if isinstance(history, (list, tuple)) and history else []
    for place in (*places, extra):
        found = whole_step(place.get("num_updates")) if isinstance(place, Mapping) else None
        if found is not None:
            return found
    optimizer = checkpoint.get("last_optimizer_state")
    states = optimizer.get("state") if isinstance(optimizer, Mapping) else None
    steps = (
        [one.get("step") for one in states.values() if isinstance(one, Mapping)] if isinstance(states, Mapping) else []
    )
    steps = [step.item() if isinstance(step, torch.Tensor) and step.numel() == 1 else step for step in steps]
    return max((step for step in map(whole_step, steps) if step is not None), default=None)


def _build(parts: Parts, options: dict[str, Any]) -> tuple[Any, bool]:
    """The transformers model of these settings with the checkpoint's tensors, and whether its projection is the
    identity.
    """
    import transformers

    n_blocks = len({name.split(".")[2] for name in parts.tensors if name.startswith("encoder.layers.")})
    if n_blocks != options["num_hidden_layers"]:
        raise ModelError(
            f"its settings say {options['num_hidden_layers']} blocks (encoder_layers), its tensors are of {n_blocks}: "
            f"is the file damaged?"
        )
    names = transformers_names(list(parts.tensors), options)
    tensors = {theirs: parts.tensors[name] for name, theirs in names.items()}
    if len(tensors) < len(names):
        twice = sorted(name for name, theirs in names.items() if list(names.values()).count(theirs) > 1)
        raise ModelError(
            f"it has one weight in two spellings ({listed(sorted(map(str, twice)), MOST)}): take one of them out"
        )
    has_identity = "feature_projection.projection.weight" not in tensors and (
        options["conv_dim"][-1] == options["hidden_size"] and parts.family != "data2vec-audio"
    )
    if has_identity:
        tensors["feature_projection.projection.weight"] = torch.eye(options["hidden_size"])
        tensors["feature_projection.projection.bias"] = torch.zeros(options["hidden_size"])
    if "masked_spec_embed" in tensors:  # transformers has the parameter only where something is masked
        options["mask_time_prob"] = options.get("mask_time_prob") or 0.05
    else:
        options["mask_time_prob"] = options["mask_feature_prob"] = 0.0
    config_name, model_name = _MODELS[parts.family]
    try:
        config = getattr(transformers, config_name)(**options)
        check_counts("it", config, len(tensors))
        # shapes first: no memory is taken for sizes that the tensors do not have
        with shapes_only():
            network = getattr(transformers, model_name)(config)
    except BROKEN as error:
        raise ModelError(f"its settings make no network ({first_line(error)}): is the file damaged?") from error
    expected = network.state_dict()
    unexpected = sorted(set(parts.tensors) - set(names)) + sorted(
        name for name, theirs in names.items() if theirs not in expected
    )
    missing = sorted(set(expected) - set(tensors))
    if unexpected or missing:
        what = (
            [f"has tensors that its settings do not speak of ({listed(sorted(map(str, unexpected)), MOST)})"]
            if unexpected
            else []
        )
        what += (
            [
                f"lacks tensors of its own architecture ({listed(sorted(map(str, missing)), MOST)}, by transformers' "
                f"names)"
            ]
            if missing
            else []
        )
        raise ModelError(f"it {' and '.join(what)}: none is left aside; use fairseq-native:FILE, or a whole checkpoint")
    for name, theirs in names.items():
        if parts.tensors[name].shape != expected[theirs].shape:
            raise ModelError(
                f"'{name}' has the shape {tuple(parts.tensors[name].shape)}, its settings make it "
                f"{tuple(expected[theirs].shape)}; networks with pruned heads or rows are not read"
            )
    state = {
        name: value.float().contiguous() if value.is_floating_point() else value for name, value in tensors.items()
    }
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval(), has_identity
