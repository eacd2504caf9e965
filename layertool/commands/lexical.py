"""lexical: does Whisper mishear words as listeners do?"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from layertool.commands import delivery, lexical_tables, output
from layertool.commands.lexical_options import (
    PATH,
    check,
    corpus_argument,
    disjoint_option,
    model_options,
    models_argument,
    ranking_options,
    stimuli_options,
    task_of,
    variant_of,
    variant_options,
)
from layertool.commands.lexical_training import finetune
from layertool.commands.options import HELP, on_an_engine, place_options, seed_option, where_option
from layertool.errors import UsageError


@click.group(context_settings=HELP)
def lexical() -> None:
    """Does Whisper mishear words as listeners do? Score, rank, fine-tune, and read its layers.

    \b
    The corpus says what listeners heard (layertool corpus eccc). A model gives P(word | noisy clip); the score of a
    stimulus is the log multinomial probability of all its responses (Cuervo and Marxer).
    """


lexical.add_command(finetune)


@lexical.command(context_settings=HELP)
@models_argument
@corpus_argument
@stimuli_options
@variant_options
@model_options
@click.option("--responses", type=PATH, default=None, metavar="FILE",
              help="Write the log-probability of each response, too (.csv, .parquet).")  # fmt: skip
@seed_option
@place_options
@on_an_engine()
def score(models, corpus, responses, out, plot, as_json, quiet, seed, **asked) -> None:
    """How likely is what the listeners said? Log-likelihood of their responses, and Kendall's tau-b.

    \b
    Examples:
      layertool lexical score openai/whisper-small eccc -o zero_shot.csv --plot zero_shot.pdf
      layertool lexical score openai/whisper-small tuned eccc --split test
    """
    check(out, plot, responses)
    task = task_of(corpus, seed, asked)
    rows, said = _all_models(task, models, asked, quiet, *_vocabulary(None), ranking=False)
    if responses is not None:
        delivery.write_table(lexical_tables.responses(said), responses, quiet)
    lexical_tables.deliver(rows, out, plot, as_json, quiet)


@lexical.command(context_settings=HELP)
@models_argument
@corpus_argument
@stimuli_options
@variant_options
@model_options
@ranking_options(20_000)
@click.option("--words", "ranked", type=PATH, default=None, metavar="FILE",
              help="Write the ranked words, too (.csv, .parquet).")  # fmt: skip
@seed_option
@place_options
def rank(models, corpus, ranked, out, plot, as_json, quiet, seed, **asked) -> None:
    """Which words does the model hear? Exact top words of a lexicon against the listeners' responses.

    \b
    Top-1 accuracy, top-n coverage (n: a stimulus's different responses), Kendall's tau-b, log-likelihood.
    Homophones match, by CMUdict.
    Example:
      layertool lexical rank openai/whisper-small eccc --split test -o ranks.csv
    """
    check(out, plot, ranked)
    task = task_of(corpus, seed, asked)
    rows, said = _all_models(task, models, asked, quiet, *_vocabulary(asked["lexicon"]))
    if ranked is not None:
        delivery.write_table(lexical_tables.ranked_words(said), ranked, quiet)
    lexical_tables.deliver(rows, out, plot, as_json, quiet)


@lexical.command(context_settings=HELP)
@models_argument
@corpus_argument
@click.option("--split", type=click.Choice(["train", "dev", "test", "all"]), default="test", show_default=True,
              help="The part to score; the multinomial is fitted on train.")  # fmt: skip
@disjoint_option
@where_option
@click.option("--smoothing", type=click.FloatRange(min=0), default=1.0, show_default=True,
              help="Of the multinomial: added to the count of every word of the vocabulary.")  # fmt: skip
@variant_options
@model_options
@ranking_options(20_000)
@seed_option
@place_options
def baselines(models, corpus, smoothing, out, plot, as_json, quiet, seed, **asked) -> None:
    """The paper's table: chance, word frequencies, the untrained model, the models, and the best possible.

    \b
    The first MODEL is run with weights drawn anew, too. Fine-tuned models and those trained from scratch are
    further MODELs.
    Example:
      layertool lexical baselines openai/whisper-small tuned eccc -o table.csv
    """
    from layertool.feed.lexical import baseline_rows

    check(out, plot)
    task = task_of(corpus, seed, asked)
    words, name = _vocabulary(asked["lexicon"])
    below, oracle = baseline_rows(task, words, name, smoothing)
    if task.split not in ("dev", "test"):
        output.note("no multinomial: it is fitted on train, and would be scored on what it was fitted on", quiet)
    untrained: list = []
    if asked["random_init"] is None:
        # all words are alike to it: what it finds first is chance, and an exact search would open them all
        control = asked | {"random_init": seed, "states": None, "most_prefixes": UNTRAINED_PREFIXES}
        untrained, _ = _all_models(task, models[:1], control, quiet, words, name)
    rows, _ = _all_models(task, models, asked, quiet, words, name)
    lexical_tables.deliver([*below, *untrained, *rows, *oracle], out, plot, as_json, quiet)


UNTRAINED_PREFIXES = 100


@lexical.command(context_settings=HELP)
@click.argument("model")
@corpus_argument
@click.option("--layers", default="all", show_default=True, metavar="LAYERS",
              help="Encoder T0 to TL and final, decoder D0 to DM, e.g. T0-T4,D4.")  # fmt: skip
@click.option("--rank/--no-rank", "ranking", default=True, show_default=True, help="Top words of every layer, too.")
@stimuli_options
@variant_options
@model_options
@ranking_options(200)
@seed_option
@place_options
@on_an_engine()
def lens(model, corpus, layers, ranking, out, plot, as_json, quiet, seed, **asked) -> None:
    """Where in the network do human-like confusions arise? Words read from every layer.

    \b
    An encoder layer goes through the encoder's last norm to the unchanged decoder; a decoder layer through the
    decoder's last norm to the output. The last one of each is the model itself.
    Example:
      layertool lexical lens openai/whisper-small eccc --split test -o lens.csv --plot lens.pdf
    """
    check(out, plot)
    task = task_of(corpus, seed, asked)
    rows, _ = _all_models(task, [model], asked, quiet, *_vocabulary(asked["lexicon"]), ranking, layers)
    lexical_tables.deliver(rows, out, plot, as_json, quiet)


def _vocabulary(path: Path | None) -> tuple[list[str], str]:
    """The words to rank, and whose they are: lists of one name are told apart by their words."""
    import xxhash

    from layertool.analysis.lexical.lexicon import cmudict_words, read_words

    if path is None:
        return cmudict_words(), "CMUdict"
    words = read_words(path)
    return words, f"{path.name} ({xxhash.xxh3_64_hexdigest(chr(10).join(words).encode())[:6]})"


def _all_models(
    task, models, asked: dict, quiet: bool, words: list[str], name: str, ranking: bool = True, layers: str | None = None
):
    """Rows of every model, and what each said: (model, layer, outcomes).

    ``words``: to guess among and, with ``ranking``, to rank; ``name``: whose they are.
    """
    from layertool.analysis.lexical.scorer import open_whisper
    from layertool.feed.lexical import listener_rows
    from layertool.layers import select

    models = list(dict.fromkeys(models))
    if len(models) > 1 and asked["states"] is not None:
        raise UsageError("--states is a store of one model's states: give one MODEL")
    for model in models:  # what is wrong with the last one is said before the work on the first
        open_whisper(model)
    alike = len({Path(model).name for model in models}) < len(models)  # then their paths tell them apart
    chance, ranked = len(task.vocabulary(words)), f"{len(words)} words of {name}" if ranking else ""
    rows: list = []
    said: list = []
    for model in models:
        scorer = _scorer(model, asked, alike)
        chosen = None
        if layers is not None:
            chosen = scorer.layers if layers == "all" else select(layers, scorer.layers, model)
        if asked["states"] is not None:
            _keep_states(model, task.corpus, _needed(chosen), asked, quiet)
        # without a scorer: how another process makes a listener like this one
        make = partial(_listener, model, task.corpus, asked, alike, chosen, words if ranking else None)
        listener = make(scorer)
        with output.progress_bar(quiet, "stimuli") as progress:
            own, found = listener_rows(
                listener, task, chance, ranked, chosen, progress, _learned(model, scorer, task, quiet), make
            )
        rows += own
        said += [(own[0].model, layer, outcomes) for layer, outcomes in found.items()]
        if listener.n_opened:
            opened = sorted(listener.n_opened)
            middle, most = (output.number(opened[k]) for k in (len(opened) // 2, -1))
            of = output.number(listener.lexicon.n_prefixes if listener.lexicon else 0)
            output.note(
                f"{own[0].model}: {middle} of {of} prefixes opened for a stimulus (median; at most {most})", quiet
            )
    return rows, said


def _learned(model: str, scorer, task, quiet: bool) -> str:
    """What is to be said of a fine-tuned model: what it was trained on, and how."""
    from dataclasses import asdict

    from layertool.files import read_json

    record = Path(model) / "finetune.json"
    if not record.is_file() or scorer.provenance.get("random_init") is not None:  # drawn anew
        return ""
    known = read_json(record, "the record of a fine-tuning")
    learned = (known.get("recipe") or {}).get("variant")
    if learned and learned != asdict(scorer.variant):
        output.note(f"{model} learned in another variant than it is scored in ({learned}): see docs/lexical.md", quiet)
    trained = set((known.get("split") or {}).get("train", ()))
    n = sum(one.utterance in trained for one in task.stimuli())
    if not n:
        return ""
    output.note(f"{model} was trained on {n} of these {len(task.stimuli())} stimuli: type --split test", quiet)
    return f"trained on {n} of the stimuli"


def _scorer(model: str, asked: dict, alike: bool):
    """A model that scores words; ``alike``: others have its name, so that its path is said."""
    from layertool.analysis.lexical.scorer import WhisperScorer

    scorer = WhisperScorer(model, variant_of(asked), asked["device"], asked["dtype"], asked["random_init"])
    if alike:
        scorer.provenance["id"] = model
    return scorer


def _listener(model: str, corpus, asked: dict, alike: bool, layers, words: list[str] | None, scorer=None):
    """What goes through the stimuli of a corpus; the store of states is there by now. ``words``: to rank."""
    from layertool.feed.listening import Listener, States
    from layertool.store import FeatureStore

    scorer = scorer or _scorer(model, asked, alike)
    states = None
    if asked["states"] is not None:
        states = States(FeatureStore(asked["states"]), scorer, corpus, _needed(layers))
    lexicon = None if words is None else scorer.lexicon(words)
    return Listener(scorer, corpus, lexicon, states, asked.get("most_prefixes", 0))


def _needed(layers) -> list[str]:
    """The encoder layers whose states are read for ``layers`` (None: the model itself)."""
    return list(dict.fromkeys("final" if layer.startswith("D") else layer for layer in layers or ["final"]))


def _keep_states(model: str, corpus, needed: list[str], asked: dict, quiet: bool) -> None:
    """Make the store of the encoder's states, or make it whole, where it is not there."""
    from layertool.extractors.run import extract
    from layertool.store import FeatureStore

    path = asked["states"]
    if not path.exists() or not FeatureStore(path, allow_unfinished=True).finished:
        output.note(f"keeping the encoder's states of {corpus.name} in {path}", quiet)
        with output.progress_bar(quiet) as progress:
            extract(
                model, corpus, path, ("frame",), needed, dtype=asked["dtype"], device=asked["device"],
                random_init=asked["random_init"], encoder_window=asked["encoder_window"], progress=progress,
            )  # fmt: skip
