"""Fine-tuning Whisper to say what listeners say (Cuervo and Marxer; spec lexical.md 7)."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import xxhash
from transformers import Trainer, TrainerCallback, TrainingArguments, WhisperForConditionalGeneration
from transformers.trainer_callback import PrinterCallback

from layertool.analysis.lexical.scorer import Variant, WhisperScorer
from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError, ModelError, StoreError, UsageError
from layertool.files import read_json, write_json
from layertool.layerwise.listener import Listener, check_lengths
from layertool.layerwise.stimuli import Stimulus, stimuli_of
from layertool.models.computing import DTYPES, sound
from layertool.models.open import Model
from layertool.training.responses import MODULES, OBJECTIVES, Network, StimulusData, batch
from layertool.training.runs import CHECKPOINTS, RunFolder, mark_whole
from layertool.training.session import Diverged, place_of, random_states_kept

SCHEDULES = ("cosine", "linear")
RECORD, BEFORE, DIVERGED = "finetune.json", "before.json", "diverged.json"
MODEL_FILES = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "normalizer.json",
    "chat_template.*",
)


@dataclass(frozen=True)
class Recipe:
    """How a model is fine-tuned; the defaults are the paper's.

    ``modules``: which parts are trained, the rest is frozen. ``warmup``: share of the steps. ``from_scratch``: weights
    drawn from ``seed``. ``precision``: of the computation; the weights stay in float32. ``max_gradient_norm``: the
    paper does not say whether it clipped; 1 is transformers' own default.
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
            (self.objective, OBJECTIVES, "objective"),
            (self.schedule, SCHEDULES, "schedule"),
            *((name, MODULES, "part that can be trained") for name in self.modules),
        ):
            if value not in known:
                raise UsageError(f"'{value}' is no {what}: choose among {', '.join(known)}")
        if not self.modules:
            raise UsageError(f"nothing is to be trained: choose among {', '.join(MODULES)}")
        object.__setattr__(self, "modules", tuple(name for name in MODULES if name in self.modules))
        for what, number, fits, wanted in (
            ("learning rate", self.learning_rate, 0 < self.learning_rate < math.inf, "a number above 0"),
            ("warm-up", self.warmup, 0 <= self.warmup < 1, "a share of the steps, from 0 to less than 1"),
            ("number of epochs", self.epochs, self.epochs >= 1, "1 or more"),
            ("batch size", self.batch_size, self.batch_size >= 1, "1 or more"),
            ("largest gradient norm", self.max_gradient_norm, self.max_gradient_norm >= 0, "0 (never clipped) or more"),
            ("seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 4294967295"),
        ):
            if not fits:
                raise UsageError(f"{number} is no {what}: give {wanted}")


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
        try:
            metrics = {"eval_log_likelihood": self.dev()}
        except ModelError as error:
            raise Diverged(
                f"training diverged at step {self.state.global_step} ({error}): lower the learning rate"
            ) from error
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Saved(TrainerCallback):
    """Makes every checkpoint a whole MODEL, and keeps the last and the best one, or all."""

    def __init__(self, folder: RunFolder, scorer: WhisperScorer, keep_all: bool):
        self.folder, self.scorer, self.keep_all = folder, scorer, keep_all

    def on_save(self, args, state, control, **_) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.keep_all:
            described = read_json(checkpoint / "config.json", "the configuration of a checkpoint")
            write_json(
                checkpoint / "config.json", described | {"architectures": [WhisperForConditionalGeneration.__name__]}
            )
            self.scorer.mel.save_pretrained(checkpoint)
            self.scorer.tokenizer.save_pretrained(checkpoint)
        mark_whole(checkpoint)
        if not self.keep_all:
            best = max(_history(state.log_history), key=lambda epoch: epoch.dev)
            self.folder.keep_only([best.step, state.global_step])


class _Progress(TrainerCallback):
    def __init__(self, progress: Callable[[float, float], object] | None):
        self.progress = progress

    def on_step_end(self, args, state, control, **_) -> None:
        if self.progress:
            self.progress(state.global_step, state.max_steps)


