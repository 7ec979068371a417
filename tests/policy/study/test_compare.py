"""Luck against gain."""

from __future__ import annotations

import random

import pytest

from orchestrator.policy.study.compare import difference, importance


def test_one_run_each_cannot_tell_luck_from_gain() -> None:
    found = difference([1.0], [2.0])
    assert found.mean == 1.0
    assert found.significant is None


def test_seeds_apart_are_significant_and_mixed_ones_are_not() -> None:
    assert difference([1.0, 1.01, 0.99], [2.0, 2.01, 1.99]).significant
    assert difference([1.0, 2.0, 3.0], [1.5, 2.5, 2.0]).significant is False


def test_the_interval_is_welchs() -> None:
    """By hand: variances 5/3 and 5/2 give a spread of 0.9574 and 6.98 degrees of freedom, and t is 2.447 at 6."""
    found = difference([1, 2, 3, 4], [2, 3, 4, 5, 6])
    assert found.mean == 1.5
    assert found.low == pytest.approx(1.5 - 2.447 * 0.9574, abs=1e-3)
    assert found.high == pytest.approx(1.5 + 2.447 * 0.9574, abs=1e-3)


def test_the_key_that_decides_is_found_and_the_idle_one_is_called_chance() -> None:
    generator = random.Random(3)
    configs = [{"lr": generator.random(), "idle": generator.random()} for _ in range(40)]
    results = [config["lr"] ** 2 + 0.01 * generator.random() for config in configs]
    first, second = importance(configs, results, seed=0)
    assert (first.key, second.key) == ("lr", "idle")
    assert first.significant
    assert not second.significant
    assert first.share > 0.8


def test_few_trials_say_nothing() -> None:
    assert importance([{"lr": 0.1}] * 5, [1.0] * 5, seed=0) == []
