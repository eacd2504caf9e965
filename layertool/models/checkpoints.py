"""Opening checkpoints through transformers, safely, and saying exactly which one was opened."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError

from layertool.errors import ModelError, tell
from layertool.models import pruned
from layertool.models.checkpoint_files import (
    CONFIG,
    check_folder,
    foreign,
    read_settings,
    refuse_adapter,
    weight_files,
)
from layertool.models.computing import drawing
from layertool.models.foreign import check_tensors, read_checkpoint
from layertool.models.strangers import BROKEN, check_settings, check_size, configuration, first_line, listed

# Names of peft's own weights: of a model that was saved with its adapter, or of the layers that the adapter wraps.
_PEFT = re.compile(
    r"^base_model\.model\.|\.(base_layer|original_module|modules_to_save|"
    r"(lora|ia3|hada|lokr|oft|vera|randlora|ln_tuning)_\w+)(\.|$)"
)
# What decides a checkpoint's numbers besides its weights: architecture, input features, tokens.
DESCRIPTIONS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer*.json",
    "vocab.json",
    "merges.txt",
)


def read_config(name: str, revision: str | None = None) -> Any:
    """The transformers configuration of a hub id or local folder.

    Raises ModelError with what to do when there is none, or when it wants code of its own to run.
    """
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError
    from transformers import CONFIG_MAPPING, PretrainedConfig

    huggingface_hub.utils.logging.set_verbosity_error()  # retries without network are told by the error below

    check_folder(name)
    is_local = Path(name).exists()
    raw = read_settings(name, None, CONFIG) if is_local else None
    if pruned.is_folder(name):
        return pruned.read_config(name)
    try:
        if raw is None:
            raw, _ = PretrainedConfig.get_config_dict(name, revision=revision)
            check_settings(f"{name}/{CONFIG}", raw)
        kind = raw.get("model_type")
        if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
            if "auto_map" in raw:
                named = raw["auto_map"]
                code = ", ".join(map(str, named.values())) if isinstance(named, dict) else str(named)
                raise ModelError(
                    f"{name} wants to run code that comes with the checkpoint ({code[:200]}); layertool "
                    "never does that: convert it to a family that transformers has"
                )
            if not isinstance(kind, str):
                refuse_adapter(name, revision)  # of the hub: it may be all that is there
                other = foreign(Path(name)) if is_local else None
                raise ModelError(
                    f"{name} has a config.json without model type (model_type), so that its network is unknown: "
                    f"{other or 'give a folder that save_pretrained of transformers wrote'}"
                )
            raise ModelError(
                f"{name} has the model type '{kind}', which transformers does not know: see 'layertool extract -h'"
            )
        config = configuration(kind, raw)
        if (n_blocks := getattr(config, "num_hidden_layers", 1)) < 1:
            raise ModelError(f"{name} has {n_blocks} blocks by its config.json, which is no network: copy it again")
    except BROKEN as error:
        if not isinstance(
            error.__cause__, LocalEntryNotFoundError
        ):  # the hub answered: an adapter may be all that is there
            refuse_adapter(name, revision)
        raise ModelError(_not_found(name, revision, error)) from error
    refuse_adapter(name, revision)
    return config


def _not_found(name: str, revision: str | None, error: BaseException) -> str:
    first = first_line(error)
    path = Path(name)
    if "/" in name and path.parent.is_dir() and not path.exists():  # its neighbours, where it is no id of the hub
        there = get_close_matches(path.name, [one.name for one in path.parent.iterdir()], 1)
        first += f"; there is no {name} here" + (f", but {path.parent / there[0]}" if there else "")
    if path.exists():
        return f"{name} cannot be opened as a model ({first.rstrip('.')}): copy it again"
    return (
        f"{name}{f' at revision {revision}' if revision else ''} cannot be opened as a model ({first.rstrip('.')}): "
        f"check the name; without network it must be a local folder or already in the Hugging Face cache (HF_HOME)"
    )


def load_network(name: str, revision: str | None, config: Any, head: str) -> tuple[Any, list[str]]:
    """The network of a checkpoint in evaluation mode and float32, and the parameters that it lacks: those hold random
    numbers.

    ``head``: the automatic class of transformers that opens it; AutoModel leaves an output layer out.
    Raises ModelError when weights have other shapes, or are not safe to read.
    """
    import transformers

    opener = getattr(transformers, head)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    report: dict[str, Any] = {"missing_keys": ()}
    try:
        if pruned.is_config(config):
            network = pruned.load(name)
            network = network.base_model if head == "AutoModel" else network
        else:
            files = weight_files(name, revision)
            state = _read_pickles(files) if files and files[0].suffix == ".bin" else None
            sizes = _sizes(files) if state is None else [one.numel() for one in state.values()]
            if files:
                check_size(name, config, opener, sizes)
            # automatic classes look for files, also where the weights are given
            loader = opener if state is None else opener._model_mapping[type(config)]
            network, report = loader.from_pretrained(
                name if state is None else None,
                state_dict=state,
                revision=revision,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                trust_remote_code=False,
            )
    except SafetensorError as error:
        raise ModelError(
            f"{name} has weights that break off or are no weights ({first_line(error)}): download or copy them again"
        ) from error
    except BROKEN as error:
        raise ModelError(_not_found(name, revision, error)) from error
    mismatched = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report.get("mismatched_keys", ()))
    if mismatched:
        raise ModelError(_random(name, f"has {len(mismatched)} weights of another shape (first: {mismatched[0]})"))
    _tell_of_others(name, network, report.get("unexpected_keys", ()))
    # files of MMS with adapters for single languages, of which at most the one among the main weights is used
    others = sorted(file.name for end in ("safetensors", "bin") for file in Path(name).glob(f"adapter.*.{end}"))
    if getattr(config, "adapter_attn_dim", None) is not None:
        tell(
            f"{name} has adapters of single languages: the one among its main weights is used, and none of its other "
            f"files{f' ({listed(others)})' if others else ''}"
        )
    elif others:
        tell(
            f"{name} has adapters of single languages ({listed(others)}), of which none is used: its config.json has "
            f"no adapter_attn_dim"
        )
    return network.eval(), sorted(report["missing_keys"])


def _read_pickles(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The tensors of pytorch_model.bin, or of the parts of it."""
    state: dict[str, torch.Tensor] = {}
    for file in files:
        part = read_checkpoint(file)
        check_tensors(part, file, finite=False)
        state |= part
    return state


