"""The demo: the main job on a corpus that it speaks itself; no download, no data needed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pandas as pd

import layertool
from layertool import figures, results
from layertool.corpora import espeak
from layertool.corpora.corpus import Corpus
from layertool.probes import neighbours
from layertool.store import FeatureStore

SEED = 0
UNTRAINED = "untrained wav2vec 2.0"
ACOUSTIC = ("mel", "mfcc", "spectrogram")
# What is asked of the rows: target -> (unit, column with the label). Always about sentences that were not
# seen: all voices say the same ones, so a layer with context would know a word by its neighbours.
QUESTIONS = {"phone": ("phone", "label"), "word": ("word", "label"), "speaker": ("utterance", "speaker")}
GROUP, N_FOLDS = "text", 6
MIN_TOKENS, MIN_LETTERS = 18, 4  # of the words that are asked for
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
    """Speak a corpus, extract an untrained network and acoustic features, and ask each layer three questions.

    ``say`` gets a line before each stage; ``progress(what)`` gives the function that is told (done,
    total) during it. What an earlier, stopped demo made in ``folder`` is used again.
    """
    folder = Path(folder)
    model = folder / "model"
    model.mkdir(parents=True, exist_ok=True)
    for entry in (resources.files(layertool) / "data" / "demo_model").iterdir():
        with resources.as_file(entry) as path:
            shutil.copyfile(path, model / path.name)
    corpus = _corpus(folder / "corpus", say, progress)
    stores = {}
    for name in (UNTRAINED, *ACOUSTIC):
        is_model = name == UNTRAINED
        say(f"extracting: {name}")
        stores[name] = layertool.extract(
            str(model) if is_model else name,
            corpus,
            folder / ("untrained" if is_model else name),
            units=("phone", "word", "utterance"),
            random_init=SEED if is_model else None,
            progress=progress("audio"),
        )
    say("asking every layer")
    table = results.table([row for name, store in stores.items() for row in _ask(name, store)])
    results.write(table, folder / "demo.csv")
    figure = figures.layer_curves(table, folder / "demo.png", "accuracy in unseen sentences")
    commands = [
        f"layertool corpus info {folder}/corpus",
        f"layertool extract {folder}/model {folder}/corpus -o {folder}/untrained --random-init {SEED} --units phone,word,utterance",
        f"layertool extract mel {folder}/corpus -o {folder}/mel --units phone,word,utterance",
    ]
    return Demo(folder, table, figure, findings(table), commands)


def _corpus(folder: Path, say: Say, progress: Callable[[str], Progress | None]) -> Corpus:
    if (folder / "corpus.json").exists():
        say(f"using the corpus in {folder}")
        return Corpus.read(folder)
    say(f"speaking {len(espeak.VOICES) * len(espeak.SENTENCES)} utterances with {len(espeak.VOICES)} voices")
    return espeak.make_corpus(folder, progress=progress("utterances"))


def _ask(name: str, store: FeatureStore) -> list[results.Result]:
    """Three questions to every layer of a store: which phone, which word, who is speaking?"""
    out = []
    for target, (unit, column) in QUESTIONS.items():
        rows = store.rows(unit)
        keep = pd.Series(True, rows.index)
        if unit == "word":  # short words are function words, which half of all sentences share
            keep = (rows["label"].map(rows["label"].value_counts()) >= MIN_TOKENS) & (
                rows["label"].str.len() >= MIN_LETTERS
            )
        for index, layer in enumerate(store.layers):
            features = store.read(unit, layer)[keep.to_numpy()]
            labels, groups = rows.loc[keep, column], rows.loc[keep, GROUP]
            score = neighbours.classify(features, labels, groups, n_folds=N_FOLDS, seed=SEED)
            out.append(
                results.Result(
                    analysis="probe neighbours",
                    variant=f"accuracy, nearest centroid, {score.n_folds} sentence-disjoint folds"
                    + (f", words of {MIN_LETTERS}+ letters said {MIN_TOKENS}+ times" if unit == "word" else ""),
                    model=name,
                    corpus=store.about["corpus"]["name"],
                    unit=unit,
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
            )
    return out


def findings(table: pd.DataFrame) -> list[str]:
    """What the numbers say, in words that only hold because the numbers do."""
    out = []
    for target in QUESTIONS:
        part = table[table["target"] == target]
        network, acoustic = part[part["model"] == UNTRAINED], part[part["model"] != UNTRAINED]
        best, baseline = network.loc[network["value"].idxmax()], acoustic.loc[acoustic["value"].idxmax()]
        if best["ci_low"] > baseline["ci_high"]:
            verdict = "is above"
        elif best["ci_high"] < baseline["ci_low"]:
            verdict = "is below"
        else:
            verdict = "is level with"
        out.append(
            f"{target}: the best layer of the untrained network ({best['layer']}, {best['value']:.0%}) {verdict} the best "
            f"acoustic feature ({baseline['model']}, {baseline['value']:.0%}); its top layer {network.iloc[-1]['layer']} has "
            f"{network.iloc[-1]['value']:.0%}, chance is {part['chance'].max():.0%}"
        )
    return out
