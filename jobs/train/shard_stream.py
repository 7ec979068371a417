"""Samples without numbers as a function of the step: which rank reads which shard from where, and the reading itself.

`virtual_shards` says which shard a micro-batch reads. Sample p of shard s is known as p U + s, where U shards are used,
so that ledger and seeds work as for numbered samples. There are no epochs: shards of different lengths begin again at
different times, and p counts on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.models.task import StreamSource
from jobs.train.samples import Samples, Stream
from jobs.train.virtual_shards import VirtualShards
from orchestrator.spec.errors import UserError

# Turns of shards where there are items enough: neighbours within a file then lie steps apart.
_TURNS = 4


def shards_for(num_items: int, num_micro_batches: int) -> VirtualShards:
    """Up to four shards a micro-batch. Raises: UserError where two micro-batches would have to read one item."""
    if num_items < num_micro_batches:
        raise UserError(
            f"the data are a stream of {num_items} items, and each of a step's {num_micro_batches} micro-batches reads "
            "items of its own",
            next_step=f"Cut the stream into {num_micro_batches} items or more, or choose a larger micro_batch_size.",
        )
    turns = min(_TURNS, num_items // num_micro_batches)
    return VirtualShards(num_micro_batches=num_micro_batches, num_shards=turns * num_micro_batches)


class ShardStream(Stream):
    """The samples of every step where micro-batch m takes the next ones of the shard whose turn it is."""

    def __init__(
        self, shards: VirtualShards, micro_batch_size: int, manifest_hash: str, seed: int, global_batch_size: int
    ) -> None:
        super().__init__(manifest_hash, seed, global_batch_size)
        self._shards = shards
        self._micro_batch_size = micro_batch_size

    def samples(self, step: int) -> Samples:
        return self._at(step, 0, self.global_batch_size)

    def micro_batch(self, step: int, micro_batch: int, micro_batch_size: int) -> Samples:
        first = micro_batch * self._micro_batch_size
        if micro_batch_size != self._micro_batch_size or not 0 <= first < self.global_batch_size:
            raise ValueError(f"micro_batch {micro_batch} of size {micro_batch_size} is outside the batch")
        return self._at(step, first, min(first + micro_batch_size, self.global_batch_size))

    def _at(self, step: int, first: int, end: int) -> Samples:
        micro_B, row_B = np.divmod(np.arange(first, end, dtype=np.int64), self._micro_batch_size)
        rows_B = np.minimum(self._micro_batch_size, self.global_batch_size - micro_B * self._micro_batch_size)
        shard_B = self._shards.shard(step, 0) + micro_B
        place_B = self._shards.offset(step, self._shards.shard(step, 0)) * rows_B + row_B
        return Samples(np.zeros_like(place_B), place_B * self._shards.num_used + shard_B)


class ShardReader:
    """Reads what a `ShardStream` names. Shards that go on where they were stay open; any other place is gone to."""

    def __init__(self, source: StreamSource, shards: VirtualShards) -> None:
        self._source = source
        self._shards = shards
        self._open: dict[int, _Shard] = {}
        self._newest: dict[str, Tensor] | None = None

    def batch(self, samples: Samples) -> dict[str, Tensor]:
        """The samples as rows. Raises: UserError if their shard holds none, or not as many as before."""
        place, shard = divmod(int(samples.ids[0]), self._shards.num_used)
        if shard not in self._open:
            self._open[shard] = _Shard(self._source, self._shards.items(shard, self._source.num_items))
        rows = self._open[shard].take(place, len(samples.ids))
        self._newest = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        return self._newest

    def weights(self, ids: NDArray[np.int64]) -> None:
        """Equal: nobody sees the samples of all ranks."""

    def padding(self, samples: Samples) -> dict[str, Tensor]:
        """Any rows: they weigh nothing, and whoever owns the shard must not find it moved on."""
        if self._newest is None:
            _, shard = divmod(int(samples.ids[0]), self._shards.num_used)
            rows = _Shard(self._source, self._shards.items(shard, self._source.num_items)).take(0, 1)
            self._newest = {name: value.unsqueeze(0) for name, value in rows[0].items()}
        return self._newest


class _Shard:
    """One shard's items, over and over. `place` counts samples from the run's beginning."""

    def __init__(self, source: StreamSource, items: range) -> None:
        self._source = source
        self._items = items
        self._place = 0
        self._samples: Iterator[Mapping[str, Tensor]] = iter(())
        self._length = 0  # not known before its end has been seen
        self._is_open = False

    def take(self, place: int, count: int) -> list[Mapping[str, Tensor]]:
        """Samples place .. place + count - 1."""
        if not self._is_open or place != self._place:
            self._go_to(place)
        taken: list[Mapping[str, Tensor]] = []
        while len(taken) < count:
            found = list(islice(self._samples, count - len(taken)))
            self._place += len(found)
            taken.extend(found)
            if not found:
                self._begin_again()
        return taken

    def _go_to(self, place: int) -> None:
        skip = place % self._length if self._length else place
        self._samples = iter(self._source.read(self._items, skip))
        first = next(self._samples, None)
        if first is None and skip:  # beyond its end, wherever that is
            self._learn(sum(1 for _ in self._source.read(self._items, 0)))
            self._go_to(place)
            return
        if first is None:
            self._fail("hold no sample")
        self._samples = chain([first], self._samples)
        self._place, self._is_open = place, True

    def _begin_again(self) -> None:
        self._learn(self._length or self._place)
        if self._place % self._length:
            self._fail(f"ended after {self._place % self._length} samples, and held {self._length} before")
        self._go_to(self._place)

    def _learn(self, length: int) -> None:
        self._length = length
        if not length:
            self._fail("hold no sample")

    def _fail(self, what: str) -> NoReturn:
        named = f"items {self._items.start}, {self._items.start + self._items.step}, ... of the stream"
        raise UserError(
            f"{named} {what}", next_step="Make every item give the same samples each time; every shard needs one."
        )
