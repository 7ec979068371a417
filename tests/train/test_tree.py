"""Collectives over a tree against gloo's own, by forked ranks; the tree's shape for every size."""

import os
import subprocess
import sys

import pytest

from jobs.train.tree import branch_of


@pytest.mark.parametrize("arity", [1, 2, 8])
@pytest.mark.parametrize("size", [1, 2, 3, 9, 16, 17, 73, 200])
def test_every_rank_hangs_once_below_the_top(size: int, arity: int) -> None:
    branches = [branch_of(rank, size, arity) for rank in range(size)]
    assert branches[0].parent is None
    for rank, branch in enumerate(branches[1:], start=1):
        assert branch.parent is not None
        assert (branch.start, branch.stop) in branches[branch.parent].children, rank
    children = [child for branch in branches for child, _ in branch.children]
    assert sorted(children) == list(range(1, size))
    assert max(len(branch.children) for branch in branches) <= arity


@pytest.mark.parametrize("size", [2, 5, 17])
def test_what_is_below_a_rank_is_a_stretch_without_gaps(size: int) -> None:
    for rank in range(size):
        branch = branch_of(rank, size, 3)
        below = [rank, *(at for start, stop in branch.children for at in range(start, stop))]
        assert below == list(range(branch.start, branch.stop))


@pytest.mark.timeout(120)
def test_a_tree_does_what_gloo_does_and_carries_deepspeeds_collectives() -> None:
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.train.tree_ranks", "17"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "17 ranks agree" in done.stdout
