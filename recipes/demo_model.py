"""The network inside the package: a small MelHuBERT, trained on synthetic speech that the demo's generator speaks.

    python recipes/demo_model.py -o demo_model [--steps 2500]

Speaks a training corpus (voices and words that the demo does not have), clusters its MFCCs, whose mean and variance are taken out of every
utterance (Hsu et al. 2021 cluster MFCCs, too), pre-trains on it with `layertool pretrain`'s function, and writes the last step in float16 to
OUT/model, which is copied to layertool/data/demo_model. Two hours of speech; on two cores the corpus takes some minutes, the training half
an hour. The same seed gives the same network on one machine. A run that was stopped goes on. The network in the package was trained by
0.1.0, before dropout's draws were functions of the place in the run and batches were sorted by length: this recipe gives another of its kind.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import safetensors.torch

import layertool
from layertool.analysis.lexical.lexicon import cmudict_words
from layertool.corpora import espeak
from layertool.corpora.corpus import Corpus
from layertool.files import whole_file
from layertool.models import melhubert
from layertool.training.engine import Settings
from layertool.training.pretraining import pretrain
from layertool.training.pretraining_networks import Sizes
from layertool.training.pretraining_recipes import Recipe

SEED = 0
N_SENTENCES, N_WORDS = 60, (5, 9)  # of each voice
SIZES = Sizes(blocks=5, width=128, ffn=384, heads=4)
LANGUAGES = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland")
KINDS = [*((f"f{k}", "female") for k in range(2, 6)), *((f"m{k}", "male") for k in (2, 5, 6, 7))]


def voices() -> list[espeak.Voice]:
    """32 voices, none of them the demo's: eight larynges, four accents, rates and pitches of their own."""
    random = np.random.default_rng(SEED)
    return [
        espeak.Voice(
            f"{kind}_{language}", f"{language}+{kind}", gender, language, rate=int(random.integers(130, 185)),
            pitch=int(random.integers(25, 70)),
        )
        for language in LANGUAGES
        for kind, gender in KINDS
    ]  # fmt: skip


def sentences() -> list[str]:
    """As many word lists for each voice, of CMUdict's words: every phone in many contexts."""
    random = np.random.default_rng(SEED + 1)
    words = [word for word in cmudict_words() if word.isalpha() and 2 <= len(word) <= 9]
    return [
        " ".join(random.choice(words, int(random.integers(*N_WORDS)), replace=False)).capitalize() + "."
        for _ in range(N_SENTENCES)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2500)
    asked = parser.parse_args()
    folder = asked.output / "corpus"
    if (folder / "corpus.json").exists():
        corpus = Corpus.read(folder)
    else:
        corpus = espeak.make_corpus(folder, voices(), sentences(), progress=_say("utterances"))
    settings = Settings(
        asked.steps, 1e-3, warmup_steps=asked.steps // 12, schedule="linear", batch_size=8, max_gradient_norm=10.0,
        save_steps=max(asked.steps // 10, 1), seed=SEED,
    )  # fmt: skip
    recipe = Recipe("melhubert", SIZES, clusters=100, max_seconds=3.5, min_frames=25)
    mfcc = layertool.extract(
        "mfcc", corpus, asked.output / "mfcc", units=("frame",), cmvn=True, progress=_say("seconds")
    )
    done = pretrain(
        corpus, asked.output / "run", recipe, settings, (mfcc, "mfcc"), device="cpu", progress=_say("steps"), say=print
    )
    print("losses:", [(loss.step, round(loss.loss, 3)) for loss in done.losses[:: max(1, len(done.losses) // 10)]])
    network, config = melhubert.load(done.models[-1])
    melhubert.save(network, config, asked.output / "model")
    state = safetensors.torch.load_file(asked.output / "model/model.safetensors")
    with whole_file(asked.output / "model/model.safetensors") as temporary:
        safetensors.torch.save_file({name: value.half() for name, value in state.items()}, temporary)
    print(f"{asked.output / 'model'}: {sum(value.numel() for value in state.values())} parameters")


def _say(what: str):
    def say(done: float, total: float, *_: str) -> None:
        if not int(done) % max(1, int(total) // 20):
            print(f"{done:.0f} of {total:.0f} {what}", flush=True)

    return say


if __name__ == "__main__":
    main()
