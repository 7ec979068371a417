"""When another trial does not pay."""

from __future__ import annotations

import random

import pytest

from orchestrator.policy.study.worth import expected_gain, worth_of_next


def test_the_expected_gain_is_that_of_even_draws_on_average() -> None:
    """Of n even draws from 0..1 the next one betters the least by 1 / ((n + 1) (n + 2)) on average."""
    generator, n, rounds = random.Random(1), 20, 4000
    found = [expected_gain([generator.random() for _ in range(n)], "min") or 0.0 for _ in range(rounds)]
    # The gaps say what the last draw gained, 1 / (n (n + 1)).
    assert sum(found) / rounds == pytest.approx(1 / (n * (n + 1)), rel=0.05)


def test_more_results_and_closer_ones_promise_less() -> None:
    near, far = [1.0, 1.01, 1.02, 1.03], [1.0, 1.5, 2.0, 2.5]
    assert (expected_gain(near, "min") or 0) < (expected_gain(far, "min") or 0)
    assert (expected_gain(far * 2, "min") or 0) < (expected_gain(far, "min") or 0)


def test_a_maximum_is_a_minimum_turned_over() -> None:
    results = [0.2, 0.9, 0.5, 0.7]
    assert expected_gain(results, "max") == pytest.approx(expected_gain([-one for one in results], "min"))


def test_too_few_results_pay_for_more() -> None:
    assert worth_of_next([1.0], [5.0], mode="min", worth_usd=0.0, after_trials=1).pays
    assert worth_of_next([1.0, 2.0], [5.0, 5.0], mode="min", worth_usd=0.0, after_trials=10).pays


def test_the_rule_weighs_gain_against_cost() -> None:
    results, costs = [1.0, 1.1, 1.2, 1.3], [2.0] * 4
    gain = expected_gain(results, "min") or 0.0
    just = worth_of_next(results, costs, mode="min", worth_usd=2.0 / gain * 1.01, after_trials=2)
    less = worth_of_next(results, costs, mode="min", worth_usd=2.0 / gain * 0.99, after_trials=2)
    assert just.pays
    assert not less.pays
    assert less.cost_usd == 2.0
