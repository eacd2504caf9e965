"""A rehearsal of a recipe: every command, file and figure of it in minutes, with numbers that mean nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from layertool.files import whole_file

if TYPE_CHECKING:
    import pandas as pd

    from layertool.corpora.corpus import Corpus

NOTE = "REHEARSAL.txt"  # in the folder of results
MADE_UP = "made-up"  # the folder in it of what stands for files that nobody gave
LONG_SECONDS = 3600.0  # of a corpus that is more than a rehearsal needs
N_WORDS, N_PAIRS, N_DIMENSIONS = 2000, 200, 50
SEED = 0


def says(paper: str) -> str:
    """What has to be known of everything in the folder."""
    return (
        f"A rehearsal of {paper}: trained for a few steps, with made-up files for what was not given. Its numbers mean "
        "nothing about the paper."
    )


def note(out: str, paper: str) -> None:
    """Say in the folder of results what it holds."""
    _write(Path(out) / NOTE, [says(paper)])


def make_up(out: str, corpus: Corpus) -> None:
    """Write what stands for files and corpora that nobody gave, into OUT/made-up; the same for the same corpus.

    ``corpus``: every second utterance, with a column split where there is none, and a column text of its words.
    ``glove.txt``, ``agwe.txt``: numbers drawn for each word of the corpus; ``benchmarks/drawn.csv``: ratings drawn for
    pairs of them (word1, word2, similarity). Without the tier word there are no texts, numbers and ratings.
    """
    import numpy as np

    folder = Path(out) / MADE_UP
    _half(corpus).write(folder / "corpus")
    words = list(_words(corpus).value_counts().index[:N_WORDS])
    if len(words) < 2:
        return
    random = np.random.default_rng(SEED)
    for name in ("glove.txt", "agwe.txt"):
        vectors = random.standard_normal((len(words), N_DIMENSIONS))
        _write(
            folder / name,
            (f"{word} {' '.join(f'{x:.4f}' for x in row)}" for word, row in zip(words, vectors, strict=True)),
        )
    pairs = [random.choice(len(words), 2, replace=False) for _ in range(N_PAIRS)]
    rated = [f"{words[first]},{words[second]},{random.uniform(0, 10):.2f}" for first, second in pairs]
    _write(folder / "benchmarks" / "drawn.csv", ["word1,word2,similarity", *rated])


def _half(corpus: Corpus) -> Corpus:
    """Every second utterance: what is not fitted on is left to be scored."""
    utterances = corpus.utterances[1::2].reset_index(drop=True)
    segments = corpus.segments[corpus.segments["utterance"].isin(utterances["utterance"])].reset_index(drop=True)
    half = replace(corpus, utterances=utterances, segments=segments, name=f"half of {corpus.name}")
    if "split" not in utterances:
        utterances["split"] = [("train", "train", "dev", "test")[k % 4] for k in range(len(utterances))]
    texts = _words(half).groupby(half.segments["utterance"], observed=True).agg(" ".join)
    if "text" not in utterances and len(texts):
        utterances["text"] = utterances["utterance"].astype(str).map(texts).fillna("")
    return half


def _words(corpus: Corpus) -> pd.Series:
    return corpus.segments.loc[corpus.segments["tier"] == "word", "label"].astype(str)


def _write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        Path(temporary).write_text("\n".join(lines) + "\n", encoding="utf-8")
