"""What the policies of a study speak of: configurations, what was spent, and how a trial stands."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

Config = Mapping[str, object]
"""Values by key path of the template; a key whose condition does not hold is absent."""


class TrialState(enum.StrEnum):
    """How a trial stands. The last three are final: such a trial is never run again."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        return self in _OVER


_OVER = frozenset({TrialState.FINISHED, TrialState.STOPPED, TrialState.FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What one device costs while it is held; None where nobody knows, and then that unit can be no budget."""

    usd_per_device_hour: float | None = None
    watts_per_device: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Devices x time, and what follows from it."""

    device_s: float = 0.0
    usd: float = 0.0
    kwh: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(device_s=self.device_s + other.device_s, usd=self.usd + other.usd, kwh=self.kwh + other.kwh)

    def times(self, factor: float) -> Spent:
        """As much, `factor` times."""
        return Spent(device_s=self.device_s * factor, usd=self.usd * factor, kwh=self.kwh * factor)

    @property
    def device_hours(self) -> float:
        return self.device_s / 3600.0


def spent(device_s: float, rates: Rates) -> Spent:
    """What holding devices for `device_s` device-seconds costs; unknown rates count as 0."""
    hours = device_s / 3600.0
    return Spent(
        device_s=device_s,
        usd=hours * (rates.usd_per_device_hour or 0.0),
        kwh=hours * (rates.watts_per_device or 0.0) / 1000.0,
    )
