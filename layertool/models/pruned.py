"""Networks with fewer heads, rows or weights: their blocks, taking parts away, and folders of them.

MelHuBERT and transformers' models of the wav2vec 2.0 kind, with whatever stands on them (pre-training, CTC).
transformers has no place for the sizes of single blocks: config.json says them under ``layertool_pruned``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import parametrize

from layertool.errors import ModelError, UsageError
from layertool.files import whole_file, whole_folder, write_json
from layertool.models import melhubert
from layertool.models.checkpoint_files import SOURCE, described, refuse_adapter, write_preprocessor
from layertool.models.computing import shapes_only
from layertool.models.foreign import filled, read_safetensors
from layertool.models.melhubert import MelHuBERT
from layertool.models.melhubert.checkpoints import WEIGHTS, of_weights, write_state
from layertool.models.strangers import BROKEN, check_counts, configuration, first_line, opening

# transformers' model types whose blocks have four projections and one feed-forward part (conformers have not)
FAMILIES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")
KEY = "layertool_pruned"
# A model type that transformers does not know: it would make the sizes of config.json, and ask no further for single
# blocks.
PREFIX = "layertool-pruned-"


class Mask(nn.Module):
    """What weight pruning puts between a stored parameter and its use.

    The value where ``mask`` (bool) is True, else 0.
    """

    mask: torch.Tensor

    def __init__(self, mask: torch.Tensor):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        # chosen, not multiplied: what a mask removes is 0 whatever stands there
        return torch.where(self.mask, value, 0)


@dataclass(frozen=True)
class Block:
    """A transformer block: ``attention`` (q_proj, ..., num_heads, head_dim), and the linears of its feed-forward
    part.
    """

    attention: Any
    fc1: nn.Linear
    fc2: nn.Linear

    @property
    def n_heads(self) -> int:
        return self.attention.num_heads

    @property
    def n_rows(self) -> int:
        return self.fc1.out_features

    @property
    def projections(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        """Those whose rows belong to heads."""
        return self.attention.q_proj, self.attention.k_proj, self.attention.v_proj

    @property
    def linears(self) -> tuple[nn.Linear, ...]:
        return (*self.projections, self.attention.out_proj, self.fc1, self.fc2)


def family(model: nn.Module) -> str:
    """``melhubert``, or transformers' model type. Raises ModelError for networks that are not pruned here."""
    if isinstance(model, MelHuBERT):
        return melhubert.MODEL_TYPE
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in FAMILIES or not hasattr(getattr(model, "base_model", None), "encoder"):
        raise ModelError(
            f"{type(model).__name__} is no network that can be pruned here: give a MelHuBERT, or a model of "
            f"transformers of the type {', '.join(FAMILIES)}"
        )
    return kind


def blocks(model: Any) -> list[Block]:
    """The blocks of a network, in order. Raises ModelError for networks that are not pruned here."""
    if family(model) == melhubert.MODEL_TYPE:
        return [Block(block.self_attn, block.fc1, block.fc2) for block in model.encoder.layers]
    parts = [(layer.attention, layer.feed_forward) for layer in model.base_model.encoder.layers]
    return [Block(attention, forward.intermediate_dense, forward.output_dense) for attention, forward in parts]


def sizes(model: nn.Module) -> tuple[list[int], list[int]]:
    """Heads, and rows of the feed-forward part, of each block."""
    of = blocks(model)
    return [block.n_heads for block in of], [block.n_rows for block in of]


def check_heads_removable(model: nn.Module) -> None:
    """Raise ModelError for WavLM, whose heads read what the network's width divided by their number gives."""
    if family(model) == "wavlm":
        raise ModelError(
            f"{type(model).__name__} cannot lose heads: each head's gate reads its own slice of a block's input, and "
            f"all blocks share the first one's position biases, one a head; prune its rows or weights"
        )


def stored(linear: nn.Linear, name: str) -> tuple[nn.Parameter, Mask | None]:
    """The parameter behind ``weight`` or ``bias``, and its mask.

    Raises ModelError where something else stands between.
    """
    if parametrize.is_parametrized(linear, name):
        chain: Any = linear.parametrizations[name]  # type: ignore[index]
        if len(chain) == 1 and isinstance(chain[0], Mask):
            return chain.original, chain[0]
    elif isinstance(parameter := linear._parameters.get(name), nn.Parameter):
        return parameter, None
    raise ModelError(
        f"a linear of {linear.in_features} to {linear.out_features} has no plain {name}: undo torch's pruning or "
        "parametrizations (their remove functions) before it is pruned here"
    )


