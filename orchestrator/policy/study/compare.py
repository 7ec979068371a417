"""What a study's results say, and what they do not: luck against gain, and which key mattered.

Two configurations differ when the interval of their difference over repeated seeds leaves out 0 (Welch's t, 95 %): with
one run each, nothing can be said, and that is what is said. A key's importance is the share of the results' variance
that knowing its value explains (the first-order Sobol index, estimated by the correlation ratio over bins; Saltelli et
al., Global Sensitivity Analysis, 2008); it is called significant when shuffled results seldom reach it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Fewer trials than this cannot tell a key's share from chance.
MIN_TRIALS = 8
SHUFFLES = 500
_ALPHA = 0.05
# Two-sided 95 % points of Student's t by degrees of freedom; beyond the table the normal's.
_T95: tuple[float, ...] = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Second minus first, with its 95 % interval; `significant` None: too few runs to say."""

    mean: float
    low: float | None
    high: float | None
    significant: bool | None


def difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """How much larger the second's results are. Raises: ValueError without a result on each side."""
    if not first or not second:
        raise ValueError("each side needs one result at least")
    mean = _mean(second) - _mean(first)
    if len(first) < 2 or len(second) < 2:
        return Difference(mean=mean, low=None, high=None, significant=None)
    parts = [_variance(side) / len(side) for side in (first, second)]
    spread = math.sqrt(sum(parts))
    if spread == 0.0:
        return Difference(mean=mean, low=mean, high=mean, significant=mean != 0.0)
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (first, second), strict=True)
    )
    reach = _t95(freedom) * spread
    return Difference(mean=mean, low=mean - reach, high=mean + reach, significant=abs(mean) > reach)


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """Share of the results' variance that a key explains, 0..1, and how often chance explains as much for one of all
    the keys (Bonferroni: of many idle keys, one always looks good)."""

    key: str
    share: float
    p_value: float

    @property
    def significant(self) -> bool:
        return self.p_value < _ALPHA


def importance(configs: Sequence[Mapping[str, object]], results: Sequence[float], seed: int) -> list[Importance]:
    """Keys by how much they mattered, most first; empty with too few results to say. Same seed, same answer.

    Results are ranked first: one diverged trial must not be the whole variance.
    """
    if len(results) < MIN_TRIALS:
        return []
    ranks = np.argsort(np.argsort(np.asarray(results, dtype=float))).astype(float)
    keys = sorted({key for config in configs for key in config})
    found = [_importance(key, [config.get(key) for config in configs], ranks, seed, len(keys)) for key in keys]
    return sorted(found, key=lambda one: (-one.share, one.key))


def _importance(key: str, values: Sequence[object], ranks: NDArray[np.float64], seed: int, num_keys: int) -> Importance:
    bins = _bins(values)
    share = _correlation_ratio(bins, ranks)
    generator = np.random.default_rng(seed)
    reached = sum(_correlation_ratio(bins, generator.permutation(ranks)) >= share - 1e-12 for _ in range(SHUFFLES))
    return Importance(key=key, share=share, p_value=min(1.0, num_keys * (reached + 1) / (SHUFFLES + 1)))


def _bins(values: Sequence[object]) -> NDArray[np.int64]:
    """Numbers of many values by equal counts, everything else by value; what was not drawn is a value of its own."""
    distinct = {repr(value) for value in values}
    num_bins = max(2, min(5, len(values) // 4))
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(distinct) <= num_bins or len(numbers) < len(values):
        names = sorted(distinct)
        return np.array([names.index(repr(value)) for value in values])
    order = np.argsort(np.argsort(np.asarray(numbers), kind="stable"), kind="stable")
    return np.asarray(order * num_bins // len(numbers), dtype=np.int64)


def _correlation_ratio(bins: NDArray[np.int64], values: NDArray[np.float64]) -> float:
    """Variance between the bins' means as a share of all variance."""
    total = float(((values - values.mean()) ** 2).sum())
    if total == 0.0:
        return 0.0
    between = 0.0
    for one in np.unique(bins):
        inside = values[bins == one]
        between += len(inside) * float((inside.mean() - values.mean()) ** 2)
    return between / total


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _t95(freedom: float) -> float:
    """Rounded down to whole degrees of freedom: the wider interval."""
    whole = max(1, int(freedom))
    return _T95[whole - 1] if whole <= len(_T95) else 1.96 + 2.4 / whole
