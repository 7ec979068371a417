"""Streams without an index: a fixed number of virtual shards, each read forwards by whichever rank owns it now.

A stream that cannot be asked for sample 12,345 can still be cut into V parts that are each read in order: file i
belongs to part i mod V, say. Micro-batch m of a step reads from the same part whatever the world size, and rank m mod W
runs micro-batch m, so at every size a part has exactly one reader; what is read from it next is a function of the step.
Nothing is repeated or skipped at a resize, because there is no other state than the step.

With M micro-batches a step, the parts are used M at a time, in turns: step k reads parts (k mod T) M ... where
T = floor(V / M) turns. Parts that do not fill a turn stay unused, so V should be well above M.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_NUM_SHARDS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualShards:
    """Which part of a stream a micro-batch reads, and from where.

    Raises: ValueError if there are fewer parts than micro-batches: two ranks would have to read one part.
    """

    num_micro_batches: int
    num_shards: int = DEFAULT_NUM_SHARDS

    def __post_init__(self) -> None:
        if not 1 <= self.num_micro_batches <= self.num_shards:
            raise ValueError(
                f"{self.num_micro_batches} micro-batches a step need at least as many virtual shards, not "
                f"{self.num_shards}"
            )

    @property
    def num_turns(self) -> int:
        """Steps until a shard is read again."""
        return self.num_shards // self.num_micro_batches

    @property
    def num_used(self) -> int:
        """Shards that are ever read; the rest does not fill a turn."""
        return self.num_turns * self.num_micro_batches

    def shard(self, step: int, micro_batch: int) -> int:
        """The shard that a micro-batch reads from."""
        self._check(micro_batch)
        return (step % self.num_turns) * self.num_micro_batches + micro_batch

    def offset(self, step: int, shard: int) -> int:
        """Micro-batches that were read from a shard before this step: where its reader must stand."""
        turn = shard // self.num_micro_batches
        if not 0 <= shard < self.num_used:
            raise ValueError(f"shard is {shard}; must be 0..{self.num_used - 1}")
        return step // self.num_turns + (step % self.num_turns > turn)

    def owner(self, shard: int, world_size: int) -> int:
        """The rank that reads a shard at this world size: the one that runs its micro-batches."""
        return (shard % self.num_micro_batches) % world_size

    def owned(self, world_size: int, rank: int) -> list[int]:
        """The shards that a rank reads."""
        return [shard for shard in range(self.num_used) if self.owner(shard, world_size) == rank]

    def items(self, shard: int, num_items: int) -> range:
        """Which of the stream's files (or other items that can be opened) make up a shard."""
        return range(shard, num_items, self.num_used)

    def _check(self, micro_batch: int) -> None:
        if not 0 <= micro_batch < self.num_micro_batches:
            raise ValueError(f"micro_batch is {micro_batch}; must be 0..{self.num_micro_batches - 1}")
