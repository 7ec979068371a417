"""One pool as a market that is open or shut to a gang: how long each state lasts, by its age, learned as a run goes.

The prior is what the first 3.5 days of the 13-zone H100 series show of each zone, open meaning "at least 1, 4, 8 or 12
devices": young states end within the hour, old ones last the day (docs/policies.md, "One gang with a deadline").
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

OPEN_AGES_H = (0.5, 1.0, 2.0, 4.0)  # where one bucket of ages ends and the next begins; the last has no end
OPEN_ENDS_PER_H = (1.8, 0.9, 0.57, 0.2, 0.11)
SHUT_AGES_H = (0.5, 1.0, 2.0, 4.0, 8.0)
SHUT_ENDS_PER_H = (2.4, 1.5, 0.66, 0.3, 0.12, 0.05)
NUM_OPEN, NUM_SHUT = len(OPEN_ENDS_PER_H), len(SHUT_ENDS_PER_H)
PRIOR_ENDS = 4.0  # ends per bucket that the prior counts for
UNKNOWN_AGE_H = 1.0  # of the state in which a run finds its market

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Market:
    """What was seen so far: hours in every bucket and how often the state ended there; open buckets first."""

    is_open: bool = False
    age_h: float = 0.0
    hours: tuple[float, ...] = (0.0,) * (NUM_OPEN + NUM_SHUT)
    ends: tuple[int, ...] = (0,) * (NUM_OPEN + NUM_SHUT)

    @property
    def bucket(self) -> int:
        """Where the market stands now."""
        ages, first = (OPEN_AGES_H, 0) if self.is_open else (SHUT_AGES_H, NUM_OPEN)
        return first + bisect.bisect_right(ages, self.age_h)

    def ends_per_h(self) -> list[float]:
        """How often a state ends per hour in each bucket: the prior, and what was seen instead as it comes."""
        prior = (*OPEN_ENDS_PER_H, *SHUT_ENDS_PER_H)
        seen = zip(prior, self.ends, self.hours, strict=True)
        return [(ends + PRIOR_ENDS) / (hours + PRIOR_ENDS / rate) for rate, ends, hours in seen]


def observe_market(market: Market | None, *, is_open: bool, tick_s: float) -> Market:
    """Take in whether the market is open at this tick."""
    tick_h = tick_s / 3600.0
    if market is None:
        return Market(is_open=is_open, age_h=UNKNOWN_AGE_H)
    at, ended = market.bucket, market.is_open != is_open
    hours = tuple(h + tick_h * (i == at) for i, h in enumerate(market.hours))
    ends = tuple(n + (ended and i == at) for i, n in enumerate(market.ends))
    return replace(market, is_open=is_open, age_h=0.0 if ended else market.age_h + tick_h, hours=hours, ends=ends)


def chances(market: Market, step_s: float) -> Matrix:
    """Chance to be in bucket j one step after bucket i, shape (buckets, buckets); every row sums to one."""
    step_h, rates = step_s / 3600.0, market.ends_per_h()
    found = np.zeros((NUM_OPEN + NUM_SHUT, NUM_OPEN + NUM_SHUT))
    for first, ages, other in ((0, OPEN_AGES_H, NUM_OPEN), (NUM_OPEN, SHUT_AGES_H, 0)):
        for at, (begins, ends) in enumerate(zip((0.0, *ages), (*ages, float("inf")), strict=True)):
            bucket = first + at
            end = 1.0 - float(np.exp(-rates[bucket] * step_h))
            older = min(1.0, step_h / (ends - begins))
            found[bucket, other] += end
            found[bucket, min(bucket + 1, first + len(ages))] += (1.0 - end) * older
            found[bucket, bucket] += (1.0 - end) * (1.0 - older)
    return found
