"""The first steps of every training on real speech: run by the command line, as losses.

``python -m tests.first_steps FILE`` writes them down; test_first_steps.py compares.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import commands
import models
import pandas as pd
import torch

from layertool.corpora.corpus import Corpus
from layertool.models import melhubert

DEMO = Path(melhubert.__file__).parents[2] / "data" / "demo_model"
STEPS = ["--steps", "50", "--save-steps", "53", "--batch-size", "3", "--accumulation", "2", "--bucket-steps", "1"]
SIZES = ["--blocks", "2", "--width", "32", "--ffn", "48", "--heads", "4"]
HEARD = ["--max-seconds", "2", "--min-frames", "1"]
CLUSTERS = ["--clusters", "20", "--cluster-frames", "4000"]
PRUNED = ["--seed", "5", *CLUSTERS, *HEARD]


def corpora(shared: Path, folder: Path) -> None:
    """The real utterances, those with a split for CTC, and six stimuli of the ECCC."""
    call("corpus", "folder", str(shared / "data/speech/english"), "-o", str(folder / "speech"))
    speech = Corpus.read(folder / "speech")
    table = speech.utterances.copy()
    words = speech.segments[speech.segments["tier"] == "word"]
    said = words.groupby("utterance", observed=True)["label"].agg(lambda labels: " ".join(map(str, labels)))
    table["text"] = table["utterance"].map(said)
    table["split"] = ["dev" if k % 5 == 0 else "train" for k in range(len(table))]
    Corpus.build(table.to_dict("records"), speech.segments.to_dict("records"), "texts").write(folder / "texts")
    call("corpus", "eccc", str(shared / "data/eccc/EnglishCCC_v1.2"), "-o", str(folder / "eccc"))
    eccc = Corpus.read(folder / "eccc")
    table = eccc.utterances
    few = pd.concat([table[table["split"] == part].head(n) for part, n in (("train", 5), ("dev", 2))])
    spoken = eccc.segments[eccc.segments["utterance"].isin(few["utterance"])].reset_index(drop=True)
    replace(eccc, utterances=few.reset_index(drop=True), segments=spoken).write(folder / "stimuli")


def networks(folder: Path) -> None:
    models.save("wav2vec2-base", folder / "w2v2")
    models.whisper(folder / "whisper", tokenizer="english")


TRAININGS = {
    "melhubert": ["pretrain", "speech", "--model", "melhubert", *SIZES, *HEARD, *CLUSTERS],
    "hubert": ["pretrain", "speech", "--model", "hubert", *SIZES, "--conv-width", "8", *HEARD, *CLUSTERS],
    "wav2vec2": ["pretrain", "speech", "--model", "wav2vec2", *SIZES, "--conv-width", "8", *HEARD],
    "distill": ["compress", "distill", DEMO, "speech", "--blocks", "1", "--teacher-layers", "1,2"],
    "heads": ["compress", "heads", DEMO, "speech", "--at", "20,40", *PRUNED],
    "rows": ["compress", "rows", DEMO, "speech", "--at", "20,40", "--amount", "32", *PRUNED],
    "weights": ["compress", "weights", DEMO, "speech", "--first-pruning", "15", "--period", "10", "--lag", "5", *PRUNED],
    "ctc": ["finetune", "ctc", "w2v2", "texts"],
    "frozen": ["finetune", "ctc", DEMO, "texts", "--tokens", "phone", "--freeze", "--weighted-sum"],
    "lexical": ["lexical", "finetune", "whisper", "stimuli", "--epochs", "25", "--batch-size", "3"],
}  # fmt: skip


def call(*arguments: str) -> None:
    commands.succeeds(*arguments, "-q")


def losses(name: str, folder: Path) -> list[tuple[int, float]]:
    """(step, loss) of a training; of lexical fine-tuning the means of its epochs, and the dev part's log-likelihood."""
    arguments = [str(folder / part) if (folder / part).exists() else str(part) for part in TRAININGS[name]]
    out = folder / f"run-{name}"
    call(*arguments, "-o", str(out), *([] if name == "lexical" else STEPS))
    if name == "lexical":
        history = json.loads((out / "finetune.json").read_text())["history"]
        return [(one["step"], value) for one in history for value in (one["loss"], one["dev"]) if value is not None]
    with open(out / "losses.csv", newline="", encoding="utf-8") as file:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        corpora(Path(os.environ["LAYERTOOL_SHARED"]), Path(name))
        networks(Path(name))
        found = {training: losses(training, Path(name)) for training in (sys.argv[2:] or TRAININGS)}
    Path(sys.argv[1]).write_text(json.dumps(found, indent=0))
