"""The files of a checkpoint: what lies in a folder that is given as a MODEL, what they say, and where they disagree."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from layertool.errors import ModelError, tell
from layertool.files import write_json
from layertool.geometry import SAMPLE_RATE
from layertool.kinds import MODEL, mistaken
from layertool.models.strangers import check_settings, listed
from layertool.spelling import natural

SOURCE = "source.json"  # what a folder was made from here: step, normalisation_epsilon, and by what
CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer_config.json"
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"  # until and from transformers 5
WAVEFORMS = "Wav2Vec2FeatureExtractor"  # what the input of models that read waveforms is called
# Weights as transformers looks for them, in its order.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_TO_TORCH = "give the checkpoint of PyTorch that it was made from"
# Endings of files that hold networks in other ways: what they are, and what to do.
_FOREIGN = {
    ".gguf": ("a network of llama.cpp or whisper.cpp", _TO_TORCH),
    ".onnx": ("a network of ONNX", _TO_TORCH),
    ".tflite": ("a network of TensorFlow Lite", _TO_TORCH),
    ".mlmodelc": ("a network of Core ML", _TO_TORCH),
    ".mlpackage": ("a network of Core ML", _TO_TORCH),
    ".h5": ("weights of TensorFlow", _TO_TORCH),
    ".msgpack": ("weights of Flax", _TO_TORCH),
    ".npz": ("weights of NumPy or MLX", _TO_TORCH),
    ".nemo": ("an archive of NeMo", "give a checkpoint of transformers, as NeMo's networks are not read"),
    ".xml": ("a network of OpenVINO", _TO_TORCH),
    ".pt": ("a file of PyTorch", "give fairseq:{file} or melhubert:{file} if one of these wrote it"),
    ".pth": ("a file of PyTorch", "give fairseq:{file} or melhubert:{file} if one of these wrote it"),
    ".ckpt": ("a file of PyTorch", "give fairseq:{file} or melhubert:{file} if one of these wrote it"),
}
_WEIGHTS_ALONE = dict.fromkeys(
    (".safetensors", ".bin"),
    ("a file of weights", "give its folder, {folder}, with the config.json of their network"),
)
_UNKNOWN = "a file", "a Hugging Face checkpoint is a folder with config.json: check the path of the model"
_ADAPTER, _ADAPTER_WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
_UNREACHABLE: set[str] = set()  # ids for which the hub did not answer: each further try would take half a minute
_LFS = b"version https://git-lfs"


def check_folder(name: str) -> None:
    """Raise ModelError where a local path holds no checkpoint of transformers, and say what it holds instead."""
    path = Path(name)
    if not (name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists()):
        return
    if path.is_file():
        what, remedy = (_FOREIGN | _WEIGHTS_ALONE).get(path.suffix.lower(), _UNKNOWN)
        raise ModelError(f"{name} is {what}; {remedy.format(file=name, folder=path.parent)}")
    if not path.is_dir():
        raise ModelError(f"{name} does not exist: check the path of the model")
    if problem := mistaken(path, MODEL):
        raise ModelError(problem)
    refuse_adapter(name, None)
    if not (path / CONFIG).exists():
        raise ModelError(f"{name} has no config.json: {_instead(path)}")


def _instead(path: Path) -> str:
    """What to give instead of a folder without config.json, by what lies in it."""
    there = sorted(one.name for one in path.iterdir() if not one.name.startswith("."))
    if not there:
        return "it is empty; give the folder that save_pretrained wrote"
    snapshots = sorted(path.glob(f"snapshots/*/{CONFIG}"))
    if snapshots:
        return f"it is the cache of a hub id; give {snapshots[-1].parent}, or the id"
    cached = [one for one in there if one.startswith("models--")]
    if cached:
        return f"it is a cache of the hub; give an id, such as {cached[0].removeprefix('models--').replace('--', '/')}"
    inside = sorted((one.parent for one in path.glob(f"*/{CONFIG}")), key=lambda folder: natural(folder.name))
    if inside:
        others = listed(one.name for one in inside)
        return f"it holds other folders that have one ({others}); give one of them, e.g. {inside[-1]}"
    if any(one in WEIGHTS for one in there):
        return "it has weights, but nothing says of which network; copy the config.json that belongs to them"
    return foreign(path) or f"it holds {listed(there)}; give the folder that save_pretrained wrote"


def foreign(path: Path) -> str | None:
    """A sentence about the networks of other kinds in a folder, None where there is none."""
    if (path / "model.bin").exists():
        return f"it holds a network of CTranslate2, as faster-whisper has it (model.bin); {_TO_TORCH}"
    for file in sorted(path.iterdir()):
        if file.suffix.lower() in _FOREIGN and (file.suffix != ".xml" or file.name.startswith("openvino")):
            what, remedy = _FOREIGN[file.suffix.lower()]
            return f"it holds {what} ({file.name}); {remedy.format(file=file)}"
    return None


def refuse_adapter(name: str, revision: str | None) -> None:
    """Raise ModelError for adapters of peft: transformers adds them where peft can be imported, and only there."""
    # of the hub, the first is all that transformers looks for
    names = (_ADAPTER, *_ADAPTER_WEIGHTS) if Path(name).exists() else (_ADAPTER,)
    file = next((one for one in names if find(name, revision, one)), None)
    # peft writes each adapter that has a name into a folder of its own
    inside = sorted(Path(name).glob(f"*/{_ADAPTER}"))
    if file is None and not inside:
        return
    folder, file = (name, file) if file else (str(inside[0].parent), f"{inside[0].parent.name}/{_ADAPTER}")
    base = (read_settings(folder, revision, _ADAPTER) or {}).get("base_model_name_or_path")
    has_model = find(name, revision, CONFIG) is not None
    raise ModelError(
        f"{name} holds an adapter of peft ({file}) {'beside a model' if has_model else 'and no model'}, which "
        "layertool neither adds nor leaves out: merge it with "
        f"peft.PeftModel.from_pretrained(BASE, '{folder}').merge_and_unload().save_pretrained('NEW') in Python, where "
        f"BASE is the network that it was trained on{f' ({base})' if base else ''}, and give NEW"
        + ("; or take the adapter's files out of a copy of the folder" if has_model else "")
    )


def weight_files(name: str, revision: str | None = None) -> list[Path]:
    """The files of a checkpoint's weights; none where the hub has or gives none.

    Raises ModelError for a local folder without weights that transformers reads, with a part of them, or with the names
    of other places.
    """
    path = Path(name)
    file = next((found for one in WEIGHTS if (found := find(name, revision, one))), None)
    if file is None and not path.exists():
        return []
    if file is None:
        there = sorted(one.name for one in path.iterdir() if one.suffix in (".safetensors", ".bin") and one.is_file())
        other = f"only {listed(there)}; call them so if they are" if there else foreign(path) or "copy them, too"
        raise ModelError(f"{name} has a config.json but no weights (model.safetensors or pytorch_model.bin): {other}")
    parts = [file.name]
    if file.suffix == ".json":
        shards = (read_settings(name, revision, file.name) or {}).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(one, str) for one in shards.values()):
            raise ModelError(f"{file} names no files of weights: copy it again")
        parts = sorted(set(shards.values()))
        if outside := [one for one in parts if one in ("", ".", "..") or not re.fullmatch(r"[\w.\- ]+", one)]:
            raise ModelError(f"{file} names files of other places ({listed(outside)[:200]}): copy it again")
        if lacking := [one for one in parts if find(name, revision, one) is None]:
            raise ModelError(
                f"{name} lacks {len(lacking)} of the {len(parts)} files of weights that {file.name} names "
                f"({listed(lacking)}): copy them, too"
            )
    files = [found for part in parts if (found := find(name, revision, part))]
    for one in files:
        with open(one, "rb") as opened:
            if opened.read(len(_LFS)) == _LFS:
                raise ModelError(f"{one} is a pointer of Git LFS, not weights: type git lfs pull in {name}")
    return files


def find(name: str, revision: str | None, file: str) -> Path | None:
    """A file of a checkpoint, in a folder or on the hub; None where it has none, or the hub does not answer."""
    return _look_up(name, revision, file)[0]


def _look_up(name: str, revision: str | None, file: str) -> tuple[Path | None, bool]:
    """A file, and whether it is known that there is one, or none: without network it may be neither."""
    if Path(name).exists():
        path = Path(name) / file
        return (path if path.is_file() else None), True
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # of the commit that the configuration was just read at
    known = try_to_load_from_cache(name, file, revision=revision)
    if known is not None:
        return (Path(known), True) if isinstance(known, str) else (None, known is _CACHED_NO_EXIST)
    if name in _UNREACHABLE:
        return None, False
    try:
        return Path(hf_hub_download(name, file, revision=revision)), True
    except LocalEntryNotFoundError:
        _UNREACHABLE.add(name)
        return None, False
    except EntryNotFoundError:
        return None, True
    except (HfHubHTTPError, HFValidationError, OSError):  # of the whole model: opening its configuration says more
        return None, False


def read_settings(name: str, revision: str | None, file: str) -> dict | None:
    """What a JSON file of a checkpoint says, None without the file. Raises ModelError for what is no JSON object."""
    path = find(name, revision, file)
    if path is None:
        return None
    where = f"{name}/{file}"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{where} is damaged or no JSON ({str(error)[:120]}): copy it again") from error
    if not isinstance(said, dict):
        raise ModelError(f"{where} is a JSON {type(said).__name__}, not settings with names: copy it again")
    check_settings(where, said)
    return said


def described(folder: Path) -> dict:
    """What the config.json of a folder says; nothing without a folder, or one that can be read."""
    try:
        return (read_settings(str(folder), None, CONFIG) if folder.is_dir() else None) or {}
    except ModelError:
        return {}


def read_preprocessor(name: str, revision: str | None) -> dict | None:
    """What a checkpoint says of its input, None where it has no file for that.

    processor_config.json comes first, as in transformers; what preprocessor_config.json says otherwise is told.
    Raises ModelError for files that cannot be read, and for a sampling rate that models here are never given.
    """
    outer = read_settings(name, revision, PROCESSOR) or {}
    nested = outer.get("feature_extractor", outer.get("audio_processor"))
    if nested is None and outer.keys() & {"feature_extractor_type", "do_normalize"}:
        nested = outer
    if nested is not None and not isinstance(nested, dict):
        raise ModelError(
            f"{name}/{PROCESSOR} has a {type(nested).__name__} where a feature extractor belongs: copy it again"
        )
    plain = read_settings(name, revision, PREPROCESSOR)
    if nested is None or plain is None:
        return plain if nested is None else nested
    if differing := sorted(key for key in nested.keys() & plain.keys() if nested[key] != plain[key]):
        told = ", ".join(f"{key} {json.dumps(nested[key])} and {json.dumps(plain[key])}" for key in differing[:4])
        tell(f"{name}: {PROCESSOR} and {PREPROCESSOR} disagree ({told}): the first is followed; correct one of them")
    return nested


def write_preprocessor(folder: Path, normalise: bool) -> None:
    """Write the file that says whether a network's waveforms are normalised."""
    write_json(
        folder / PREPROCESSOR,
        {
            "feature_extractor_type": WAVEFORMS,
            "do_normalize": normalise,
            "sampling_rate": SAMPLE_RATE,
            "feature_size": 1,
            "padding_value": 0.0,
            "return_attention_mask": True,
        },
    )


