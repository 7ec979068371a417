"""Mirroring: resumable, verified where it lands, and never half visible."""

from __future__ import annotations

import pytest

from jobs.train.keeper.faults import Point
from jobs.train.keeper.mirror import Retry, wanted_copies
from jobs.train.keeper.restore import plan_restore
from jobs.train.keeper.values import AttemptPlan, PartKey, SnapshotKey
from tests.train.keeper.world import BLOCK_BYTES, RUN, CrashAt

NUM_BLOCKS = -(-200 // BLOCK_BYTES)


class Wire:
    """Counts what crosses the network, and can damage or cut it."""

    def __init__(self, network) -> None:
        self.blocks: list[tuple[str, int]] = []
        self.damage_next = 0
        self.cut_after: int | None = None
        self._call = network.call
        self._network = network
        network.call = self.call

    def call(self, node, op, fields, payload=memoryview(b"")):
        if op == "block":
            if self.cut_after is not None and len(self.blocks) >= self.cut_after:
                service = self._network._services.pop(node)
                try:
                    return self._call(node, op, fields, payload)
                finally:
                    self._network._services[node] = service
            self.blocks.append((node, fields["index"]))
            if self.damage_next:
                self.damage_next -= 1
                payload = memoryview(bytes(b ^ 1 for b in payload))
        return self._call(node, op, fields, payload)


@pytest.fixture
def pair(worlds):
    """Two nodes; only rank 0, on node a, saves: one part of several blocks goes to node b."""
    world = worlds(nodes=2)
    world.begin(world_size=1, lead="b")
    wire = Wire(world.network)
    world.snapshot(world.key(20, world_size=1))
    return world, wire


def test_a_part_crosses_once_block_by_block(pair):
    world, wire = pair
    world.settle()
    assert wire.blocks == [("b", index) for index in range(NUM_BLOCKS)]
    assert world.keepers["b"].safe_step(RUN) == 20


def test_a_cut_connection_costs_only_the_blocks_under_way(pair):
    world, wire = pair
    wire.cut_after = 2
    world.settle()
    assert world.keepers["b"].safe_step(RUN) == -1
    assert "b has no copy" in world.keepers["a"].mirror.error
    wire.cut_after = None
    world.now_s += 10
    world.settle()
    assert wire.blocks == [("b", 0), ("b", 1), ("b", 2), ("b", 3)]
    assert world.keepers["b"].safe_step(RUN) == 20
    assert world.keepers["a"].mirror.error == ""


def test_a_block_damaged_on_the_way_is_refused_and_sent_again(pair):
    world, wire = pair
    wire.damage_next = 1
    world.settle()
    assert world.keepers["b"].safe_step(RUN) == -1
    world.now_s += 10
    world.settle()
    assert wire.blocks == [("b", 0), ("b", 0), ("b", 1), ("b", 2), ("b", 3)]
    assert world.keepers["b"].safe_step(RUN) == 20


def test_nothing_half_mirrored_is_ever_listed(pair):
    world, wire = pair
    wire.cut_after = NUM_BLOCKS - 1
    world.settle()
    assert world.keepers["b"].inventory(RUN).held == ()
    world.kill_node("a")
    assert plan_restore(world.network, "ab", RUN).step == 0


@pytest.mark.parametrize(
    ("node", "point"),
    [
        ("a", Point.MIRROR_BEFORE_BLOCK),
        ("a", Point.MIRROR_AFTER_BLOCK),
        ("b", Point.LAND_BLOCK),
        ("b", Point.LAND_BEFORE_SEAL),
    ],
)
@pytest.mark.parametrize("nth", [1, NUM_BLOCKS])
def test_a_keeper_that_dies_while_mirroring_finishes_after_its_restart(worlds, node, point, nth):
    world = worlds(nodes=2)
    plan = world.begin(world_size=1, lead="b")
    world.kill_keeper(node)
    world.boot(node, CrashAt(point, 1 if point is Point.LAND_BEFORE_SEAL else nth)).begin_attempt(plan)
    world.snapshot(world.key(20, world_size=1))
    world.settle()
    assert node not in world.keepers, "it did not crash"
    world.boot(node).begin_attempt(plan)
    world.now_s += 10
    world.settle()
    assert world.keepers["b"].safe_step(RUN) == 20
    world.kill_node("a")
    assert plan_restore(world.network, "ab", RUN).step == 20


def test_the_newest_snapshot_goes_first(worlds):
    world = worlds(nodes=2)
    world.begin(world_size=1)
    wire = Wire(world.network)
    for step in (20, 40):
        world.snapshot(world.key(step, world_size=1))
    for _ in range(1 + NUM_BLOCKS):
        world.keepers["a"].mirror.pump()
    assert len(wire.blocks) == NUM_BLOCKS
    assert world.steps("b") == [40]


def test_an_outdated_snapshot_is_refused_for_good(worlds):
    world = worlds(nodes=2)
    world.begin(world_size=1, attempt=1)
    stale = world.keepers["b"]
    world.snapshot(world.key(20, attempt=1, world_size=1))
    stale.begin_attempt(world.begin(world_size=1, attempt=1))
    newer = AttemptPlan(run=RUN, attempt=2, world_size=1, nodes=("a", "b"), lead="b", mirrors={"a": ("b",)})
    stale.begin_attempt(newer)
    for _ in range(3):
        world.keepers["a"].mirror.pump()
    assert world.steps("b") == []
    assert world.keepers["a"].mirror.pump() is None, "it is not offered again and again"


def test_memory_pressure_at_a_peer_is_reported_and_later_healed(worlds):
    world = worlds(nodes=2, limit_bytes=3 * 256)
    world.begin(world_size=1, lead="b")
    hog = PartKey(snapshot=SnapshotKey(run="other", step=1, attempt=0, world_size=9), rank=1)
    world.keepers["b"].store.alloc(hog, 3 * 256, object())
    world.snapshot(world.key(20, world_size=1))
    world.settle()
    assert world.keepers["a"].inventory(RUN).mirror_error.startswith("node b has no copy of rank 0's part: no_room")
    assert world.keepers["a"].runs.get(RUN).verdicts.mirror_failing
    world.keepers["b"].store.abort(hog)
    world.now_s += 10
    world.settle()
    assert world.keepers["b"].safe_step(RUN) == 20
    assert not world.keepers["a"].runs.get(RUN).verdicts.mirror_failing


def part(step: int, rank: int = 0) -> PartKey:
    return PartKey(snapshot=SnapshotKey(run=RUN, step=step, attempt=0, world_size=4), rank=rank)


PLAN = AttemptPlan(
    run=RUN, attempt=0, world_size=4, nodes=("a", "b", "c"), lead="a",
    mirrors={"a": ("b",), "b": ("c",), "c": ("a",)},
)  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "copies", "changes", "wanted"),
    [
        ([(part(1), "a")], {}, {}, [(part(1), "b")]),
        ([(part(1), "a"), (part(2), "a")], {}, {}, [(part(2), "b"), (part(1), "b")]),
        ([(part(1), "a")], {part(1): {"b"}}, {}, []),
        ([(part(1), "b")], {}, {}, []),  # its origin sees to it
        ([(part(1), "gone")], {}, {}, [(part(1), "b")]),  # nobody else does
        ([(part(1), "a")], {part(1): {"c"}}, {}, []),  # a copy is a copy, wherever
        ([(part(1), "a")], {}, {"leaving": ("b",)}, []),  # nowhere to go
        ([(part(1), "a")], {part(1): {"b"}}, {"leaving": ("b",), "mirrors": {"a": ("c",)}}, [(part(1), "c")]),
        ([(part(1), "a")], {}, {"mirrors": {"a": ("b", "c")}}, [(part(1), "b"), (part(1), "c")]),
        ([(part(1), "a")], {}, {"mirrors": {}}, []),
    ],
)
def test_which_copies_are_still_to_be_made(parts, copies, changes, wanted):
    fields = {name: getattr(PLAN, name) for name in PLAN.__slots__}
    assert wanted_copies("a", parts, AttemptPlan(**{**fields, **changes}), copies) == wanted


def test_retries_double_up_to_a_bound():
    retry = Retry(first_s=0.5, most_s=3.0)
    assert [retry.wait_s(n) for n in (1, 2, 3, 4, 1000)] == [0.5, 1.0, 2.0, 3.0, 3.0]