def fine_tune(
    model: Model | str,
    corpus: Corpus,
    out: Path | str,
    recipe: Recipe | None = None,
    by_target: bool = False,
    device: str = "auto",
    overwrite: bool = False,
    keep_checkpoints: bool = False,
    progress: Callable[[float, float], object] | None = None,
    weights_needed: bool = True,
) -> Tuned:
    """Fine-tune on the train part of a corpus, keep the model of the epoch with the best dev part, in ``out``.

    ``out``: a Hugging Face folder that every command takes as MODEL, with finetune.json beside it: the recipe, the
    history, and which stimulus was in which part. A run that was stopped goes on after its last whole epoch, with the
    same numbers; one that is finished is returned as it is. ``by_target``: the target-disjoint split.
    ``keep_checkpoints``: all epochs. ``weights_needed``: a finished run whose weights were removed is done again.
    Raises CorpusError for a corpus without parts, StoreError for a folder with something else, ModelError, UsageError.
    """
    recipe, out = recipe or Recipe(), Path(out)
    model = Model.open(model)
    model.check_apart(out)
    place = place_of(device, recipe.precision)
    parts = _parts(corpus, by_target)
    with random_states_kept():
        scorer = _scorer(model, recipe)
        decided = _decided(scorer, corpus, recipe, parts, by_target)
        with RunFolder(out, RECORD, decided, MODEL_FILES, (BEFORE, DIVERGED), overwrite) as folder:
            if folder.finished is not None:
                there = _finished(folder)
                if not weights_needed or any(out.glob("model*.safetensors")):
                    folder.tidy(keep_checkpoints)
                    return there
                folder.restart()  # without its weights
            return _train(folder, scorer, corpus, recipe, parts, place, keep_checkpoints, progress)


def _parts(corpus: Corpus, by_target: bool) -> dict[str, list[Stimulus]]:
    """Stimuli of train, dev and, where there is one, test."""
    column = "split_by_target" if by_target else "split"
    there = set(corpus.utterances[column]) if column in corpus.utterances else set()
    for part in ("train", "dev"):
        if part not in there:
            raise CorpusError(
                f"the corpus {corpus.name} has no part {part} (column '{column}'), which fine-tuning needs: make "
                "it with "
                "'layertool corpus eccc', or add the column"
            )
    parts = {part: stimuli_of(corpus, part, by_target) for part in ("train", "dev", "test") if part in there}
    check_lengths(corpus, [*parts["train"], *parts["dev"]])
    return parts


def _train(
    folder: RunFolder,
    scorer: WhisperScorer,
    corpus: Corpus,
    recipe: Recipe,
    parts: dict[str, list[Stimulus]],
    place: torch.device,
    keep_checkpoints: bool,
    progress: Callable[[float, float], object] | None,
) -> Tuned:
    network = scorer.network
    network.set_up(scorer, recipe.modules, recipe.objective)
    caches = network.config.use_cache  # which the Trainer turns off
    n_trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    data = StimulusData(corpus, parts["train"], scorer.mel, recipe.objective == "top")
    trainer = _Trainer(
        model=network,
        args=_arguments(folder.path, recipe, place),
        train_dataset=data,
        eval_dataset=data,
        data_collator=batch,
        callbacks=[_Progress(progress), _Saved(folder, scorer, keep_checkpoints)],
        dev=lambda: dev_likelihood(scorer, corpus, parts["dev"]),
    )
    trainer.remove_callback(PrinterCallback)  # it prints every log as a dict
    network.to(place)
    scorer.device = place
    before = folder.path / BEFORE
    if not before.exists():
        write_json(before, {"dev": dev_likelihood(scorer, corpus, parts["dev"])})
    first = Epoch(0, 0, None, read_json(before, "the log-likelihood before training")["dev"])
    whole = list(folder.checkpoints().values())
    with sound(place, DTYPES[recipe.precision]):
        trainer.train(resume_from_checkpoint=str(whole[-1]) if whole else None)
    history = [first, *_history(trainer.state.log_history)]
    best = max(history[1:], key=lambda epoch: epoch.dev)
    _keep(folder, best, network, scorer, caches)
    facts = {"history": [asdict(epoch) for epoch in history], "best_epoch": best.epoch, "trained_parameters": n_trained}
    folder.finish(keep_checkpoints, **facts)
    return Tuned(folder.path, history, best)


