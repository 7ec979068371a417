"""The r-th smallest magnitude among any number of numbers, exactly, in two passes and without keeping them.

Among numbers of one sign, fp32 bit patterns are ordered as the numbers are: the first pass counts by their upper half,
the second by the lower half of those that share the upper half in question. Counting is numpy's: on 2 cores torch's
takes seven times as long (0.5M numbers: 10 ms against 1.5 ms).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_HALF_BITS = np.uint32(16)
_HALF = 2**16
_LOWER = np.uint32(_HALF - 1)

# Gives the same fp32 blocks every time: of one column of numbers, or of several side by side.
Stream = Callable[[], Iterable[Sequence[Tensor]]]
_Bits = NDArray[np.uint32]
_Counts = NDArray[np.int64]


def magnitudes_of_rank(stream: Stream, num_columns: int, rank: int) -> list[float]:
    """The magnitude at place `rank` (from 1) of each column in ascending order."""
    upper = [_find(counts, rank) for counts in _counted(stream, [_upper] * num_columns)]
    lower = _counted(stream, [_lower_beside(half) for half, _ in upper])
    found = [
        half * _HALF + _find(counts, rank - before)[0] for (half, before), counts in zip(upper, lower, strict=True)
    ]
    return [float(value) for value in np.array(found, dtype=np.uint32).view(np.float32)]


def _upper(bits: _Bits) -> _Bits:
    return bits >> _HALF_BITS


def _lower_beside(half: int) -> Callable[[_Bits], _Bits]:
    """The lower halves of those numbers whose upper half is `half`."""
    return lambda bits: bits[(bits >> _HALF_BITS) == half] & _LOWER


def _counted(stream: Stream, parts: Sequence[Callable[[_Bits], _Bits]]) -> list[_Counts]:
    counts = [np.zeros(_HALF, dtype=np.int64) for _ in parts]
    for row in stream():
        for count, part, block in zip(counts, parts, row, strict=True):
            count += np.bincount(part(np.abs(block.numpy()).view(np.uint32)), minlength=_HALF)
    return counts


def _find(counts: _Counts, rank: int) -> tuple[int, int]:
    """The bucket that holds place `rank`, and how many numbers are in those before it."""
    totals = counts.cumsum()
    bucket = int(np.searchsorted(totals, rank))
    return bucket, int(totals[bucket - 1]) if bucket else 0
