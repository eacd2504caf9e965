"""Reading checkpoints of other tools without their code, and without running any (spec platform.md, "Loading
checkpoints").

Tensors and plain values are read. Research checkpoints also hold settings as argparse, omegaconf or fairseq objects:
those get inert stand-ins that only keep what was stored (``pickles``). Any other name is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from layertool.errors import ModelError
from layertool.models.pickles import Kept, Name, Pickled, Stored
from layertool.models.strangers import BROKEN, first_line, listed, shown

MELHUBERTS = ("melhubert", "hubert", "student")  # keys of Upstream_Config: today's, that of older files, of students
_TIMES_THE_FILE = 4  # so much larger than their file may all tensors be: some share their numbers (tied weights)


def read_checkpoint(path: Path | str) -> dict:
    """The dict that torch.save wrote: tensors, and plain Python for settings. No code of the file is run.

    Raises ModelError for what is no such file, breaks off, or asks for a name that is not known to be harmless.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(f"{path} {what}: give the file of one checkpoint")
    try:
        pickled = Pickled(path)
        loaded = plain(pickled.value, pickled.tensor)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except BROKEN as error:
        raise ModelError(
            f"{path} is cut short or no checkpoint of torch ({first_line(error)}): copy it again"
        ) from error
    if not isinstance(loaded, dict):
        raise ModelError(f"{path} holds a {type(loaded).__name__}, a checkpoint is a dict: give another file")
    return loaded


def refuse_other_tools(path: Path, checkpoint: Mapping, own: str) -> None:
    """Raise ModelError, with what to do, for a checkpoint that is known to be of another tool than ``own``.

    ``own``: fairseq or melhubert.
    """
    keys, upstream = set(map(str, checkpoint)), checkpoint.get("Upstream_Config")
    states = (checkpoint.get(key) for key in ("model", "state_dict", "model_state_dict"))
    names = set(map(str, next((state for state in states if isinstance(state, Mapping)), checkpoint)))

    def have(*parts: str) -> bool:
        return any(part in name for name in names for part in parts)

    is_melhubert = isinstance(upstream, Mapping) and not upstream.keys().isdisjoint(MELHUBERTS)
    tools = (
        ("melhubert", is_melhubert, f"a MelHuBERT checkpoint: give it as melhubert:{path}"),
        (
            "",
            {"dims", "model_state_dict"} <= keys,
            "a Whisper checkpoint of OpenAI: give the Hugging Face model of it (openai/whisper-...)",
        ),
        (
            "",
            "Distiller" in keys,
            "a DistilHuBERT checkpoint of s3prl: give the Hugging Face model of it (ntu-spml/distilhubert)",
        ),
        ("", "model_weight" in keys, "converted by s3prl: give the fairseq file that it was made from"),
        (
            "",
            not keys.isdisjoint({"Featurizer", "Downstream", "Transformer"}),
            "a checkpoint of s3prl, but of no network that is read: give the one that pre-training wrote",
        ),
        (
            "",
            have(".grep_", "relative_attention_bias"),
            "a WavLM checkpoint: give the Hugging Face model of it (microsoft/wavlm-...)",
        ),
        (
            "fairseq",
            "model" in keys and not keys.isdisjoint({"args", "cfg"}),
            f"a checkpoint of fairseq: give it as fairseq:{path}",
        ),
        (
            "",
            own == "fairseq" and upstream is not None,
            "a checkpoint of Speech-SSL-Compression, not of fairseq: such networks are not read",
        ),
        (
            "",
            have(".attention.", "feature_projection."),
            "a Hugging Face model's state dict: give the folder that holds it with its config.json",
        ),
        (
            "",
            own == "melhubert" and have("feature_extractor.conv_layers"),
            "a network of the wav2vec 2.0 kind, which reads waveforms: give a folder for transformers, or as "
            "fairseq:FILE "
            "what fairseq wrote",
        ),
    )
    tool, what = next(((tool, what) for tool, applies, what in tools if applies), (own, ""))
    if tool != own:
        raise ModelError(f"{path} is {what}")


