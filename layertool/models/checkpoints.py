"""Opening checkpoints through transformers, safely, and saying exactly which one was opened."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from layertool.errors import ModelError, tell
from layertool.files import read_json
from layertool.models import pruned
from layertool.models.checkpoint_files import (
    check_folder,
    check_weights,
    foreign,
    language_adapters,
    listed,
    read_settings,
    refuse_adapter,
    split_revision,
)

# Parameters that only training uses: a checkpoint without them gives the same layers (but see --mask-seed).
_UNUSED = ("masked_spec_embed",)
# What decides a checkpoint's numbers besides its weights: architecture, input features, tokens.
_DESCRIPTIONS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer*.json",
    "vocab.json",
    "merges.txt",
)


def read_config(model: str) -> Any:
    """The transformers configuration of a hub id (``name@revision``) or local folder.

    Raises ModelError with what to do when there is none, or when it wants code of its own to run.
    """
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError, StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

    huggingface_hub.utils.logging.set_verbosity_error()  # retries without network are told by the error below

    name, revision = split_revision(model)
    check_folder(name)
    if Path(name).exists():
        read_settings(name, None, "config.json")
    if pruned.is_folder(name):
        return pruned.read_config(name)
    try:
        raw, _ = PretrainedConfig.get_config_dict(name, revision=revision)
        kind = raw.get("model_type")
        if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
            if "auto_map" in raw:
                raise ModelError(
                    f"{name} wants to run code that comes with the checkpoint ({', '.join(raw['auto_map'].values())}); layertool "
                    "never does that: convert it to a family that transformers has"
                )
            if not isinstance(kind, str):
                refuse_adapter(name, revision)  # of the hub: it may be all that is there
                other = foreign(Path(name)) if Path(name).exists() else None
                raise ModelError(
                    f"{name} has a config.json without model type (model_type), so that its network is unknown: "
                    f"{other or 'give a folder that save_pretrained of transformers wrote'}"
                )
            if kind == "melhubert":
                raise ModelError(
                    f"{name} is a MelHuBERT, which this command does not take: give a model of transformers"
                )
            raise ModelError(
                f"{name} has the model type '{kind}', which transformers does not know: see 'layertool extract -h'"
            )
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        if not isinstance(
            error.__cause__, LocalEntryNotFoundError
        ):  # the hub answered: an adapter may be all that is there
            refuse_adapter(name, revision)
        raise ModelError(_not_found(name, revision, error)) from error
    refuse_adapter(name, revision)
    return config


def _not_found(name: str, revision: str | None, error: BaseException) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    at = f" at revision {revision}" if revision else ""
    path = Path(name)
    if "/" in name and path.parent.is_dir() and not path.exists():  # its neighbours, where it is no id of the hub
        there = get_close_matches(path.name, [one.name for one in path.parent.iterdir()], 1)
        first += f"; there is no {name} here" + (f", but {path.parent / there[0]}" if there else "")
    if path.exists():
        return f"{name} cannot be opened as a model ({first.rstrip('.')}): copy it again"
    return (
        f"{name}{at} cannot be opened as a model ({first.rstrip('.')}): check the name; without network it must be a local "
        "folder or already in the Hugging Face cache (HF_HOME)"
    )


def load_model(
    model: str, config: Any, random_init: int | None, kind: str = "AutoModel", partly: bool = False
) -> tuple[Any, dict, list[str]]:
    """The model in evaluation mode and float32, its provenance (id, revision, sha256, random_init), and what it lacks.

    ``kind``: the automatic class of transformers that opens it; AutoModel leaves an output layer out.
    It may lack parameters that only training uses; those hold random numbers, and are named. ``partly``: it may lack
    any, for callers who know which ones they need, and ``refuse_lacking``. With ``random_init`` the weights are
    drawn anew from the configuration (the untrained control).
    Raises ModelError when weights are missing, have other shapes, or are not safe to read.
    """
    import transformers

    opener = getattr(transformers, kind)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    name, revision = split_revision(model)
    is_local = Path(name).is_dir()
    provenance: dict = {
        "id": Path(name).resolve().name if is_local else name,
        "revision": None if is_local else getattr(config, "_commit_hash", None) or revision,
        "sha256": None,
        "description_sha256": files_sha256(Path(name), _DESCRIPTIONS) if is_local else None,
    }
    if random_init is not None:
        network = draw_anew(config, random_init, kind)
        return network, {**provenance, "random_init": random_init, "sha256": state_sha256(network)}, []
    report: dict[str, Any] = {"missing_keys": ()}
    if is_local and not pruned.is_config(config):
        check_weights(name)
    try:
        if pruned.is_config(config):
            network = pruned.load(name)
            network = network.base_model if kind == "AutoModel" else network
        else:
            network, report = opener.from_pretrained(
                name,
                revision=revision,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                trust_remote_code=False,
            )
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{name} asks to run code while its weights are read; layertool never does that: ask for a safetensors version"
        ) from error
    except (SafetensorError, EOFError) as error:
        raise ModelError(
            f"{name} has weights that break off or are no weights ({_first_line(error)}): download or copy them again"
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        if isinstance(error.__cause__ or error.__context__, pickle.UnpicklingError):
            raise ModelError(
                f"{name} asks to run code while its weights are read; layertool never does that: ask for a safetensors version"
            ) from error
        raise ModelError(_not_found(name, revision, error)) from error
    mismatched = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report.get("mismatched_keys", ()))
    if mismatched:
        raise ModelError(_random(name, f"has {len(mismatched)} weights of another shape (first: {mismatched[0]})"))
    lacking = sorted(report["missing_keys"])
    _tell_of_others(name, network, report.get("unexpected_keys", ()))
    if not partly:
        refuse_lacking(name, [key for key in lacking if not key.endswith(_UNUSED)])
    if getattr(config, "adapter_attn_dim", None) is not None:
        provenance["adapter"] = "main weights"
        tell(
            f"{name} has adapters of single languages: the one among its main weights is used, and none of its other "
            "files"
            f"{f' ({listed(others)})' if (others := language_adapters(name)) else ''}"
        )
    if is_local:
        provenance["sha256"] = files_sha256(Path(name), ("*.safetensors", "*.bin"))
        if (Path(name) / "source.json").exists():  # of `layertool convert`
            source = read_json(Path(name) / "source.json", "the source of a converted model")
            provenance |= {key: source.get(key) for key in ("step", "normalisation_epsilon")}
    return network.eval(), {**provenance, "random_init": None}, lacking


def refuse_lacking(name: str, lacking: Sequence[str], layers: str = "") -> None:
    """Raise ModelError where a checkpoint lacks weights. ``layers``: that are computed from them."""
    if lacking:
        needed = f", which {layers} need" if layers else ""
        what = f"lacks {len(lacking)} weights of its own architecture (first: {lacking[0]}){needed}"
        raise ModelError(_random(name, what))


def _random(name: str, what: str) -> str:
    return (
        f"{name} {what}: they would be random numbers; restore the checkpoint, or ask for the untrained control with "
        "--random-init SEED"
    )


def _tell_of_others(name: str, network: Any, unexpected: Iterable[str]) -> None:
    """Tell of weights of a network's own parts that its configuration does not speak of; refuse adapters among them."""
    if adapters := sorted(key for key in unexpected if ".lora_" in key or ".base_layer." in key):
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


def draw_anew(config: Any, seed: int, kind: str = "AutoModel") -> Any:
    """A network of this configuration with weights drawn from ``seed``, in evaluation mode and float32."""
    import transformers

    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    network = getattr(transformers, kind).from_config(config, trust_remote_code=False).float().eval()
    pruned.fit_to_config(network)
    torch.set_rng_state(generator_state)
    return network


def files_sha256(folder: Path, patterns: Sequence[str]) -> str:
    """sha256 over the names and bytes of a folder's files of these names, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def state_sha256(network: torch.nn.Module) -> str:
    """sha256 over the names and values of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200].rstrip(".") if text else type(error).__name__
