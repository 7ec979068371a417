"""Ranges keep their order, and what is not a positive number enters no formula."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planner.values import Range, as_range, at_least_one, fraction, not_negative, positive

NOT_POSITIVE = (0.0, -1.0, math.nan, math.inf, -math.inf)
_numbers = st.floats(1e-6, 1e6)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    return Range(*sorted(draw(st.tuples(_numbers, _numbers, _numbers))))


@given(ranges(), ranges())
def test_products_and_quotients_hold_every_product_and_quotient_of_the_ends(left: Range, right: Range) -> None:
    ends = [(a, b) for a in (left.low, left.high) for b in (right.low, right.high)]
    assert (left * right).low == min(a * b for a, b in ends)
    assert (left * right).high == max(a * b for a, b in ends)
    assert (left / right).low == min(a / b for a, b in ends)
    assert (left / right).high == max(a / b for a, b in ends)


@pytest.mark.parametrize("bad", NOT_POSITIVE)
@pytest.mark.parametrize("check", [as_range, lambda value: positive("x", value), lambda value: fraction("x", value)])
def test_what_is_not_above_zero_and_finite_is_refused(check, bad: float) -> None:
    with pytest.raises(ValueError, match=str(bad)):
        check(bad)


@pytest.mark.parametrize("ends", [(2, 1, 3), (1, 3, 2), (0, 1, 2), (1, 2, math.inf), (math.nan, 1, 2)])
def test_a_range_out_of_order_is_refused(ends: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="low <= typical <= high"):
        Range(*ends)


def test_edges_of_the_checks() -> None:
    assert not_negative("x", 0.0) == 0.0
    assert fraction("x", 1.0) == 1.0
    for check, bad in ((not_negative, -1e-9), (not_negative, math.nan), (fraction, 1.0000001), (at_least_one, 1.5)):
        with pytest.raises(ValueError, match="x is"):
            check("x", bad)  # type: ignore[operator]
    for bad in (0, math.nan, math.inf):
        with pytest.raises(ValueError, match="x is"):
            at_least_one("x", bad)  # type: ignore[arg-type]
