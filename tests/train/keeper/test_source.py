"""Restoring reads from the nearest holder, verifies what it reads, and passes damaged or lost holders over."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from jobs.train.keeper.restore import PartsLostError, Place, plan_restore
from jobs.train.keeper.source import KeeperSource
from jobs.train.keeper.values import PartKey
from jobs.train.state.sources import MemorySource
from tests.train.keeper.world import BLOCK_BYTES, RUN, content, entry_of


@pytest.fixture
def world(worlds):
    made = worlds()
    made.begin()
    made.snapshot(made.key(20))
    made.settle()
    return made


def part(world, rank: int) -> PartKey:
    return PartKey(snapshot=world.key(20), rank=rank)


def source_at(world, node: str, storage=None) -> KeeperSource:
    plan = plan_restore(world.network, sorted(world.keepers), RUN)
    parts = json.loads(plan.manifest)["parts"]
    entries = {entry["file"]: SimpleNamespace(nbytes=entry["nbytes"], blocks=entry["blocks"]) for entry in parts}

    def locate(key: PartKey) -> str | None:
        found = world.keepers[node].store.get(key) if node in world.keepers else None
        return str(found.segment.path) if found else None

    return KeeperSource(
        plan.places,
        entries,
        node=node,
        locate=locate,
        transport=world.network,
        block_bytes=BLOCK_BYTES,
        storage=storage,
    )


def damage(world, node: str, rank: int, offset: int) -> None:
    world.keepers[node].store.get(part(world, rank)).segment.map()[offset] ^= 1


@pytest.mark.parametrize(
    ("offset", "nbytes"), [(0, 200), (0, 64), (64, 64), (192, 8), (10, 3), (60, 10), (5, 190), (7, 0)]
)
def test_any_range_of_any_part_reads_as_it_was_written(world, offset, nbytes):
    source = source_at(world, "a")
    for rank in range(3):
        expected = content(part(world, rank), 200)[offset : offset + nbytes]
        assert bytes(source.read(f"part-20-{rank}", offset, nbytes)) == expected


def test_own_memory_is_nearer_than_a_peer(world):
    source = source_at(world, "a")
    source.read("part-20-0", 0, 200)  # own
    assert source.read_bytes_by_kind == {"local": 200, "peer": 0, "storage": 0}
    source.read("part-20-2", 0, 200)  # mirrored here
    assert source.read_bytes_by_kind["peer"] == 0
    source.read("part-20-1", 0, 200)  # on b and c
    assert source.read_bytes_by_kind == {"local": 400, "peer": 200, "storage": 0}


def test_a_damaged_block_is_read_from_the_next_holder(world):
    damage(world, "a", 0, 70)
    source = source_at(world, "a")
    assert source.read("part-20-0", 0, 200) == content(part(world, 0), 200)
    assert source.passed_over == ["node a: block 1 of part-20-0 does not have its hash"]
    assert source.read_bytes_by_kind == {"local": 136, "peer": 64, "storage": 0}


def test_a_peer_that_died_is_passed_over_for_storage(world):
    source = source_at(world, "a", MemorySource({"part-20-1": memoryview(content(part(world, 1), 200))}))
    world.network.unplug("b")
    world.network.unplug("c")
    assert source.read("part-20-1", 0, 200) == content(part(world, 1), 200)
    assert source.read_bytes_by_kind == {"local": 0, "peer": 0, "storage": 200}


def test_what_nobody_has_whole_is_an_error_that_names_the_file(world):
    for node in "bc":
        damage(world, node, 1, 0)
    with pytest.raises(PartsLostError, match="block 0 of part-20-1 is nowhere to be had"):
        source_at(world, "a").read("part-20-1", 0, 10)


def test_a_part_dropped_since_the_plan_was_made_is_read_elsewhere(world):
    source = source_at(world, "a")
    world.keepers["a"].store.drop(part(world, 0))
    assert source.read("part-20-0", 0, 200) == content(part(world, 0), 200)
    assert source.passed_over[0].startswith("node a: block 0 of part-20-0 not held here any more")


@pytest.mark.parametrize(("file", "offset", "nbytes"), [("other", 0, 1), ("part-20-0", 0, 201), ("part-20-0", -1, 2)])
def test_ranges_and_files_outside_the_snapshot_are_the_callers_mistake(world, file, offset, nbytes):
    with pytest.raises(ValueError, match=r"not part of this snapshot|which has 200"):
        source_at(world, "a").read(file, offset, nbytes)


def test_a_snapshot_known_to_be_damaged_is_not_planned_again(world):
    world.snapshot(world.key(40))
    world.settle()
    assert plan_restore(world.network, "abc", RUN).step == 40
    assert plan_restore(world.network, "abc", RUN, refused=[world.key(40)]).step == 20


def test_a_keeper_that_dies_between_two_questions_makes_its_snapshot_fall_out(world):
    world.snapshot(world.key(40))  # not mirrored
    call = world.network.call

    def dies(node, op, fields, payload=memoryview(b"")):
        if op == "entries" and node == "b":
            world.network.unplug("b")
        return call(node, op, fields, payload)

    world.network.call = dies
    assert plan_restore(world.network, "abc", RUN).step == 20


def test_the_manifest_of_a_plan_has_the_header_and_all_parts_by_rank(world):
    plan = plan_restore(world.network, "abc", RUN)
    manifest = json.loads(plan.manifest)
    assert manifest["step"] == 20
    assert manifest["parts"] == [entry_of(part(world, rank), content(part(world, rank), 200)) for rank in range(3)]
    assert plan.places["part-20-1"] == Place(key=part(world, 1), nodes=("b", "c"))
