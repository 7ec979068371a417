"""The port of every capacity policy: frozen values in, an allocation with its reason out.

Shapes: P is the number of spot pools, t the ticks since the start of the run (the row of now is row t).
Units: seconds, worker-seconds, devices, US dollars per device-hour. Refuses to know where the rows come from.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int32]


class LossReading(enum.StrEnum):
    """How a low probe is read: DROP loses devices at once, DEBOUNCED only when two probes in a row are low."""

    DROP = "drop"
    DEBOUNCED = "debounced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A spot pool: interchangeable devices at one price and place."""

    name: str
    usd_per_device_hour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a job asks and what the world charges; constant over a run.

    `work_s` is in worker-seconds, linear in workers. `stall_s` is charged to the whole job at every change of what it
    holds, `loss_s` is the work each worker loses when held devices vanish unannounced.
    """

    pools: tuple[Pool, ...]
    on_demand_usd_per_device_hour: float | None
    max_on_demand: int
    tick_s: float
    num_ticks: int
    work_s: float
    min_workers: int
    max_workers: int
    deadline_s: float
    stall_s: float
    loss_s: float
    loss: LossReading

    @property
    def on_demand_limit(self) -> int:
        """Largest number of on-demand devices the job can hold (M in the reference policies)."""
        return min(self.max_workers, self.max_on_demand)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Devices to hold per spot pool, in the order of the pools, and on-demand."""

    spot: tuple[int, ...]
    on_demand: int = 0

    @property
    def total(self) -> int:
        """All devices, spot and on-demand."""
        return sum(self.spot) + self.on_demand


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityView:
    """Everything a policy sees at one tick: its terms, its own past and the rows so far; nothing later.

    `rows` (t + 1, P): counts from the start to now. `past` (t, P + 1): what was held at the end of every past
    tick, on-demand last. `held` is what is still held after this tick's losses, `lost` what just vanished.
    `prices`, `on_demand_price`: dollars per device-hour now, carbon at its price included; equal to the terms' prices
    unless prices move by the hour or carbon has one. None: no on-demand is to be had.
    """

    terms: Terms
    tick: int
    rows: Counts
    past: Counts
    prices: tuple[float, ...]
    on_demand_price: float | None
    held: Allocation
    lost: tuple[int, ...]
    done_s: float
    stall_left_s: float

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of the run."""
        return self.tick * self.terms.tick_s

    @property
    def time_left_s(self) -> float:
        """Seconds to the deadline; negative after it."""
        return self.terms.deadline_s - self.elapsed_s

    @property
    def work_left_s(self) -> float:
        """Worker-seconds of useful work still to do."""
        return self.terms.work_s - self.done_s

    @property
    def offered(self) -> tuple[int, ...]:
        """The most that may be held of each pool now: what is still held, or the count if that is more."""
        return tuple(max(h, c) for h, c in zip(self.held.spot, self.rows[-1].tolist(), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to hold from now on, why in one word (ledger, metric, test) and why in a sentence (people)."""

    allocation: Allocation
    reason: enum.StrEnum
    detail: str = ""


class CapacityPolicy(Protocol):
    """A named policy. `decide` is pure: its memory goes in and comes out as `state`."""

    @property
    def name(self) -> str:
        """The name scenarios choose it by."""
        ...

    def start(self, terms: Terms) -> Any:
        """The state before the first tick."""
        ...

    def decide(self, view: CapacityView, state: Any) -> tuple[Decision, Any]:
        """Choose what to hold at this tick."""
        ...
