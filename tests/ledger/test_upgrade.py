"""A ledger of an earlier version is brought to this one, and what ran goes on: adopted, not started again.

`ledger-0001.json` holds all rows of a ledger at version 0001, written by that version's own code: a job that runs with
6 of 8 devices, one that waits for 6, one that is paused, one that has succeeded; and what the runner of the first knew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, delete, insert

from orchestrator.ledger.errors import ConflictError, LedgerError
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.schema import our_version, upgrade
from orchestrator.sim.outside import Group, SimJob
from tests.ledger.world import World, new

OLD: dict[str, Any] = json.loads(Path(__file__).with_name("ledger-0001.json").read_text())


def left_behind(url: str) -> None:
    """The database as the earlier version left it."""
    ledger = Ledger(url, holder="old", clock=lambda: OLD["at_s"])
    upgrade(ledger.database, OLD["version"])
    there = MetaData()
    with ledger.database.writing() as connection:
        there.reflect(connection)
        for name, rows in OLD["tables"].items():
            connection.execute(delete(there.tables[name]))
            # Numbers that the database gives itself, it gives again.
            numbered = [{key: value for key, value in row.items() if key != "seq"} for row in rows]
            connection.execute(insert(there.tables[name]), numbered)
    ledger.database.close()


@pytest.fixture
def world(url: str) -> Any:
    left_behind(url)
    ledger = Ledger(url, holder="two", clock=lambda: OLD["at_s"])
    with pytest.raises(LedgerError, match="is of version 0001; this program needs") as error:
        ledger.lead()
    assert error.value.next_step == "Run 'tide db upgrade'"
    assert upgrade(ledger.database) == ("0001", our_version())
    ledger.database.close()
    made = World(url, is_new=False)  # the same holder as before: a server of the same state folder
    made.clock.at_s = OLD["at_s"]
    known = OLD["runner"]
    group = Group(known["attempt"], known["workers"], known["begun_s"], known["runs_s"], known["seen_s"])
    made.runner.jobs["live"] = SimJob("live", known["work_left_s"], highest=known["attempt"], group=group)
    yield made
    made.ledger.database.close()


def test_a_running_job_is_adopted_and_ends_and_the_next_one_starts(world: World) -> None:
    assert world.broken() == []
    world.run(5)
    assert world.runner.started == []
    assert (world.state("live"), world.state("next"), world.state("idle")) == ("running", "queued", "paused")
    assert world.held() == {"live": 6}
    world.run(100)
    assert (world.state("live"), world.state("next")) == ("succeeded", "succeeded")
    assert world.runner.started == [("next", 1, 6)]
    (attempt,) = world.ledger.read.attempts("live")
    # 600 worker-seconds of work, and one second of starting for each of its six.
    assert (attempt.useful_ms, attempt.stalled_ms, attempt.lost_ms) == (600_000, 6_000, 0)
    assert world.broken() == []


def test_what_people_were_answered_still_holds(world: World) -> None:
    jobs = (new("next", 6, work_s=30.0, steps=100), new("idle", 1, paused=True))
    again = world.ledger.submit(*jobs, actor="key:abc", scope="abc", key="k")
    assert (again.ids, again.replayed) == (("next", "idle"), True)
    with pytest.raises(ConflictError, match="'live' is running"):
        world.ledger.submit(new("live"))
    world.ledger.resume("idle")
    world.run(3)
    assert world.state("idle") == "running"
    assert world.kinds("live") == ["submitted", "admitted", "starting", "running"]


def test_nobody_is_told_of_ends_that_lie_before_the_upgrade(world: World) -> None:
    assert world.ledger.gather_notices() is False
    assert world.ledger.read.notices("done") == []
