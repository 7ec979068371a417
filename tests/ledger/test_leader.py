"""One server decides: whoever lost the lead can write nothing, whatever it still believes."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from orchestrator.ledger.errors import FencedError, NotLeadingError
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.schema import upgrade
from tests.ledger.world import World, new, sqlite


def test_a_second_server_waits_until_the_first_is_silent(world: World) -> None:
    other = world.open("two")
    assert not other.lead()
    with pytest.raises(NotLeadingError, match="this server does not lead; one does"):
        other.submit(new("a"))
    world.clock.at_s += 5
    assert world.ledger.lead()
    world.clock.at_s += 9
    assert not other.lead()
    world.clock.at_s += 2
    assert other.lead()
    other.database.close()


def test_who_was_deposed_writes_nothing(world: World) -> None:
    world.ledger.submit(new("a", 4))
    snapshot = world.ledger.snapshot(world.pools, now_s=world.clock.at_s)
    world.clock.at_s += 60
    other = world.open("two")
    assert other.lead()
    with pytest.raises(FencedError):
        world.ledger.submit(new("b"))
    with pytest.raises(NotLeadingError):
        world.ledger.snapshot(world.pools, now_s=snapshot.now_s)
    assert [job.id for job in other.read.jobs()] == ["a"]
    other.submit(new("b"))
    other.database.close()


def test_a_decision_taken_before_the_fall_is_not_carried_out(world: World) -> None:
    world.ledger.submit(new("a", 4))
    other = world.open("two")
    world.clock.at_s += 60
    assert other.lead()
    with pytest.raises(FencedError):
        world.cycle()
    assert (world.runner.started, other.read.leases()) == ([], [])
    other.database.close()


def test_who_resigns_is_followed_at_once(world: World) -> None:
    world.ledger.resign()
    other = world.open("two")
    assert other.lead()
    other.database.close()


def _compete(url: str, name: str, gate, results) -> None:
    ledger = Ledger(url, holder=name, clock=time.time, patience_s=0.3)
    gate.wait()
    done = 0
    for at in range(60):
        try:
            if ledger.lead():
                ledger.submit(new(f"{name}-{at}"))
                done += 1
                if at % 7 == 3:
                    time.sleep(0.35)  # Silent for too long: the other takes over, and this one must find out.
            else:
                time.sleep(0.01)
        except (FencedError, NotLeadingError):
            continue
    results.put((name, done))
    ledger.database.close()


def test_two_processes_never_write_on_the_same_token(tmp_path: Path) -> None:
    url = sqlite(tmp_path)
    first = Ledger(url, holder="setup", clock=time.time)
    upgrade(first.database)
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(2), context.Queue()
    both = [context.Process(target=_compete, args=(url, name, gate, results)) for name in ("one", "two")]
    for process in both:
        process.start()
    done = dict(results.get(timeout=120) for _ in both)
    for process in both:
        process.join()
    accepted = first.read.events(limit=10_000)
    kept = {name: sum(event.job.startswith(f"{name}-") for event in accepted) for name in done}
    assert kept == done, "what was answered is there, once; what was refused is not"
    assert first.read.leader().token >= 2
    first.database.close()
