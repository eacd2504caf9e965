"""Dealing rows into folds, so that what a score is tested on is new in the way that is claimed.

Random frames of one utterance are in training and test alike: two *independent* autocorrelated sequences
then score 0.78 held-out, 0.01 with utterance-disjoint folds (spec layerwise.md 6). So rows are dealt by
utterance unless asked otherwise.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from layertool.errors import UsageError


def disjoint(groups: np.ndarray, labels: np.ndarray | None, n_folds: int, seed: int, what: str) -> np.ndarray:
    """Fold (n,) of each row such that no group is in two folds: balanced in rows, and in labels if given.

    ``groups``, ``labels``: (n,); ``what``: what a group is, for the error when there are fewer than folds.
    Greedy over a random order of the groups: each goes where there is least of what it has. (Sorted by size, as
    in scikit-learn's StratifiedGroupKFold, few groups are dealt alike whatever the seed.)
    """
    groups = np.unique(groups, return_inverse=True)[1]
    n_groups = int(groups.max(initial=-1)) + 1
    if n_groups < n_folds:
        fewer = f"--n-folds {n_groups}{' or fewer' if n_groups > 3 else ''}, " if n_groups >= 3 else ""
        raise UsageError(
            f"there are fewer {what} ({n_groups}) than folds ({n_folds}): take {fewer}more data, or other --folds"
        )
    codes = np.zeros(len(groups), np.int64) if labels is None else np.unique(labels, return_inverse=True)[1]
    counts = sparse.csr_matrix((np.ones(len(groups)), (groups, codes)))  # rows of one group and label add up
    n_rows = np.bincount(groups)
    weights = 1.0 / np.bincount(codes).astype(np.float64) ** 2  # a rare label is as important as a frequent one
    held, sizes = np.zeros((n_folds, counts.shape[1])), np.zeros(n_folds)
    dealt = np.empty(n_groups, np.int64)
    random = np.random.default_rng(seed)
    for group in random.permutation(n_groups):
        first, last = counts.indptr[group], counts.indptr[group + 1]
        mine, of_them = counts.indices[first:last], counts.data[first:last]
        # what the sum of squared shares, of each label and of the rows, would grow by in each fold
        growth = held[:, mine] @ (of_them * weights[mine]) + sizes * n_rows[group] / len(groups) ** 2
        best = np.flatnonzero(growth <= growth.min() * (1 + 1e-12))
        fold = random.choice(best)
        dealt[group] = fold
        held[fold, mine] += of_them
        sizes[fold] += n_rows[group]
    return dealt[groups]


def by_utterance(codes: np.ndarray, n_samples: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Fold of each utterance in ``codes`` (unique), balanced in audio; the same at any frame rate.

    ``n_samples``: (len(codes),) lengths at 16 kHz. Returns (len(codes),).
    """
    weight = np.maximum(1, n_samples // 1600)  # tenths of a second stand for rows
    spread = np.repeat(np.arange(len(codes)), weight)
    folds = disjoint(codes[spread], None, n_folds, seed, "utterances")
    return folds[np.cumsum(weight) - 1]


def random(n: int, labels: np.ndarray | None, n_folds: int, seed: int) -> np.ndarray:
    """Random folds (n,), as published (spec 3.4): each label's rows are dealt equally, the remainder at random.

    Rows of one utterance are on both sides of every split: the scores are not held-out in any strict sense.
    """
    if n < n_folds:
        raise UsageError(f"{n} rows cannot be dealt into {n_folds} folds: take more rows")
    generator = np.random.default_rng(seed)
    labels = np.zeros(n, np.int64) if labels is None else np.unique(labels, return_inverse=True)[1]
    order = generator.permutation(n)
    order = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    within = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    full = np.repeat(counts // n_folds * n_folds, counts)
    dealt = np.where(within < full, within % n_folds, generator.integers(0, n_folds, n))
    folds = np.empty(n, np.int64)
    folds[order] = dealt
    return folds
