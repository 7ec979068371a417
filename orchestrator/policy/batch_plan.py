"""One optimizer step, cut so that any number of ranks computes the same gradient from the same samples.

The global batch is constant. It is cut into micro-batches; rank r of W runs micro-batches r, r+W, r+2W, ... and
weights each loss, so that the sum over ranks is the mean over the whole batch at every W. Knows no framework and no
data: sizes in, indices and weights out.

Why not equal shares: a solver that insists on them allows only 4 to 10 of the 101 sizes in 100..200 and leaves 8-12 %
of the capacity idle. The price of uneven shares is a staircase: a step takes ceil(M/W) passes, so only some sizes are
faster than the one below (`useful_sizes`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward and backward pass of one rank.

    `counted` is False for padding: the rank has no micro-batch left but must take part in the collectives, so it runs
    a real micro-batch with weight 0 (a made-up one could give NaN, and 0 x NaN is NaN).
    """

    micro_batch: int
    counted: bool


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How `global_batch_size` samples become micro-batches of at most `micro_batch_size`, at any world size.

    Raises: ValueError if either size is below 1.
    """

    global_batch_size: int
    micro_batch_size: int

    def __post_init__(self) -> None:
        if self.global_batch_size < 1 or self.micro_batch_size < 1:
            raise ValueError(
                f"global_batch_size ({self.global_batch_size}) and micro_batch_size ({self.micro_batch_size}) "
                "must be at least 1"
            )

    @property
    def num_micro_batches(self) -> int:
        """M, micro-batches in one optimizer step."""
        return -(-self.global_batch_size // self.micro_batch_size)

    def micro_batch_range(self, micro_batch: int) -> range:
        """Positions of a micro-batch's samples within the step's batch; the last micro-batch may be short.

        Raises: ValueError if there is no such micro-batch.
        """
        if not 0 <= micro_batch < self.num_micro_batches:
            raise ValueError(f"micro_batch is {micro_batch}; must be 0..{self.num_micro_batches - 1}")
        start = micro_batch * self.micro_batch_size
        return range(start, min(start + self.micro_batch_size, self.global_batch_size))

    def rank_micro_batches(self, world_size: int, rank: int) -> range:
        """Micro-batches that count for this rank, in the order it runs them; empty where ranks outnumber them.

        Raises: ValueError if rank is outside 0..world_size-1.
        """
        _check_rank(world_size, rank)
        return range(rank, self.num_micro_batches, world_size)

    def rank_samples(self, world_size: int, rank: int) -> int:
        """Samples this rank contributes to one optimizer step."""
        return sum(len(self.micro_batch_range(m)) for m in self.rank_micro_batches(world_size, rank))

    def rank_passes(self, world_size: int, rank: int) -> tuple[Pass, ...]:
        """What this rank runs in one optimizer step: as many passes as every other rank, padding last."""
        own = [Pass(m, counted=True) for m in self.rank_micro_batches(world_size, rank)]
        filler = Pass(rank % self.num_micro_batches, counted=False)
        return (*own, *[filler] * (self.passes(world_size) - len(own)))

    def passes(self, world_size: int) -> int:
        """ceil(M/W): passes per optimizer step, the same on every rank (`grad_accum_steps`)."""
        if world_size < 1:
            raise ValueError(f"world_size is {world_size}; must be at least 1")
        return -(-self.num_micro_batches // world_size)

    def weights(self, sample_weights: Sequence[float] | NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Weight of every micro-batch's mean loss, shape (M,); `math.fsum` of them is exactly 1.

        `sample_weights`, shape (global_batch_size,), are the samples' own weights (tokens that count, say) in the order
        of the step's batch; None means equal. With them, a micro-batch's loss must be the weighted mean over its rows.
        Raises: ValueError for a wrong length, a negative or non-finite weight, or a total of 0.
        """
        weight_B = self._sample_weights(sample_weights)
        starts = np.arange(0, self.global_batch_size, self.micro_batch_size)
        weight_M = np.add.reduceat(weight_B, starts) / math.fsum(weight_B)
        # Rounding is put where it is relatively smallest; a micro-batch of weight 0 stays at 0.
        largest = int(weight_M.argmax())
        weight_M[largest] += math.fsum([1.0, *(-weight_M)])
        return weight_M

    def _sample_weights(self, given: Sequence[float] | NDArray[np.float64] | None) -> NDArray[np.float64]:
        if given is None:
            return np.ones(self.global_batch_size)
        weight_B = np.asarray(given, dtype=np.float64)
        if weight_B.shape != (self.global_batch_size,):
            raise ValueError(f"sample_weights has shape {weight_B.shape}; must be ({self.global_batch_size},)")
        if not np.isfinite(weight_B).all() or (weight_B < 0).any():
            raise ValueError("sample_weights must be finite and not negative")
        if not weight_B.any():
            raise ValueError("sample_weights are all 0: no sample of this step counts")
        return weight_B

    def throughput(self, world_size: int) -> float:
        """Optimizer steps per pass time, 1/ceil(M/W): the staircase by which sizes are chosen."""
        return 1.0 / self.passes(world_size)

    def balance(self, world_size: int) -> float:
        """Share of the workers' passes that count, M/(W ceil(M/W)); 1 when every rank has equally many."""
        return self.num_micro_batches / (world_size * self.passes(world_size))

    def useful_sizes(self, min_workers: int, max_workers: int) -> tuple[int, ...]:
        """World sizes in min..max that are faster than every smaller one, ascending; `min_workers` always is.

        Raises: ValueError if min is below 1 or above max.
        """
        if not 1 <= min_workers <= max_workers:
            raise ValueError(f"workers {min_workers}..{max_workers}: need 1 <= min <= max")
        # ceil(M/p) is the smallest size that manages with p passes.
        fastest, slowest = self.passes(max_workers), self.passes(min_workers)
        sizes = {-(-self.num_micro_batches // p) for p in range(fastest, slowest)}
        return tuple(sorted({min_workers} | {size for size in sizes if size > min_workers}))


def _check_rank(world_size: int, rank: int) -> None:
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank}; must be 0..{world_size - 1}")
