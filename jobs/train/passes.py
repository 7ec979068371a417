"""What a rank runs in a step, with everything prepared: batch, weight, seed and the hash of its samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from jobs.train.reading import Reader
from jobs.train.samples import Stream
from orchestrator.policy.batch_plan import BatchPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedPass:
    """One forward and backward pass. Padding has weight 0 and hash 0: it takes part and counts for nothing."""

    step_index: int
    last_of_step: bool
    micro_batch: int
    batch: dict[str, Tensor]
    weight: float
    seed: int
    sample_hash: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A rank's share of every step: a pure function of the step, its rank and the world size."""

    reader: Reader
    stream: Stream
    plan: BatchPlan
    rank: int
    world_size: int

    def passes(self, first_step_index: int, steps: int) -> Iterator[PreparedPass]:
        """All passes of the steps with index first..steps-1, in order."""
        for step_index in range(first_step_index, steps):
            yield from self._step(step_index)

    def _step(self, step_index: int) -> Iterator[PreparedPass]:
        weight_M = self.plan.weights(self.reader.weights(self.stream.ids(step_index)))
        passes = self.plan.rank_passes(self.world_size, self.rank)
        for number, one in enumerate(passes, start=1):
            samples = self.stream.micro_batch(step_index, one.micro_batch, self.plan.micro_batch_size)
            high, low = self.stream.ledger_hash(samples)
            yield PreparedPass(
                step_index=step_index,
                last_of_step=number == len(passes),
                micro_batch=one.micro_batch,
                batch=self.reader.batch(samples) if one.counted else self.reader.padding(samples),
                weight=float(weight_M[one.micro_batch]) if one.counted else 0.0,
                seed=self.stream.micro_batch_seed(step_index, one.micro_batch),
                sample_hash=(high << 32) + low if one.counted else 0,
            )