def cut_heads(block: Block, gone: Sequence[int], optimizer: torch.optim.Optimizer | None = None) -> None:
    """Take heads (numbers from 0) out of a block: rows of q, k, v with their biases, columns of out_proj (spec speat.md
    4.1).

    Width and scaling of the other heads stay. For ``optimizer`` see ``_keep``.
    """
    attention, width = block.attention, block.attention.head_dim
    left = sorted(set(range(block.n_heads)) - set(gone))
    kept = torch.tensor([head * width + i for head in left for i in range(width)], dtype=torch.long)
    for linear in block.projections:
        _keep(linear, 0, kept, optimizer)
    _keep(attention.out_proj, 1, kept, optimizer)
    attention.num_heads = len(left)


def cut_rows(block: Block, gone: Sequence[int], optimizer: torch.optim.Optimizer | None = None) -> None:
    """Take rows (numbers from 0) out of a feed-forward part.

    Of fc1 with their biases, columns of fc2 (spec speat.md 4.2).
    """
    kept = torch.tensor(sorted(set(range(block.n_rows)) - set(gone)), dtype=torch.long)
    _keep(block.fc1, 0, kept, optimizer)
    _keep(block.fc2, 1, kept, optimizer)


def _keep(linear: nn.Linear, dimension: int, kept: torch.Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    """Leave a linear these outputs (dimension 0) or inputs (1) alone, with what an optimizer has gathered for them."""
    if dimension == 0:
        _replace(linear, "bias", 0, kept, optimizer)
        linear.out_features = len(kept)
    else:
        linear.in_features = len(kept)
    _replace(linear, "weight", dimension, kept, optimizer)


def _replace(
    linear: nn.Linear, name: str, dimension: int, kept: torch.Tensor, optimizer: torch.optim.Optimizer | None
) -> None:
    """Put a smaller parameter in the place of another, in the linear and in the optimizer.

    A new one: autograd remembers the shape of the old while any loss of it lives.
    """
    old, mask = stored(linear, name)
    kept = kept.to(old.device)
    new = nn.Parameter(old.detach().index_select(dimension, kept), requires_grad=old.requires_grad)
    if mask is None:
        setattr(linear, name, new)
    else:
        linear.parametrizations[name].original = new  # type: ignore[index, union-attr]
        mask.mask = mask.mask.index_select(dimension, kept)
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    gathered = optimizer.state.pop(old, None)
    if gathered:
        optimizer.state[new] = {
            key: value.index_select(dimension, kept)
            if isinstance(value, torch.Tensor) and value.shape == old.shape
            else value
            for key, value in gathered.items()
        }


def fit_config(model: nn.Module) -> None:
    """Make a MelHuBERT's configuration say the sizes of its weights; others need nothing."""
    if isinstance(model, MelHuBERT):
        model.config = of_weights(plain_state(model), asdict(model.config), "the network")


def resize(model: nn.Module, heads: Sequence[int], rows: Sequence[int]) -> None:
    """Leave each block its first ``heads`` heads and ``rows`` rows: a network to put weights into. Also on the meta
    device.

    Raises UsageError for sizes that the network has not, and ModelError where its heads cannot be removed.
    """
    of = blocks(model)
    for what, wanted, there in (("heads", heads, [b.n_heads for b in of]), ("rows", rows, [b.n_rows for b in of])):
        if len(wanted) != len(of) or any(not 1 <= new <= old for new, old in zip(wanted, there, strict=False)):
            raise UsageError(
                f"{what} {list(wanted)} cannot be made of the {there} in the network's blocks: 1 or more of each"
            )
    if list(heads) != [block.n_heads for block in of]:
        check_heads_removable(model)
    for block, n_heads, n_rows in zip(of, heads, rows, strict=True):
        if n_heads < block.n_heads:
            cut_heads(block, range(n_heads, block.n_heads))
        if n_rows < block.n_rows:
            cut_rows(block, range(n_rows, block.n_rows))
    fit_config(model)


def plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a network as if it had no masks: names of a dense one, zeros where they remove."""
    state = {name: value.detach() for name, value in model.state_dict().items()}
    for prefix, module in model.named_modules():
        if not isinstance(module, nn.Linear) or not parametrize.is_parametrized(module):
            continue
        for name, chain in module.parametrizations.items():  # type: ignore[union-attr, operator]
            if isinstance(chain[0], Mask):
                for part in ("original", "0.mask"):
                    del state[f"{prefix}.parametrizations.{name}.{part}"]
                state[f"{prefix}.{name}"] = getattr(module, name).detach()
    return state


def save(model: nn.Module, folder: Path | str, normalise: bool | None = None, facts: Mapping | None = None) -> Path:
    """Write a network as a MODEL folder that ``load`` and extraction read, masks applied, whole or not at all.

    ``normalise``: whether waveforms get zero mean and unit variance, for preprocessor_config.json; None writes none.
    ``facts``: what source.json says (``step``, ``normalisation_epsilon``). What transformers has a place for (all
    heads, as many rows in each block) becomes a folder that it opens too. Raises StoreError where something is there
    already.
    """
    kind, folder = family(model), Path(folder)
    with whole_folder(folder) as temporary:
        temporary.mkdir()
        state = {name: value.cpu().contiguous() for name, value in plain_state(model).items()}
        if isinstance(model, MelHuBERT):
            write_state(state, model.config, temporary)
        else:
            with whole_file(temporary / WEIGHTS) as file:
                safetensors.torch.save_file(state, file, metadata={"format": "pt"})
            write_json(temporary / "config.json", _description(model, kind))
        if normalise is not None and kind != melhubert.MODEL_TYPE:
            write_preprocessor(temporary, normalise)
        if facts is not None:
            write_json(temporary / SOURCE, dict(facts))
    return folder


def _description(model: Any, kind: str) -> dict:
    settings = json.loads(model.config.to_json_string())
    settings.pop(KEY, None)
    settings |= {"model_type": kind, "architectures": [type(model).__name__]}
    heads, rows = sizes(model)
    if len(set(rows)) == 1:
        settings["intermediate_size"] = rows[0]
        if set(heads) == {model.config.num_attention_heads}:
            return settings
    return {**settings, "model_type": f"{PREFIX}{kind}", KEY: {"heads": heads, "ffn_rows": rows}}


def is_folder(path: Path | str) -> bool:
    """Whether a folder's config.json says that it is a pruned network of transformers."""
    settings = described(Path(path))
    return KEY in settings or str(settings.get("model_type")).startswith(PREFIX)


def read_config(folder: Path | str) -> Any:
    """transformers' configuration of a folder of ``save``, with the sizes of its blocks under ``layertool_pruned``.

    Raises ModelError for other folders, and for sizes that contradict the configuration.
    """
    settings = described(Path(folder))
    kind = str(settings.pop("model_type", None)).removeprefix(PREFIX)
    if kind not in FAMILIES:
        raise ModelError(f"{folder} has no config.json of a pruned network: give the folder that layertool wrote")
    try:
        config = configuration(kind, settings, KEY)
        n_blocks, heads, rows = config.num_hidden_layers, config.num_attention_heads, config.intermediate_size
    except BROKEN as error:
        raise ModelError(
            f"{folder} has a config.json that makes no network ({first_line(error)}): copy it again"
        ) from error
    if not is_folder(folder):
        return config
    said = settings.get(KEY)
    for name, most in (("heads", heads), ("ffn_rows", rows)):
        given: Any = said.get(name) if isinstance(said, dict) else None
        is_list = isinstance(given, list) and all(type(n) is int and 1 <= n <= most for n in given)
        if not is_list or len(given) != n_blocks:
            raise ModelError(
                f"{folder} says {name} = {given} under {KEY} in its config.json, but has {n_blocks} blocks of 1 to "
                f"{most}: copy it again"
            )
    return config


def is_config(config: Any) -> bool:
    """Whether a configuration is one of ``read_config`` with sizes of single blocks."""
    return isinstance(getattr(config, KEY, None), dict)


def fit_to_config(network: Any) -> None:
    """Give a network that transformers made the sizes of single blocks that its configuration says, if it says any."""
    if is_config(network.config):
        of_blocks = getattr(network.config, KEY)
        resize(network, of_blocks["heads"], of_blocks["ffn_rows"])


@opening
def load(folder: Path | str) -> Any:
    """The network of a folder that ``save`` wrote, of the class that was saved, in float32 and evaluation mode.

    Raises ModelError for other folders, and for weights that are missing, too many or of other shapes.
    """
    import transformers

    folder = Path(folder)
    if melhubert.is_folder(folder):
        return melhubert.load(folder)[0]
    if folder.is_dir():
        refuse_adapter(str(folder), None)
    config = read_config(folder)
    tensors = read_safetensors(folder / WEIGHTS)
    check_counts(str(folder), config, len(tensors))
    names = getattr(config, "architectures", None) or [None]
    kind = getattr(transformers, str(names[0]), None)
    if not (isinstance(kind, type) and getattr(kind, "config_class", None) is type(config)):
        raise ModelError(
            f"{folder} says the architecture {names[0]!r}, which is none of '{config.model_type}': correct config.json"
        )
    with shapes_only():
        network: Any = kind(config)
        fit_to_config(network)
    return filled(network, tensors, folder)
