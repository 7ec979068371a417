"""What a device-hour costs as time goes by: dollars, or grams of CO2, of every pool and of on-demand, in steps.

Whole numbers over whole microseconds, so that a sum over any stretch is exact, whether or not a step falls on a tick.
Refuses to know ticks, jobs and where the steps come from.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Course:
    """Rates per device-hour, on-demand's last: `rates[i]` holds from `since_us[i]` of the run to the next step.

    `since_us` rises and begins at 0 or before; the last rates hold for ever.
    """

    since_us: tuple[int, ...]
    rates: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        steps = list(self.since_us)
        if not steps or len(steps) != len(self.rates) or steps[0] > 0 or steps != sorted(set(steps)):
            raise ValueError(f"a course needs one row of rates per step, the first at 0 or before; got {steps}")

    @classmethod
    def steady(cls, rates: Sequence[int]) -> Course:
        """Rates that never change."""
        return cls((0,), (tuple(rates),))

    def at(self, moment_us: int) -> tuple[int, ...]:
        """The rates of one moment."""
        return self.rates[bisect_right(self.since_us, moment_us) - 1]

    def pieces(self, from_us: int, to_us: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """The stretches of constant rates between two moments: how long, and the rates."""
        step = bisect_right(self.since_us, from_us) - 1
        while from_us < to_us:
            end_us = self.since_us[step + 1] if step + 1 < len(self.since_us) else to_us
            yield min(end_us, to_us) - from_us, self.rates[step]
            from_us, step = min(end_us, to_us), step + 1

    def amount(self, devices: Sequence[int], from_us: int, to_us: int) -> int:
        """Rate times devices times microseconds, summed over pools and time; `devices` has on-demand last."""
        if len(self.rates) == 1:
            return sum(map(int.__mul__, devices, self.rates[0])) * (to_us - from_us)
        return sum(sum(map(int.__mul__, devices, rates)) * lasts_us for lasts_us, rates in self.pieces(from_us, to_us))