def check_rate(name: str, said: dict) -> None:
    """Raise ModelError for an input (``read_preprocessor``) of another sampling rate than every model here is given."""
    if said.get("sampling_rate") not in (None, SAMPLE_RATE):
        raise ModelError(
            f"{name} says that it takes audio of {str(said['sampling_rate'])[:80]} Hz, and layertool gives every model "
            f"{SAMPLE_RATE} Hz: "
            f"correct sampling_rate in its {PREPROCESSOR} or {PROCESSOR} if that is wrong, else take another model"
        )


def normalises(name: str, revision: str | None, config: Any, asked: bool | None = None) -> bool:
    """Whether a model of the wav2vec 2.0 kind (a hub id or a folder) is given normalised waveforms.

    ``asked``: what a person decided, None for what the checkpoint says. Without a file that says it, models with
    layer norm in their convolutions are given zero mean and unit variance, and those with group norm are not, as
    fairseq trained them; that is told. Raises ModelError where the file cannot be read, or is of another kind of model.
    """
    unknown = "whether its waveforms are normalised is unknown: for extraction, give --normalise or --no-normalise"
    said = None
    try:
        said = read_preprocessor(name, revision)
    except ModelError as error:
        if asked is None:
            raise ModelError(f"{error}; {unknown}") from error
    if said is not None:
        check_rate(name, said)
    if asked is not None:
        return asked
    if said is None:
        if not _look_up(name, revision, PREPROCESSOR)[1]:
            raise ModelError(f"{name} has no {PREPROCESSOR} that can be read without network; {unknown}")
        # data2vec-audio has no such field: layer norm is all that it can have
        has_layer_norm = getattr(config, "feat_extract_norm", "layer") == "layer"
        tell(
            f"{name} has no {PREPROCESSOR}: its waveforms are {'normalised' if has_layer_norm else 'not normalised'}, "
            "as those of "
            f"models with {'layer' if has_layer_norm else 'group'} norm in their convolutions; add the file if it was "
            f"trained otherwise, or type {'--no-normalise' if has_layer_norm else '--normalise'} where it is extracted"
        )
        return has_layer_norm
    kind, wanted = said.get("feature_extractor_type", WAVEFORMS), said.get("do_normalize", True)
    if not isinstance(wanted, bool):
        raise ModelError(f"{name}'s {PREPROCESSOR} says do_normalize = {wanted!r}; {unknown}")
    if (kind != WAVEFORMS and "do_normalize" not in said) or said.get("feature_size", 1) != 1:
        raise ModelError(f"{name}'s {PREPROCESSOR} describes the input of another kind of model ({kind}); {unknown}")
    if "do_normalize" not in said:
        tell(
            f"{name}'s {PREPROCESSOR} does not say do_normalize: its waveforms are normalised, the default of "
            "transformers"
        )
    return wanted
