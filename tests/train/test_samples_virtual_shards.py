"""Streams without an index: one reader per shard at every size, nothing repeated or skipped over resizes."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.train.virtual_shards import DEFAULT_NUM_SHARDS, VirtualShards
from orchestrator.policy.batch_plan import BatchPlan

setups = st.integers(1, 30).flatmap(
    lambda m: st.builds(VirtualShards, num_micro_batches=st.just(m), num_shards=st.integers(m, 100))
)


@settings(deadline=None)
@given(shards=setups, world_size=st.integers(1, 40), step=st.integers(0, 10**6))
def test_the_rank_that_runs_a_micro_batch_owns_its_shard(shards, world_size, step):
    plan = BatchPlan(shards.num_micro_batches, 1)
    for rank in range(world_size):
        for m in plan.rank_micro_batches(world_size, rank):
            assert shards.owner(shards.shard(step, m), world_size) == rank


@settings(deadline=None)
@given(shards=setups, sizes=st.lists(st.integers(1, 20), min_size=1, max_size=30))
def test_every_shard_is_read_in_order_over_any_resizes(shards, sizes):
    """Readers hold positions; at a resize they start from `offset` alone, and continue exactly."""
    read, readers = defaultdict(list), {}
    for step, world_size in enumerate(sizes):
        if step == 0 or world_size != sizes[step - 1]:
            readers = {
                (rank, s): shards.offset(step, s) for rank in range(world_size) for s in shards.owned(world_size, rank)
            }
        for rank in range(world_size):
            for m in BatchPlan(shards.num_micro_batches, 1).rank_micro_batches(world_size, rank):
                shard = shards.shard(step, m)
                read[shard].append(readers[rank, shard])
                readers[rank, shard] += 1
    assert all(positions == list(range(len(positions))) for positions in read.values())
    assert sum(map(len, read.values())) == len(sizes) * shards.num_micro_batches


@given(shards=setups, num_items=st.integers(0, 500))
def test_shards_share_out_all_items_once(shards, num_items):
    items = [i for shard in range(shards.num_used) for i in shards.items(shard, num_items)]
    assert sorted(items) == list(range(num_items))


def test_shards_take_turns_evenly():
    shards = VirtualShards(num_micro_batches=100)
    assert shards.num_shards == DEFAULT_NUM_SHARDS
    assert (shards.num_turns, shards.num_used) == (10, 1000)
    counts = [shards.offset(10_000, shard) for shard in range(shards.num_used)]
    assert set(counts) == {1000}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: VirtualShards(num_micro_batches=1025),
        lambda: VirtualShards(num_micro_batches=0),
        lambda: VirtualShards(num_micro_batches=4).shard(0, 4),
        lambda: VirtualShards(num_micro_batches=3, num_shards=10).offset(0, 9),
    ],
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be|need at least"):
        wrong()
