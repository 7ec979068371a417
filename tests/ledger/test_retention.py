"""What is removed after its time: only what is old, a little at once, never the newest event, and no law is broken."""

from __future__ import annotations

import pytest

from orchestrator.ledger import retention
from tests.ledger.world import World, new


def test_old_events_go_and_the_newest_stays(world: World) -> None:
    world.ledger.submit(new("a", 4, work_s=8.0), key="k")
    world.run(10)
    numbers = [one.seq for one in world.ledger.read.events(limit=1000)]
    assert world.ledger.prune(before_s=world.clock.at_s - 1e6) is False
    assert [one.seq for one in world.ledger.read.events(limit=1000)] == numbers
    assert world.ledger.prune(before_s=world.clock.at_s + 1) is False
    assert [one.seq for one in world.ledger.read.events(limit=1000)] == numbers[-1:]
    assert world.ledger.submit(new("a"), key="k").replayed is False  # the key was forgotten
    assert world.ledger.read.first_event() == numbers[-1]
    assert world.state("a") == "succeeded"
    assert world.broken() == []


def test_much_is_removed_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MOST_AT_ONCE", 3)
    world.ledger.submit(*(new(f"a{at}") for at in range(7)))
    before_s, rounds = world.clock.at_s + 1, 1
    while world.ledger.prune(before_s=before_s):
        rounds += 1
    assert rounds > 2
    assert len(world.ledger.read.events(limit=1000)) == 1
