"""Which samples a step takes: a function of (data set, seed, step), never of ranks, workers or history.

Step k takes places [kB, (k+1)B) of an endless sequence, epoch after epoch, each epoch a shuffle of all samples. So a
resize between two steps can neither repeat nor skip one, and there is nothing to save but the step. The ledger proves
it: every rank hashes the samples it really used, the sums are added up with the loss, and whoever knows the step can
compute what the total must be.

Shapes: B = global batch size. All 64-bit arithmetic wraps, that is, it is mod 2^64.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.train.permutation import mix, permute

_LOW_HALF = 0xFFFFFFFF
_MAX_PLACES = 2**62


class Samples(NamedTuple):
    """Samples by id with the epoch they are taken in; both int64, shape (B,)."""

    epochs: NDArray[np.int64]
    ids: NDArray[np.int64]


class Stream(ABC):
    """The samples of every step of a run, and what is drawn for them: functions of step and index alone.

    `manifest_hash` names the data set, `seed` the run. Two streams with equal arguments are the same stream, on any
    rank of any world size. Memory: O(B). Raises: ValueError where global_batch_size is below 1.
    """

    def __init__(self, manifest_hash: str, seed: int, global_batch_size: int) -> None:
        if global_batch_size < 1:
            raise ValueError(f"global_batch_size ({global_batch_size}) must be at least 1")
        self.global_batch_size = global_batch_size
        self._sample_key = derive_key(manifest_hash, seed, "sample")
        self._micro_batch_key = derive_key(manifest_hash, seed, "micro-batch")

    @abstractmethod
    def samples(self, step: int) -> Samples:
        """The step's samples in order."""

    @abstractmethod
    def micro_batch(self, step: int, micro_batch: int, micro_batch_size: int) -> Samples:
        """Samples of one micro-batch: positions [m*k, (m+1)*k) of the step's batch, the last one may be short.

        Raises: ValueError if there is no such micro-batch.
        """

    def ids(self, step: int) -> NDArray[np.int64]:
        """Sample ids of a step, shape (B,)."""
        return self.samples(step).ids

    def micro_batch_seed(self, step: int, micro_batch: int) -> int:
        """Seed (63 bits) for every random draw of a micro-batch, dropout above all: a function of step and index."""
        return int(mix(self._micro_batch_key, step, micro_batch)) >> 1

    def sample_seeds(self, samples: Samples) -> NDArray[np.uint64]:
        """One 64-bit seed per sample for augmentation: a function of (seed, epoch, id) alone."""
        return np.asarray(mix(self._sample_key, samples.epochs, samples.ids), dtype=np.uint64)

    def ledger_hash(self, samples: Samples) -> tuple[int, int]:
        """Sum mod 2^64 of the hashes of (epoch, id), as (high, low) 32-bit halves for an all-reduce.

        Halves summed over up to 2^21 ranks stay exact in float64. Join the totals with `join_halves`.
        """
        total = _hash_sum(samples)
        return total >> 32, total & _LOW_HALF

    def step_hash(self, step: int) -> int:
        """What the step's ledger hash must be when every sample is used exactly once."""
        return _hash_sum(self.samples(step))


class SampleStream(Stream):
    """Of `num_samples` samples that can be asked for by number: a step may straddle two epochs, or many if the data set
    is tiny.

    Raises: ValueError where a size is below 1 or num_samples exceeds 2^62.
    """

    def __init__(self, num_samples: int, manifest_hash: str, seed: int, global_batch_size: int) -> None:
        super().__init__(manifest_hash, seed, global_batch_size)
        if not 1 <= num_samples <= _MAX_PLACES:
            raise ValueError(f"num_samples ({num_samples}) must be 1..2^62")
        self.num_samples = num_samples
        self._order_key = derive_key(manifest_hash, seed, "order")

    def samples(self, step: int) -> Samples:
        return self._at(step * self.global_batch_size, self.global_batch_size)

    def micro_batch(self, step: int, micro_batch: int, micro_batch_size: int) -> Samples:
        first = micro_batch * micro_batch_size
        if not 0 <= first < self.global_batch_size:
            raise ValueError(f"micro_batch {micro_batch} of size {micro_batch_size} is outside the batch")
        count = min(micro_batch_size, self.global_batch_size - first)
        return self._at(step * self.global_batch_size + first, count)

    def _at(self, place: int, count: int) -> Samples:
        if place < 0 or place + count > _MAX_PLACES:
            raise ValueError(f"place {place} of the sample sequence is outside 0..2^62")
        places_B = np.arange(place, place + count, dtype=np.int64)
        epochs_B, index_B = np.divmod(places_B, np.int64(self.num_samples))
        # One key for all is faster; nearly every step lies within one epoch.
        epoch_of_key = epochs_B[0] if epochs_B[0] == epochs_B[-1] else epochs_B
        return Samples(epochs_B, permute(index_B, self.num_samples, mix(self._order_key, epoch_of_key)))


def join_halves(high: float, low: float) -> int:
    """The 64-bit sum whose halves were summed over ranks."""
    return ((int(high) << 32) + int(low)) % 2**64


def _hash_sum(samples: Samples) -> int:
    # Not keyed by seed or run: a sample's hash is its identity within the data set.
    return int(np.sum(mix(samples.epochs, samples.ids), dtype=np.uint64))


def derive_key(manifest_hash: str, seed: int, purpose: str) -> int:
    """A key (64 bits) of its own for each purpose of a run."""
    digest = hashlib.blake2b(f"{manifest_hash}\n{seed}\n{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
