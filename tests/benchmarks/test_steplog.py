"""The figures of the elastic benchmark on hand-made step lines."""

from __future__ import annotations

import pytest

from tests.benchmarks.steplog import changes, goodput, step_time_s, steps_missing


def line(step: int, at_s: float, world_size: int) -> dict[str, float]:
    return {"step": step, "at_s": at_s, "world_size": world_size}


# A step a second at 4; after step 100 nothing for 10 s; then from step 96 on at 6, two a second.
STEPS = [line(n, float(n), 4) for n in range(1, 101)] + [line(95 + n, 110 + n / 2, 6) for n in range(1, 201)]


def test_change_names_stall_and_steps_made_again() -> None:
    (change,) = changes(STEPS)
    assert (change.from_size, change.to_size, change.steps_lost) == (4, 6, 5)
    assert change.stall_s == pytest.approx(10.5)


def test_missing_steps_count_stall_and_repeats_against_the_undisturbed_rate() -> None:
    (change,) = changes(STEPS)
    # 60.5 + 10 s at one a second, 60 s at two a second, against steps 41..215 made: 70.5 + 120 - 176 + a step
    missing = steps_missing(STEPS, announced_s=100.0, change=change)
    assert missing == pytest.approx((110.5 - 40) / 1 + 60 / 0.5 - (216 - 40))


def test_undisturbed_run_misses_nothing_and_has_full_goodput() -> None:
    steady = [line(n, float(n), 4) for n in range(1, 101)]
    assert changes(steady) == []
    assert step_time_s(steady, 4) == 1.0
    assert goodput(steady, began_s=0.0, ended_s=100.0) == 1.0


def test_a_size_that_made_a_single_step_counts_with_the_nearest_that_made_more() -> None:
    steps = [line(n, float(n), 4) for n in range(1, 51)] + [line(51, 60.0, 1)]
    assert goodput(steps, began_s=0.0, ended_s=102.0) == 0.5
    assert goodput([line(1, 1.0, 4)], began_s=0.0, ended_s=10.0) == 0.0
