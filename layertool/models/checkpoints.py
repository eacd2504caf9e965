"""Opening checkpoints through transformers, safely, and saying exactly which one was opened."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from layertool.errors import ModelError
from layertool.files import read_json
from layertool.kinds import MODEL, mistaken
from layertool.models import pruned

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


def split_revision(model: str) -> tuple[str, str | None]:
    """'name@revision' -> (name, revision); a local path is never split."""
    if Path(model).exists() or "@" not in model:
        return model, None
    name, _, revision = model.rpartition("@")
    return name, revision


def read_config(model: str) -> Any:
    """The transformers configuration of a hub id (``name@revision``) or local folder.

    Raises ModelError with what to do when there is none, or when it wants code of its own to run.
    """
    import huggingface_hub
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

    huggingface_hub.utils.logging.set_verbosity_error()  # retries without network are told by the error below

    name, revision = split_revision(model)
    _check_local(name)
    if pruned.is_folder(name):
        return pruned.read_config(name)
    try:
        raw, _ = PretrainedConfig.get_config_dict(name, revision=revision)
        kind = raw.get("model_type")
        if kind not in CONFIG_MAPPING:
            if "auto_map" in raw:
                raise ModelError(
                    f"{name} wants to run code that comes with the checkpoint ({', '.join(raw['auto_map'].values())}); layertool "
                    "never does that: convert it to a family that transformers has"
                )
            if kind == "melhubert":
                raise ModelError(
                    f"{name} is a MelHuBERT, which this command does not take: give a model of transformers"
                )
            raise ModelError(
                f"{name} has the model type '{kind}', which transformers does not know: see 'layertool extract -h'"
            )
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ModelError(_not_found(name, revision, error)) from error


def _check_local(name: str) -> None:
    path = Path(name)
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists()
    if looks_local and not path.is_dir():
        what = (
            "is a file; a Hugging Face checkpoint is a folder with config.json" if path.is_file() else "does not exist"
        )
        raise ModelError(f"{name} {what}: check the path of the model")
    if looks_local and (problem := mistaken(path, MODEL)):
        raise ModelError(problem)
    if looks_local and not (path / "config.json").exists():
        raise ModelError(f"{name} has no config.json: give the folder that save_pretrained wrote")


def _not_found(name: str, revision: str | None, error: BaseException) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    at = f" at revision {revision}" if revision else ""
    path = Path(name)
    if "/" in name and path.parent.is_dir():  # a folder of this name is here, as well as perhaps on the hub
        there = get_close_matches(path.name, [one.name for one in path.parent.iterdir()], 1)
        first += f"; there is no {name} here" + (f", but {path.parent / there[0]}" if there else "")
    return (
        f"{name}{at} cannot be opened as a model ({first.rstrip('.')}): check the name; without network it must be a local "
        "folder or already in the Hugging Face cache (HF_HOME)"
    )


def load_model(
    model: str, config: Any, random_init: int | None, kind: str = "AutoModel"
) -> tuple[Any, dict, list[str]]:
    """The model in evaluation mode and float32, its provenance (id, revision, sha256, random_init), and what it lacks.

    ``kind``: the automatic class of transformers that opens it; AutoModel leaves an output layer out.
    It may lack parameters that only training uses; those hold random numbers, and are named. With
    ``random_init`` the weights are drawn anew from the configuration (the untrained control).
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
    missing = sorted(key for key in report["missing_keys"] if not key.endswith(_UNUSED))
    unused = sorted(key for key in report["missing_keys"] if key.endswith(_UNUSED))
    mismatched = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report.get("mismatched_keys", ()))
    if missing or mismatched:
        what = (
            f"lacks {len(missing)} weights of its own architecture"
            if missing
            else f"has {len(mismatched)} weights of another shape"
        )
        raise ModelError(
            f"{name} {what} (first: {(missing or mismatched)[0]}): they would be random numbers; "
            "restore the checkpoint, or ask for the untrained control with --random-init SEED"
        )
    if is_local:
        provenance["sha256"] = files_sha256(Path(name), ("*.safetensors", "*.bin"))
        if (Path(name) / "source.json").exists():  # of `layertool convert`
            source = read_json(Path(name) / "source.json", "the source of a converted model")
            provenance |= {key: source.get(key) for key in ("step", "normalisation_epsilon")}
    return network.eval(), {**provenance, "random_init": None}, unused


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
