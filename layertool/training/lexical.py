"""Fine-tuning Whisper to say what listeners say (Cuervo and Marxer; spec lexical.md 7)."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from transformers import Trainer, TrainerCallback, TrainingArguments, WhisperForConditionalGeneration

from layertool import audio
from layertool.analysis.lexical.metrics import log_likelihood
from layertool.analysis.lexical.scorer import OUTPUT, Variant, WhisperScorer, read_whisper_config
from layertool.analysis.lexical.stimuli import Stimulus, stimuli_of
from layertool.corpora.corpus import Corpus
from layertool.errors import ModelError, StoreError, UsageError
from layertool.files import read_json, write_json
from layertool.models import checkpoints, whisper
from layertool.models.computing import check_dtype, choose_device
from layertool.store.layout import differences
from layertool.training.responses import MODULES, OBJECTIVES, Network, StimulusData, batch

SCHEDULES = ("cosine", "linear")
RECORD, BEFORE, CHECKPOINTS, PART = "finetune.json", "before.json", "checkpoints", ".model.part"
MODEL_FILES = (
    "model*.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json", "preprocessor_config.json",
    "processor_config.json", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "normalizer.json", "chat_template.*",
)  # fmt: skip
# The paper's search space.
GRID = {
    "learning_rate": (1e-3, 1e-4, 1e-5),
    "warmup": (0.1, 0.5),
    "schedule": ("linear", "cosine"),
    "epochs": (1, 4, 8, 12, 16),
}


@dataclass(frozen=True)
class Recipe:
    """How a model is fine-tuned; the defaults are the paper's.

    ``modules``: which parts are trained, the rest is frozen. ``warmup``: share of the steps. ``from_scratch``: weights drawn
    from ``seed``. ``precision``: of the computation; the weights stay in float32. ``max_gradient_norm``: the paper does not
    say whether it clipped; 1 is transformers' own default.
    """

    objective: str = "all"
    modules: tuple[str, ...] = MODULES
    learning_rate: float = 1e-5
    warmup: float = 0.1
    schedule: str = "cosine"
    epochs: int = 12
    batch_size: int = 16
    max_gradient_norm: float = 1.0
    from_scratch: bool = False
    seed: int = 0
    precision: str = "float32"
    variant: Variant = field(default_factory=Variant)

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.objective, OBJECTIVES, "objective"), (self.schedule, SCHEDULES, "schedule"),
            *((name, MODULES, "part that can be trained") for name in self.modules),
        ):  # fmt: skip
            if value not in known:
                raise UsageError(f"'{value}' is no {what}: choose among {', '.join(known)}")
        if not self.modules:
            raise UsageError(f"nothing is to be trained: choose among {', '.join(MODULES)}")


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch: the mean training loss of its steps and the mean log-likelihood of the dev part."""

    epoch: int
    step: int
    loss: float | None
    dev: float


@dataclass(frozen=True)
class Tuned:
    """A finished run. ``history`` begins with epoch 0, before training; ``best``: the epoch whose model was kept."""

    folder: Path
    history: list[Epoch]
    best: Epoch
    was_there: bool = False


