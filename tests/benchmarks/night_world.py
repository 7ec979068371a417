"""The night's set-up: an endpoint of one-device replicas under a recorded demand, played slot by slot.

A slot is 30 s. Serving capacity is `serving * capacity_rps`; a breach is a slot whose demand is above it and would not
have been above that of all devices. Lent device-time counts from lending to calling back, and only for loans that
lasted the minimum useful slice; the oldest loan comes back first.
"""

from __future__ import annotations

import datetime as dt
from collections import deque
from dataclasses import dataclass, field, replace
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from orchestrator.adapters.endpoints.demand import DemandSeries
from orchestrator.policy.lending.decide import Memory, Sample, decide_lending
from orchestrator.policy.lending.forecast import expected_rps
from orchestrator.policy.lending.standing import apply, settle
from orchestrator.policy.lending.values import RecallTimes, Standing, Terms
from orchestrator.policy.windows import Window

SLOT_S = 30
DAY = 86_400 // SLOT_S
# The recall lead of the set-up, in parts that are assumed: what an emergency saves is snapshot and drain.
TIMES = RecallTimes(snapshot_s=20.0, drain_s=40.0, cold_start_s=180.0)
LEAD = int(TIMES.lead_s) // SLOT_S
MIN_SLICE = 1800 // SLOT_S
PEAK_LOAD = 0.85
EPS = 1e-6
BY_HOUR = "0.5 and 1.5 by the hour"

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One endpoint and its days. `wanted`: devices that training could use, by slot; None = any number.

    `begins_s`: the first slot's instant; the customers live in `timezone`.
    """

    name: str
    demand: Floats
    devices: int
    capacity_rps: float
    begins_s: float
    timezone: str = "UTC"
    wanted: Counts | None = None
    windows: tuple[Window, ...] = ()

    @property
    def needed(self) -> Counts:
        """Replicas without which a slot is short; at least one."""
        exact = np.ceil(self.demand / self.capacity_rps - EPS)
        return np.clip(exact, 1, self.devices).astype(np.int64)

    def terms(self) -> Terms:
        """The set-up as the policy is told it; what is not named here are the policy's own defaults."""
        return Terms(
            pool=self.name,
            devices=self.devices,
            replica_rps=self.capacity_rps,
            times=TIMES,
            min_slice_s=float(MIN_SLICE * SLOT_S),
            timezone=self.timezone,
            windows=self.windows,
        )


def set_up(series: DemandSeries, devices: int) -> Setup:
    """The week as it was recorded, from a Monday's midnight."""
    offsets = np.arange(0, series.length_s + 1, SLOT_S)
    demand = np.interp(offsets, np.arange(len(series.rps)) * series.tick_s, series.rps)
    begins_s = dt.datetime(2026, 6, 1, tzinfo=dt.UTC).timestamp()
    return Setup(
        name=series.name,
        demand=demand,
        devices=devices,
        capacity_rps=max(series.rps) / (PEAK_LOAD * devices),
        begins_s=begins_s,
    )


def over_clock_change(setup: Setup, change: dt.date, *, zone: str, day: int) -> Setup:
    """The same demand by the wall clock of a zone, so that `change` is its day number `day`: an hour less or more."""
    first = dt.datetime.combine(change - dt.timedelta(days=day), dt.time(0))
    begins_s = first.replace(tzinfo=ZoneInfo(zone)).timestamp()
    last = first + dt.timedelta(seconds=(len(setup.demand) - 1) * SLOT_S)
    ends_s = last.replace(tzinfo=ZoneInfo(zone)).timestamp()
    instants = np.arange(begins_s, ends_s + 1, SLOT_S)
    walls = (dt.datetime.fromtimestamp(at_s, ZoneInfo(zone)).replace(tzinfo=None) for at_s in instants)
    index = [int((wall - first).total_seconds()) // SLOT_S for wall in walls]
    return replace(setup, demand=setup.demand[index], begins_s=begins_s, timezone=zone)


@dataclass(slots=True, kw_only=True)
class Played:
    """What became of the devices, by slot, after the slot's decision."""

    setup: Setup
    lent: Counts
    serving: Counts
    reasons: dict[str, int] = field(default_factory=dict)
    states: dict[int, tuple[Standing, Memory]] = field(default_factory=dict)

    @property
    def breaches(self) -> NDArray[np.bool_]:
        """Slots that are short, and would not be had nothing been lent."""
        setup = self.setup
        short = setup.demand > self.serving * setup.capacity_rps + EPS
        return short & (setup.demand <= setup.devices * setup.capacity_rps + EPS)

    def in_slices(self) -> Counts:
        """Devices lent by slot, loans that did not last the minimum slice left out (the last ones may go on)."""
        good, open_loans = np.zeros(len(self.lent) + 1, dtype=np.int64), deque[list[int]]()
        before = 0
        for slot, now in enumerate(self.lent.tolist()):
            if now > before:
                open_loans.append([slot, now - before])
            while now < before:
                began, count = open_loans[0]
                taken = min(count, before - now)
                if slot - began >= MIN_SLICE:
                    good[began] += taken
                    good[slot] -= taken
                before -= taken
                open_loans[0][1] -= taken
                if not open_loans[0][1]:
                    open_loans.popleft()
            before = now
        for began, count in open_loans:
            good[began] += count
        return np.cumsum(good)[:-1]


def by_plan(setup: Setup, lent: Counts) -> Played:
    """The devices of a plan that names how many are lent after each slot's decision: what falls serves a lead later."""
    lent = lent.astype(np.int64)
    falls = np.maximum(-np.diff(lent, prepend=0), 0)
    called = np.cumsum(falls)
    back = np.concatenate([np.zeros(LEAD, dtype=np.int64), called])[: len(called)]
    return Played(setup=setup, lent=lent, serving=setup.devices - lent - (called - back))


def _alternating(at_s: float) -> float:
    return 1.5 if int(at_s // 3600) % 2 else 0.5


def by_policy(
    setup: Setup,
    *,
    forecast: float | str = 1.0,
    keep_states_at: frozenset[int] = frozenset(),
    state: tuple[Standing, Memory] | None = None,
    first: int = 0,
) -> Played:
    """Our policy, slot by slot; its forecast is multiplied by `forecast`, or, for `BY_HOUR`, by a half in every other
    hour and by one and a half in between: an error that cannot be learnt as a factor. Goes on from a kept state.
    """
    terms = setup.terms()
    factor = _alternating if isinstance(forecast, str) else lambda at: forecast
    standing, memory = state or (Standing(serving=setup.devices), Memory())
    size = len(setup.demand)
    played = Played(setup=setup, lent=np.zeros(size, dtype=np.int64), serving=np.zeros(size, dtype=np.int64))
    for slot, rps in enumerate(setup.demand.tolist()):
        now_s = setup.begins_s + (first + slot) * SLOT_S
        standing = settle(standing, now_s=now_s)
        if slot in keep_states_at:
            played.states[slot] = (standing, memory)
        decision, memory = decide_lending(
            terms,
            standing,
            memory,
            Sample(at_s=now_s, rps=rps),
            now_s=now_s,
            wanted=None if setup.wanted is None else int(setup.wanted[slot]),
            forecast=lambda history, now, at, zone: factor(at) * expected_rps(history, now, at, zone),
        )
        standing = apply(standing, decision, terms, now_s=now_s)
        played.lent[slot], played.serving[slot] = standing.lent, standing.serving
        played.reasons[decision.reason] = played.reasons.get(decision.reason, 0) + 1
    return played
