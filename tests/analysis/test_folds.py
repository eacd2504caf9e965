"""Folds: nothing on two sides, about equal sizes, labels where they belong, the same for the same seed."""

import warnings

import numpy as np
import pytest
from refusals import refused

from layertool.analysis import folds


def groups_of(n_groups=60, seed=0, largest=40):
    """A group for each row: of unequal sizes, in no order, with numbers that leave gaps."""
    random = np.random.default_rng(seed)
    names = random.choice(10_000, n_groups, replace=False)
    return random.permutation(np.repeat(names, random.integers(1, largest, n_groups)))


# --- groups that stay together ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n_groups", "n_folds"), [(60, 10), (10, 10), (11, 3), (3, 3)])
def test_no_group_is_in_two_folds(n_groups, n_folds, seed):
    groups = groups_of(n_groups, seed)
    found = folds.disjoint(groups, None, n_folds, seed, "utterances")
    assert found.shape == groups.shape
    assert set(found) == set(range(n_folds))  # and none is empty
    for group in np.unique(groups):
        assert len(set(found[groups == group])) == 1


@pytest.mark.parametrize("seed", range(5))
def test_folds_are_balanced_in_rows(seed):
    groups = groups_of(200, seed)
    sizes = np.bincount(folds.disjoint(groups, None, 10, seed, "utterances"))
    assert sizes.max() - sizes.min() <= np.unique(groups, return_counts=True)[1].max()


