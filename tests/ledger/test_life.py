"""The life of a job: every way through its states, every attempt a row, every end with balanced books."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.ledger import telling
from orchestrator.ledger.errors import ConflictError, LedgerError, UnknownJobError
from orchestrator.ledger.states import Outcome, Unit
from orchestrator.policy.queueing.orders import Phase
from tests.ledger.world import World, cluster, new, pool


def test_a_job_runs_from_submission_to_success(world: World) -> None:
    world.ledger.submit(new("a", 4, work_s=40.0))
    assert world.state("a") == "submitted"
    world.run(15)
    assert world.kinds("a") == ["submitted", "admitted", "starting", "running", "succeeded"]
    (attempt,) = world.ledger.read.attempts("a")
    assert (attempt.world_size, attempt.cause, attempt.outcome) == (4, "start", Outcome.SUCCEEDED)
    # 11 s held by 4 workers: 1 s to start, 10 s of work.
    assert (attempt.stalled_ms, attempt.useful_ms, attempt.lost_ms) == (4_000, 40_000, 0)
    assert (world.held(), world.broken()) == ({}, [])


def test_who_waits_has_one_reason(world: World) -> None:
    world.ledger.submit(new("a", 8), new("b", 8))
    world.run(2)
    assert (world.state("b"), world.reason("b")) == ("queued", "GangIncomplete")


def test_a_higher_class_shrinks_and_the_shrunk_job_grows_back(world: World) -> None:
    world.ledger.submit(new("low", (2, 4, 8), work_s=400.0))
    world.run(5)
    world.ledger.submit(new("high", 4, work_s=40.0, priority=90))
    world.run(5)
    assert world.held() == {"low": 4, "high": 4}
    world.run(20)
    assert (world.state("high"), world.held()) == ("succeeded", {"low": 8})
    causes = [(row.cause.value, row.world_size) for row in world.ledger.read.attempts("low")]
    assert causes == [("start", 8), ("resize", 4), ("resize", 8)]
    assert world.broken() == []


def test_a_preempted_job_is_queued_again_and_counted(world: World) -> None:
    world.ledger.submit(new("low", 8, work_s=80.0))
    world.run(5)
    world.ledger.submit(new("high", 8, work_s=40.0, priority=90))
    world.run(2)
    assert (world.state("low"), world.state("high")) == ("queued", "running")
    world.run(40)
    assert (world.state("low"), world.state("high")) == ("succeeded", "succeeded")
    row = world.ledger.read.job("low")
    assert (row.preemptions, row.failures, row.attempt) == (1, 0, 2)
    assert world.broken() == []


def test_preemptions_have_a_budget_of_their_own(world: World) -> None:
    world.ledger.submit(new("low", 8, max_preemptions=0, max_failures=9))
    world.run(3)
    world.ledger.submit(new("high", 8, priority=90))
    world.run(3)
    assert (world.state("low"), world.broken()) == ("failed", [])


def test_a_failure_that_the_runner_has_tried_again_itself_ends_the_job(world: World) -> None:
    world.ledger.submit(new("a", 4, max_failures=9))
    world.run(5.0)
    world.runner.kill("a", Phase.FAILED)
    (key,) = world.runner.ended
    world.runner.ended[key] = dataclasses.replace(
        world.runner.ended[key], final=True, detail="its loss is not a number"
    )
    world.run(5.0)
    row = world.ledger.read.job("a")
    assert (row.state, row.attempt, row.failures) == ("failed", 1, 1)
    assert row.detail == "attempt 1 failed: its loss is not a number"


def test_failures_are_tried_again_until_their_budget_is_spent(world: World) -> None:
    world.ledger.submit(new("a", 4, max_failures=1))
    world.run(3)
    world.runner.kill("a", Phase.FAILED)
    world.run(3)
    assert world.state("a") == "running"
    assert [row.cause.value for row in world.ledger.read.attempts("a")] == ["start", "restart"]
    world.runner.kill("a", Phase.FAILED)
    world.run(1)
    assert (world.state("a"), world.held(), world.broken()) == ("failed", {}, [])


def test_a_lost_node_costs_what_was_not_saved(world: World) -> None:
    world.capacity.pools = (pool(4, nodes=2),)
    world.ledger.submit(new("a", (4, 8), work_s=400.0))
    world.run(6)
    assert world.held() == {"a": 8}
    world.capacity.pools = (pool(4, nodes=2, lost=(1,)),)
    world.runner.kill("a")
    world.run(3)
    assert (world.state("a"), world.held(), world.broken()) == ("running", {"a": 4}, [])
    first = world.ledger.read.attempts("a")[0]
    # 5 s of steps were not saved; one cycle noticed nothing yet.
    assert first.outcome is Outcome.LOST
    assert (first.lost_ms, first.stalled_ms) == (40_000, 8_000)


@pytest.mark.parametrize("after_s", [0, 3])
def test_cancelled_jobs_hold_nothing(world: World, after_s: int) -> None:
    world.ledger.submit(new("a", 4))
    if after_s:
        world.run(after_s)
    world.ledger.cancel("a", actor="ann")
    world.run(2)
    row = world.ledger.read.job("a")
    assert (row.state.value, row.detail, world.held(), world.broken()) == ("cancelled", "cancelled by ann", {}, [])
    assert world.runner.workers() == {}


def test_a_job_is_cancelled_before_anybody_heard_of_its_start(world: World) -> None:
    world.runner.reachable = False
    world.ledger.submit(new("a", 4))
    world.run(1)
    world.ledger.cancel("a")
    world.runner.reachable = True
    world.run(2)
    assert (world.state("a"), world.runner.started, world.broken()) == ("cancelled", [], [])


def test_pause_gives_devices_back_until_resumed(world: World) -> None:
    world.ledger.submit(new("a", 8, work_s=80.0))
    world.run(5)
    world.ledger.pause("a")
    world.run(2)
    assert (world.state("a"), world.reason("a"), world.held()) == ("paused", "Deactivated", {})
    world.restart()
    world.run(1)
    assert world.state("a") == "paused"
    world.ledger.resume("a")
    world.run(12)
    assert (world.state("a"), world.ledger.read.job("a").preemptions, world.broken()) == ("succeeded", 0, [])


def test_a_pinned_job_keeps_its_size(world: World) -> None:
    world.ledger.submit(new("a", (2, 4, 8), work_s=None))
    world.run(2)
    world.ledger.pin("a", 4)
    world.run(3)
    assert world.held() == {"a": 4}
    world.ledger.pin("a", None)
    world.run(3)
    assert (world.held(), world.broken()) == ({"a": 8}, [])
    with pytest.raises(LedgerError, match=r"16 is outside the job's range; it must be 2\.\.8"):
        world.ledger.pin("a", 16)


def test_a_job_waits_for_those_it_names(world: World) -> None:
    world.ledger.submit(new("pack", 1, work_s=5.0), new("train", 1, after=("pack",)))
    world.run(3)
    assert world.reason("train") == "DependencyPending"
    world.restart()
    world.run(5)
    assert world.state("train") == "running"


def test_losing_sight_of_everybody_fails_nobody(world: World) -> None:
    world.ledger.submit(new("a", 4, work_s=40.0), new("b", 4, work_s=400.0))
    world.run(3)
    world.runner.reachable = False
    world.run(60)
    assert (world.state("a"), world.state("b")) == ("running", "running")
    world.runner.reachable = True
    world.run(1)
    assert (world.state("a"), world.state("b"), world.broken()) == ("succeeded", "running", [])


def test_a_clock_that_jumps_back_takes_no_time_from_anybody(world: World) -> None:
    world.ledger.submit(new("a", 4, work_s=400.0))
    world.run(10)
    world.clock.skew_s -= 5
    world.run(3)
    assert world.broken() == []
    world.run(10)
    assert (world.state("a"), world.broken()) == ("running", [])


def test_a_name_belongs_to_one_job_at_a_time(world: World) -> None:
    assert world.ledger.submit(new("a", 1, work_s=1.0)).ids == ("a",)
    with pytest.raises(ConflictError, match="a name belongs to one job at a time"):
        world.ledger.submit(new("a"))
    world.run(5)
    assert world.ledger.submit(new("a")).ids == ("a.2",)


def test_all_or_none_of_a_request(world: World) -> None:
    with pytest.raises(ConflictError, match="twice"):
        world.ledger.submit(new("a"), new("b"), new("a"))
    assert world.ledger.read.jobs() == []


def test_a_key_is_answered_once(world: World) -> None:
    first = world.ledger.submit(new("a"), key="k", scope="ann")
    again = world.ledger.submit(new("a"), key="k", scope="ann")
    assert (again.ids, again.replayed) == (first.ids, True)
    assert len(world.ledger.read.jobs()) == 1
    with pytest.raises(ConflictError, match="another body"):
        world.ledger.submit(new("b"), key="k", scope="ann")
    assert world.ledger.submit(new("b"), key="k", scope="bob").ids == ("b",)


def test_who_is_not_there_is_not_found(world: World) -> None:
    for ask in (world.ledger.cancel, world.ledger.pause, world.ledger.resume, world.ledger.read.job):
        with pytest.raises(UnknownJobError, match="there is no job 'x'"):
            ask("x")


GRANTED = """  tenants:
  - {name: red, grants: [{usd: "1"}], contributions: [{pool: p, devices: 2}]}
  - {name: blue}
