"""Reading fairseq's speech checkpoints without fairseq, as the transformers model with the same outputs; or with it.

wav2vec 2.0 (also XLSR, XLS-R, LV-60), HuBERT and data2vec-audio, pre-trained or fine-tuned with CTC, with settings in
the old style (``args``, a namespace) or the new (``cfg``). No code of the file is run, and every tensor is accounted
for.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from layertool.errors import MissingExtraError, ModelError
from layertool.models.computing import shapes_only
from layertool.models.fairseq_names import (
    TRAINING_ONLY,
    Settings,
    transformers_names,
    transformers_options,
)
from layertool.models.foreign import check_tensors, filled, read_checkpoint, refuse_other_tools, whole_step
from layertool.models.strangers import BROKEN, check_counts, configuration, first_line, listed, opening

EPSILON = 1e-5  # added to the variance of a waveform that is normalised (torch's layer_norm)
# fairseq's names of architectures -> transformers' model types
ARCHITECTURES = {"wav2vec2": "wav2vec2", "hubert": "hubert", "data2vec_audio": "data2vec-audio"}
# fine-tuned ones have the settings of the network that they were made from in w2v_args
FINETUNED_ARCHITECTURES = ("wav2vec_ctc", "hubert_ctc")
MOST = 8  # names in a message


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a checkpoint says of itself besides the network.

    ``family``: transformers' model type. ``normalise``: whether it was trained on waveforms of zero mean and unit
    variance. ``step``: updates of its training, None where the file does not say. ``training_only``: tensors that are
    in the file and in no layer.
    """

    family: str
    normalise: bool
    step: int | None
    is_finetuned: bool
    training_only: tuple[str, ...]


def load(path: Path | str) -> Any:
    """The transformers model (Wav2Vec2Model, HubertModel or Data2VecAudioModel), in evaluation mode and float32.

    Raises ModelError for what is no such checkpoint, asks for code to run, or has other tensors than its settings say.
    """
    return read(path)[0]


@opening
def read(path: Path | str) -> tuple[Any, Facts]:
    """The model as ``load`` gives it, and what its file says of it."""
    facts, settings, tensors = take_apart(path)
    try:
        options = transformers_options(facts.family, settings)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return _build(path, facts.family, options, tensors), facts


@opening
def take_apart(path: Path | str) -> tuple[Facts, Settings, dict[str, torch.Tensor]]:
    """A checkpoint's facts, the settings of its network, and the tensors of it by fairseq's names.

    Raises ModelError as ``load`` does.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        raise ModelError(f"{path} is a safetensors file, fairseq writes none: for a Hugging Face model give its folder")
    checkpoint = read_checkpoint(path)
    refuse_other_tools(path, checkpoint, "fairseq")
    # where both are there, fairseq takes args
    said = next((said for key in ("args", "cfg") if isinstance(said := checkpoint.get(key), Mapping) and said), None)
    if said is None:
        raise ModelError(
            f"{path} is no fairseq checkpoint: it has neither 'cfg' nor 'args', where fairseq keeps the architecture "
            f"(its keys are {listed(sorted(map(str, checkpoint)), MOST)})"
        )
    outer = inner = Settings.of(said)
    stored = checkpoint.get("model")
    if not isinstance(stored, Mapping):
        raise ModelError(
            f"{path} has no tensors under 'model' (it has: {listed(sorted(map(str, checkpoint)), MOST)}): give "
            f"fairseq's own file"
        )
    is_finetuned = outer.architecture in FINETUNED_ARCHITECTURES
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
    tensors, training_only = _sorted_out(path, stored, "w2v_encoder.w2v_model." if is_finetuned else "")
    check_tensors(tensors, path)
    # fairseq asks the task, then the model; it takes a fine-tuned model only where both trainings agree
    places = [(settings, place) for settings in (outer, inner) for place in (settings.task, settings.model)]
    asked = (
        settings.flag(place, "normalize")
        for settings, place in places
        if settings.value(place, "normalize", None) is not None
    )
    try:
        normalise = next(asked, False)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    facts = Facts(family, normalise, _step(checkpoint), is_finetuned, training_only)
    return facts, inner, tensors


def _sorted_out(path: Path, stored: Mapping, prefix: str) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Tensors of the network without ``prefix``, and the names of those that only training uses."""
    network, training_only = {}, []
    for name, value in stored.items():
        inside = str(name).removeprefix(prefix)
        if TRAINING_ONLY.fullmatch(inside):
            training_only.append(str(name))
        elif inside in network:
            raise ModelError(f"{path} holds '{inside}' twice, with and without '{prefix}': is the file damaged?")
        else:
            network[inside] = value
    if pruned := [name for name in network if name.endswith(("_orig", "_mask"))]:
        raise ModelError(
            f"{path} holds pruned weights in two parts ({pruned[0]}, ...): make them one with "
            f"torch.nn.utils.prune.remove, and save it again"
        )
    return network, tuple(sorted(training_only))


