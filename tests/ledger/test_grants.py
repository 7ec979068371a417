"""Granted steps: set aside at what a step was measured to cost, spent as they are made, given back if they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import update

from orchestrator.ledger import tables
from orchestrator.ledger.states import Unit
from orchestrator.policy.queueing.orders import Phase
from tests.ledger.world import World, cluster, new, sqlite

GRANTED = """  tenants:
  - {name: red, grants: [{sponsor: boss, iterations: 200}]}
  - {name: boss}
"""
# 400 device-seconds at 3.60 dollars an hour.
PRICE = 400_000


@pytest.fixture
def url(tmp_path: Path) -> str:
    """One database will do: no statement here is a new one."""
    return sqlite(tmp_path)


@pytest.fixture
def granted(world: World) -> World:
    world.ledger.apply(cluster(GRANTED))
    return world


def steps(world: World) -> tuple[int, int, int]:
    """What is left, set aside and spent."""
    found = world.ledger.read.balances(Unit.ITERATIONS)
    assert sum(found.values()) == 0
    return tuple(found.get(f"{kind}:red", 0) for kind in ("purse", "reserved", "spent"))  # type: ignore[return-value]


def worth(world: World) -> tuple[int, int]:
    """Micro-dollars that are pledged for steps, and that steps were worth."""
    found = world.ledger.read.balances(Unit.MICRO_USD)
    assert sum(found.values()) == 0
    assert found.get("sponsors:red", 0) == -found.get("pledged:red", 0) - found.get("steps:red", 0)
    return found.get("pledged:red", 0), found.get("steps:red", 0)


def test_steps_are_set_aside_at_their_measured_cost_and_spent_as_they_are_made(granted: World) -> None:
    granted.ledger.submit(new("a", 4, work_s=400.0, steps=100))
    granted.run(3)
    assert (steps(granted), worth(granted)) == ((100, 100, 0), (PRICE, 0))
    granted.run(110)
    assert (granted.state("a"), steps(granted), worth(granted)) == ("succeeded", (100, 0, 100), (0, PRICE))
    # Its devices cost a second of starting more; that is the house's.
    assert granted.ledger.read.balances(Unit.MICRO_USD)["cost:red"] == PRICE + 4_000
    assert granted.broken() == []


@pytest.mark.parametrize("how", ["cancelled", "failed", "paused"])
def test_steps_that_are_not_made_are_given_back(granted: World, how: str) -> None:
    granted.ledger.submit(new("a", 4, work_s=400.0, steps=100, max_failures=0))
    granted.run(26)
    # Its books outlive the process that set the steps aside.
    granted.restart()
    match how:
        case "cancelled":
            granted.ledger.cancel("a")
        case "failed":
            granted.runner.kill("a", Phase.FAILED)
        case "paused":
            granted.ledger.pause("a")
    granted.run(2)
    made = granted.ledger.read.job("a").steps_done
    assert (granted.state("a"), 20 <= made <= 26) == (how, True)
    assert (steps(granted), worth(granted)) == ((200 - made, 0, made), (0, PRICE * made // 100))
    assert granted.broken() == []


def test_a_job_that_goes_on_pays_only_for_the_steps_it_has_left(granted: World) -> None:
    granted.ledger.submit(new("a", 4, work_s=400.0, steps=100))
    granted.run(26)
    granted.ledger.pause("a")
    granted.run(2)
    made = granted.ledger.read.job("a").steps_done
    granted.ledger.resume("a")
    granted.run(2)
    assert steps(granted) == (100, 100 - made, made)
    granted.run(90)
    assert (granted.state("a"), steps(granted), granted.broken()) == ("succeeded", (100, 0, 100), [])
    # At most a step was half made when it was paused, and its work was priced in both halves.
    assert worth(granted)[0] == 0
    assert abs(worth(granted)[1] - PRICE) <= PRICE // 100


def test_steps_done_again_after_a_loss_are_paid_for_once(granted: World) -> None:
    granted.ledger.submit(new("a", 4, work_s=400.0, steps=100))
    granted.run(28)
    granted.runner.kill("a", Phase.FAILED)
    granted.run(120)
    assert (granted.state("a"), granted.ledger.read.job("a").attempt) == ("succeeded", 2)
    assert (steps(granted), worth(granted)) == ((100, 0, 100), (0, PRICE))
    assert granted.broken() == []


def test_steps_that_nobody_had_measured_are_priced_once_they_are_made(granted: World) -> None:
    granted.runner.work_of = lambda job: 400.0
    granted.ledger.submit(new("a", 4, work_s=None, steps=100))
    granted.run(3)
    assert (steps(granted), worth(granted)) == ((100, 100, 0), (0, 0))
    granted.run(110)
    cost = granted.ledger.read.balances(Unit.MICRO_USD)["cost:red"]
    assert (granted.state("a"), worth(granted), granted.broken()) == ("succeeded", (0, cost), [])


def test_a_job_beyond_its_grant_waits_until_more_is_granted(granted: World) -> None:
    granted.ledger.submit(new("a", 4, work_s=400.0, steps=201))
    granted.run(2)
    row = granted.ledger.read.job("a")
    assert (row.state.value, row.reason) == ("queued", "BudgetExhausted")
    assert "201 steps" in row.detail
    assert "200 steps left" in row.detail
    granted.ledger.apply(cluster(GRANTED.replace("200", "201")))
    granted.run(2)
    assert (granted.state("a"), steps(granted), granted.broken()) == ("running", (0, 201, 0), [])


def test_two_jobs_do_not_spend_the_same_steps(granted: World) -> None:
    granted.ledger.submit(new("a", 2, work_s=100.0, steps=150), new("b", 2, work_s=100.0, steps=100))
    granted.run(3)
    assert (granted.state("a"), granted.reason("b")) == ("running", "BudgetReserved")
    granted.run(60)
    assert (granted.state("a"), granted.reason("b"), steps(granted)) == ("succeeded", "BudgetExhausted", (50, 0, 150))


def test_what_is_set_aside_for_nobody_breaks_a_law(granted: World) -> None:
    granted.ledger.submit(new("a", 4, work_s=400.0, steps=100))
    granted.run(3)
    with granted.ledger.database.writing() as connection:
        connection.execute(update(tables.jobs).values(reserved_iterations=99, reserved_micro_usd=PRICE - 1))
    assert granted.broken() == [
        f"account pledged:red is {PRICE} micro_usd; {PRICE - 1} are set aside for jobs that live",
        "account reserved:red is 100 iterations; 99 are set aside for jobs that live",
    ]
