"""What fairseq's settings and tensors of speech models are called in transformers.

The network is the same in both; fairseq says it in one flat list of settings (``Wav2Vec2Config`` and its heirs), and
counts the parts of a sequence where transformers names them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from layertool.errors import ModelError
from layertool.models.strangers import shown

_MOST_CONVOLUTIONS = 64
# "[(512, 3, 2)] * 4", "2 * [(512,2,2)]", "[(512,10,5),(512,3,2)]"; spaces are gone before
_TERM = re.compile(r"(?:(\d{1,2})\*)?\[((?:\(\d{1,6},\d{1,6},\d{1,6},?\),?)+)\](?:\*(\d{1,2}))?")
_TRIPLE = re.compile(r"\((\d+),(\d+),(\d+),?\)")

# Names of fairseq's tensors -> names of transformers'. Post-norm and pre-norm blocks have the same.
_RULES = (
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.(weight|bias)", r"feature_extractor.conv_layers.\1.conv.\2"),
    (r"feature_extractor\.conv_layers\.(0)\.2\.(weight|bias)", r"feature_extractor.conv_layers.\1.layer_norm.\2"),
    (
        r"feature_extractor\.conv_layers\.(\d+)\.2\.1\.(weight|bias)",
        r"feature_extractor.conv_layers.\1.layer_norm.\2",
    ),
    (r"layer_norm\.(weight|bias)", r"feature_projection.layer_norm.\1"),
    (r"post_extract_proj\.(weight|bias)", r"feature_projection.projection.\1"),
    (r"mask_emb", r"masked_spec_embed"),
    (r"encoder\.layer_norm\.(weight|bias)", r"encoder.layer_norm.\1"),
    (
        r"encoder\.layers\.(\d+)\.self_attn\.([qkv]|out)_proj\.(weight|bias)",
        r"encoder.layers.\1.attention.\2_proj.\3",
    ),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.(weight|bias)", r"encoder.layers.\1.layer_norm.\2"),
    (r"encoder\.layers\.(\d+)\.fc1\.(weight|bias)", r"encoder.layers.\1.feed_forward.intermediate_dense.\2"),
    (r"encoder\.layers\.(\d+)\.fc2\.(weight|bias)", r"encoder.layers.\1.feed_forward.output_dense.\2"),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.(weight|bias)", r"encoder.layers.\1.final_layer_norm.\2"),
)
# The positional convolution: one with weight norm (in either spelling of torch), one after a batch norm, or several.
_POSITIONS = {
    "weight norm": (
        (r"encoder\.pos_conv\.0\.bias", r"encoder.pos_conv_embed.conv.bias"),
        (
            r"encoder\.pos_conv\.0\.(?:weight_g|parametrizations\.weight\.original0)",
            r"encoder.pos_conv_embed.conv.parametrizations.weight.original0",
        ),
        (
            r"encoder\.pos_conv\.0\.(?:weight_v|parametrizations\.weight\.original1)",
            r"encoder.pos_conv_embed.conv.parametrizations.weight.original1",
        ),
    ),
    "batch norm": (
        (
            r"encoder\.pos_conv\.0\.(weight|bias|running_mean|running_var|num_batches_tracked)",
            r"encoder.pos_conv_embed.batch_norm.\1",
        ),
        (r"encoder\.pos_conv\.1\.(weight|bias)", r"encoder.pos_conv_embed.conv.\1"),
    ),
    "several": ((r"encoder\.pos_conv\.(\d+)\.0\.(weight|bias)", r"encoder.pos_conv_embed.layers.\1.conv.\2"),),
}
# Tensors that only training uses, and the output layer of a fine-tuned model: no layer is computed from them.
TRAINING_ONLY = re.compile(
    r"(quantizer|project_q|final_proj|target_glu)\..+|label_embs_concat|_ema(\..+)?|w2v_encoder\.proj\.(weight|bias)"
)
_ACTIVATIONS = {"gelu": "gelu", "gelu_fast": "gelu_new", "gelu_accurate": "gelu_new", "relu": "relu", "tanh": "tanh"}
# What only training does, kept for who goes on training.
_SHARES = {
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "encoder_layerdrop": "layerdrop",
    "dropout_input": "feat_proj_dropout",
    "mask_prob": "mask_time_prob",
    "mask_channel_prob": "mask_feature_prob",
}


def convolutions(text: Any) -> list[tuple[int, int, int]]:
    """(width, kernel, stride) of each convolution, from fairseq's ``conv_feature_layers``, which it gives to ``eval``.

    Here only sums of lists of three whole numbers, repeated or not, are read. Raises ModelError for anything else.
    """
    layers: list[tuple[int, int, int]] = []
    for term in re.sub(r"\s+", "", text)[:2000].split("+") if isinstance(text, str) else [""]:
        found = _TERM.fullmatch(term)
        if found is None:
            raise ModelError(
                f"conv_feature_layers is {shown(text)}, which is no sum of lists such as [(512, 10, 5)] + [(512, 3, "
                f"2)] * 4: layertool runs no code of a checkpoint"
            )
        triples = [(int(width), int(kernel), int(stride)) for width, kernel, stride in _TRIPLE.findall(found[2])]
        layers += triples * (int(found[1] or 1) * int(found[3] or 1))
        if len(layers) > _MOST_CONVOLUTIONS:
            raise ModelError(
                f"conv_feature_layers has more than {_MOST_CONVOLUTIONS} convolutions: is the file damaged?"
            )
    if not layers or min(min(layer) for layer in layers) < 1:
        raise ModelError(f"conv_feature_layers is {shown(text)}: widths, kernels and strides are at least 1")
    return layers


@dataclass(frozen=True)
class Settings:
    """The settings of one network: those of its model, those of its task, and all of them for ``${a.b}``."""

    model: Mapping
    task: Mapping
    whole: Mapping

    @classmethod
    def of(cls, whole: Mapping) -> Settings:
        """New style: {"model": ..., "task": ...}; old style: one flat namespace."""
        if isinstance(whole.get("model"), Mapping):
            task = whole.get("task")
            return cls(whole["model"], task if isinstance(task, Mapping) else {}, whole)
        return cls(whole, whole, whole)

    @property
    def architecture(self) -> str:
        """What fairseq registered the model as, "" where it is not said."""
        for place, key in ((self.model, "_name"), (self.model, "arch"), (self.whole, "arch")):
            if isinstance(place.get(key), str):
                return place[key]
        return ""

    def value(self, place: Mapping, key: str, default: Any) -> Any:
        """A setting; fairseq's default where it is not there, is None, or is omegaconf's ``???``."""
        found = place.get(key)
        for _ in range(4):  # an interpolation may lead to another
            if not (isinstance(found, str) and (name := re.fullmatch(r"\$\{([\w.]+)\}", found))):
                break
            found = self.whole
            for part in name[1].split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
        return default if found is None or found == "???" else found

    def whole_number(self, key: str, default: int) -> int:
        """A setting of the model that is a whole number of at least 1."""
        found = self.value(self.model, key, default)
        if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= 1_000_000:
            raise ModelError(f"{key} is {shown(found)} in the checkpoint's settings: it must be a whole number from 1")
        return found

    @property
    def convolutions(self) -> list[tuple[int, int, int]]:
        """(width, kernel, stride) of each convolution."""
        if self.whole_number("crop_seq_to_multiple", 1) != 1:
            raise ModelError(
                "crop_seq_to_multiple is above 1, so that frames are dropped at the end, which is not read: set it to "
                "1 in a copy of the file"
            )
        usual = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2"
        return convolutions(self.value(self.model, "conv_feature_layers", usual))

    def flag(self, place: Mapping, key: str) -> bool:
        """A setting that is true or false; fairseq's defaults of those asked here are all false."""
        found = self.value(place, key, False)
        if not isinstance(found, (bool, int)):
            raise ModelError(f"{key} is {shown(found)} in the checkpoint's settings: it must be true or false")
        return bool(found)

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """A setting of the model that is one of some names; the first is fairseq's default."""
        found = self.value(self.model, key, choices[0])
        if found not in choices:
            raise ModelError(
                f"{key} is {shown(found)}, for which transformers has no network (it has: "
                f"{', '.join(filter(None, choices))}): use fairseq-native:FILE"
            )
        return found


