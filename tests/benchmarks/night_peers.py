"""What the night's policy is measured against: static split, fixed window, reactive scaling, and two that know all."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np

from tests.benchmarks.night_world import (
    DAY,
    EPS,
    LEAD,
    MIN_SLICE,
    PEAK_LOAD,
    SLOT_S,
    Counts,
    Floats,
    Played,
    Setup,
    by_plan,
)

# The peers learn their fixed numbers from the same days that ours was tuned on.
LEARN_DAYS = 3
_COOL_DOWN = 300 // SLOT_S
_MARGIN = 0.25


def static_split(setup: Setup) -> Played:
    """As many replicas as the first days' peak needed, always; the rest trains."""
    kept = int(setup.needed[: LEARN_DAYS * DAY].max())
    return by_plan(setup, _wanted(setup, np.full(len(setup.demand), setup.devices - kept)))


def fixed_window(setup: Setup) -> Played:
    """22:00 to 06:00: as many replicas as these hours of the first days needed; everything is back at six."""
    wall = (np.arange(len(setup.demand)) * SLOT_S) % 86_400
    night = (wall >= 22 * 3600) | (wall < 6 * 3600)
    learnt = night[: LEARN_DAYS * DAY]
    kept = int(setup.needed[: LEARN_DAYS * DAY][learnt].max())
    lending = night & ((wall < 6 * 3600 - LEAD * SLOT_S) | (wall >= 22 * 3600))
    return by_plan(setup, _wanted(setup, np.where(lending, setup.devices - kept, 0)))


def reactive(setup: Setup) -> Played:
    """A scaler that holds replicas at 85 % of their capacity: up at once, down to the most it wanted for 5 minutes."""
    target = np.ceil(setup.demand / (PEAK_LOAD * setup.capacity_rps) - EPS)
    target = np.clip(target, 1, setup.devices).astype(np.int64)
    padded = np.concatenate([np.full(_COOL_DOWN, target[0]), target])
    held = np.lib.stride_tricks.sliding_window_view(padded, _COOL_DOWN + 1).max(axis=1)
    return by_plan(setup, _wanted(setup, setup.devices - held))


def hourly_reserve(setup: Setup) -> Played:
    """Another way that was tried: a reserve by the hour, the largest rise seen within an hour of this time of day."""
    rise, slots_a_day = _rises(setup.demand), DAY
    by_time = np.zeros(slots_a_day)
    reserve = np.zeros(len(rise))
    around = np.arange(-3600 // SLOT_S, 3600 // SLOT_S + 1)
    for slot, seen in enumerate(rise.tolist()):
        by_time[slot % slots_a_day] = max(by_time[slot % slots_a_day], seen)
        reserve[slot] = (1.0 + _MARGIN) * by_time[(slot + around) % slots_a_day].max()
    return by_plan(setup, _wanted(setup, setup.devices - replace(setup, demand=setup.demand + reserve).needed))


def half_reserve(setup: Setup) -> Played:
    """Another way that was tried: half of the largest rise seen so far, without the margin."""
    reserve = 0.5 * np.maximum.accumulate(_rises(setup.demand))
    return by_plan(setup, _wanted(setup, setup.devices - replace(setup, demand=setup.demand + reserve).needed))


def hindsight_margin(setup: Setup) -> Played:
    """What no scaler can know: the smallest fixed margin over demand, in steps of 1 %, with which this very series has
    no breach; lends and calls back at once. More than this no policy of demand and a fixed margin can lend.
    """
    for percent in range(1, 400):
        needed = replace(setup, demand=setup.demand * (1.0 + percent / 100)).needed
        played = by_plan(setup, _wanted(setup, setup.devices - needed))
        if not played.breaches.any():
            return played
    raise AssertionError("four times the demand is more than all devices serve")


def oracle(setup: Setup) -> Played:
    """Knows the series: lends every device over every stretch in which it is not needed until a lead after.

    Each device is lent for the minimum slice at least; where the order in which loans come back makes slices of
    shorter stretches, these are lent, too: whichever of the two lends more.
    """
    return _best(setup, setup.needed)


def jump_safe_oracle(setup: Setup) -> Played:
    """Knows the series, and yet may be surprised at any slot by a jump of the survivable size: the ceiling for any
    policy that is safe against these. The jump is the largest rise within one lead seen so far, and a quarter more.
    """
    jump = (1.0 + _MARGIN) * np.maximum.accumulate(_rises(setup.demand))
    return _best(setup, replace(setup, demand=setup.demand + jump).needed)


def _rises(demand: Floats) -> Floats:
    """By slot: how far demand is above its least value within the lead before."""
    rise = np.zeros(len(demand))
    for back in range(1, LEAD + 1):
        rise[back:] = np.maximum(rise[back:], demand[back:] - demand[:-back])
    return rise


def _best(setup: Setup, needed: Counts) -> Played:
    plans = (by_plan(setup, _lendable(setup, needed, shortest)) for shortest in (1, MIN_SLICE))
    return max(plans, key=lambda played: int(played.in_slices().sum()))


def _lendable(setup: Setup, needed: Counts, shortest: int) -> Counts:
    """Devices lent by slot when what is needed is known: level by level, in stretches of at least `shortest` slots."""
    padded = np.concatenate([needed, np.full(LEAD, needed.min())])
    ahead = np.max(np.lib.stride_tricks.sliding_window_view(padded, LEAD + 1), axis=1)
    free = setup.devices - ahead
    if setup.wanted is not None:
        free = np.minimum(free, setup.wanted)
    lent = np.zeros(len(needed), dtype=np.int64)
    for level in range(1, setup.devices + 1):
        edges = np.diff(np.concatenate([[0], (free >= level).astype(np.int64), [0]]))
        for begin, end in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
            if end - begin >= shortest or end == len(needed):
                lent[begin:end] += 1
    return lent


def _wanted(setup: Setup, lent: Counts) -> Counts:
    return lent if setup.wanted is None else np.minimum(lent, setup.wanted)


def spot_by_slot(counts: Counts, start: dt.datetime, tick_s: int, *, offset_h: float, slots: int) -> Counts:
    """Spot devices offered in all at each slot of a week that begins at midnight of a zone `offset_h` ahead of UTC.

    The recording is taken as a ring of whole days from its first row on, so that hours of the day stay what they are.
    """
    per_day = 86_400 // tick_s
    ring = counts[: len(counts) // per_day * per_day].sum(axis=1)
    begun = start.astimezone(dt.UTC)
    midnight_s = (-offset_h * 3600) % 86_400
    ahead_s = (midnight_s - (begun.hour * 3600 + begun.minute * 60 + begun.second)) % 86_400
    index = ((ahead_s + np.arange(slots) * SLOT_S) // tick_s).astype(np.int64) % len(ring)
    return ring[index]
