"""Jobs that start by a clock: each instance once, whatever dies in between."""

from __future__ import annotations

import datetime as dt

import pytest

from orchestrator.ledger.errors import ConflictError
from orchestrator.ledger.submission import new_job
from orchestrator.service.schedules import Schedules
from orchestrator.spec import TrainJob, load_text
from tests.ledger.world import World, cluster, new

NINE = dt.datetime(2026, 3, 2, 9, 0, tzinfo=dt.UTC).timestamp()
HOUR = 3600.0


def scheduled(*, concurrency: str = "allow", catch_up: str = "one", deadline: str = "") -> TrainJob:
    (job,) = load_text(f"""
apiVersion: tideline/v1
kind: TrainJob
metadata: {{name: nightly, tenant: red}}
spec:
  queue: main
  workers: {{min: 1, max: 2, resources: {{GPU: 1}}}}
  schedule: {{cron: "0 * * * *", timezone: UTC, concurrency: {concurrency}, catch_up: {catch_up}}}
  task: jobs.models.gpt:task
  data: {{dataset: python-stdlib@latest}}
  batch: {{global_batch_size: 8, micro_batch_size: 1}}
  steps: 10
  {deadline}
""")
    assert isinstance(job, TrainJob)
    return job


@pytest.fixture(autouse=True)
def _before_nine(world: World) -> None:
    world.clock.at_s = NINE - 1800.0


def submit(world: World, job: TrainJob) -> None:
    world.ledger.submit(new_job(job, cluster(), now_s=world.clock.at_s))


def look(world: World, at_s: float) -> float | None:
    world.clock.at_s = at_s
    return Schedules(world.ledger)(at_s)


def names(world: World) -> list[str]:
    return [row.id for row in world.ledger.read.jobs()]


def test_an_instance_is_submitted_when_it_is_due_and_once(world: World) -> None:
    submit(world, scheduled())
    assert names(world) == []
    assert look(world, NINE - 1.0) == NINE
    assert names(world) == []
    assert look(world, NINE + 1.0) == NINE + HOUR
    assert look(world, NINE + 2.0) == NINE + HOUR
    assert names(world) == ["nightly-20260302t0900z"]
    document = world.ledger.read.document("nightly-20260302t0900z")
    assert document["spec"].get("schedule") is None
    assert document["metadata"]["name"] == "nightly-20260302t0900z"


def test_a_restart_between_two_looks_starts_nothing_twice(world: World) -> None:
    submit(world, scheduled())
    look(world, NINE + 1.0)
    world.restart()
    look(world, NINE + 2.0)
    assert names(world) == ["nightly-20260302t0900z"]


def test_one_chore_goes_on_from_instance_to_instance(world: World) -> None:
    submit(world, scheduled())
    chore = Schedules(world.ledger)
    for minute in range(150):
        world.clock.at_s = NINE - 60.0 + minute * 60.0
        chore(world.clock.at_s)
    assert names(world) == [f"nightly-20260302t{hour}z" for hour in ("0900", "1000", "1100")]


def test_of_what_an_outage_missed_one_is_caught_up(world: World) -> None:
    submit(world, scheduled())
    look(world, NINE + 3.5 * HOUR)
    assert names(world) == ["nightly-20260302t1200z"]


def test_what_is_not_to_be_caught_up_is_skipped_and_said(world: World) -> None:
    submit(world, scheduled(catch_up="none"))
    look(world, NINE + 3.5 * HOUR)
    assert names(world) == []
    skipped = [event for event in world.ledger.read.events() if event.kind == "schedule-skipped"]
    assert [(one.data["instance"], one.data["reason"]) for one in skipped] == [("nightly-20260302t1200z", "missed")]


def test_forbid_starts_none_beside_another(world: World) -> None:
    submit(world, scheduled(concurrency="forbid"))
    look(world, NINE + 1.0)
    look(world, NINE + HOUR + 1.0)
    assert names(world) == ["nightly-20260302t0900z"]
    world.ledger.cancel("nightly-20260302t0900z")
    look(world, NINE + 2 * HOUR + 1.0)
    assert names(world) == ["nightly-20260302t0900z", "nightly-20260302t1100z"]


def test_replace_ends_the_one_before(world: World) -> None:
    submit(world, scheduled(concurrency="replace"))
    look(world, NINE + 1.0)
    look(world, NINE + HOUR + 1.0)
    assert world.state("nightly-20260302t0900z") == "cancelled"
    assert world.state("nightly-20260302t1000z") == "submitted"


def test_a_deadline_counts_from_each_instance(world: World) -> None:
    submit(world, scheduled(deadline="deadline: 2h"))
    look(world, NINE + 1.0)
    assert world.ledger.read.job("nightly-20260302t0900z").shape.deadline_s == NINE + 1.0 + 2 * HOUR


def test_a_cancelled_schedule_starts_no_more_and_frees_its_name(world: World) -> None:
    submit(world, scheduled())
    with pytest.raises(ConflictError, match="starts by a schedule"):
        world.ledger.submit(new("nightly"))
    look(world, NINE + 1.0)
    world.ledger.cancel("nightly")
    assert look(world, NINE + HOUR + 1.0) is None
    assert names(world) == ["nightly-20260302t0900z"]
    world.ledger.submit(new("nightly"))


def test_a_decision_that_another_has_overtaken_does_nothing(world: World) -> None:
    """Whoever decided on an old row (a cycle that hung, say) starts nothing that was started since."""
    submit(world, scheduled())
    world.clock.at_s = NINE + 1.0
    stale = world.ledger.schedules()
    Schedules(world.ledger)(NINE + 1.0)
    chore = Schedules(world.ledger)
    before = names(world)
    world.ledger.schedules = lambda: stale  # type: ignore[method-assign]
    chore(NINE + 1.0)
    assert names(world) == before
