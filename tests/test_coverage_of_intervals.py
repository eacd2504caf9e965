"""Does a 95 % interval hold what it is about 95 times in 100? All analyses that report one are simulated, 200 times.

A case makes many small data sets from one population, with effects of utterances (speakers, words, sentences) that make
rows alike, and asks the function that the command asks for each. What an interval is about is the number that as much
other speech would give on average: the mean over the data sets, or the population's own where it is known. Some hundred
data sets say the share only to ±3 %, so that is how much each band is wider than what is promised (90 to 98 %).
Takes some four minutes: 200 data sets for each of some thirty numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import planted
import pytest

from layertool.analysis import cca, cka, folds, matrix, protocols, similarity, speat
from layertool.analysis.moments import fold_moments
from layertool.layerwise.lexical_rows import bootstrap_mean
from layertool.layerwise.mi import MI
from layertool.layerwise.segmentation import Segmentation
from layertool.probes import neighbours, sentence_similarity, word_discrimination, word_similarity
from layertool.store import FeatureStore
from layertool.training.ctc_rates import bootstrap_rate

Found = tuple[float, float | None, float | None]  # value and ends; of several numbers one after another
BAND = (0.90, 0.985)  # 90 to 98 %, and half of what 200 data sets leave open


@dataclass(frozen=True)
class Case:
    """``draw``: a random generator and a number to the number(s) of one data set; ``truth``: None for their mean.

    ``why``: of a band that is another one.
    """

    draw: Callable[[np.random.Generator, int], Found]
    truth: float | None = None
    n: int = 200
    band: tuple[float, float] = BAND
    why: str = ""


# --- populations ------------------------------------------------------------------------------------------------


def utterance_of_rows(random: np.random.Generator, n: int, mean: int) -> np.ndarray:
    """Utterances of unequal length: the number of each row's."""
    return np.repeat(np.arange(n), random.integers(mean // 2, mean * 3 // 2 + 1, n))


def two_views(random: np.random.Generator, n: int, mean: int = 10, width: int = 6, effect: float = 0.7):
    """Views (rows, width) that share three factors, and the utterance of each row, all with utterance effects."""
    of = utterance_of_rows(random, n, mean)
    mixing = np.random.default_rng(5).standard_normal((2, 3, width))

    def with_effects(d: int) -> np.ndarray:
        return random.standard_normal((len(of), d)) + effect * random.standard_normal((n, d))[of]

    shared = with_effects(3)
    return *(shared @ one + 1.5 * with_effects(width) for one in mixing), of


def labelled_rows(random: np.random.Generator, n: int, mean: int, n_labels: int = 6, effect: float = 0.7):
    """Rows about the means of their labels, moved by their utterances, which differ in what is said, too."""
    of = utterance_of_rows(random, n, mean)
    means = 1.2 * np.random.default_rng(3).standard_normal((n_labels, 5))
    usual = 1 / np.arange(1, n_labels + 1)
    shares = random.dirichlet(usual / usual.sum() * (8 if effect else 1000), n)
    labels = np.array([random.choice(n_labels, p=shares[u]) for u in of])
    rows = means[labels] + random.standard_normal((len(of), 5)) + effect * random.standard_normal((n, 5))[of]
    return rows, labels, of


# --- what layers share -----------------------------------------------------------------------------------------------


def cca_score(protocol: str, variant: str = "pwcca", n: int = 40) -> Callable[[np.random.Generator, int], Found]:
    def draw(random, seed):
        x, y, of = two_views(random, n)
        dealt = folds.by_utterance(np.arange(n), 1600 * np.bincount(of), 10, seed)[of]
        moments = fold_moments(dealt, 10, [x], [y], [np.roll(y, len(y) // 2, axis=0)])
        if protocol == "held-out":
            one = protocols.held_out(*moments, (variant,), seed=seed)[variant]
        else:
            one = protocols.in_sample(*moments, (variant,))[variant]
        return one.value, one.low, one.high

    return draw


def layers_compared(measure: str) -> Callable[[np.random.Generator, int], Found]:
    def draw(random, seed):
        x, y, of = two_views(random, 30, 8)
        groups = folds.by_utterance(np.arange(30), 1600 * np.bincount(of), 10, seed)[of]
        views = {"x": x, "y": y, "control": np.roll(y, len(y) // 2, axis=0)}
        measures = {
            "cka": cka.LinearCKA(),
            "cka --biased": cka.LinearCKA(debiased=False),
            "procrustes": similarity.Procrustes(),
            "cca": cca.InSampleCCA(),
        }
        if measure in measures:
            found = matrix.fill(lambda side, _: iter([views[side]]), ["a"], ["b"], measures[measure], groups)
        else:
            embed = {
                "rsa": lambda rows, name: similarity.rsa_ranks(rows, "correlation", name),
                "cka-rbf": lambda rows, name: cka.rbf_kernel(rows, 1.0, True, name),
            }[measure]
            found = matrix.compare_in_memory(lambda side, _: views[side], ["a"], ["b"], embed, lambda *_: 0.0, groups)
        return found.value[0, 0], found.low[0, 0], found.high[0, 0]

    return draw


def clusters_and_labels(effect: float, fit_on: bool = False, repeats: int = 3, n: int = 20):
    """Three numbers of ``layertool mi``: nats, over the labels' entropy, adjusted; the clusters' corpus is new, too."""

    def phones(folder, random, name) -> FeatureStore:
        rows, labels, of = labelled_rows(random, n, 12, effect=effect)
        place = np.arange(len(of)) - np.searchsorted(of, of)
        segments = [(u, "phone", 1600 * k, 1600 * (k + 1), f"p{c}") for u, k, c in zip(of, place, labels, strict=True)]
        # an utterance of its own length is never taken for that of another corpus
        lengths = random.integers(30_000, 10**7, n)
        return planted.store(folder / name, lengths, segments, rows={"phone": {"T1": rows}})

    def draw(random, seed):
        with TemporaryDirectory() as folder:
            store = phones(Path(folder), random, "scored")
            fit = phones(Path(folder), random, "fit") if fit_on else None
            analysis = MI(labels="phone", clusters=12, batch_size=200, repeats=repeats, fit_on=fit, seed=seed)
            rows = analysis.run(store)[:3]
        return sum(((row.value, row.ci_low, row.ci_high) for row in rows), ())

    return draw


# --- probes ------------------------------------------------------------------------------------------


def labels_found(method: str) -> Callable[[np.random.Generator, int], Found]:
    def draw(random, seed):
        x, labels, of = labelled_rows(random, 20, 12)
        one = neighbours.classify(
            x, labels, of, method, seed=seed, folds=folds.disjoint(of, labels, 5, seed, "utterances")
        )
        return one.value, one.ci_low, one.ci_high

    return draw


def difference_found(random, seed) -> Found:
    """Of two layers, one of which has more noise."""
    x, labels, of = labelled_rows(random, 20, 12)
    other = x + random.standard_normal(x.shape)
    dealt = folds.disjoint(of, labels, 5, seed, "utterances")
    one, two = (neighbours.classify(rows, labels, of, seed=seed, folds=dealt) for rows in (x, other))
    return neighbours.difference(one, two, of, seed)


def words_told_apart(resampled: str) -> Callable[[np.random.Generator, int], Found]:
    def draw(random, seed):
        words = np.repeat(np.arange(30), random.integers(2, 6, 30))
        speakers = random.integers(0, 10, len(words))
        vectors = random.standard_normal((30, 6))[words] + 0.5 * random.standard_normal((10, 6))[speakers]
        vectors += 0.6 * random.standard_normal(vectors.shape)
        of = {"words": words, "speakers": speakers}[resampled]
        one = word_discrimination.average_precision(word_discrimination.Cosine(vectors), words, clusters=of, seed=seed)
        return one.value, one.ci_low, one.ci_high

    return draw


def words_alike(n_words: int, n_pairs: int, n_tasks: int = 1) -> Callable[[np.random.Generator, int], Found]:
    """Ratings of other pairs of other words: cosines of what the words mean, and a layer that knows it with noise."""

    def draw(random, _seed):
        meaning = random.standard_normal((n_words, 4))
        layer = meaning + 0.6 * random.standard_normal((n_words, 4))
        names, every = [f"w{k}" for k in range(n_words)], np.array(np.triu_indices(n_words, 1)).T
        tasks, cosines = [], []
        for k in range(n_tasks):
            pairs = every[random.choice(len(every), n_pairs, replace=False)]
            task = word_similarity.Task(f"t{k}", [(names[a], names[b]) for a, b in pairs], np.zeros(n_pairs), n_pairs)
            ratings = word_similarity.cosines(meaning, names, task) + 0.3 * random.standard_normal(n_pairs)
            tasks.append(word_similarity.Task(task.name, task.pairs, ratings, n_pairs))
            cosines.append(word_similarity.cosines(layer, names, task))
        return word_similarity.score(tasks, cosines).macro

    return draw


def sentences_alike(
    resampled: str, n_pairs: int = 30, n_speakers: int = 6
) -> Callable[[np.random.Generator, int], Found]:
    """Other sentences by other speakers, or the same sentences by other speakers: what each interval is about."""

    def draw(random, seed):
        of_sentences = random if resampled == "pairs" else np.random.default_rng(1)
        ratings = of_sentences.uniform(0, 1, n_pairs)[:, None]
        first, noise = of_sentences.standard_normal((2, n_pairs, 8))
        both = np.stack([first, ratings * first + np.sqrt(1 - ratings**2) * noise])  # (side, pair, width)
        habits = np.eye(8) + 0.35 * random.standard_normal((n_speakers, 8, 8))
        voices = 0.5 * random.standard_normal((n_speakers, 8))
        said = (
            np.einsum("spd,vde->spve", both, habits)
            + voices
            + 0.3 * random.standard_normal((2, n_pairs, n_speakers, 8))
        )
        side, pair, speaker = (axis.ravel() for axis in np.indices(said.shape[:3]))
        these, _ = sentence_similarity.combine(pair, side, ratings[pair, 0], speaker)
        who = speaker if resampled == "speakers" else None
        return sentence_similarity.score(said.reshape(-1, 8), these, who, seed)

    return draw


def word_boundaries(resampled: str, n_cells: int) -> Callable[[np.random.Generator, int], Found]:
    """F1, R-value and token F1 of frames that change with the word, by utterances (speakers) of unlike clarity."""

    def draw(random, seed):
        n, frames, segments, lengths = 24, [], [], []
        speakers = np.repeat(np.arange(8), 3)
        noise = np.exp(0.3 * random.standard_normal(8)[speakers] + 0.2 * random.standard_normal(n)) * 0.8
        for u in range(n):
            n_frames = random.integers(5, 16, random.integers(5, 10))
            starts = np.concatenate([[0], np.cumsum(n_frames)])
            clip = np.repeat(random.standard_normal((len(n_frames), 4)), n_frames, axis=0)
            frames.append(clip + noise[u] * random.standard_normal(clip.shape))
            lengths.append(320 * int(starts[-1]) + 80)
            segments += [(u, "word", 320 * a, 320 * b, "w") for a, b in pairwise(starts)]
        with TemporaryDirectory() as folder:
            words = {"word": {"T1": planted.matrix(len(segments))}}
            store = planted.store(
                Path(folder) / "s", lengths, segments, {"T1": frames}, words, speaker=[f"s{k}" for k in speakers]
            )
            grid = {"window": (2, 4), "prominence": (0.3, 1)} if n_cells == 4 else {"window": 2, "prominence": 0.3}
            analysis = Segmentation(distance="euclidean", **grid, resample=resampled, tolerance=40, seed=seed)
            rows = {row.metric: row for row in analysis.run(store)}
        asked = [rows[name] for name in ("F1", "R-value", "token F1")]
        return sum(((row.value, row.ci_low, row.ci_high) for row in asked), ())

    return draw


# --- sums over items ------------------------------------------------------------------------------------------------


def association(n_x: int, n_y: int, shift: float, tailed: bool = False, **about) -> Case:
    """Associations of two groups of items; ``tailed``: exponential, not normal. The truth is the population's d."""

    def sample(random, n, moved):
        return moved + (random.exponential(1, n) - 1 if tailed else random.standard_normal(n))

    def d_of(random, size_x, size_y):
        s = np.concatenate([sample(random, size_x, shift), sample(random, size_y, 0.0)])
        return s, float(speat.effect_sizes(s[None], size_x)[0])

    def draw(random, seed):
        s, d = d_of(random, n_x, n_y)
        (one,) = speat.bootstrap(s[None], n_x, 1000, seed)
        return d, one.low, one.high

    return Case(draw, truth=d_of(np.random.default_rng(0), 40_000 * n_x, 40_000 * n_y)[1], n=400, **about)


def association_of_recordings(random, seed) -> Found:
    """``--resample all``: other targets and other recordings of emotions."""
    axis = np.eye(6)[0]
    parts = [random.standard_normal((20, 6)) + scale * axis for scale in (0.6, 0.0, 1.0, -1.0)]
    x, y, a, b = parts
    w = np.concatenate([x, y])
    d = speat.effect_sizes(speat.associations(w, a, b)[None], 20)[0]
    (one,) = speat.bootstrap_all(w[None], a[None], b[None], 20, 1000, seed)
    return float(d), one.low, one.high


def stimuli(random, seed) -> Found:
    """Log-likelihoods are skewed."""
    values = -100 * random.gamma(2, 1, 30)
    return float(values.mean()), *bootstrap_mean(values, 2000, seed)


def transcripts(random, seed) -> Found:
    n_words = random.integers(3, 20, 30)
    errors = random.binomial(n_words, random.beta(2, 6, 30))
    return float(errors.sum() / n_words.sum()), *bootstrap_rate(errors, n_words, seed=seed)


CASES = {
    "cca held-out": Case(cca_score("held-out")),
    "cca held-out, mean": Case(cca_score("held-out", "mean")),
    "cca in-sample": Case(
        cca_score("in-sample"),
        band=(0.90, 1.0),
        why="weights and correlations are chosen anew without each fold, which moves them more than chance does",
    ),
    "cka": Case(layers_compared("cka")),
    "cka --biased": Case(layers_compared("cka --biased")),
    "cka-rbf": Case(layers_compared("cka-rbf")),
    "procrustes": Case(layers_compared("procrustes")),
    "rsa": Case(layers_compared("rsa"), n=120),
    "cka --measure cca": Case(layers_compared("cca"), band=(0.90, 1.0), why="as cca in-sample"),
    "mi": Case(clusters_and_labels(0.7), n=150),
    "mi, no effect of utterances": Case(clusters_and_labels(0.0), n=150),
    "mi --fit-on": Case(clusters_and_labels(0.7, fit_on=True), n=150),
    "mi --fit-on, no effect of utterances": Case(clusters_and_labels(0.0, fit_on=True), n=150),
    "mi --repeats 12": Case(clusters_and_labels(0.7, repeats=12), n=100),
    "mi --repeats 1": Case(
        clusters_and_labels(0.7, repeats=1),
        n=150,
        band=(0.90, 1.0),
        why="one half does not say how halves differ, which counts as if other speech did",
    ),
    "neighbours, centroid": Case(
        labels_found("centroid"),
        band=(0.90, 1.0),
        why="ten parts of few utterances: a tenth less to learn from moves means of rare labels by more than a tenth",
    ),
    "neighbours, knn": Case(labels_found("knn"), band=(0.90, 1.0), why="as of centroids"),
    "neighbours, difference of two layers": Case(difference_found),
    "discrimination, words": Case(words_told_apart("words")),
    "discrimination, speakers": Case(words_told_apart("speakers")),
    "similarity, words once or twice": Case(words_alike(60, 40)),
    "similarity, words many times": Case(words_alike(30, 100)),
    "similarity, few pairs": Case(words_alike(60, 15)),
    "similarity, mean of three tasks": Case(words_alike(60, 40, 3)),
    "segmentation": Case(word_boundaries("utterances", 1), n=150),
    "segmentation, tuned": Case(word_boundaries("utterances", 4), n=150),
    "segmentation, speakers": Case(word_boundaries("speakers", 1), n=150),
    "sentences, pairs": Case(sentences_alike("pairs", n_speakers=3)),
    "sentences, speakers": Case(sentences_alike("speakers", n_pairs=20), n=100),
    "speat 5 + 5": association(5, 5, 0.0),
    "speat 5 + 5, d .7": association(5, 5, 0.8),
    "speat 5 + 5, d 1.6": association(5, 5, 2.5, band=(0.90, 1.0), why="near the largest d, one item moves all"),
    "speat 5 + 5, d .7, skewed": association(5, 5, 0.8, tailed=True),
    "speat 10 + 10, d .7": association(10, 10, 0.8),
    "speat 20 + 20, d .7": association(20, 20, 0.8),
    "speat 60 + 60, d .7": association(60, 60, 0.8),
    "speat 5 + 20, d .7": association(5, 20, 0.8),
    "speat, attributes too": Case(association_of_recordings),
    "lexical": Case(stimuli),
    "ctc": Case(transcripts),
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", CASES)
def test_intervals_hold_what_they_are_about(name, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # stores here need not outlive a power cut
    case = CASES[name]
    found = np.array([case.draw(np.random.default_rng([17, k]), k) for k in range(case.n)], np.float64)
    found = found.reshape(case.n, -1, 3)
    truth = found[..., 0].mean(0) if case.truth is None else case.truth
    held = ((found[..., 1] <= truth) & (truth <= found[..., 2])).mean(0)
    print(name, *(f"{one:.1%}" for one in held), f"of {case.n}")
    assert (case.band[0] <= held).all()
    assert (held <= case.band[1]).all()
