"""Random draws that depend on what they are for, and on nothing else: not on the order of tensors or models, the size
of blocks, or the number of threads."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

_RANGE = 2**32


class Draws:
    """A stream of its own for every `(seed, ...)`; bits of PCG64, which numpy promises never to change."""

    def __init__(self, *purpose: object) -> None:
        digest = hashlib.sha256("\0".join(map(str, purpose)).encode()).digest()
        self._bits = np.random.PCG64(np.random.SeedSequence(int.from_bytes(digest, "little")))

    def chosen(self, count: int, probability: float) -> Tensor:
        """The next `count` draws: 1.0 with this probability, else 0.0. All but the last call take an even count."""
        words = np.frombuffer(self._bits.random_raw(-(-count // 2)), dtype=np.uint32)[:count]
        below = np.uint32(min(round(probability * _RANGE), _RANGE - 1))
        return torch.from_numpy(words < below).float()
