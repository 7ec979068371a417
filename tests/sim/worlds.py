"""Small worlds and scripted policies for tests of the simulator and of capacity policies."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from orchestrator.policy.capacity.view import Allocation, CapacityView, Decision, LossReading, Terms
from orchestrator.sim.prices import NANO
from orchestrator.sim.world import US_PER_S, World


class Scripted(enum.StrEnum):
    """The one reason a scripted policy gives."""

    SCRIPT = "script"


def make_world(rows: Sequence[Sequence[int]], **changes: Any) -> World:
    """Pools p0, p1, ... at $1, $2, ...; ten-minute ticks, on-demand at $10; seconds in `*_s` keywords."""
    counts = np.asarray(rows, dtype=np.int32)
    facts: dict[str, Any] = {
        "name": "small",
        "pools": tuple(f"p{i}" for i in range(counts.shape[1])),
        "counts": counts,
        "start": datetime(2025, 1, 1, tzinfo=UTC),
        "holes": 0,
        "loss": LossReading.DROP,
        "spot_nano": tuple((i + 1) * NANO for i in range(counts.shape[1])),
        "on_demand_nano": 10 * NANO,
        "max_on_demand": 8,
        "tick_us": 600 * US_PER_S,
        "work_us": 10**9 * US_PER_S,
        "min_workers": 2,
        "max_workers": 8,
        "deadline_us": len(counts) * 600 * US_PER_S,
        "stall_us": 0,
        "loss_us": 0,
    }
    for name, value in changes.items():
        key = name.removesuffix("_s") + "_us" if name.endswith("_s") else name
        facts[key] = round(value * US_PER_S) if name.endswith("_s") else value
    return World(**facts)


@dataclass
class Script:
    """Plays fixed answers, or asks a function; keeps every view it was shown."""

    answers: Sequence[Sequence[int]] | Callable[[CapacityView], Sequence[int]]
    name: str = "script"

    def start(self, terms: Terms) -> tuple[CapacityView, ...]:
        self.views: list[CapacityView] = []
        return ()

    def decide(self, view: CapacityView, state: Any) -> tuple[Decision, Any]:
        self.views.append(view)
        answer = self.answers(view) if callable(self.answers) else self.answers[view.tick]
        *spot, on_demand = answer
        return Decision(allocation=Allocation(spot=tuple(spot), on_demand=on_demand), reason=Scripted.SCRIPT), state
