"""A keeper that cannot fit is refused before training starts, with the numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.train.keeper.memory import GRAIN_BYTES, Space, plan_memory, rounded, space
from orchestrator.spec.errors import ExitCode, UserError

GIB = 2**30


def plan(**changes):
    fields = {
        "own_parts": [GIB // 2] * 2,
        "mirrored_parts": [GIB // 2],
        "node": "n1",
        "limit_bytes": 10 * GIB,
        "space": Space(total_bytes=16 * GIB, free_bytes=12 * GIB),
        **changes,
    }
    return plan_memory(fields.pop("own_parts"), fields.pop("mirrored_parts"), **fields)


def test_two_complete_snapshots_and_one_in_the_making():
    found = plan()
    assert (found.own_bytes, found.mirrored_bytes, found.total_bytes) == (3 * GIB, 3 * GIB // 2, 9 * GIB // 2)


def test_flushing_needs_one_more_copy_of_own_parts():
    assert plan(flushes=True).own_bytes == 4 * GIB


def test_above_the_limit_is_refused_with_numbers_and_a_way_out():
    with pytest.raises(UserError) as refused:
        plan(limit_bytes=4 * GIB)
    assert refused.value.code is ExitCode.NEVER
    assert str(refused.value) == (
        "the keeper of node n1 needs 4.50 GiB of shared memory for snapshots (3.00 GiB for its own ranks, 1.50 GiB "
        "mirrored from others), but its limit is 4.00 GiB. Run on more nodes, raise checkpoint.keeper_memory (and the "
        "size of /dev/shm), or lower checkpoint.mirrors"
    )


def test_what_others_use_of_shared_memory_is_not_ours():
    tight = Space(total_bytes=16 * GIB, free_bytes=4 * GIB)
    with pytest.raises(UserError, match=r"but /dev/shm has 16\.00 GiB, of which others use 12\.00 GiB"):
        plan(space=tight)
    assert plan(space=tight, held_bytes=GIB // 2).total_bytes == 9 * GIB // 2


def test_sizes_are_rounded_up_to_whole_huge_pages():
    assert [rounded(n) for n in (1, GRAIN_BYTES, GRAIN_BYTES + 1)] == [GRAIN_BYTES, GRAIN_BYTES, 2 * GRAIN_BYTES]


def test_space_is_what_the_file_system_says():
    found = space(Path("/dev/shm"))
    assert 0 < found.free_bytes <= found.total_bytes