def _sizes(files: Sequence[Path]) -> list[int]:
    """How many numbers each tensor of safetensors files has."""
    sizes: list[int] = []
    for file in files:
        with safetensors.safe_open(file, "pt") as opened:
            sizes += [math.prod(opened.get_slice(key).get_shape()) for key in opened.keys()]  # noqa: SIM118
    return sizes


def refuse_lacking(name: str, lacking: Sequence[str], layers: str = "") -> None:
    """Raise ModelError where a checkpoint lacks weights. ``layers``: that are computed from them."""
    if lacking:
        needed = f", which {layers} need" if layers else ""
        raise ModelError(
            _random(name, f"lacks {len(lacking)} weights of its own architecture (first: {lacking[0]}){needed}")
        )


def _random(name: str, what: str) -> str:
    return (
        f"{name} {what}: they would be random numbers; restore the checkpoint, or ask for the untrained control with "
        "--random-init SEED"
    )


def _tell_of_others(name: str, network: Any, unexpected: Iterable[str]) -> None:
    """Tell of weights of a network's own parts that its configuration does not speak of; refuse adapters among them."""
    if adapters := sorted(key for key in unexpected if _PEFT.search(key)):
        raise ModelError(
            f"{name} has the weights of an adapter of peft among its own (first: {adapters[0]}): merge them with "
            "model.merge_and_unload().save_pretrained('NEW') where it was trained, and give NEW"
        )
    base, prefix = network.base_model, f"{network.base_model_prefix}."
    is_bare = type(base).__name__ in (network.config.architectures or [type(base).__name__])
    own = [
        key.removeprefix(prefix) for key in sorted(unexpected) if is_bare or key.startswith(prefix)
    ]  # others are of heads
    parts = dict(base.named_children())
    if unused := [key for key in own if key.partition(".")[0] in parts]:
        tell(
            f"{name} has {len(unused)} weights that its config.json does not speak of, and that are not used "
            f"(first: {unused[0]}): check that the two belong together"
        )


def draw_anew(config: Any, seed: int, head: str = "AutoModel") -> Any:
    """A network of this configuration with weights drawn from ``seed``, in evaluation mode and float32."""
    import transformers

    opener = getattr(transformers, head)
    check_size(config.name_or_path or config.model_type, config, opener, None)
    with drawing(seed):
        network = opener.from_config(config, trust_remote_code=False).float().eval()
        pruned.fit_to_config(network)
    return network


def files_sha256(folder: Path, patterns: Sequence[str]) -> str:
    """sha256 over the names and bytes of a folder's files of these names, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def state_sha256(network: torch.nn.Module) -> str:
    """sha256 over the names and values of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
