"""finetune: write texts or phones with CTC, from the whole network or from frozen layers."""

from __future__ import annotations

from pathlib import Path

import click

from layertool.commands import output
from layertool.commands.finetune_tables import draw, show
from layertool.commands.options import HELP, ModelText, json_option, output_folder, quiet_option, typed
from layertool.commands.training_options import require, settings_of, training_options, whole_numbers
from layertool.errors import UsageError


@click.group(context_settings=HELP)
def finetune() -> None:
    """Fine-tune a model, or check what its frozen layers are good for: characters or phones with CTC."""


def _where(part: str, default: str | None):
    return click.option(f"--{part}-where", multiple=True, metavar="COLUMN=VALUE",
                        help=f"Utterances of the {part} part, by their metadata; as --where elsewhere."
                             f"  [default: {default or 'none, only dev is reported'}]")  # fmt: skip


@finetune.command(context_settings=HELP)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=ModelText(series=True))
@click.argument("corpus", type=click.Path(path_type=Path))
@output_folder("Run")
@click.option("--units", type=click.Choice(["characters", "phone"]), default="characters", show_default=True,
              help="What is written: the column text, or the labels of the tier phone.")  # fmt: skip
@click.option("--case", type=click.Choice(["upper", "lower", "keep"]), default="upper", show_default=True,
              help="Of characters.")  # fmt: skip
@_where("train", "split=train")
@_where("dev", "split=dev")
@_where("test", None)
@click.option("--unknown", type=click.Choice(["error", "count"]), default="error", show_default=True,
              help="Refuse dev and test with a token that is in no training utterance, or count it as an error.")  # fmt: skip
@click.option("--reinit-top", default="0", metavar="N[,N...]", show_default=True,
              help="Re-initialise so many top layers; several numbers make a sweep.")  # fmt: skip
@click.option("--sweep-reinit", is_flag=True,
              help="Try all numbers of layers (or those of --reinit-top), choose on dev, compare with the standard.")  # fmt: skip
@click.option("--freeze", is_flag=True, help="Train no layer of the model; with --weighted-sum.")
@click.option("--weighted-sum", is_flag=True, help="Read a learned weighted sum of all layers; with --freeze.")
@click.option("--normalise-layers", is_flag=True, help="Mean 0 and variance 1 of each layer before the sum.")
@click.option("--cache-gb", type=click.FloatRange(min=0), default=8.0, show_default=True,
              help="Compute frozen layers once if they take no more memory, else for every batch.")  # fmt: skip
@click.option("--augment", is_flag=True, help="Hide spans of frames in training (SpecAugment of the model's config).")
@training_options(
    steps="10000; frozen: 100000", save_steps="1000", batch_size="6; frozen: 16", accumulation="1; frozen: 2",
    learning_rate="1e-4; frozen: 1e-2", warmup_steps="10 % of the steps; frozen: 0", schedule="linear, to 0; frozen: constant",
    seed="0", what_is_saved="Transcribe dev every so many steps; the best step is kept, a stopped run goes on from there.",
)  # fmt: skip
@click.option("--keep-models", is_flag=True, help="Keep the network of every step saved as RUN/step-N.")
@click.option("--results", type=click.Path(path_type=Path), default=None, metavar="FILE",
              help="Write the result rows as .csv, .parquet or .json.")  # fmt: skip
@click.option("--plot", type=click.Path(path_type=Path), default=None, metavar="FILE",
              help="Draw weights of frozen layers, over steps for a series, as .png, .pdf or .svg.")  # fmt: skip