def _finished(folder: RunFolder) -> Tuned:
    """What a finished run said. Raises StoreError for a damaged record."""
    record = folder.finished or {}
    try:
        history = [Epoch(**epoch) for epoch in record["history"]]
        return Tuned(folder.path, history, history[record["best_epoch"]], was_there=True)
    except (KeyError, TypeError, IndexError) as error:
        raise StoreError(
            f"{folder.file} is damaged ({error!r}): choose another -o, or start again with --overwrite"
        ) from error


def dev_likelihood(scorer: WhisperScorer, corpus: Corpus, stimuli: Sequence[Stimulus]) -> float:
    """Mean log-likelihood of stimuli (equation 1), as ``layertool lexical score`` computes it."""
    scorer.network.eval()
    outcomes = Listener(scorer, corpus).listen(stimuli, [scorer.output_layer])[scorer.output_layer]
    return float(np.mean([outcome.log_likelihood for outcome in outcomes]))


def _scorer(model: Model, recipe: Recipe) -> WhisperScorer:
    """A scorer of a network that can learn; float32, whatever the precision of training."""
    opened = WhisperScorer(model, recipe.variant, "cpu", random_init=recipe.seed if recipe.from_scratch else None)
    network = Network(opened.network.config)
    network.load_state_dict(opened.network.state_dict())
    network.generation_config = opened.network.generation_config
    scorer = WhisperScorer.of(network.eval(), opened.tokenizer, opened.decoder.prefix, opened.mel, recipe.variant)
    scorer.provenance = opened.provenance
    return scorer


def _decided(
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


def _arguments(out: Path, recipe: Recipe, place: torch.device) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(out / CHECKPOINTS),
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        per_device_train_batch_size=recipe.batch_size,
        warmup_steps=recipe.warmup,
        lr_scheduler_type=recipe.schedule,
        optim="adamw_torch",
        adam_beta1=0.9,
        adam_beta2=0.999,
        weight_decay=0.0,  # which is Adam
        max_grad_norm=recipe.max_gradient_norm,
        seed=recipe.seed,
        data_seed=recipe.seed,
        bf16=recipe.precision == "bfloat16",
        fp16=recipe.precision == "float16",
        use_cpu=place.type == "cpu",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=place.type == "cuda",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # lists of words cannot be scattered over GPUs
    return arguments


def _history(log: list[dict]) -> Iterator[Epoch]:
    losses = {entry["step"]: entry["loss"] for entry in log if "loss" in entry}
    for entry in log:
        if "eval_log_likelihood" in entry:
            yield Epoch(round(entry["epoch"]), entry["step"], losses.get(entry["step"]), entry["eval_log_likelihood"])


def _keep(folder: RunFolder, best: Epoch, network: Network, scorer: WhisperScorer, caches: bool) -> None:
    """Write the best model as any Whisper: whole or not at all, its configuration last."""
    checkpoint = folder.checkpoints().get(best.step)
    if checkpoint is None:
        raise StoreError(
            f"the checkpoint of the best epoch ({best.epoch}, step {best.step}) is not in "
            f"{folder.path / CHECKPOINTS} or is "
            "damaged: start again with --overwrite"
        )
    shutil.rmtree(folder.part, ignore_errors=True)
    plain = WhisperForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    if not all(bool(parameter.isfinite().all()) for parameter in plain.parameters()):
        raise Diverged("the weights are not finite after training: lower the learning rate")
    plain.generation_config = network.generation_config
    plain.config.use_cache = caches
    plain.save_pretrained(folder.part)
    scorer.mel.save_pretrained(folder.part)
    scorer.tokenizer.save_pretrained(folder.part)
    folder.put_in_place("config.json")
