"""Notice to safe: what is timed, and how it is summed up."""

from __future__ import annotations

import math

import pytest

from jobs.train.keeper.safety import NoticeToSafe, Quantiles, SafetyTimer, quantiles


class SlowKeeper:
    """Safe two seconds after it is asked; `step` is the newest safe one then."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.now_s = 100.0

    def safe_step(self, run):
        return self.step

    def wait_safe(self, run, step, timeout_s):
        self.now_s += min(2.0, timeout_s)
        return step <= self.step and timeout_s >= 2.0


def test_the_time_runs_from_the_notice():
    keeper = SlowKeeper(step=42)
    timer = SafetyTimer(keeper, "run", clock=lambda: keeper.now_s)
    keeper.now_s += 1.5  # the ranks stop and copy
    assert timer.wait(42, 10.0) == NoticeToSafe(step=42, stopped_s=1.5, safe_s=3.5)


def test_what_is_not_safe_in_time_has_no_time():
    keeper = SlowKeeper(step=41)
    timer = SafetyTimer(keeper, "run", clock=lambda: keeper.now_s)
    assert timer.wait(42, 1.0).safe_s is None


def test_quantiles_count_the_ones_that_failed():
    measured = [NoticeToSafe(step=1, stopped_s=0.0, safe_s=float(i)) for i in range(1, 100)]
    assert quantiles(measured) == Quantiles(p50=50.0, p99=99.0, n=99)
    failed = [NoticeToSafe(step=1, stopped_s=0.0, safe_s=None)] * 2
    assert quantiles([*measured, *failed]).p99 == math.inf
    with pytest.raises(ValueError, match="nothing was measured"):
        quantiles([])
