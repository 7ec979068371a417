"""What people ask of the books, on every database."""

from __future__ import annotations

import pytest

from orchestrator.ledger.errors import UnknownJobError
from orchestrator.ledger.keys import Role
from tests.ledger.world import World, new


def test_a_name_finds_its_latest_run(world: World) -> None:
    world.ledger.submit(new("a"))
    world.ledger.cancel("a")
    world.ledger.submit(new("a"), new("b"))
    assert [world.ledger.read.latest(name).id for name in ("a", "b")] == ["a.2", "b"]
    with pytest.raises(UnknownJobError):
        world.ledger.read.latest("c")


def test_workers_are_those_of_the_open_attempt(world: World) -> None:
    world.ledger.submit(new("a", (2, 4)), new("b", 8))
    world.run(3)
    assert world.ledger.read.world_sizes(["a", "b", "nobody"]) == {"a": 4}
    assert world.ledger.read.world_sizes([]) == {}


def test_queues_count_what_lives_by_state_and_reason(world: World) -> None:
    world.ledger.submit(new("a", 8), new("b", 8), new("c", tenant="blue"))
    world.ledger.cancel("c")
    world.run(3)
    counts = world.ledger.read.queue_counts()
    assert {(queue, state) for queue, state, _ in counts} == {("main", "running"), ("main", "queued")}
    assert sum(counts.values()) == 2
    assert world.ledger.read.queue_counts("blue") == {}


def test_usage_is_what_each_tenant_was_booked_for(world: World) -> None:
    world.ledger.submit(new("a", 4, work_s=8.0), new("b", tenant="blue"))
    world.run(10)
    found = {one.tenant: one for one in world.ledger.read.tenant_usage()}
    assert (found["red"].jobs, found["blue"].jobs) == (1, 1)
    assert found["red"].device_ms == world.ledger.read.job("a").spent_device_ms > 0
    assert found["red"].micro_usd == world.ledger.read.job("a").spent_micro_usd > 0


def test_holds_and_keys_are_seen_by_readers(world: World) -> None:
    world.ledger.hold_queue("main", True)
    assert world.ledger.read.holds() == {"main"}
    key = world.ledger.issue_key("red", Role.VIEWER, actor="test")
    assert [row.id for row in world.ledger.read.api_keys()] == [key.id]
    found = world.ledger.read.authenticate(key.text, now_s=world.clock.now_s())
    assert found is not None
    assert found.role is Role.VIEWER