class _Trainer(Trainer):
    """Evaluates by the log-likelihood of the dev part; the rest is transformers'."""

    def __init__(self, *arguments, dev: Callable[[], float], **options):
        super().__init__(*arguments, **options)
        self.dev = dev

    def evaluate(self, *_arguments, **_options) -> dict[str, float]:
        metrics = {"eval_log_likelihood": self.dev()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Progress(TrainerCallback):
    def __init__(self, progress: Callable[[float, float], object] | None):
        self.progress = progress

    def on_step_end(self, args, state, control, **_) -> None:
        if self.progress:
            self.progress(state.global_step, state.max_steps)


def fine_tune(
    model: str,
    corpus: Corpus,
    out: Path | str,
    recipe: Recipe | None = None,
    by_target: bool = False,
    device: str = "auto",
    overwrite: bool = False,
    keep_checkpoints: bool = False,
    progress: Callable[[float, float], object] | None = None,
) -> Tuned:
    """Fine-tune on the train part of a corpus, keep the model of the epoch with the best dev part, in ``out``.

    ``out``: a Hugging Face folder that every command takes as MODEL, with finetune.json beside it: the recipe, the history,
    and which stimulus was in which part. A run that was stopped goes on after its last whole epoch, with the same numbers;
    one that is finished is returned as it is. ``by_target``: the target-disjoint split. ``keep_checkpoints``: all epochs.
    Raises UsageError for a split that is not there, StoreError for a folder with something else, ModelError.
    """
    recipe, out = recipe or Recipe(), Path(out)
    place = choose_device(device)
    if place.type == "cuda" and (place.index or 0) > 0:
        raise UsageError(
            f"training takes the first GPU that it sees: type CUDA_VISIBLE_DEVICES={place.index} before it"
        )
    check_dtype(recipe.precision, place)
    parts = {part: stimuli_of(corpus, part, by_target) for part in ("train", "dev", "test")}
    scorer = _scorer(model, recipe)
    record = _record(scorer, corpus, recipe, parts, by_target)
    finished = _open(out, record, overwrite)
    if finished is not None:
        return finished
    network = scorer.network
    network.set_up(scorer, recipe.modules, recipe.objective)
    n_trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    data = StimulusData(corpus, parts["train"], scorer.mel, recipe.objective == "top")
    trainer = _Trainer(
        model=network, args=_arguments(out, recipe, place, keep_checkpoints), train_dataset=data, eval_dataset=data,
        data_collator=batch, callbacks=[_Progress(progress)],
        dev=lambda: dev_likelihood(scorer, corpus, parts["dev"]),
    )  # fmt: skip
    _be_quiet(trainer)
    network.to(place)
    scorer.device = place
    known = out / BEFORE
    if not known.exists():
        write_json(known, {"dev": dev_likelihood(scorer, corpus, parts["dev"])})
    before = read_json(known, "the log-likelihood before training")["dev"]
    last = _last_checkpoint(out)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    history = [Epoch(0, 0, None, before), *_history(trainer.state.log_history)]
    best = max(history[1:], key=lambda epoch: epoch.dev)
    _keep(network, scorer, model, out)
    facts = {"history": [asdict(epoch) for epoch in history], "best_epoch": best.epoch, "trained_parameters": n_trained}
    write_json(out / RECORD, record | facts | {"finished": True})
    known.unlink()
    if not keep_checkpoints:
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return Tuned(out, history, best)


def dev_likelihood(scorer: WhisperScorer, corpus: Corpus, stimuli: Sequence[Stimulus]) -> float:
    """Mean log-likelihood of stimuli (equation 1), as ``layertool lexical score`` computes it."""
    scorer.network.eval()
    values = []
    for first in range(0, len(stimuli), 8):
        block = stimuli[first : first + 8]
        waveforms = [audio.read_utterance(corpus.utterances.iloc[one.place]) for one in block]
        states = scorer.encode(waveforms)["final"]
        with scorer.computing():
            for one, own in zip(block, states, strict=True):
                log_p = scorer.score(scorer.read(own), one.responses)
                values.append(log_likelihood(np.minimum(log_p, 0), one.counts))
    return float(np.mean(values))


def _scorer(model: str, recipe: Recipe) -> WhisperScorer:
    """A scorer of a network that can learn; float32, whatever the precision of training."""
    import transformers

    config = read_whisper_config(model)
    seed = recipe.seed if recipe.from_scratch else None
    loaded, provenance, _ = checkpoints.load_model(model, config, seed, OUTPUT)
    network = Network(config)
    network.load_state_dict(loaded.state_dict())
    network.generation_config = loaded.generation_config
    name, revision = checkpoints.split_revision(model)
    variant = recipe.variant
    whisper.check_language(name, config, variant.language)
    tokenizer, prefix = whisper.load_tokenizer(name, revision, config, variant.language or "en", variant.timestamps)
    scorer = WhisperScorer.of(network.eval(), tokenizer, prefix, whisper.load_mel(name, revision), variant)
    scorer.provenance = provenance
    transformers.utils.logging.set_verbosity_error()
    return scorer


def _record(
    scorer: WhisperScorer, corpus: Corpus, recipe: Recipe, parts: dict[str, list[Stimulus]], by_target: bool
) -> dict:
    """Everything that decides the numbers of a run."""
    said = [(one.utterance, one.responses, one.counts) for stimuli in parts.values() for one in stimuli]
    return {
        "kind": "lexical fine-tuning",
        "model": {key: scorer.provenance.get(key) for key in ("id", "revision", "sha256", "random_init")},
        "recipe": {**asdict(recipe), "modules": list(recipe.modules)},
        "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
        "responses": xxhash.xxh3_128_hexdigest(repr(said).encode()),
        "split": {"by_target": by_target, **{name: [s.utterance for s in own] for name, own in parts.items()}},
    }


def _open(out: Path, record: dict, overwrite: bool) -> Tuned | None:
    """Begin, or go on, or return what is finished. Raises StoreError for a folder of something else."""
    there = out / RECORD
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not there.exists()):
        raise StoreError(f"{out} holds other things than a fine-tuned model: choose another -o")
    if there.exists():
        old = read_json(there, "the record of a fine-tuning")
        differ = differences({key: old.get(key) for key in record}, record)
        if differ and not overwrite:
            raise StoreError(
                f"{out} was fine-tuned otherwise ({'; '.join(differ[:3])}): choose another -o, or start again with --overwrite"
            )
        if not differ and not overwrite and old.get("finished"):
            history = [Epoch(**epoch) for epoch in old["history"]]
            return Tuned(out, history, history[old["best_epoch"]], was_there=True)
        if differ or overwrite:
            _clear(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(there, record | {"finished": False})
    return None


def _clear(out: Path) -> None:
    """Take away what a run wrote, and nothing else; its record last."""
    for folder in (CHECKPOINTS, PART):
        shutil.rmtree(out / folder, ignore_errors=True)
    for pattern in (BEFORE, *MODEL_FILES, RECORD):
        for path in out.glob(pattern):
            path.unlink()


def _arguments(out: Path, recipe: Recipe, place: torch.device, keep_checkpoints: bool) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(out / CHECKPOINTS), num_train_epochs=recipe.epochs, learning_rate=recipe.learning_rate,
        per_device_train_batch_size=recipe.batch_size, warmup_steps=recipe.warmup, lr_scheduler_type=recipe.schedule,
        optim="adamw_torch", adam_beta1=0.9, adam_beta2=0.999, weight_decay=0.0,  # which is Adam
        max_grad_norm=recipe.max_gradient_norm, seed=recipe.seed, data_seed=recipe.seed,
        bf16=recipe.precision == "bfloat16", fp16=recipe.precision == "float16", use_cpu=place.type == "cpu",
        eval_strategy="epoch", save_strategy="epoch", logging_strategy="epoch", save_total_limit=None if keep_checkpoints else 2,
        load_best_model_at_end=True, metric_for_best_model="eval_log_likelihood", greater_is_better=True,
        report_to=[], disable_tqdm=True, remove_unused_columns=False, dataloader_pin_memory=place.type == "cuda",
    )  # fmt: skip
    arguments._n_gpu = min(arguments.n_gpu, 1)  # lists of words cannot be scattered over GPUs; accelerate launch can
    return arguments


