"""A magnitude by its rank is the one that sorting finds, of every column, whatever the blocks."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.transform.magnitude import magnitudes_of_rank

NUMBERS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60)


@given(NUMBERS, st.data(), st.integers(1, 7))
def test_it_is_the_one_that_sorting_finds(numbers: list[float], data: st.DataObject, block: int) -> None:
    rank = data.draw(st.integers(1, len(numbers)))
    one = torch.tensor(numbers)
    other = one.flip(0) / 2
    found = magnitudes_of_rank(lambda: zip(one.split(block), other.split(block), strict=True), 2, rank)
    assert found == [float(np.sort(np.abs(column.numpy()))[rank - 1]) for column in (one, other)]
