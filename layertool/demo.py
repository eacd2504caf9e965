"""The demo: the main job on a corpus that it speaks itself, with a small network that is inside the package; no
download.

The network is a MelHuBERT of a million parameters, trained on synthetic speech of other voices and other words
(``recipes/demo_model.py``). What it shows holds for it, not for speech models at large.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

import layertool
from layertool import figures
from layertool import result_rows as results
from layertool.account import Account, Table
from layertool.corpora import espeak
from layertool.corpora.corpus import Corpus
from layertool.files import whole_file
from layertool.probes import neighbours
from layertool.store import FeatureStore

SEED = 0
NETWORK, UNTRAINED, ACOUSTIC = "MelHuBERT", "MelHuBERT, random weights", ("mel", "mfcc")


@dataclass(frozen=True)
class Question:
    """What is asked of the rows of a unit: the label in ``column``, of rows of a group that was not seen."""

    unit: str
    column: str
    group: str
    unseen: str


# All voices say the same sentences, so a layer with context would know a word by its neighbours: of sentences that
# were not seen.
QUESTIONS = {
    "phone": Question("phone", "label", "text", "sentences"),
    "word": Question("word", "label", "text", "sentences"),
    "gender": Question("phone", "gender", "speaker", "voices"),
}
N_FOLDS = 6
MIN_TOKENS, MIN_LETTERS = 18, 4  # of the words that are asked for
FLAT = 0.02  # accuracies that differ by less are level
Say = Callable[[str], object]
Progress = Callable[[float, float], None]


@dataclass(frozen=True)
class Demo:
    """What the demo made: where its files are, the result rows, and what they say in words."""

    folder: Path
    table: pd.DataFrame
    figure: Path
    findings: list[str]
    commands: list[str]


def run(folder: Path | str, say: Say, progress: Callable[[str], Progress | None]) -> Demo:
    """Speak a corpus, extract the network, its untrained control and acoustic features, and ask each layer three
    questions.

    ``say`` gets a line before each stage; ``progress(what)`` gives the function that is told (done,
    total) during it. What an earlier, stopped demo made in ``folder`` is used again.
    """
    folder = Path(folder)
    model = folder / "model"
    model.mkdir(parents=True, exist_ok=True)
    for entry in (resources.files(layertool) / "data" / "demo_model").iterdir():
        with resources.as_file(entry) as path, whole_file(model / path.name) as temporary:
            shutil.copyfile(path, temporary)
    corpus = _corpus(folder / "corpus", say, progress)
    answers = {}
    for name in (NETWORK, UNTRAINED, *ACOUSTIC):
        say(f"extracting: {name}")
        store = layertool.extract(
            name if name in ACOUSTIC else str(model),
            corpus,
            folder / {NETWORK: "melhubert", UNTRAINED: "untrained"}.get(name, name),
            units=("phone", "word", "utterance"),
            random_init=SEED if name == UNTRAINED else None,
            progress=progress("audio"),
        )
        answers[name] = store
    say("asking every layer")
    asked = {name: _ask(name, store) for name, store in answers.items()}
    table = results.table([answer.row for found in asked.values() for answer in found])
    results.write(table, folder / "demo.csv")
    figure = folder / "demo.png"
    figures.draw(table, figure)
    units = "--units phone,word,utterance"
    commands = [
        f"layertool corpus info {folder}/corpus",
        f"layertool extract {folder}/model {folder}/corpus -o {folder}/melhubert {units}",
        f"layertool extract {folder}/model {folder}/corpus -o {folder}/untrained --random-init {SEED} {units}",
        f"layertool probe neighbours {folder}/melhubert {folder}/untrained {folder}/mel --labels phone --groups text "
        f"--plot {folder}/phones.png",
        f"layertool cca {folder}/melhubert --with word --unit word --folds text-disjoint",
    ]
    return Demo(
        folder, table, figure, [finding for target in QUESTIONS for finding in findings(target, asked)], commands
    )


def account(made: Demo) -> Account:
    """What the demo made, for a person."""
    targets = list(QUESTIONS)
    rows = []
    for (model, layer), part in made.table.groupby(["model", "layer"], sort=False):
        found = part.set_index("target").loc[targets]
        shares = zip(found["value"], found["ci_low"], found["ci_high"], strict=True)
        rows.append((model, layer, *(f"{value:.0%} [{low:.0%}, {high:.0%}]" for value, low, high in shares)))
    chance = made.table.groupby("target")["chance"].max()
    rows.append(("chance*", "", *(f"{chance[target]:.0%}" for target in targets)))
    title = (
        "Share of labels found: phones and words in unseen sentences, the gender of unseen voices from one phone; 95 % "
    )
    lines = [
        "* permuted labels, or the most frequent label, whichever is found more often",
        "",
        "What the numbers say:",
        *(f"  {finding}" for finding in made.findings),
        "",
        f"Figure: {made.figure}",
        f"Rows:   {made.folder / 'demo.csv'}",
        "",
        "The commands, to copy and change:",
        *(f"  {command}" for command in made.commands),
    ]
    return Account("", tables=[Table(f"{title}intervals", ("model", "layer", *targets), rows)], lines=lines)


def _corpus(folder: Path, say: Say, progress: Callable[[str], Progress | None]) -> Corpus:
    if (folder / "corpus.json").exists():
        say(f"using the corpus in {folder}")
        return Corpus.read(folder)
    say(f"speaking {len(espeak.VOICES) * len(espeak.SENTENCES)} utterances with {len(espeak.VOICES)} voices")
    return espeak.make_corpus(folder, progress=progress("utterances"))


@dataclass(frozen=True)
class Answer:
    """What one layer answered to one question: its row, and which of the rows it found (``groups``: of each)."""

    row: results.Result
    score: neighbours.Accuracy
    groups: np.ndarray


def _ask(name: str, store: FeatureStore) -> list[Answer]:
    """Three questions to every layer of a store: which phone, which word, whose voice?"""
    out = []
    for target, question in QUESTIONS.items():
        rows = store.rows(question.unit)
        keep = pd.Series(True, rows.index)
        if target == "word":  # short words are function words, which half of all sentences share
            keep = (rows["label"].map(rows["label"].value_counts()) >= MIN_TOKENS) & (
                rows["label"].str.len() >= MIN_LETTERS
            )
        labels, groups = rows.loc[keep, question.column], rows.loc[keep, question.group].to_numpy()
        for index, layer in enumerate(store.layers):
            features = store.read(question.unit, layer)[keep.to_numpy()]
            score = neighbours.classify(features, labels, groups, n_folds=N_FOLDS, seed=SEED)
            settings = {"method": "centroid", "n_folds": score.n_folds, "groups": question.group}
            row = results.row(
                "accuracy",
                settings | ({"min_letters": MIN_LETTERS, "min_tokens": MIN_TOKENS} if target == "word" else {}),
                analysis="neighbours",
                model=name,
                corpus=store.about["corpus"]["name"],
                unit=question.unit,
                layer=layer,
                layer_index=index,
                target=target,
                value=score.value,
                ci_low=score.ci_low,
                ci_high=score.ci_high,
                chance=max(score.majority, score.permuted),
                n=score.n,
                seed=SEED,
                store=str(store.path),
            )
            out.append(Answer(row, score, groups))
    return out


def findings(target: str, asked: Mapping[str, Sequence[Answer]]) -> list[str]:
    """What the numbers say about one question, in words that only hold because the numbers do.

    ``asked``: name -> answers of all layers. One layer is above another where the paired 95 % interval of their
    difference is.
    """

    def of(name: str) -> list[Answer]:
        return [one for one in asked[name] if one.row.target == target]

    blocks = [one for one in of(NETWORK) if one.row.layer.startswith("T")]
    first, best, last = blocks[0], max(blocks, key=lambda one: one.score.value), blocks[-1]
    way = []
    if best is not first:
        way.append(f"{'rises' if _above(best, first) else 'stays level'} from {_named(first)} to {_named(best)}")
    else:
        way.append(f"is highest in {_named(first)}")
    if best is not last:
        way.append(f"{'falls' if _above(best, last) else 'stays level'} to {_named(last)}")
    control = [one for one in of(UNTRAINED) if one.row.layer.startswith("T")]
    values = [one.score.value for one in control]
    middle = max(control, key=lambda one: one.score.value)
    shape = "flat" if max(values) - min(values) < FLAT else "not flat"
    acoustic = max((one for name in ACOUSTIC for one in of(name)), key=lambda one: one.score.value)
    chance = max(one.row.chance or 0.0 for name in asked for one in of(name))
    where = f"{target} in unseen {QUESTIONS[target].unseen}"
    return [
        f"{where}: the trained network {' and '.join(way)}; chance is {chance:.0%}.",
        f"  With random weights it is {shape}: {min(values):.0%} to {max(values):.0%}, {_beside(middle, best)} the "
        f"trained network's best; {acoustic.row.model} has {acoustic.score.value:.0%}, {_beside(acoustic, best)} it.",
    ]


def _named(one: Answer) -> str:
    return f"{one.row.layer} ({one.score.value:.1%})"


def _above(one: Answer, other: Answer) -> bool:
    low = neighbours.difference(one.score, other.score, one.groups, SEED)[1]
    return low is not None and low > 0


def _beside(one: Answer, other: Answer) -> str:
    return "above" if _above(one, other) else "below" if _above(other, one) else "level with"