def plain(value: Any, tensor: Callable[[Stored], torch.Tensor]) -> Any:
    """Stand-ins as plain Python: namespaces and configurations as dicts and lists, nodes and enums as their values.

    ``tensor``: makes those. What stands there several times is made plain once. Raises ModelError for what holds
    itself, or is nested too deep.
    """
    done: dict[int, Any] = {}
    begun: set[int] = set()

    def of(value: Any, depth: int) -> Any:
        if isinstance(value, Name):
            return value.text
        if not isinstance(value, (Kept, Stored, Mapping, list, tuple, set)):
            return value
        key = id(value)
        if key not in done:
            if key in begun or depth > 60:
                raise ModelError(
                    "its settings hold themselves, or are nested too deep: this is no checkpoint of a known tool"
                )
            begun.add(key)
            done[key] = tensor(value) if isinstance(value, Stored) else made(value, depth + 1)
        return done[key]

    def made(value: Any, depth: int) -> Any:
        if isinstance(value, Kept):
            return of_kept(value, depth)
        if isinstance(value, Mapping):
            names = [repr(name) if isinstance(name, (Kept, Name)) else name for name in value]
            return dict(zip(names, [of(item, depth) for item in value.values()], strict=True))
        items = [of(item, depth) for item in value]
        return items if isinstance(value, list) else tuple(items)

    def of_kept(kept: Kept, depth: int) -> Any:
        state = kept.state
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], Mapping):
            state = {**(state[0] if isinstance(state[0], Mapping) else {}), **state[1]}
        if isinstance(state, Mapping) and state:
            for name in ("_content", "_val"):  # omegaconf's dicts and lists, and its leaves
                if name in state:
                    return of(state[name], depth)
            return {str(key): of(item, depth) for key, item in state.items()}
        if len(kept.arguments) == 1:  # an enum's value
            return of(kept.arguments[0], depth)
        return [of(item, depth) for item in kept.arguments] if kept.arguments else {}

    return of(value, 0)


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file. Raises ModelError for one that is missing or damaged."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path} is missing, cut short or no safetensors file ({first_line(error)}): copy it again"
        ) from error


def filled(
    network: Any, tensors: Mapping[str, torch.Tensor], where: Path | str, remedy: str = "give another copy of it"
) -> Any:
    """A network of shapes alone (``shapes_only``) with the tensors of a file: in float32 and evaluation mode.

    Raises ModelError where tensors are missing, too many, or of other shapes than those of the network.
    """
    expected = network.state_dict()
    wrong = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    parts = (
        ("lacks", expected.keys() - tensors.keys()),
        ("has besides", tensors.keys() - expected.keys()),
        ("has", wrong),
    )
    if said := [f"{what} {listed(sorted(names), 20)}" for what, names in parts if names]:
        raise ModelError(f"{where} has other weights than its settings say: it {' and '.join(said)}; {remedy}")
    state = {
        name: value.float().contiguous() if value.is_floating_point() else value for name, value in tensors.items()
    }
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def whole_step(value: Any) -> int | None:
    """A training step as a checkpoint says it: a whole number from 0 to 2^53, None for anything else."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**53 else None


def check_tensors(tensors: Mapping[Any, Any], path: Path | str, finite: bool = True) -> None:
    """Raise ModelError for tensors that are no plain, finite numbers, or that pretend to be larger than the file."""
    rows: dict[int, int] = {}  # bytes of the storages
    asked = 0
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ModelError(f"{path} has {shown(name)} among its tensors, which is none: give another file")
        plain_kind = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain_kind or tensor.is_complex():
            raise ModelError(
                f"{path}: the tensor {name} is of a kind that no such network has ({tensor.dtype}, {tensor.layout})"
            )
        row = tensor.untyped_storage()
        rows[row.data_ptr()] = row.nbytes()
        asked += tensor.numel() * tensor.itemsize
        if tensor.numel() * tensor.itemsize > row.nbytes() or any(
            step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)
        ):
            raise ModelError(f"{path}: the tensor {name} repeats a few numbers many times: write the checkpoint anew")
    if asked > _TIMES_THE_FILE * sum(rows.values()):
        raise ModelError(
            f"{path} has more than {_TIMES_THE_FILE} times as many numbers among its tensors as it holds, as they "
            f"share them: write the checkpoint anew"
        )
    for name, tensor in tensors.items():
        if finite and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"{path}: the tensor {name} has numbers that are not finite: the training diverged, or the file is "
                f"damaged"
            )


def file_sha256(path: Path | str) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
