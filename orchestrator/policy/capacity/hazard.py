"""The prior: how likely an offered level of capacity is to fall within the next ten minutes, before a pool is known.

A *level* is a number of devices of a pool. Its *age* is how long at least that many have been offered without a break;
its *standing* says how much more than the level is offered now. Young levels on the edge of what is offered fall
every other tick, old ones with room above them once in days. Between half a day and a whole day of age the hazard
rises again: a level that has not yet lived through a daily cycle may owe its age to the night.

Source: falls counted over all pools in the first 3.5 days of the 13-zone H100 series, each divided by its pool's own
rate (docs/policies.md, "How it was chosen"). What a run sees of its pools replaces the prior as it goes.
"""

from __future__ import annotations

import bisect
import enum
import functools
import math

PRIOR_TICK_S = 600.0


class Standing(enum.IntEnum):
    """How much more than a level is offered now, as a share of the most the pool ever offered."""

    EDGE = 0  # nothing more, and the pool has offered more before
    FULL = 1  # nothing more, but the pool has never offered more: probably capped, not short
    THIN = 2
    FAIR = 3
    WIDE = 4


THIN_SHARE = 0.16
FAIR_SHARE = 0.34

_AGES_S = tuple(PRIOR_TICK_S * ticks for ticks in (1, 2, 3.5, 6.5, 12, 23, 46, 95, 200))
_FALLS = (  # EDGE, FULL, THIN, FAIR, WIDE
    (0.42, 0.34, 0.40, 0.34, 0.24),
    (0.39, 0.26, 0.34, 0.24, 0.17),
    (0.29, 0.14, 0.25, 0.20, 0.09),
    (0.27, 0.135, 0.14, 0.127, 0.078),
    (0.19, 0.092, 0.105, 0.071, 0.029),
    (0.19, 0.075, 0.046, 0.039, 0.022),
    (0.13, 0.031, 0.029, 0.015, 0.008),
    (0.17, 0.029, 0.065, 0.036, 0.012),
    (0.13, 0.008, 0.030, 0.012, 0.005),
)


def standing(level: int, count: int, most: int) -> Standing:
    """Where a level stands below the count of now."""
    if level >= count:
        return Standing.FULL if count >= most else Standing.EDGE
    share = (count - level) / most
    return Standing.THIN if share <= THIN_SHARE else Standing.FAIR if share <= FAIR_SHARE else Standing.WIDE


@functools.lru_cache(maxsize=8)
def hazards(tick_s: float) -> tuple[tuple[float, ...], ...]:
    """Cumulative hazard of one tick, -log(1 - chance to fall), by standing and age in ticks (index 0 = one tick).

    Ages past the end have the hazard of the last. Log-linear between the ages of the table; a tick of another length
    scales the hazard with it.
    """
    num_ages = math.ceil(_AGES_S[-1] / tick_s)
    return tuple(
        tuple(-math.log1p(-_interpolate(column, (age + 1) * tick_s)) * tick_s / PRIOR_TICK_S for age in range(num_ages))
        for column in range(len(Standing))
    )


def _interpolate(column: int, age_s: float) -> float:
    right = bisect.bisect_left(_AGES_S, age_s)
    if right == 0 or right == len(_AGES_S):
        return _FALLS[min(right, len(_AGES_S) - 1)][column]
    low, high = _AGES_S[right - 1], _AGES_S[right]
    share = math.log(age_s / low) / math.log(high / low)
    return math.exp((1 - share) * math.log(_FALLS[right - 1][column]) + share * math.log(_FALLS[right][column]))
