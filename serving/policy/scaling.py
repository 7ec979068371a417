"""How many replicas the tiers' promises need, from what the running ones report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLoad:
    """What one replica reports. `online_busy`: share of recent time that online rows took, 0..1. `slack`: the least
    spare time of its recent online answers, as a share of what they were promised; below 0 some were late. `shed`:
    share of recent online requests that were refused."""

    online_busy: float = 0.0
    slack: float = 1.0
    shed: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRules:
    """`busy_target`: the share of a replica that online work may take; the rest absorbs bursts and feeds batch.
    `min_slack`: less spare time than this asks for another replica whatever the average says. A smaller number is
    believed after `down_after_s`."""

    busy_target: float = 0.6
    min_slack: float = 0.2
    max_shed: float = 0.01
    down_after_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingState:
    """Since when fewer replicas would do; None = they would not."""

    spare_since_s: float | None = None


def replica_target(
    loads: Sequence[ReplicaLoad],
    current: int,
    state: ScalingState,
    rules: ScalingRules,
    *,
    lowest: int,
    highest: int,
    now_s: float,
) -> tuple[int, ScalingState]:
    """How many replicas there should be. Grows at once, by what is missing; shrinks one at a time, after a while.

    `highest` is what the lease allows. Batch work asks for no replica: it soaks up what the promises leave.
    """
    wanted = _wanted(loads, current, rules)
    if wanted >= current:
        return _within(wanted, lowest, highest), ScalingState()
    since_s = now_s if state.spare_since_s is None else state.spare_since_s
    if now_s - since_s < rules.down_after_s:
        return _within(current, lowest, highest), ScalingState(spare_since_s=since_s)
    return _within(current - 1, lowest, highest), ScalingState(spare_since_s=now_s)


def _wanted(loads: Sequence[ReplicaLoad], current: int, rules: ScalingRules) -> int:
    if not loads:  # none has reported: nothing to learn from
        return current
    mean_busy = sum(load.online_busy for load in loads) / len(loads)
    needed = math.ceil(current * mean_busy / rules.busy_target - 1e-9)
    if any(load.slack < rules.min_slack or load.shed > rules.max_shed for load in loads):
        needed = max(needed, current + 1)
    return needed


def _within(count: int, lowest: int, highest: int) -> int:
    return max(lowest, min(highest, count))
