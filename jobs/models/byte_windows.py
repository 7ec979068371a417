"""Samples of a byte-level model: fixed windows over one split of a packed data set."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.data import PackedSplit


class ByteWindows:
    """Sample i is bytes [i * seq_len, (i + 1) * seq_len]: `seq_len` inputs, and each one's next byte as its target.

    Windows share one byte, the last target of one being the first input of the next, so every byte but the split's
    first is predicted exactly once; fewer than `seq_len` bytes at the end are left out.
    """

    def __init__(self, split: PackedSplit, seq_len: int) -> None:
        self.split, self.seq_len = split, seq_len
        self.num_samples = max(0, (len(split) - 1) // seq_len)

    def batch(self, ids: NDArray[np.int64]) -> dict[str, Tensor]:
        """`bytes_BT`: int64 of shape (len(ids), seq_len + 1). Raises: ValueError for an id out of range."""
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() < self.num_samples:
            raise ValueError(f"sample ids must be within 0..{self.num_samples - 1}, not {ids.min()}..{ids.max()}")
        windows_BT = self.split.windows(ids * self.seq_len, self.seq_len + 1)
        return {"bytes_BT": torch.from_numpy(windows_BT).long()}
