"""Sudden rises of demand, one at a time, on the state the policy was in: which are survived, and what larger ones cost.

A jump lasts an hour. Its size is a multiple of the largest rise within one lead that was seen before it. `within_lead`:
demand goes at once to that much above its least value of the last lead, so that no rise within one lead is larger.
`on_top`: that much is added to whatever demand does by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.harness import say
from tests.benchmarks.night_peers import reactive
from tests.benchmarks.night_world import DAY, LEAD, SLOT_S, Floats, Setup, by_policy

Flags = NDArray[np.bool_]
KINDS = ("within_lead", "on_top")
SIZES = (1.0, 1.25, 1.5, 2.0, 3.0)
_LASTS = 3600 // SLOT_S
_WATCHED = _LASTS + 2 * LEAD


def jump_rows(setup: Setup, *, every: int) -> list[dict[str, Any]]:
    """Jumps of every size and kind, one each `every` slots from the second day on; the reactive scaler beside ours."""
    at = range(DAY + 7, len(setup.demand) - _WATCHED, every)
    rows = []
    for forecast in (1.0, 0.5, 1.5):
        base = by_policy(setup, forecast=forecast, keep_states_at=frozenset(at))
        for kind in KINDS:
            for size in SIZES:
                played = [
                    by_policy(
                        replace(setup, demand=_jumped(setup, slot, size, kind)),
                        forecast=forecast,
                        state=base.states[slot],
                        first=slot,
                    ).breaches
                    for slot in at
                ]
                rows.append(_row(setup, "tideline", forecast, kind, size, played))
    survivable = [(size, [_reactive(setup, slot, size) for slot in at]) for size in SIZES[:2]]
    return rows + [_row(setup, "reactive", 1.0, "within_lead", size, played) for size, played in survivable]


def _reactive(setup: Setup, slot: int, size: float) -> Flags:
    demand = setup.demand.copy()
    demand[slot : slot + _WATCHED] = _jumped(setup, slot, size, "within_lead")
    return reactive(replace(setup, demand=demand)).breaches[slot : slot + _WATCHED]


def _row(setup: Setup, policy: str, forecast: float, kind: str, size: float, short: Sequence[Flags]) -> dict[str, Any]:
    row = {
        "policy": policy,
        "series": setup.name,
        "forecast": forecast,
        "kind": kind,
        "size_of_largest_rise": size,
        "jumps": len(short),
        "jumps_with_breaches": sum(bool(one.any()) for one in short),
        "breaches": int(sum(one.sum() for one in short)),
        "longest_breach_s": max(_longest(one) for one in short) * SLOT_S,
    }
    say(f"jump {row}")
    return row


def _jumped(setup: Setup, slot: int, size: float, kind: str) -> Floats:
    """The demand from `slot` on with the jump; the recorded past stays what a policy has seen."""
    jump = size * _largest_rise(setup.demand[:slot])
    hours = setup.demand[slot : slot + _WATCHED].copy()
    if kind == "on_top":
        hours[:_LASTS] += jump
    else:
        least = setup.demand[slot - LEAD : slot].min()
        hours[:_LASTS] = np.maximum(hours[:_LASTS], least + jump)
    return hours


def _largest_rise(seen: Floats) -> float:
    return max(float((seen[back:] - seen[:-back]).max()) for back in range(1, LEAD + 1))


def _longest(short: Flags) -> int:
    longest = run = 0
    for one in short.tolist():
        run = run + 1 if one else 0
        longest = max(longest, run)
    return longest
