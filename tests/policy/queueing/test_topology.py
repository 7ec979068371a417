"""Places: never more than a node has, never further apart than the coupling allows, ranks in order of position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.queueing.ground import Ground
from orchestrator.policy.queueing.parties import Reach
from orchestrator.policy.queueing.places import Level, Node
from orchestrator.policy.queueing.topology import common_depth, extend, place, place_islands
from tests.policy.queueing.build import gpu_pool

FAST, SLOW = Level(name="rack", bandwidth_bytes_per_s=4e11), Level(name="zone", bandwidth_bytes_per_s=1e9)


def ground(places: dict[str, int]) -> Ground:
    """Nodes by path: `a/r1/n0` with so many devices."""
    parts = [(path.split("/"), devices) for path, devices in places.items()]
    return Ground.of(gpu_pool("pool", tuple(Node(name=p[-1], place=tuple(p[:-1]), devices=d) for p, d in parts)))


def names(found, taken):
    return {found.names[at]: workers for at, workers in taken} if taken is not None else None


RACKS = ground({"a/r1/n0": 4, "a/r1/n1": 4, "a/r2/n2": 8, "b/r1/n3": 4, "b/r1/n4": 2})


@pytest.mark.parametrize(
    ("workers", "shared", "expected"),
    [
        (2, 0, {"n4": 2}),  # the fullest node that fits
        (3, 0, {"n0": 3}),  # first of equals
        (6, 0, {"n2": 6}),  # one node before one rack
        (9, 0, {"n0": 4, "n1": 4, "n2": 1}),  # one zone: its largest rack, the first of equals, then the rest
        (5, 2, {"n2": 5}),
        (9, 1, {"n0": 4, "n1": 4, "n2": 1}),
        (9, 2, None),  # no rack holds nine
        (18, 0, {"n0": 4, "n1": 4, "n2": 8, "n4": 2}),  # the rest where it leaves the smallest hole
        (23, 0, None),
    ],
)
def test_the_smallest_place_that_fits(workers, shared, expected):
    assert names(RACKS, place(RACKS, RACKS.free, workers, shared=shared)) == expected


@pytest.mark.parametrize(
    ("levels", "reach", "depth"),
    [
        ((SLOW, FAST), Reach(), 0),
        ((SLOW, FAST), Reach(min_bandwidth_bytes_per_s=1e10), 1),
        ((SLOW, FAST), Reach(min_bandwidth_bytes_per_s=1e12), 2),
        ((Level(name="zone", latency_s=0.04), FAST), Reach(max_latency_s=0.001), 1),
        ((Level(name="zone"), Level(name="rack")), Reach(min_bandwidth_bytes_per_s=1e12), 0),
        ((), Reach(min_bandwidth_bytes_per_s=1e12), 0),
    ],
)
def test_the_slowest_link_decides_how_much_must_be_shared(levels, reach, depth):
    assert common_depth(levels, reach) == depth


def test_islands_are_never_too_small():
    taken = place_islands(RACKS, RACKS.free, 9, shared=1, island=2, least=4)
    assert names(RACKS, taken) == {"n0": 4, "n1": 1, "n2": 4}


def test_a_job_grows_where_it_is():
    free = RACKS.free.copy()
    free[RACKS.index["n0"]] = 2
    taken = extend(RACKS, free, [RACKS.index["n0"]], 5, shared=2)
    assert names(RACKS, taken) == {"n0": 1, "n1": 4}
    assert extend(RACKS, free, [RACKS.index["n0"]], 7, shared=2) is None


@st.composite
def trees(draw):
    """Up to nine nodes at depths from none to three, with free slots."""
    found = {}
    for at in range(draw(st.integers(1, 9))):
        path = draw(st.lists(st.sampled_from("ab"), max_size=3))
        found["/".join([*path, f"n{at}"])] = draw(st.integers(0, 4))
    return ground(found)


@settings(max_examples=150, deadline=None)
@given(tree=trees(), workers=st.integers(1, 20), shared=st.integers(0, 3), island=st.integers(0, 3))
def test_placements_keep_within_nodes_and_places(tree, workers, shared, island):
    for taken in (
        place(tree, tree.free, workers, shared=shared),
        place_islands(tree, tree.free, workers, shared=shared, island=max(shared, island), least=2),
    ):
        if taken is not None:
            assert sum(count for _, count in taken) == workers
            assert all(0 < count <= tree.free[at] for at, count in taken)
            depth = min(shared, tree.depth)
            assert len({tree.paths[at][:depth] for at, _ in taken}) == 1


@settings(max_examples=100, deadline=None)
@given(tree=trees(), workers=st.integers(1, 20))
def test_a_loose_job_fits_exactly_when_there_are_enough(tree, workers):
    assert (place(tree, tree.free, workers, shared=0) is not None) == (int(tree.free.sum()) >= workers)


def test_a_thousand_places_of_one_node_each():
    many = ground({f"z/b{at // 100}/r{at // 10}/n{at:04d}": 8 for at in range(1000)})
    taken = place(many, many.free, 80, shared=3)
    assert len({many.paths[at][:3] for at, _ in taken}) == 1
    assert np.all(many.free == 8), "looking takes nothing"
