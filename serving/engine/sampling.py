"""From scores to tokens: greedy or drawn, each row by its own seed.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.engine.protocol import BROKEN, Sampling

_MASK = 2**64 - 1


def draw_tokens(logits_BV: NDArray[np.float32], samplings: Sequence[Sampling], positions: Sequence[int]) -> list[int]:
    """One token per row; `positions[i]` is the position that row i's token will have.

    Rows are computed one by one in float64, so the same scores give the same token in any company. A row whose scores
    are not all finite gets BROKEN.
    """
    rows = zip(logits_BV, samplings, positions, strict=True)
    return [_draw(logits_V, sampling, position) for logits_V, sampling, position in rows]


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on both arguments alone.

    Source: the splitmix64 finaliser (Steele, Lea, Flood, OOPSLA 2014), applied twice so that neighbouring seeds and
    positions give unrelated numbers.
    """
    return (_mix((_mix(seed & _MASK) + position) & _MASK) >> 11) * 2.0**-53


def _draw(logits_V: NDArray[np.float32], sampling: Sampling, position: int) -> int:
    if not np.isfinite(logits_V).all():
        return BROKEN
    if sampling.temperature == 0:
        return int(np.argmax(logits_V))
    scores_V = logits_V.astype(np.float64) / sampling.temperature
    weights_V = np.exp(scores_V - scores_V.max())
    if sampling.top_p < 1:
        weights_V = _nucleus(weights_V, sampling.top_p)
    cumulative_V = np.cumsum(weights_V)
    return int(np.searchsorted(cumulative_V, uniform(sampling.seed, position) * cumulative_V[-1], side="right"))


def _nucleus(weights_V: NDArray[np.float64], top_p: float) -> NDArray[np.float64]:
    """Keep the fewest most likely tokens whose share reaches top_p; ties by token number."""
    order_V = np.argsort(-weights_V, kind="stable")
    share_V = np.cumsum(weights_V[order_V]) / weights_V.sum()
    num_kept = int(np.searchsorted(share_V, top_p)) + 1
    kept_V = np.zeros_like(weights_V)
    kept_V[order_V[:num_kept]] = weights_V[order_V[:num_kept]]
    return kept_V


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