def _be_quiet(trainer: Trainer) -> None:
    """Without the callback that prints every log as a dict."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def _last_checkpoint(out: Path) -> Path | None:
    """The last epoch that was saved whole: the Trainer writes its state last."""
    found = [path for path in (out / CHECKPOINTS).glob("checkpoint-*") if (path / "trainer_state.json").exists()]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _history(log: list[dict]) -> Iterator[Epoch]:
    losses = {entry["step"]: entry["loss"] for entry in log if "loss" in entry}
    for entry in log:
        if "eval_log_likelihood" in entry:
            yield Epoch(round(entry["epoch"]), entry["step"], losses.get(entry["step"]), entry["eval_log_likelihood"])


def _keep(network: Network, scorer: WhisperScorer, model: str, out: Path) -> None:
    """Write the best model as any Whisper: whole or not at all, its configuration last."""
    if not all(math.isfinite(float(p.detach().abs().max())) for p in network.parameters()):
        raise ModelError(
            "the weights are not finite after training: lower the learning rate and start again with --overwrite"
        )
    temporary = out / PART
    shutil.rmtree(temporary, ignore_errors=True)
    plain = WhisperForConditionalGeneration(network.config)
    plain.load_state_dict(network.state_dict())
    plain.generation_config = network.generation_config
    plain.save_pretrained(temporary)
    scorer.mel.save_pretrained(temporary)
    scorer.tokenizer.save_pretrained(temporary)
    for path in sorted(temporary.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(out / path.name)
    temporary.rmdir()


def grid(recipe: Recipe) -> dict[str, Recipe]:
    """The paper's search space around a recipe: a name and a recipe for each of its 60 points."""
    points = {}
    for values in product(*GRID.values()):
        changed: Any = dict(zip(GRID, values, strict=True))
        point = replace(recipe, **changed)
        name = f"lr{point.learning_rate:.0e}-warmup{point.warmup:g}-{point.schedule}-{point.epochs}epochs"
        points[name] = point
    return points


def search_grid(
    model: str, corpus: Corpus, out: Path | str, recipe: Recipe, tell: Callable[[str, Tuned], object], **options
) -> tuple[str, Tuned]:
    """Fine-tune at every point of the grid, each in a folder of its own, and keep the best model's weights, there.

    ``tell``: called after each. Returns the name and the run of the best. Points that are finished are not run again.
    """
    out = Path(out)
    best: tuple[str, Tuned] | None = None
    for name, point in grid(recipe).items():
        tuned = fine_tune(model, corpus, out / name, point, **options)
        tell(name, tuned)
        worse: Path | None = tuned.folder
        if best is None or tuned.best.dev > best[1].best.dev:
            worse = best[1].folder if best else None
            best = name, tuned
        for weights in worse.glob("*.safetensors") if worse else ():
            weights.unlink()
    if best is None:
        raise UsageError("the grid has no points")
    return best
