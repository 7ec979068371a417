"""The shuffle looks random: positions uniform, neighbours unrelated, small domains reach every order.

Limits are for fixed keys, so the tests cannot flicker; `z` is (chi2 - df) / sqrt(2 df), within +-4 for a good shuffle.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from jobs.train.permutation import mix, permute


def _z(counts):
    expected = counts.sum() / counts.size
    chi2, freedom = ((counts - expected) ** 2 / expected).sum(), counts.size - 1
    return (chi2 - freedom) / math.sqrt(2 * freedom)


def _shuffles(size, trials):
    keys = np.repeat(mix(99, np.arange(trials)), size)
    return permute(np.tile(np.arange(size), trials), size, keys).reshape(trials, size)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_every_order_of_a_tiny_set_is_equally_likely(size):
    weights = size ** np.arange(size)
    seen = _shuffles(size, 24_000) @ weights
    orders = [int(np.dot(p, weights)) for p in itertools.permutations(range(size))]
    counts = np.array([(seen == order).sum() for order in orders])
    assert counts.sum() == 24_000
    assert abs(_z(counts)) < 4


@pytest.mark.parametrize("size", [7, 9, 17, 64, 100, 257])
def test_places_and_pairs_of_places_are_uniform(size):
    shuffled = _shuffles(size, 60_000 // size * 4)
    assert abs(_z(np.bincount(shuffled[:, 0], minlength=size))) < 4
    assert abs(_z(np.bincount(shuffled[:, -1], minlength=size))) < 4
    gaps = (shuffled[:, 1:] - shuffled[:, :-1]) % size
    assert abs(_z(np.bincount(gaps.ravel(), minlength=size)[1:])) < 5


@pytest.mark.parametrize("size", [10**4, 10**6 + 3, 10**11])
def test_neighbours_of_a_large_set_are_unrelated(size):
    image = permute(np.arange(200_000) % size, size, 12345)[: min(size, 200_000)].astype(float) / size
    lags = [1, 2, 3, 8, 64, 1000]
    correlations = [abs(np.corrcoef(image[:-lag], image[lag:])[0, 1]) for lag in lags]
    assert max(correlations) < 4.5 / math.sqrt(image.size)
    assert abs(_z(np.histogram(image, bins=100, range=(0, 1))[0])) < 8  # below 0: without replacement is smoother
    pairs = np.histogram2d(image[:-1], image[1:], bins=30, range=((0, 1), (0, 1)))[0]
    assert abs(_z(pairs.ravel())) < 5


def test_two_epochs_and_two_keys_are_unrelated():
    first, second = (permute(np.arange(100_000), 10**11, key).astype(float) for key in (1, 2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.015


def test_one_bit_of_the_key_changes_half_the_bits_of_a_hash():
    words = np.arange(10_000)
    flipped = mix(words) ^ mix(words ^ (1 << 17))
    share = np.unpackbits(flipped.view(np.uint8)).mean()
    assert abs(share - 0.5) < 0.005


def test_the_identity_would_fail():
    """The limits above must be able to fail."""
    image = np.arange(10_000) / 10_000
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) > 0.9
