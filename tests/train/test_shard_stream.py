"""Streams that are only read forwards: every sample once at any sizes, whoever reads, wherever a shard ends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.train.passes import PreparedPass, Share
from jobs.train.sample_ledger import SampleLedger
from jobs.train.shard_stream import ShardReader, ShardStream, shards_for
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.spec.errors import UserError


class Files:
    """Item i holds `lengths[i]` samples; each is the pair (i, its place in i)."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self.num_items = len(lengths)
        self.opened: list[tuple[int, int]] = []

    def read(self, items: range, skip: int) -> Iterator[dict[str, torch.Tensor]]:
        self.opened.append((items.start, skip))
        every = (torch.tensor([item, place]) for item in items for place in range(self.lengths[item]))
        return ({"x_B2": pair} for pair in islice(every, skip, None))


def _share(files: Files, batch: int, micro: int, world_size: int, rank: int) -> Share:
    plan = BatchPlan(batch, micro)
    shards = shards_for(files.num_items, plan.num_micro_batches)
    return Share(
        reader=ShardReader(files, shards),
        stream=ShardStream(shards, micro, "hash", 7, batch),
        plan=plan,
        rank=rank,
        world_size=world_size,
    )


def _run(files: Files, batch: int, micro: int, sizes: list[int]) -> tuple[SampleLedger, list[list[PreparedPass]]]:
    """One list of counted passes a step; ranks are new wherever the size changes."""
    ledger, steps, shares = SampleLedger(), list[list[PreparedPass]](), list[Share]()
    for step, size in enumerate(sizes):
        if size != len(shares):
            shares = [_share(files, batch, micro, size, rank) for rank in range(size)]
        passes = [one for share in shares for one in share.passes(step, step + 1)]
        counted = sorted((one for one in passes if one.weight), key=lambda one: one.micro_batch)
        ledger = ledger.record(shares[0].stream, step, sum(one.sample_hash for one in counted) % 2**64)
        steps.append(counted)
    return ledger, steps


def _pairs(passes: list[PreparedPass]) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for one in passes for a, b in one.batch["x_B2"]]


set_ups = st.tuples(st.integers(1, 12), st.integers(1, 4)).flatmap(
    lambda two: st.tuples(
        st.lists(st.integers(1, 9), min_size=-(-two[0] // two[1]), max_size=30),
        st.just(two[0]),
        st.just(two[1]),
        st.lists(st.integers(1, 7), min_size=1, max_size=12),
    )
)


@given(set_ups)
def test_what_a_step_trains_on_is_the_same_over_any_resizes(
    set_up: tuple[list[int], int, int, list[int]],
) -> None:
    lengths, batch, micro, sizes = set_up
    ledger, steps = _run(Files(lengths), batch, micro, sizes)
    _, alone = _run(Files(lengths), batch, micro, [1] * len(sizes))
    assert [_pairs(step) for step in steps] == [_pairs(step) for step in alone]
    assert ledger.num_bad_steps == 0
    assert ledger.num_samples == batch * len(sizes)


@given(set_ups)
def test_every_shard_is_read_in_order_and_begun_again_at_its_end(
    set_up: tuple[list[int], int, int, list[int]],
) -> None:
    lengths, batch, micro, sizes = set_up
    _, steps = _run(Files(lengths), batch, micro, sizes)
    shards = shards_for(len(lengths), -(-batch // micro))
    taken: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for step, passes in enumerate(steps):
        for one in passes:
            taken[shards.shard(step, one.micro_batch)].extend(_pairs([one]))
    for shard, pairs in taken.items():
        once = [(i, place) for i in shards.items(shard, len(lengths)) for place in range(lengths[i])]
        assert pairs == [once[k % len(once)] for k in range(len(pairs))]


def test_a_rank_opens_each_of_its_shards_once_and_again_only_after_its_end() -> None:
    files = Files([8] * 8)
    _run(files, 4, 2, [2] * 12)
    assert sorted(files.opened) == [(shard, 0) for shard in range(8)]


def test_after_a_resize_shards_are_opened_where_they_stood() -> None:
    files = Files([100] * 2)
    _run(files, 4, 2, [2, 2, 2, 1])
    assert sorted(files.opened) == [(0, 0), (0, 6), (1, 0), (1, 6)]


def test_a_rank_without_micro_batches_reads_one_sample_that_counts_for_nothing() -> None:
    files = Files([5, 5])
    one = next(_share(files, 4, 2, 3, 2).passes(0, 1))
    assert (one.weight, one.sample_hash, len(one.batch["x_B2"])) == (0.0, 0, 1)


def test_augmentation_of_a_stream_is_seeded_like_that_of_numbered_samples() -> None:
    stream = _share(Files([50] * 6), 6, 2, 1, 0).stream
    seeds = [int(seed) for step in range(50) for seed in stream.sample_seeds(stream.samples(step))]
    assert len(set(seeds)) == 300


def test_too_few_items_are_refused_with_both_ways_out() -> None:
    with pytest.raises(UserError, match=r"a stream of 3 items, and each of a step's 4 micro-batches") as refused:
        shards_for(3, 4)
    assert "Cut the stream into 4 items or more, or choose a larger micro_batch_size." in refused.value.next_step


@pytest.mark.parametrize("steps", [1, 9])
def test_a_shard_without_samples_is_named(steps: int) -> None:
    with pytest.raises(UserError, match=r"items 1, 3, \.\.\. of the stream hold no sample"):
        next(_share(Files([3, 0]), 2, 1, 2, 1).passes(steps, steps + 1))


def test_items_that_shrink_are_noticed() -> None:
    files = Files([4])
    passes = _share(files, 2, 2, 1, 0).passes(0, 9)
    for _ in range(3):
        next(passes)
    files.lengths = [2]
    with pytest.raises(UserError, match="ended after 2 samples, and held 4 before"):
        list(passes)


def test_a_micro_batch_that_is_not_there_is_refused() -> None:
    stream = _share(Files([5, 5]), 4, 2, 1, 0).stream
    with pytest.raises(ValueError, match="micro_batch 2 of size 2 is outside the batch"):
        stream.micro_batch(0, 2, 2)
