"""A model is opened once: MODEL text is parsed here and nowhere else, and what it means says all of itself."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from layertool.errors import ModelError, UsageError
from layertool.files import read_json
from layertool.folders import check_outside
from layertool.geometry import FrameGeometry
from layertool.models import acoustic, checkpoints, fairseq, melhubert, whisper
from layertool.models.checkpoint_files import SOURCE, normalises
from layertool.models.computing import drawing
from layertool.models.families import (
    WAVEFORMS,
    Layer,
    melhubert_layers,
    native_layers,
    speech_layers,
    whisper_layers,
)
from layertool.models.foreign import file_sha256
from layertool.models.melhubert import MelHuBERT
from layertool.models.strangers import opening
from layertool.spelling import natural
from layertool.waveforms import Moments, standardised

# Kinds of MODEL: those that are typed as KIND:FILE, and two that are not.
FILES = ("fairseq", "melhubert", "fairseq-native")
TRANSFORMERS, ACOUSTIC = "transformers", "acoustic"
EPSILON = 1e-7  # added to the variance of a waveform by transformers' Wav2Vec2FeatureExtractor
# What was asked for besides, and whose it is: kinds of MODEL, "waveforms" and "whisper" of those of transformers
OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "dtype": ("networks", ("waveforms", "whisper", *FILES)),
    "random_init": ("networks that are drawn here", ("waveforms", "whisper", "fairseq", "melhubert")),
    "normalise": ("models that read waveforms", ("waveforms", "fairseq", "fairseq-native")),
    "cmvn": ("acoustic features", (ACOUSTIC,)),
    "language": ("Whisper's decoder", ("whisper",)),
    "encoder_window": ("Whisper", ("whisper",)),
    "statistics": ("MelHuBERT", ("melhubert",)),
    "mask_seed": ("models of the wav2vec 2.0 kind, which are trained on masked frames", ("waveforms", "fairseq")),
}


@dataclass(frozen=True)
class Asked:
    """What a person asked for that decides a model's numbers (``layertool.extract``); the defaults ask for nothing."""

    random_init: int | None = None
    normalise: bool | None = None
    cmvn: bool = False
    language: str | None = None
    encoder_window: str = "clip"
    statistics: str | None = None

    def __post_init__(self) -> None:
        if self.encoder_window not in whisper.WINDOWS:
            raise UsageError(f"'{self.encoder_window}' is no encoder window: choose {', '.join(whisper.WINDOWS)}")

    @property
    def given(self) -> dict[str, Any]:
        """What is not as usual."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) != one.default}


def split_kind(text: str) -> tuple[str | None, str]:
    """'melhubert:FILE' -> ('melhubert', FILE); (None, text) for every other MODEL. Raises UsageError without a FILE."""
    kind, colon, path = text.partition(":")
    if not colon or kind not in FILES:
        return None, text
    if not path.strip():
        raise UsageError(f"'{text}' names no file: type {kind}:FILE")
    return kind, path


class Model:
    """What a person types for MODEL, and what it means: ``Model.open``.

    ``text``: as it was typed. ``kind``: transformers, fairseq, fairseq-native, melhubert or acoustic. ``name``: its id,
    folder, file or feature, and ``revision``, None where none was given. Weights are read when they are needed: by
    ``load``, and by what only they say (the layers of a Whisper, all of what is in a file).
    """

    def __init__(self, text: str, asked: Asked):
        self.text, self.asked, self.revision = text, asked, None
        kind, self.name = split_kind(text)
        # after ``load``: parameters that the checkpoint has not, so that they hold random numbers
        self.lacking: list[str] = []
        self._waiting: Any = None  # a network that was read for what it says, and that ``load`` has not given away yet
        self._drawn_sha256: str | None = None
        # an acoustic feature's name, also where a folder of that name lies (./mel is the folder)
        if text.partition(":")[0] in {preset.layer for preset in acoustic.PRESETS.values()}:
            self.kind: str = ACOUSTIC
            acoustic.preset(text)
        elif kind is not None:
            self.kind = kind
        else:
            if not Path(text).exists() and (":" in text or "/" not in text):  # speech models have an owner
                near = difflib.get_close_matches(text, acoustic.PRESETS, n=1)
                raise UsageError(
                    f"'{text}' is no model{f' (did you mean {near[0]}?)' if near else ''}: give a Hugging Face id "
                    "(OWNER/NAME), a local folder, fairseq:FILE, melhubert:FILE, or an acoustic feature "
                    f"({', '.join(sorted(acoustic.PRESETS))})"
                )
            if not Path(text).exists() and "@" in text:  # a local path is never split
                self.name, _, self.revision = text.rpartition("@")
            self.kind = "melhubert" if melhubert.is_folder(self.name) else TRANSFORMERS

    @classmethod
    def open(cls, model: Model | Path | str, **asked: Any) -> Model:
        """A Hugging Face id (``name@revision``), a local folder, fairseq:FILE, melhubert:FILE, or an acoustic feature's
        name.

        ``asked``: fields of ``Asked``. Raises UsageError for what is no MODEL, and for an option that is not for it;
        ModelError for a checkpoint that cannot be read, at the latest where something of it is asked.
        """
        wanted = Asked(**asked)
        if isinstance(model, Model):
            if not wanted.given:
                return model
            wanted = replace(model.asked, **wanted.given)
        made = cls(str(model), wanted)
        made.check_options(wanted.given)
        return made

    @classmethod
    def series(cls, text: str | list[tuple[str | None, Model]]) -> list[tuple[str | None, Model]]:
        """The MODELs that a pattern names, each with a name for its store, in the order of the numbers in their names.

        A MODEL without a pattern is its only member, and has no name; a series that was opened stays as it is. Of
        KIND:PATTERN only files count, of others only folders. Raises ModelError where nothing has such a name.
        """
        if not isinstance(text, str):
            return text
        kind, pattern = split_kind(text)
        if not glob.has_magic(pattern) or Path(pattern).exists():
            return [(None, cls.open(text))]
        paths = [
            Path(path) for path in sorted(glob.glob(pattern), key=natural) if Path(path).is_dir() == (kind is None)
        ]
        if not paths:
            raise ModelError(f"no checkpoint is called {pattern}: check the pattern, and keep it in quotes")
        prefix = f"{kind}:" if kind else ""
        return [(name, cls.open(f"{prefix}{path}")) for name, path in zip(_names(paths), paths, strict=True)]

    @classmethod
    def of(cls, network: Any, name: str, normalise: bool, epsilon: float = EPSILON) -> Model:
        """A network of transformers in memory, of the wav2vec 2.0 kind: ``load`` gives it away, as it is.

        ``normalise``: whether it is given waveforms of zero mean and unit variance; ``epsilon``: added to the variance.
        """
        made = cls("./", Asked(normalise=normalise))
        made.kind, made.text, made.name, made._waiting = TRANSFORMERS, name, name, network
        vars(made).update(configuration=network.config, normalises=normalise, sha256=None)
        vars(made)["identity"] = {"id": name, "revision": None, "sha256": None, "normalisation_epsilon": epsilon}
        return made

    def __repr__(self) -> str:
        return f"Model({self.text!r})"

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and (self.text, self.asked) == (other.text, other.asked)

    def __hash__(self) -> int:
        return hash((self.text, self.asked))

    @property
    def path(self) -> Path:
        """Where it lies, however it is spelled; of an id of the hub, where nothing is."""
        return Path(self.name)

    def check_apart(self, out: Path) -> None:
        """Raise UsageError where it lies in the folder that is to be written, or is it."""
        if self.kind != ACOUSTIC:
            check_outside(out, f"the model {self.text}", self.path)

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise UsageError for the first option (a name in ``OPTIONS``, and its value) that is not for this model."""
        whats = {ACOUSTIC: "an acoustic feature", "melhubert": "a MelHuBERT"}
        for name in (name for name, value in options.items() if value not in (None, "float32")):
            whose, kinds = OPTIONS[name]
            if self.family not in kinds:
                other = f"of type '{self.type}'" if self.kind == TRANSFORMERS else f"a file of {self.kind}"
                option, what = f"--{name.replace('_', '-')}", whats.get(self.kind, other)
                raise UsageError(f"{option} is for {whose}; {self} is {what}: leave it out")

    @property
    def type(self) -> str:
        """The kind, or transformers' model type."""
        return self.configuration.model_type if self.kind in (TRANSFORMERS, "fairseq") else self.kind

    @cached_property
    def family(self) -> str:
        """Its kind; "waveforms" or "whisper" of those of transformers. Raises ModelError for any other type."""
        if self.kind != TRANSFORMERS:
            return self.kind
        if self.type in WAVEFORMS:
            return "waveforms"
        if self.type == "whisper":
            return "whisper"
        known = ", ".join([*WAVEFORMS, "whisper"])
        raise ModelError(f"{self} is of type '{self.type}', which has no extractor here (there are: {known})")

    @cached_property
    def configuration(self) -> Any:
        """transformers' configuration, MelHuBERT's, or an acoustic feature's preset; of fairseq-native none."""
        if self.kind == ACOUSTIC:
            return acoustic.preset(self.name)
        if self.kind == TRANSFORMERS:
            return checkpoints.read_config(self.name, self.revision)
        self._waiting = self.load()
        return vars(self).get("configuration")

    def load(self, head: str = "AutoModel", partly: bool = False) -> Any:
        """The network in evaluation mode and float32; a new one each time.

        ``head``: the automatic class of transformers that opens it; AutoModel leaves an output layer out. ``partly``:
        it may lack any parameters, for callers who know which ones they need (``lacking``); else those that only
        training uses. Raises ModelError when weights are missing, have other shapes, or are not safe to read.
        """
        network, self._waiting = self._waiting, None
        if network is None or head != "AutoModel":
            network = self._read(head)
            if self.asked.random_init is not None:
                self._drawn_sha256 = checkpoints.state_sha256(network)
        if not partly:
            # only training uses masked_spec_embed (but see --mask-seed)
            needed = [key for key in self.lacking if not key.endswith("masked_spec_embed")]
            checkpoints.refuse_lacking(self.name, needed)
        return network

    @opening
    def _read(self, head: str) -> Any:
        """A network; of a file also what it says, which is kept as ``configuration`` and ``facts``."""
        seed, known = self.asked.random_init, vars(self)
        if self.kind == ACOUSTIC:
            raise UsageError(f"{self} is an acoustic feature and has no network: give a model")
        if self.kind == TRANSFORMERS:
            if seed is not None:
                return checkpoints.draw_anew(self.configuration, seed, head)
            network, self.lacking = checkpoints.load_network(self.name, self.revision, self.configuration, head)
            return network
        if self.kind == "fairseq-native":
            network, known["facts"] = fairseq.read_native(self.path)
            return network
        if self.kind == "fairseq":
            network, known["facts"] = fairseq.read(self.path)
            known["configuration"] = network.config
            return network if seed is None else checkpoints.draw_anew(network.config, seed)
        network, config = melhubert.load(self.path)
        if config.stride is None:
            raise ModelError(
                f"{self.path} takes {config.feat_emb_dim} numbers a frame, which is the input of no MelHuBERT (40 at "
                f"10 ms, 80 at 20 ms): use layertool.models.melhubert with features of your own"
            )
        known["configuration"] = config
        if seed is None:
            return network
        with drawing(seed):
            return MelHuBERT(config).eval()

    @cached_property
    def facts(self) -> fairseq.Facts:
        """What a checkpoint of fairseq says of itself."""
        self._waiting = self.load()
        return vars(self)["facts"]

    @cached_property
    def normalises(self) -> bool | None:
        """Whether waveforms get zero mean and unit variance; None where the model is given something else."""
        if self.kind in ("fairseq", "fairseq-native"):
            return self.facts.normalise if self.asked.normalise is None else self.asked.normalise
        if self.family == "waveforms":
            return normalises(self.name, self.revision, self.configuration, self.asked.normalise)
        return None

    @property
    def epsilon(self) -> float:
        """What is added to the variance of a waveform that is normalised."""
        is_fairseqs = self.kind in ("fairseq", "fairseq-native")
        return fairseq.EPSILON if is_fairseqs else self.identity.get("normalisation_epsilon") or EPSILON

    @property
    def statistics(self) -> str:
        """Those of a MelHuBERT's input (``melhubert.features``)."""
        return self.asked.statistics or melhubert.DEFAULT_STATISTICS

    def hear(self, waveform: np.ndarray, of: Moments | None = None) -> np.ndarray:
        """What its network is given of an utterance: float32 (samples,), or (frames, 40 or 80) of a MelHuBERT.

        ``of``: the moments of the whole utterance, where ``waveform`` is a part of it.
        """
        if self.kind == "melhubert":
            return melhubert.features(waveform, self.configuration.stride, self.statistics)
        return standardised(waveform, self.epsilon, of) if self.normalises else waveform

    @cached_property
    def mel(self) -> Any:
        """The log-mel input of a Whisper."""
        return whisper.load_mel(self.name, self.revision, self.configuration)

    def tokenizer(self, language: str | None = None, timestamps: bool = False) -> tuple[Any, list[int]]:
        """The tokenizer of a Whisper, and the tokens that it puts before a transcription
        (``whisper.load_tokenizer``).
        """
        return whisper.load_tokenizer(self.name, self.revision, self.configuration, language, timestamps)

    @cached_property
    def layers(self) -> dict[str, Layer]:
        """All its layers in network order."""
        if self.kind == ACOUSTIC:
            return {self.configuration.layer: Layer(self.configuration.width, self.configuration.geometry)}
        if self.kind == "melhubert":
            return melhubert_layers(self.configuration)
        if self.kind == "fairseq-native":
            self._waiting = self.load()
            return native_layers(self._waiting)
        if self.family != "whisper":
            return speech_layers(self.configuration)
        self._waiting = self.load(partly=True)
        return whisper_layers(self.configuration, self._waiting, self.lacking, self.asked.encoder_window)

    @property
    def geometry(self) -> FrameGeometry:
        """Of the frames of its blocks, or of its only layer."""
        ordered = [self.layers[name] for name in ("T0", *self.layers) if name in self.layers]
        return next(layer.geometry for layer in ordered if layer.geometry is not None)

    @cached_property
    def sha256(self) -> str | None:
        """Of its weights: of a file, of a folder's files, of values that were drawn.

        None for an id, whose revision says it.
        """
        if self.asked.random_init is not None:
            if self._drawn_sha256 is None:
                self._waiting = self.load(partly=True)
            return self._drawn_sha256
        if self.kind == ACOUSTIC or not self.path.exists():
            return None
        if self.path.is_file():
            return file_sha256(self.path)
        patterns = ("*.safetensors",) if self.kind == "melhubert" else ("*.safetensors", "*.bin")
        return checkpoints.files_sha256(self.path, patterns)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What identifies its weights: id, revision, sha256, the step of training where it is known."""
        if self.kind == ACOUSTIC:
            return {"id": self.name, "revision": None}
        seed, is_local = self.asked.random_init, self.path.is_dir()
        if self.kind in ("fairseq", "fairseq-native"):
            return {
                "id": self.path.name,
                "revision": None,
                "sha256": self.sha256,
                "step": self.facts.step if seed is None else 0,
                "is_finetuned": self.facts.is_finetuned,
                "random_init": seed,
            } | ({"normalisation_epsilon": fairseq.EPSILON} if self.kind == "fairseq" else {})
        if self.kind == "melhubert":
            return {
                "id": self.path.resolve().name,
                "revision": None,
                "sha256": self.sha256,
                "description_sha256": checkpoints.files_sha256(self.path, ("config.json",)) if is_local else None,
                "random_init": seed,
                "step": self.configuration.step if seed is None else 0,
            }
        described = {
            "id": self.path.resolve().name if is_local else self.name,
            "revision": None if is_local else getattr(self.configuration, "_commit_hash", None) or self.revision,
            "sha256": self.sha256,
            "description_sha256": checkpoints.files_sha256(self.path, checkpoints.DESCRIPTIONS) if is_local else None,
        }
        if seed is None:
            if getattr(self.configuration, "adapter_attn_dim", None) is not None:
                described["adapter"] = "main weights"
            if (self.path / SOURCE).exists():  # of a folder that was written here
                source = read_json(self.path / SOURCE, "the source of a converted model")
                described |= {key: source.get(key) for key in ("step", "normalisation_epsilon")}
        return {**described, "random_init": seed}

    @property
    def provenance(self) -> dict[str, Any]:
        """What identifies it and decides its numbers: a part of every store's configuration."""
        if self.kind == ACOUSTIC:
            return {
                "family": "acoustic",
                **self.identity,
                "cmvn": self.asked.cmvn,
                "definition": self.configuration.description,
                "kaldi_native_fbank": version("kaldi-native-fbank"),
            }
        if self.kind == "melhubert":
            return {
                "family": "MelHuBERT",
                **self.identity,
                "statistics": melhubert.name_statistics(self.statistics),
            }
        if self.kind == "fairseq-native":
            reader = {"normalise": self.normalises, "reader": f"fairseq {fairseq.version()}"}
            return {"family": self.facts.family, **self.identity, **reader}
        if self.family == "whisper":
            window = self.asked.encoder_window
            return {"family": "Whisper", **self.identity} | ({} if window == "clip" else {"encoder_window": window})
        return {"family": WAVEFORMS[self.configuration.model_type], **self.identity, "normalise": self.normalises}


def _names(paths: list[Path]) -> list[str]:
    """A name for each path that is one part of a path: as much of its end as tells it from the others."""
    endings = (".pt", ".ckpt", ".pth", ".bin")
    stems = [path.stem if path.suffix in endings and not path.is_dir() else path.name for path in paths]
    candidates = [stems, [path.name for path in paths]]
    parts = [[part for part in path.resolve().parts if part != path.anchor] for path in paths]
    candidates += [["-".join(own[-k:]) for own in parts] for k in range(2, max(map(len, parts)) + 1)]
    return next(names for names in candidates if len(set(names)) == len(names))
