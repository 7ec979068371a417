"""Learning rates are functions of the step alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.train.config import OptimizerConfig
from jobs.train.schedule import learning_rate
from tests.train.ranks import ADAMW


def config(**changes: Any) -> OptimizerConfig:
    return replace(ADAMW, lr=1.0, **changes)


@pytest.mark.parametrize(
    ("schedule", "warmup_steps", "rates"),
    [
        ("constant", 0, [1, 1, 1, 1, 1]),
        ("constant", 2, [0.5, 1, 1, 1, 1]),
        ("linear", 0, [1, 0.8, 0.6, 0.4, 0.2]),
        ("linear", 2, [0.5, 1, 1, 0.6, 0.2]),
        ("cosine", 0, [1, 0.882843, 0.6, 0.317157, 0.2]),
        ("cosine", 4, [0.25, 0.5, 0.75, 1, 1]),
        ("linear", 9, [1 / 9, 2 / 9, 3 / 9, 4 / 9, 5 / 9]),
    ],
)
def test_rates_of_five_steps(schedule: str, warmup_steps: int, rates: list[float]) -> None:
    shape = config(schedule=schedule, warmup_steps=warmup_steps, min_lr_ratio=0.2)
    assert [learning_rate(shape, index, 5) for index in range(5)] == pytest.approx(rates, abs=1e-6)


@given(
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
    steps=st.integers(1, 1000),
    warmup_steps=st.integers(0, 1200),
    min_lr_ratio=st.floats(0, 1),
    data=st.data(),
)
def test_rates_stay_in_bounds_and_never_rise_after_the_warm_up(
    schedule: str, steps: int, warmup_steps: int, min_lr_ratio: float, data: st.DataObject
) -> None:
    shape = config(schedule=schedule, warmup_steps=warmup_steps, min_lr_ratio=min_lr_ratio)
    index = data.draw(st.integers(0, steps - 1))
    now, then = (learning_rate(shape, i, steps) for i in (index, min(index + 1, steps - 1)))
    assert 0 < now <= 1 or (now == 0 and min_lr_ratio == 0)
    if index >= warmup_steps:
        assert then <= now + 1e-12
        assert now >= min_lr_ratio - 1e-12
