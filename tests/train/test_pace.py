"""A rank's own pace: measured around the forward pass, told every few seconds, and never where passes wait."""

from __future__ import annotations

import pytest
import torch

from jobs.train.messages import Pace, decode, encode
from jobs.train.pace import NO_PACE, TELL_EVERY_S, HostPace, pace_meter


class Clock:
    def __init__(self) -> None:
        self.at_s = 100.0

    def __call__(self) -> float:
        return self.at_s


def test_passes_are_summed_and_told_every_few_seconds() -> None:
    clock, told = Clock(), []
    meter = HostPace(told.append, clock)
    for step in range(1, 8):
        for _ in range(2):
            with meter.by_itself():
                clock.at_s += 0.5
        clock.at_s += 1.0  # backward, others, update: not its own
        meter.step_ended(step)
    assert told == [Pace(step=3, passes=6, seconds=3.0), Pace(step=6, passes=6, seconds=3.0)]
    assert TELL_EVERY_S == 5.0
    assert decode(encode(told[0])) == told[0]


@pytest.mark.parametrize(("zero_stage", "world_size"), [(3, 8), (1, 1)])
def test_where_passes_wait_or_nobody_is_there_to_compare_with_nothing_is_measured(
    zero_stage: int, world_size: int
) -> None:
    meter = pace_meter(torch.device("cpu"), zero_stage, world_size, lambda pace: pytest.fail("told"))
    assert meter is NO_PACE
    with meter.by_itself():
        pass
    meter.step_ended(1)
