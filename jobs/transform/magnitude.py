"""The r-th smallest magnitude among any number of numbers, exactly, in two passes and without keeping them.

Among numbers of one sign, fp32 bit patterns are ordered as the numbers are: the first pass counts by their upper half,
the second by the lower half of those that share the upper half in question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

_HALF_BITS = 16
_HALF = 2**_HALF_BITS

# Gives the same fp32 blocks every time: of one column of numbers, or of several side by side.
Stream = Callable[[], Iterable[Sequence[Tensor]]]


def magnitudes_of_rank(stream: Stream, num_columns: int, rank: int) -> list[float]:
    """The magnitude at place `rank` (from 1) of each column in ascending order."""
    upper = [_find(counts, rank) for counts in _counted(stream, [_upper] * num_columns)]
    lower = _counted(stream, [_lower_beside(half) for half, _ in upper])
    found = [
        half << _HALF_BITS | _find(counts, rank - before)[0]
        for (half, before), counts in zip(upper, lower, strict=True)
    ]
    return [float(value) for value in torch.tensor(found, dtype=torch.int32).view(torch.float32)]


def _upper(bits: Tensor) -> Tensor:
    return bits >> _HALF_BITS


def _lower_beside(half: int) -> Callable[[Tensor], Tensor]:
    """The lower halves of those numbers whose upper half is `half`."""
    return lambda bits: bits[(bits >> _HALF_BITS) == half].bitwise_and_(_HALF - 1)


def _counted(stream: Stream, parts: Sequence[Callable[[Tensor], Tensor]]) -> list[Tensor]:
    counts = [torch.zeros(_HALF, dtype=torch.int64) for _ in parts]
    for row in stream():
        for count, part, block in zip(counts, parts, row, strict=True):
            count += torch.bincount(part(block.abs().view(torch.int32)), minlength=_HALF)
    return counts


def _find(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bucket that holds place `rank`, and how many numbers are in those before it."""
    totals = counts.cumsum(0)
    bucket = int(torch.searchsorted(totals, rank))
    return bucket, int(totals[bucket - 1]) if bucket else 0
