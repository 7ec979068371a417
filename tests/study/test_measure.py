"""How a trial's ranks share the samples that they are measured on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.study.measure import share


@given(count=st.integers(1, 400), world_size=st.integers(1, 9))
def test_every_sample_counts_once_and_every_rank_runs_as_many_passes(count: int, world_size: int) -> None:
    ids = np.arange(count, dtype=np.int64)
    shares = [list(share(ids, rank, world_size)) for rank in range(world_size)]
    counted = [int(one) for passes in shares for batch, counts in passes if counts for one in batch]
    assert sorted(counted) == list(range(count))
    assert len({len(passes) for passes in shares}) == 1


def test_a_rank_without_samples_still_takes_part() -> None:
    passes = list(share(np.arange(3, dtype=np.int64), 1, 2))
    assert len(passes) == 1
    assert passes[0][1] is False
    assert len(passes[0][0]) == pytest.approx(3)
