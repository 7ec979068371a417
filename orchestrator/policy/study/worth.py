"""When one more trial is expected to gain less than it costs.

Rule: stop when `worth_usd x expected gain < expected cost of a trial` (Weitzman, Optimal Search for the Best
Alternative, Econometrica 1979, with draws that are alike: search on while the expected improvement pays for the draw).

Expected gain of draw n+1 over the best of n. For draws that are alike, leaving each of n results out in turn shows what
the n-th draw gained on average: (x(2) - x(1)) / n, the jackknife of the minimum. One gap is a noisy number, so the mean
of the k smallest gaps stands for it, k = ceil(sqrt(n)): (x(k+1) - x(1)) / (k n). Where results near the best are spread
evenly, all these gaps have the same mean (David and Nagaraja, Order Statistics, 3rd ed., section 2.7 on spacings). A
searcher that learns draws better than blindly: its last results, not its first, say what the next will be like, so only
the last half of the results gives the gaps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """The answer with its numbers; `pays` True while too little is known."""

    pays: bool
    gain: float | None
    gain_usd: float | None
    cost_usd: float | None


def expected_gain(results: Sequence[float], mode: str) -> float | None:
    """By how much the next draw is expected to better the best of `results` (in the metric's unit, never negative);
    None with fewer than two results."""
    if len(results) < 2:
        return None
    signed = sorted(value if mode == "min" else -value for value in results)
    k = min(math.ceil(math.sqrt(len(signed))), len(signed) - 1)
    return (signed[k] - signed[0]) / (k * len(signed))


def worth_of_next(
    results: Sequence[float],
    costs_usd: Sequence[float],
    *,
    mode: str,
    worth_usd: float,
    after_trials: int,
) -> Worth:
    """Whether another trial pays; `results` and `costs_usd` are those of ended trials, oldest first."""
    if len(results) < max(2, after_trials) or not costs_usd:
        return Worth(pays=True, gain=None, gain_usd=None, cost_usd=None)
    late = results[len(results) // 2 :] if len(results) >= 8 else results
    gain = expected_gain(late, mode)
    assert gain is not None
    # The gaps are those of fewer draws than there were: the gain of draw n+1 is less, by the ratio of the counts.
    gain *= len(late) / len(results)
    cost = sum(costs_usd) / len(costs_usd)
    return Worth(pays=gain * worth_usd >= cost, gain=gain, gain_usd=gain * worth_usd, cost_usd=cost)