def transformers_options(family: str, settings: Settings) -> dict[str, Any]:
    """Options of the transformers configuration for a family (its model type).

    Raises ModelError for settings that transformers has no network for.
    """
    settings.choice("layer_type", ("transformer",))
    settings.choice("attn_type", ("",))
    if settings.flag(settings.model, "quantize_input"):
        raise ModelError("quantize_input is on, for which transformers has no network: use fairseq-native:FILE")
    layers = settings.convolutions
    width = settings.whole_number("encoder_embed_dim", 768)
    heads = settings.whole_number("encoder_attention_heads", 12)
    if width % heads:
        raise ModelError(f"encoder_embed_dim is {width}, which {heads} heads do not share evenly: is the file damaged?")
    extractor = settings.choice("extractor_mode", ("default", "layer_norm"))
    is_pre_norm = settings.flag(settings.model, "layer_norm_first")
    options: dict[str, Any] = {
        "conv_dim": tuple(layer[0] for layer in layers),
        "conv_kernel": tuple(layer[1] for layer in layers),
        "conv_stride": tuple(layer[2] for layer in layers),
        "conv_bias": settings.flag(settings.model, "conv_bias"),
        "hidden_size": width,
        "num_hidden_layers": settings.whole_number("encoder_layers", 12),
        "num_attention_heads": heads,
        "intermediate_size": settings.whole_number("encoder_ffn_embed_dim", 3072),
        "hidden_act": _ACTIVATIONS[settings.choice("activation_fn", tuple(_ACTIVATIONS))],
        "num_conv_pos_embedding_groups": settings.whole_number("conv_pos_groups", 16),
        **{name: share for key, name in _SHARES.items() if (share := _share(settings, key)) is not None},
    }
    kernel, depth = settings.whole_number("conv_pos", 128), settings.whole_number("pos_conv_depth", 1)
    if family == "data2vec-audio":
        if depth == 1 or is_pre_norm or extractor != "layer_norm":
            raise ModelError(
                "transformers' data2vec-audio has several positional convolutions, the norm after each block and "
                f"layer norm in every convolution; here are pos_conv_depth {depth}, layer_norm_first {is_pre_norm} and "
                f"extractor_mode {extractor}: use fairseq-native:FILE"
            )
        return {**options, "num_conv_pos_embeddings": depth, "conv_pos_kernel_size": max(3, kernel // depth)}
    has_batch_norm = settings.flag(settings.model, "conv_pos_batch_norm")
    if depth > 1 or (has_batch_norm and family != "hubert"):
        what = f"pos_conv_depth is {depth}" if depth > 1 else "conv_pos_batch_norm is on"
        raise ModelError(f"{what}, which transformers has not for {family}: use fairseq-native:FILE")
    options |= {
        "feat_extract_norm": "layer" if extractor == "layer_norm" else "group",
        "do_stable_layer_norm": is_pre_norm,
        "num_conv_pos_embeddings": kernel,
    }
    return {**options, "conv_pos_batch_norm": has_batch_norm} if family == "hubert" else options


def _share(settings: Settings, key: str) -> float | None:
    """A probability, None where it is none: no layer depends on it."""
    found = settings.value(settings.model, key, 0.0)
    is_share = isinstance(found, (int, float)) and not isinstance(found, bool) and 0 <= found <= 1
    return float(found) if is_share else None


def transformers_names(names: list[str], options: Mapping[str, Any]) -> dict[str, str]:
    """fairseq's name -> transformers' name, of the names that are part of the network."""
    if "conv_pos_kernel_size" in options:
        positions = "several"
    else:
        positions = "batch norm" if options.get("conv_pos_batch_norm") else "weight norm"
    matches = [
        (re.fullmatch(pattern, name), theirs) for name in names for pattern, theirs in (*_RULES, *_POSITIONS[positions])
    ]
    return {match[0]: match.expand(theirs) for match, theirs in matches if match}
