"""Ranks follow position: places stay together, survivors keep their order and their neighbours."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policy.ranks import rank_order, shared_levels

PLACES = {f"n{at}": (f"z{at // 4}", f"r{at // 2}") for at in range(8)}
NODES = st.sets(st.sampled_from(sorted(PLACES)), min_size=1)


@given(before=NODES, after=NODES)
def test_survivors_keep_their_order_and_their_neighbours(before: set[str], after: set[str]) -> None:
    old, new = (rank_order(dict.fromkeys(nodes, 2), PLACES) for nodes in (before, after))
    staying = before & after
    assert [one for one in old if one in staying] == [one for one in new if one in staying]
    racks = [PLACES[one] for one in new]
    assert racks == sorted(racks), "ranks of one place are together"
    for left, right in pairwise(dict.fromkeys(old)):
        if {left, right} <= after:
            between = new[new.index(left) + 1 : new.index(right)]
            assert set(between) <= (after - before) | {left}


def test_a_node_without_a_place_has_its_ranks_together() -> None:
    assert rank_order({"b": 2, "a": 1, "n3": 1, "n0": 2}, PLACES) == ("a", "b", "b", "n0", "n0", "n3")


@pytest.mark.parametrize(
    ("place", "others", "levels"),
    [
        (("gcp", "us", "a"), [("gcp", "us", "b")], 2),
        (("gcp", "us", "a"), [("aws",), ("gcp", "us", "a", "rack1")], 3),
        (("gcp",), [], 0),
        ((), [("gcp",), ()], 0),
    ],
)
def test_the_nearest_of_the_others_counts(place: tuple[str, ...], others: list[tuple[str, ...]], levels: int) -> None:
    assert shared_levels(place, others) == levels
