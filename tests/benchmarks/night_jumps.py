"""Sudden rises of demand, one at a time, on the state the policy was in: which are survived, and what larger ones cost.

A jump lasts an hour. Its size is a multiple of the largest rise within one lead that was seen before it. `within_lead`:
demand goes at once to that much above its least value of the last lead, so that no rise within one lead is larger.
`on_top`: that much is added to whatever demand does by itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tests.benchmarks.harness import say
from tests.benchmarks.night_world import DAY, LEAD, SLOT_S, Floats, Setup, by_policy

SIZES = (1.0, 1.25, 1.5, 2.0, 3.0)
_LASTS = 3600 // SLOT_S
_WATCHED = _LASTS + 2 * LEAD


def jump_rows(setup: Setup, *, every: int) -> list[dict[str, Any]]:
    """Jumps of every size and kind, one each `every` slots from the second day on."""
    at = range(DAY + 7, len(setup.demand) - _WATCHED, every)
    rows = []
    for forecast in (1.0, 0.5, 1.5):
        base = by_policy(setup, forecast=forecast, keep_states_at=frozenset(at))
        for kind in ("within_lead", "on_top"):
            for size in SIZES:
                played = [
                    by_policy(jumped, forecast=forecast, state=base.states[slot], first=slot)
                    for slot in at
                    if (jumped := _jumped(setup, slot, size, kind)) is not None
                ]
                short = [one.breaches for one in played]
                rows.append(
                    {
                        "policy": "tideline",
                        "series": setup.name,
                        "forecast": forecast,
                        "kind": kind,
                        "size_of_largest_rise": size,
                        "jumps": len(played),
                        "jumps_with_breaches": sum(bool(one.any()) for one in short),
                        "breaches": int(sum(one.sum() for one in short)),
                        "longest_breach_s": max(_longest(one) for one in short) * SLOT_S,
                    }
                )
                say(f"jump {rows[-1]}")
    return rows


def _jumped(setup: Setup, slot: int, size: float, kind: str) -> Setup | None:
    """The hours from `slot` on with the jump; the recorded past stays what the policy has seen."""
    jump = size * _largest_rise(setup.demand[:slot])
    hours = setup.demand[slot : slot + _WATCHED].copy()
    if kind == "on_top":
        hours[:_LASTS] += jump
    else:
        least = setup.demand[slot - LEAD : slot].min()
        hours[:_LASTS] = np.maximum(hours[:_LASTS], least + jump)
    return replace(setup, demand=hours)


def _largest_rise(seen: Floats) -> float:
    return max(float((seen[back:] - seen[:-back]).max()) for back in range(1, LEAD + 1))


def _longest(short: np.ndarray) -> int:
    longest = run = 0
    for one in short.tolist():
        run = run + 1 if one else 0
        longest = max(longest, run)
    return longest
