"""How a rank comes by the rows of a pass, whatever kind of source a task opens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from jobs.models.task import AugmentedSource, SampleSource, StreamSource, Task
from jobs.train.config import RankJob
from jobs.train.samples import Samples, SampleStream, Stream
from jobs.train.shard_stream import ShardReader, ShardStream, shards_for
from orchestrator.policy.batch_plan import BatchPlan


class Reader(Protocol):
    """Rows of samples; what a stream names is read by one rank, in the stream's order."""

    def batch(self, samples: Samples) -> dict[str, Tensor]:
        """The samples as CPU tensors, one row each."""
        ...

    def padding(self, samples: Samples) -> dict[str, Tensor]:
        """Rows for a pass that weighs nothing."""
        ...

    def weights(self, ids: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Weight of each sample in the step's mean; None: equal."""
        ...


@dataclass(frozen=True, slots=True)
class NumberedReader:
    """Asks the source by number, with a seed for every row where the source augments."""

    task: Task
    source: SampleSource
    stream: Stream

    def batch(self, samples: Samples) -> dict[str, Tensor]:
        if isinstance(self.source, AugmentedSource):
            return self.source.augmented_batch(samples.ids, self.stream.sample_seeds(samples))
        return self.source.batch(samples.ids)

    padding = batch

    def weights(self, ids: NDArray[np.int64]) -> NDArray[np.float64] | None:
        return self.task.sample_weights(self.source, ids)


def open_reader(
    task: Task, source: SampleSource | StreamSource, dataset_hash: str, job: RankJob
) -> tuple[Reader, Stream]:
    """The run's samples and what reads them here. Raises: UserError for a stream of too few items, ValueError for an
    empty source."""
    if not isinstance(source, StreamSource):
        stream = SampleStream(source.num_samples, dataset_hash, job.seed, job.global_batch_size)
        return NumberedReader(task, source, stream), stream
    plan = BatchPlan(job.global_batch_size, job.micro_batch_size)
    shards = shards_for(source.num_items, plan.num_micro_batches)
    return (
        ShardReader(source, shards),
        ShardStream(shards, plan.micro_batch_size, dataset_hash, job.seed, job.global_batch_size),
    )
