"""Spoken sentence similarity: are sentences that people call alike near each other in a layer?

Each sentence is said by several speakers; a pair's similarity is the mean cosine over combinations of a speaker of one
and a speaker of the other sentence, its score Spearman's correlation with human ratings (Merkx et al. 2021; spec
layerwise.md 5.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layertool import resampling
from layertool.errors import UsageError
from layertool.probes.directions import directions


@dataclass(frozen=True)
class Combinations:
    """Every utterance of one sentence of a pair with every one of the other.

    ``pair``: (n,) place of the pair in ``names``; ``first``, ``second``: (n,) rows of the utterances.
    """

    names: np.ndarray
    ratings: np.ndarray
    pair: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @property
    def n_of_pair(self) -> np.ndarray:
        return np.bincount(self.pair, minlength=len(self.names))


def combine(
    pairs: np.ndarray,
    sides: np.ndarray,
    ratings: np.ndarray,
    speakers: np.ndarray | None = None,
    across_speakers: bool = False,
) -> tuple[Combinations, list[str]]:
    """All combinations of utterances of each pair, and the names of pairs that have none, which are left out.

    ``pairs``, ``sides``, ``ratings``, ``speakers`` (n,): of each utterance; two different sides in all. Any number of
    speakers a sentence. ``across_speakers``: one speaker is not compared with himself.
    Raises UsageError for other than two sides, for a pair with two ratings, and for fewer than 3 pairs.
    """
    names, codes = np.unique(np.asarray(pairs).astype(str), return_inverse=True)
    two, side = np.unique(np.asarray(sides).astype(str), return_inverse=True)
    if len(two) != 2:
        shown = ", ".join(two[:5])
        raise UsageError(f"the sides of sentence pairs are two, not {len(two)} ({shown}): choose another column")
    ratings = np.asarray(ratings, np.float64)
    of_pair = np.full(len(names), np.nan)
    of_pair[codes] = ratings
    differ = ratings != of_pair[codes]
    if differ.any():
        at = int(np.argmax(differ))
        raise UsageError(
            f"pair '{names[codes[at]]}' has more than one rating ({ratings[at]:g}, {of_pair[codes[at]]:g}), or "
            "one that is "
            "no number: a pair has one human rating"
        )
    pair, first, second = [], [], []
    for code in range(len(names)):
        a, b = (np.flatnonzero((codes == code) & (side == k)) for k in (0, 1))
        i, j = (grid.ravel() for grid in np.meshgrid(a, b, indexing="ij"))
        if across_speakers:
            if speakers is None:
                raise UsageError("combinations across speakers need the speaker of each utterance: give speakers")
            apart = np.asarray(speakers)[i] != np.asarray(speakers)[j]
            i, j = i[apart], j[apart]
        pair.append(np.full(len(i), code))
        first.append(i)
        second.append(j)
    of, i, j = (np.concatenate(parts).astype(np.int64) for parts in (pair, first, second))
    there = np.unique(of)
    if len(there) < 3:
        across = " by different speakers" if across_speakers else ""
        raise UsageError(f"{len(there)} pairs have both sentences{across}: a rank correlation takes 3 or more")
    alone = [str(name) for name in np.delete(names, there)]
    return Combinations(names[there], of_pair[there], np.searchsorted(there, of), i, j), alone


def cosines(vectors: np.ndarray, these: Combinations) -> np.ndarray:
    """Cosine (n_combinations,) of the two utterance vectors (rows of ``vectors``, (rows, width)).

    Raises FeatureError for vectors of zeros or with values that are not finite.
    """
    used, places = np.unique([these.first, these.second], return_inverse=True)

    def name(at: int) -> str:
        of_row = (these.first == used[at]) | (these.second == used[at])
        return f"a vector of pair '{these.names[these.pair[of_row][0]]}'"

    first, second = directions(vectors[used], name)[places.reshape(2, -1)]
    return np.einsum("ij,ij->i", first, second)


def score(
    vectors: np.ndarray,
    these: Combinations,
    speakers: np.ndarray | None = None,
    seed: int = 0,
    with_interval: bool = True,
) -> tuple[float, float | None, float | None]:
    """Spearman's correlation of the mean cosine of each pair with the human ratings, and its 95 % interval.

    NaN where all cosines are equal.

    The interval resamples pairs or, where ``speakers`` (rows,) are given, speakers: a combination then counts as often
    as both its speakers are drawn, one of a speaker with himself as often as he is.
    """
    found = cosines(vectors, these)
    means = np.bincount(these.pair, found) / these.n_of_pair
    value = resampling.spearman(means, these.ratings)
    if not with_interval:
        return value, None, None
    if speakers is None:
        drawn = resampling.counts(len(these.names), seed)
        values = resampling.weighted_spearman(means, these.ratings, drawn)
        return value, *resampling.interval(values, len(these.names))
    voices = np.unique(np.asarray(speakers), return_inverse=True)[1]
    first, second = voices[these.first], voices[these.second]
    values = np.empty(resampling.N_RESAMPLES)
    n_voices = int(voices.max()) + 1
    for k, drawn in enumerate(resampling.counts(n_voices, seed)):
        weights = drawn[first] * np.where(first == second, 1, drawn[second])
        total = np.bincount(these.pair, weights)
        there = total > 0  # a pair may have lost its speakers
        sums = np.bincount(these.pair, weights * found)
        values[k] = resampling.spearman(sums[there] / total[there], these.ratings[there])
    return value, *resampling.interval(values, n_voices)