"""


def test_money_is_set_aside_spent_and_given_back(world: World) -> None:
    world.ledger.apply(cluster(GRANTED))
    world.ledger.submit(new("a", 4, work_s=400.0))
    world.run(3)
    money = world.ledger.read.balances(Unit.MICRO_USD)
    # 400 device-seconds at $3.60 an hour are 0.4 dollars.
    assert (money["reserved:red"], money["purse:red"]) == (400_000, 600_000)
    world.run(110)
    money = world.ledger.read.balances(Unit.MICRO_USD)
    held_s = 4 * 101
    assert (world.state("a"), money["reserved:red"], money["spent:red"]) == ("succeeded", 0, held_s * 1000)
    assert (money["purse:red"], money["cost:red"]) == (1_000_000 - held_s * 1000, held_s * 1000)
    assert (sum(money.values()), world.broken()) == (0, [])


def test_a_spent_budget_ends_the_job(world: World) -> None:
    world.ledger.submit(new("a", 4, work_s=None, budget_device_ms=40_000))
    world.run(15)
    assert (world.state("a"), world.broken()) == ("failed", [])
    assert world.ledger.read.job("a").detail == "its budget is spent; its state is saved"


def test_where_many_reasons_change_at_once_everybody_is_told_in_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "_MOST_REASONS", 2)
    names = [f"j{at}" for at in range(5)]
    world.ledger.submit(new("holder", 8, work_s=None), *(new(name, 8) for name in names))
    world.cycle()
    assert {world.reason(name) for name in names} == {"GangIncomplete"}
    versions = [world.ledger.read.job(name).version for name in names]
    world.ledger.hold_queue("main", True)
    for told in (2, 4, 5):
        world.cycle()
        assert [world.reason(name) for name in names].count("OnHold") == told
    # A reason is no change of the job.
    assert [world.ledger.read.job(name).version for name in names] == versions
    assert world.broken() == []


def test_a_failed_attempt_of_a_queue_on_hold_is_not_tried_again_until_it_is_released(world: World) -> None:
    world.ledger.submit(new("a", 4, work_s=None, max_failures=2), new("b", 4, work_s=None))
    world.run(3)
    world.ledger.hold_queue("main", True)
    world.run(1)
    assert (world.state("a"), world.state("b")) == ("running", "running")
    world.runner.kill("a", Phase.FAILED)
    world.run(3)
    row = world.ledger.read.job("a")
    assert (row.state, row.reason, row.attempt, row.failures) == ("queued", "OnHold", 1, 1)
    assert (world.held(), world.broken()) == ({"b": 4}, [])
    (event,) = [one for one in world.ledger.read.events(job="a") if one.kind == "requeued"]
    assert event.data["detail"].startswith("attempt 1 failed while queue 'main' was on hold: ")
    world.restart()
    world.run(2)
    assert world.reason("a") == "OnHold"
    world.ledger.hold_queue("main", False)
    world.run(2)
    row = world.ledger.read.job("a")
    assert (row.state, row.attempt, row.failures) == ("running", 2, 1)
    assert world.broken() == []


def test_an_endpoint_that_fails_is_started_again_also_in_a_queue_on_hold(world: World) -> None:
    world.ledger.submit(new("e", 4, work_s=None, max_failures=2, kind="Endpoint"))
    world.run(3)
    world.ledger.hold_queue("main", True)
    world.runner.kill("e", Phase.FAILED)
    world.run(3)
    row = world.ledger.read.job("e")
    assert (row.state, row.attempt, row.failures, world.broken()) == ("running", 2, 1, [])


def test_a_queue_on_hold_lets_a_spent_retry_budget_end_the_job(world: World) -> None:
    world.ledger.submit(new("a", 4, work_s=None, max_failures=0))
    world.run(3)
    world.ledger.hold_queue("main", True)
    world.runner.kill("a", Phase.FAILED)
    world.run(2)
    assert (world.state("a"), world.held(), world.broken()) == ("failed", {}, [])


def test_a_queue_on_hold_starts_nothing_and_says_so(world: World) -> None:
    world.ledger.hold_queue("main", True)
    world.ledger.submit(new("a"))
    world.run(1)
    world.restart()
    world.run(1)
    assert world.reason("a") == "OnHold"
    world.ledger.hold_queue("main", False)
    world.run(2)
    assert world.state("a") == "running"
    with pytest.raises(LedgerError, match="there is no queue 'x'; there are main"):
        world.ledger.hold_queue("x", True)


def test_a_new_price_holds_from_then_on(world: World) -> None:
    world.ledger.submit(new("a", 4, work_s=None))
    world.run(10)
    dearer = dataclasses.replace(pool(), micro_usd_per_device_hour=7_200_000)
    world.capacity.pools = (dearer,)
    world.run(10)
    world.ledger.cancel("a")
    world.run(2)
    # 40 s at 1,000 micro-dollars a device-second, then 40 s and what draining took at 2,000.
    cost = world.ledger.read.balances(Unit.MICRO_USD)["cost:red"]
    assert (40_000 + 80_000 <= cost <= 40_000 + 80_000 + 4 * 2 * 2_000, world.broken()) == (True, [])