def test_names_may_be_text():
    groups = groups_of()
    names = np.array([f"speaker {group}" for group in groups])
    found = folds.disjoint(names, None, 5, 0, "speakers")
    for name in set(names):
        assert len(set(found[names == name])) == 1


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_spread_evenly(seed):
    """Utterances with 30 words of 4 labels, some of them frequent: each fold has about its tenth of each."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(100), 30)
    labels = random.choice(4, len(groups), p=[0.6, 0.25, 0.1, 0.05])
    found = folds.disjoint(groups, labels, 10, seed, "utterances")
    for label, count in enumerate(np.bincount(labels)):
        shares = np.bincount(found[labels == label], minlength=10)
        assert shares.max() - shares.min() < 0.05 * count  # a tenth is 0.1
    for group in range(100):
        assert len(set(found[groups == group])) == 1


def test_utterances_that_have_one_label_each_are_stratified():
    """Two kinds of utterances, 20 and 30 of them, all of equal length: 2 and 3 in each fold."""
    groups = np.repeat(np.arange(50), 7)
    labels = (groups >= 20).astype(int)
    for seed in range(5):
        found = folds.disjoint(groups, labels, 10, seed, "utterances")[::7]
        assert (np.bincount(found[:20], minlength=10) == 2).all()
        assert (np.bincount(found[20:], minlength=10) == 3).all()


def test_rare_labels_are_dealt_without_a_warning():
    groups = groups_of()
    labels = np.r_[np.zeros(len(groups) - 2, int), 1, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = folds.disjoint(groups, labels, 10, 0, "utterances")
    assert set(found) == set(range(10))


def test_groups_are_dealt_anew_for_each_seed_only():
    groups = groups_of()
    found = [folds.disjoint(groups, None, 10, seed, "utterances") for seed in range(5)]
    for seed in range(5):
        assert (folds.disjoint(groups, None, 10, seed, "utterances") == found[seed]).all()
    assert len({tuple(one) for one in found}) == 5


def test_too_few_groups():
    refused(
        r"fewer speakers \(7\) than folds \(10\): take --n-folds 7 or fewer, more data, or other",
        folds.disjoint,
        np.arange(70) % 7,
        None,
        10,
        0,
        "speakers",
    )
    refused(
        r"fewer speakers \(2\) than folds \(10\): take more data, or other",
        folds.disjoint,
        np.arange(70) % 2,
        None,
        10,
        0,
        "speakers",
    )
    refused("fewer utterances", folds.disjoint, np.zeros(0, int), None, 10, 0, "utterances")


def test_labels_rarer_than_folds():
    """They cannot be in every fold; the folds are of one size all the same."""
    dealt = folds.disjoint(np.arange(40), np.arange(40) // 2, 10, 0, "utterances")
    assert np.bincount(dealt).tolist() == [4] * 10
    assert (dealt[::2] != dealt[1::2]).all()  # the two rows of a label


@pytest.mark.parametrize(("n_groups", "n_folds"), [(20, 10), (11, 2), (100, 2), (100, 10), (500, 10)])
def test_the_seed_decides(n_groups, n_folds):
    """Two dealings agree about as often as independent ones; repeats and samples would else have one split."""
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(n_groups), random.integers(20, 120, n_groups))
    labels = random.zipf(1.5, len(groups)).clip(max=40)
    first = folds.disjoint(groups, labels, n_folds, 0, "utterances")
    agree = [
        np.mean([(first == fold)[other == fold].mean() for fold in range(n_folds)])
        for other in (folds.disjoint(groups, labels, n_folds, seed, "utterances") for seed in range(1, 30))
    ]
    assert np.mean(agree) == pytest.approx(1 / n_folds, abs=0.05)
    share = np.bincount(first) / len(first) * n_folds
    assert share.min() > 0.5
    assert share.max() < 1.5


# --- by utterance -------------------------------------------------------------------------------------


def test_utterances_are_balanced_in_audio():
    random = np.random.default_rng(0)
    lengths = random.integers(16_000, 30 * 16_000, 300)
    found = folds.by_utterance(np.arange(300), lengths, 10, 0)
    assert found.shape == (300,)
    seconds = np.bincount(found, lengths) / 16_000
    assert seconds.max() - seconds.min() <= 30.1  # the longest utterance, and tenths of a second


def test_short_utterances_are_dealt_too():
    found = folds.by_utterance(np.arange(20), np.r_[np.full(19, 100), 160_000], 10, 0)
    assert set(found) == set(range(10))


def test_the_fold_of_an_utterance_does_not_depend_on_the_frame_rate():
    """Rows of a model with 20 ms frames and of one with 10 ms frames, of the same utterances."""
    random = np.random.default_rng(1)
    codes = np.sort(random.choice(500, 40, replace=False))
    lengths = random.integers(4_000, 200_000, 40)
    fold_of = {}
    for hop in (160, 320, 640):
        frames = (lengths - 400) // hop + 1
        rows = np.repeat(codes, frames)
        there, which = np.unique(rows, return_inverse=True)  # as the analyses find out who is there
        assert (there == codes).all()
        fold_of[hop] = folds.by_utterance(there, lengths, 10, 3)
        dealt = fold_of[hop][which]
        for code, fold in zip(codes, fold_of[hop], strict=True):
            assert set(dealt[rows == code]) == {fold}
    assert (fold_of[160] == fold_of[320]).all()
    assert (fold_of[160] == fold_of[640]).all()


def test_numbers_of_utterances_are_only_names():
    lengths = np.random.default_rng(2).integers(4_000, 200_000, 40)
    first = folds.by_utterance(np.arange(40), lengths, 10, 0)
    assert (folds.by_utterance(np.arange(40) * 7 + 100, lengths, 10, 0) == first).all()
    assert (folds.by_utterance(np.arange(40), lengths, 10, 1) != first).any()


# --- random -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_random_folds_get_a_tenth_of_each_label(seed):
    counts = [200, 37, 10, 9, 1, 103]
    labels = np.random.default_rng(seed).permutation(np.repeat([3, 8, 9, 20, 21, 40], counts))
    found = folds.random(len(labels), labels, 10, seed)
    for label, count in zip([3, 8, 9, 20, 21, 40], counts, strict=True):
        dealt = np.bincount(found[labels == label], minlength=10)
        assert dealt.sum() == count
        assert dealt.min() >= count // 10
        assert (dealt - count // 10).sum() == count % 10  # the remainder goes anywhere


def test_random_folds_without_labels():
    found = folds.random(1003, None, 10, 0)
    sizes = np.bincount(found, minlength=10)
    assert sizes.sum() == 1003
    assert sizes.min() >= 100
    assert len(set(found[:10])) > 1  # not in order
    assert (np.diff(found) != 0).mean() > 0.8


def test_the_remainder_is_dealt_at_random():
    """Nine rows of each of 500 labels all go to random folds, not to the same ones every time."""
    labels = np.repeat(np.arange(500), 9)
    found = folds.random(len(labels), labels, 10, 0)
    assert np.bincount(found, minlength=10) == pytest.approx(np.full(10, 450), abs=100)
    patterns = {tuple(np.bincount(found[labels == label], minlength=10)) for label in range(500)}
    assert len(patterns) > 300


def test_random_folds_are_the_same_for_the_same_seed():
    labels = np.arange(400) % 13
    first = folds.random(400, labels, 10, 5)
    assert (folds.random(400, labels, 10, 5) == first).all()
    assert (folds.random(400, labels, 10, 6) != first).any()
    names = np.array([f"{label:02}" for label in labels])
    assert (folds.random(400, names, 10, 5) == first).all()


def test_fewer_rows_than_folds():
    refused("9 rows cannot be dealt into 10 folds: take more rows", folds.random, 9, None, 10, 0)