@json_option
@quiet_option
def ctc(models, corpus, out, results, plot, as_json, quiet, freeze, weighted_sum, sweep_reinit, **asked) -> None:
    """Write texts or phones with a linear CTC head; error rates on dev and test, greedy decoding.

    \b
    The corpus needs texts (column text), or phones. Without --freeze the result is a MODEL; a MODEL may be a
    pattern ('run/step-*'). Protocols of Pasad et al. 2021 and Lin et al. 2024: docs/finetuning.md.
    Examples:
      layertool finetune ctc facebook/wav2vec2-base corpus -o tuned --test-where split=test
      layertool finetune ctc facebook/wav2vec2-base corpus -o top3 --reinit-top 3
      layertool finetune ctc facebook/wav2vec2-base corpus -o sweep --sweep-reinit --test-where split=test --results wer.csv
      layertool finetune ctc 'run/step-*' corpus -o per --units phone --freeze --weighted-sum --plot per.pdf
    """
    require("fine-tuning", "accelerate", "jiwer")
    tops = whole_numbers(asked.pop("reinit_top"), "--reinit-top")
    sweeps = sweep_reinit or len(tops) > 1
    _refuse(asked, freeze, weighted_sum, sweeps, plot)
    from layertool.commands.delivery import check_places, hand_over

    check_places(results, plot)
    import layertool.results
    from layertool.corpora.corpus import Corpus
    from layertool.training.ctc_data import Writing
    from layertool.training.ctc_results import rows, sweep_rows
    from layertool.training.ctc_runs import Recipe, assess_run, fine_tune, settings
    from layertool.training.ctc_sweep import sweep_reinit as sweep

    recipe = Recipe(
        0 if sweeps else tops[0], freeze, asked["normalise_layers"], asked["unknown"], asked["augment"],
        writing=Writing(asked["units"], asked["case"]),
    )  # fmt: skip
    how, parts = settings(freeze, **settings_of(asked)), _parts(asked)
    jobs = _jobs([member for members in models for member in members], out)
    there = Corpus.read(corpus)
    options = {"overwrite": asked["overwrite"], "keep_models": asked["keep_models"], "cache_gb": asked["cache_gb"]}
    found: list = []
    done: list = []
    for number, (model, folder) in enumerate(jobs, start=1):
        named = f"{model}: " if len(jobs) > 1 else ""

        def note(text: str, named: str = named) -> None:
            output.note(named + text, quiet)

        what = "steps" if len(jobs) == 1 else f"steps, model {number} of {len(jobs)}"
        with output.progress_bar(quiet, what) as progress:
            common = (recipe, how, parts, asked["statistics"], asked["device"])
            if sweeps:
                chosen = tops if typed({"reinit_top"}) else None
                swept = sweep(model, there, folder, chosen, *common, progress=progress, say=note, **options)
                done += list(swept.runs.values())
                found += sweep_rows(swept, there.name, model.text, how.seed)
                if not swept.is_better:
                    note("on dev no number of re-initialised layers beats the standard; the best of them is compared")
                continue
            tuned = fine_tune(model, there, folder, *common, progress=progress, say=note, **options)
        assessed = assess_run(tuned.folder, there, parts, model, asked["device"], recipe.unknown)
        done.append(tuned)
        found += rows(tuned, assessed, there.name, model.text, how.seed)
    table = layertool.results.table(found)
    hand_over(table, show, lambda path: draw(table, path), results, plot, as_json, quiet)
    for tuned in done:
        _say_done(tuned, quiet or as_json)


def _refuse(asked: dict, freeze: bool, weighted_sum: bool, sweeps: bool, plot: Path | None) -> None:
    """What was typed and does not go together."""
    if freeze != weighted_sum:
        one, other = ("--freeze", "--weighted-sum") if freeze else ("--weighted-sum", "--freeze")
        raise UsageError(f"{one} goes with {other}: a frozen model is read through a weighted sum of its layers")
    if freeze and (clash := typed({"reinit_top", "sweep_reinit", "augment"})):
        raise UsageError(f"a frozen model is measured as it is: leave {clash[0]} out")
    if not freeze and (clash := typed({"normalise_layers", "cache_gb"})):
        raise UsageError(f"{clash[0]} is for frozen layers: give --freeze --weighted-sum too, or leave it out")
    if not freeze and plot is not None:
        raise UsageError("--plot draws the weights of frozen layers: give --freeze --weighted-sum too, or leave it out")
    if asked["units"] == "phone" and (clash := typed({"case"})):
        raise UsageError(f"{clash[0]} is for characters: leave it out")


def _parts(asked: dict):
    from layertool.analysis.rows import parse_where
    from layertool.training.ctc_data import Parts

    given = {part: parse_where(where) for part in ("train", "dev", "test") if (where := asked[f"{part}_where"])}
    return Parts(**given)


def _jobs(found: list[tuple], out: Path) -> list[tuple]:
    """Each model with the folder of its run. Raises UsageError for two models of one name."""
    models = list(dict.fromkeys(model for _, model in found))
    if len(models) == 1:
        return [(models[0], out)]
    names = {model: name or Path(model.text).name for name, model in found}
    if len(set(names.values())) < len(names):  # run-a/step-100 and run-b/step-100
        names = {model: "-".join(Path(model.text).parts[-2:]) for model in models}
    twice = [name for name in names.values() if list(names.values()).count(name) > 1]
    if twice:
        raise UsageError(f"two models are called {twice[0]}, and so would their folders in {out}: run them one by one")
    return [(model, out / names[model]) for model in models]


def _say_done(tuned, quiet: bool) -> None:
    state = "it was finished already" if tuned.was_there else f"{output.number(tuned.n_parameters)} parameters trained"
    output.note(f"{tuned.folder}: best on dev at step {output.number(tuned.best.step)} ({state})", quiet)
