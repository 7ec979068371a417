"""Drawing tokens: greedy, seeded, nucleus."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.protocol import Sampling
from serving.engine.sampling import draw_tokens, uniform

_LOGITS = np.random.default_rng(0).normal(size=(5, 256)).astype(np.float32) * 3


def draw(logits: np.ndarray, sampling: Sampling, position: int = 0) -> int:
    return draw_tokens(logits[None], [sampling], [position])[0]


def test_temperature_zero_takes_the_most_likely_token() -> None:
    greedy = Sampling(temperature=0.0)
    assert draw_tokens(_LOGITS, [greedy] * 5, range(5)) == _LOGITS.argmax(axis=1).tolist()


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    samplings = [Sampling(seed=seed) for seed in range(5)]
    together = draw_tokens(_LOGITS, samplings, range(5))
    assert together == [draw(_LOGITS[row], samplings[row], row) for row in range(5)]
    reverse = slice(None, None, -1)
    assert draw_tokens(_LOGITS[reverse], samplings[reverse], range(5)[reverse]) == together[reverse]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_frequencies_follow_the_softmax_at_the_temperature(temperature: float) -> None:
    logits, count = np.array([0.0, 1.0, 2.0, -1.0], np.float32), 20_000
    seen = np.bincount([draw(logits, Sampling(temperature=temperature, seed=7), p) for p in range(count)], minlength=4)
    expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    # Four standard deviations of a binomial share.
    assert np.all(np.abs(seen / count - expected) <= 4 * np.sqrt(expected * (1 - expected) / count) + 1e-9)


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    for top_p, kept in ((0.4, {0}), (0.5, {0}), (0.7, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        sampling = Sampling(top_p=top_p - 1e-6 if top_p < 1 else 1.0, seed=3)
        assert {draw(logits, sampling, position) for position in range(400)} == kept


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**20))
def test_uniform_is_in_the_half_open_unit_interval(seed: int, position: int) -> None:
    assert 0 <= uniform(seed, position) < 1


def test_neighbouring_seeds_and_positions_are_unrelated() -> None:
    grid = np.array([[uniform(seed, position) for position in range(200)] for seed in range(200)])
    assert abs(grid.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(grid[:-1].ravel(), grid[1:].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(grid[:, :-1].ravel(), grid[:, 1:].ravel())[0, 1]) < 0.03