def _step(checkpoint: Mapping) -> int | None:
    history = checkpoint.get("optimizer_history")
    places = [history[-1]] if isinstance(history, (list, tuple)) and history else []
    for place in (*places, checkpoint.get("extra_state")):
        if isinstance(place, Mapping) and (step := whole_step(place.get("num_updates"))) is not None:
            return step
    optimizer = checkpoint.get("last_optimizer_state")
    states = optimizer.get("state") if isinstance(optimizer, Mapping) else None
    of_parameters = states.values() if isinstance(states, Mapping) else ()
    steps = [whole_step(one.get("step")) for one in of_parameters if isinstance(one, Mapping)]
    return max((step for step in steps if step is not None), default=None)


def _build(path: Path | str, family: str, options: dict[str, Any], stored: dict[str, torch.Tensor]) -> Any:
    """The transformers model of these options with a checkpoint's tensors."""
    from transformers import AutoModel

    names = transformers_names(list(stored), options)
    tensors = {names.get(name, name): value for name, value in stored.items()}
    if len(tensors) < len(stored):
        twice = sorted(name for name, theirs in names.items() if list(names.values()).count(theirs) > 1)
        raise ModelError(f"{path} has one weight in two spellings ({listed(twice, MOST)}): take one of them out")
    width = options["hidden_size"]
    projection = "feature_projection.projection"
    if f"{projection}.weight" not in tensors and options["conv_dim"][-1] == width and family != "data2vec-audio":
        # fairseq has none where both sides are equally wide; here it is the identity
        tensors |= {f"{projection}.weight": torch.eye(width), f"{projection}.bias": torch.zeros(width)}
    if "masked_spec_embed" in tensors:  # transformers has the parameter only where something is masked
        options["mask_time_prob"] = options.get("mask_time_prob") or 0.05
    else:
        options["mask_time_prob"] = options["mask_feature_prob"] = 0.0
    try:
        config = configuration(family, options)
        check_counts(str(path), config, len(tensors))
        # shapes first: no memory is taken for sizes that the tensors do not have
        with shapes_only():
            network = AutoModel.from_config(config)
    except BROKEN as error:
        raise ModelError(f"{path}: its settings make no network ({first_line(error)}): is the file damaged?") from error
    return filled(
        network,
        tensors,
        path,
        "none is left aside, and networks with pruned heads or rows are not read; use fairseq-native:FILE, or a whole "
        "checkpoint",
    )


def version() -> str:
    """Of fairseq: a part of what identifies its networks."""
    import fairseq

    return str(fairseq.__version__)


def read_native(path: Path | str) -> tuple[Any, Facts]:
    """As ``read``, but of fairseq's own modules, for what transformers has no network for.

    Raises ModelError for a file that cannot be read, MissingExtraError where fairseq is not installed.
    """
    facts, settings, tensors = take_apart(path)
    try:
        shape = settings.convolutions
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    try:
        from fairseq.examples.data2vec.models.data2vec_audio import Data2VecAudioConfig, Data2VecAudioModel
        from fairseq.models.hubert import HubertConfig, HubertModel
        from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2Model
    except ImportError as error:
        raise MissingExtraError(
            "fairseq-fixed", "fairseq", "fairseq-native:FILE, which docs/checkpoints.md says how to build,"
        ) from error
    logging.getLogger("fairseq").setLevel(logging.WARNING)  # it tells every setting of every network
    without_labels = (SimpleNamespace(sample_rate=16_000), [None])  # of the pre-training of HuBERT
    config, kind, more = {
        "wav2vec2": (Wav2Vec2Config(), Wav2Vec2Model, ()),
        "hubert": (HubertConfig(), HubertModel, without_labels),
        "data2vec-audio": (Data2VecAudioConfig(), Data2VecAudioModel, ()),
    }[facts.family]
    for one in dataclasses.fields(config):
        setattr(config, one.name, settings.value(settings.model, one.name, getattr(config, one.name)))
    config.conv_feature_layers = repr(shape)  # fairseq evaluates it
    if facts.family == "hubert":
        config.label_rate = -1.0
    try:
        network = kind(config, *more)
        network.remove_pretraining_modules()
        network.load_state_dict(_spelled(tensors, network), strict=True)
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise ModelError(
            f"fairseq makes no network of it ({' '.join(str(error).split())[:400]}): is the file damaged?"
        ) from error
    return network.float().eval(), facts


def _spelled(tensors: dict[str, torch.Tensor], network: Any) -> dict[str, torch.Tensor]:
    """Tensors with weight norm spelled as this torch and fairseq spell it."""
    spellings = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}
    if any(name.endswith(".weight_g") for name in network.state_dict()):
        spellings = {new: old for old, new in spellings.items()}
    spelled = {}
    for name, value in tensors.items():
        ending = next((ending for ending in spellings if name.endswith(ending)), "")
        spelled[name.removesuffix(ending) + spellings.get(ending, "")] = value
    return spelled
