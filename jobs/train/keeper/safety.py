"""How long it takes from a notice until the state is safe on nodes that stay; the lead knows it first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


class SafeSteps(Protocol):
    """What is needed of a keeper; the lead's knows first."""

    def safe_step(self, run: str) -> int: ...

    def wait_safe(self, run: str, step: int, timeout_s: float) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeToSafe:
    """One measurement, in seconds. `safe_s` None: not safe within the time allowed."""

    step: int
    stopped_s: float
    safe_s: float | None


class SafetyTimer:
    """Times one notice: made when it is heard, told the stop step, asked when that step is safe.

    `clock`: monotonic seconds.
    """

    def __init__(self, keeper: SafeSteps, run: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._keeper = keeper
        self._run = run
        self._clock = clock
        self._noticed_s = clock()

    def wait(self, stop_step: int, timeout_s: float) -> NoticeToSafe:
        """Wait until the state after `stop_step`, at which all ranks have left, is safe; call when they have."""
        stopped_s = self._clock() - self._noticed_s
        is_safe = self._keeper.wait_safe(self._run, stop_step, timeout_s)
        safe_s = self._clock() - self._noticed_s if is_safe else None
        return NoticeToSafe(step=stop_step, stopped_s=stopped_s, safe_s=safe_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """`notice_to_safe_s` of many notices; those that were never safe count as infinite."""

    p50: float
    p99: float
    n: int


def quantiles(measured: Sequence[NoticeToSafe]) -> Quantiles:
    """Nearest-rank quantiles. Raises: ValueError for no measurement."""
    if not measured:
        raise ValueError("nothing was measured")
    times = sorted(math.inf if one.safe_s is None else one.safe_s for one in measured)

    def at(share: float) -> float:
        return times[max(0, math.ceil(share * len(times)) - 1)]

    return Quantiles(p50=at(0.50), p99=at(0.99), n=len(times))
