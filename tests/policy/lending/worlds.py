"""A small world for lending: an endpoint that follows a demand, evaluated every half minute."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.policy.lending.decide import Memory, Sample, decide_lending
from orchestrator.policy.lending.forecast import Forecaster, expected_rps
from orchestrator.policy.lending.standing import apply, settle
from orchestrator.policy.lending.values import Decision, RecallTimes, Standing, Terms

STEP_S = 30.0
TIMES = RecallTimes(snapshot_s=30.0, drain_s=30.0, cold_start_s=180.0)
MONDAY_S = dt.datetime(2026, 7, 6, tzinfo=dt.UTC).timestamp()


def terms(**more: object) -> Terms:
    values: dict[str, object] = {"pool": "gpu", "devices": 20, "replica_rps": 10.0, "times": TIMES} | more
    return Terms(**values)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Moment:
    """One evaluation: demand, what was decided, and the standing after it."""

    at_s: float
    rps: float
    decision: Decision
    standing: Standing

    def short(self, of: Terms) -> bool:
        """Whether lending makes requests meet too few replicas: more would have been enough."""
        return self.standing.serving < of.replicas_for(self.rps)


def play(
    of: Terms,
    demand: Sequence[float],
    *,
    begins_s: float = MONDAY_S,
    forecast: Forecaster = expected_rps,
    memory: Memory | None = None,
    wanted: int | None = None,
) -> list[Moment]:
    """The endpoint's life under a demand; the standing is checked for devices that appear or vanish."""
    standing, kept = Standing(serving=of.replicas), memory or Memory()
    moments = []
    for index, rps in enumerate(demand):
        now_s = begins_s + index * STEP_S
        standing = settle(standing, now_s=now_s)
        sample = Sample(at_s=now_s, rps=rps)
        decision, kept = decide_lending(of, standing, kept, sample, now_s=now_s, wanted=wanted, forecast=forecast)
        standing = apply(standing, decision, of, now_s=now_s)
        assert standing.serving + standing.lent + standing.returning == of.replicas
        assert standing.serving >= 0
        moments.append(Moment(now_s, rps, decision, standing))
    return moments


def learnt(of: Terms, demand: Sequence[float], *, begins_s: float = MONDAY_S) -> Memory:
    """The memory after a demand was watched while nothing was lent."""
    kept, quiet = Memory(), replace(of, min_replicas=of.replicas)
    for index, rps in enumerate(demand):
        now_s = begins_s + index * STEP_S
        sample = Sample(at_s=now_s, rps=rps)
        _, kept = decide_lending(quiet, Standing(serving=of.replicas), kept, sample, now_s=now_s)
    return kept


def known_days(of: Terms, day: float = 150.0, night: float = 40.0) -> Memory:
    """Two days, busy by day and quiet by night, hours of rising and falling between."""
    memory, standing = Memory(), Standing(serving=of.replicas)
    half = (day + night) / 2
    hours = [night] * 7 + [half] + [day] * 12 + [half] + [night] * 3
    for tick in range(2 * 720):
        at_s = MONDAY_S - 2 * 86_400 + tick * 120
        hour, part = divmod(tick / 30, 1)
        rps = hours[int(hour) % 24] * (1 - part) + hours[(int(hour) + 1) % 24] * part
        _, memory = decide_lending(of, standing, memory, Sample(at_s=at_s, rps=rps), now_s=at_s)
    return memory
