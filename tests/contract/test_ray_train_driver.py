"""The driver's decisions, with a hub and a clock by hand: planned restarts cost nothing, failures are counted."""

from __future__ import annotations

import pytest

from jobs.train.config import RestoreFrom
from jobs.train.messages import Phase, Snapshot, Stop, encode
from orchestrator.adapters.ray_train.events import (
    AttemptClosed,
    AttemptOpened,
    Cause,
    Outcome,
    Part,
    Snapshotted,
    StallPart,
    Status,
    StopAsked,
)
from orchestrator.adapters.ray_train.protocol import (
    Abort,
    GroupPlaced,
    GroupStarting,
    Joined,
    Leaving,
    RunOver,
    Tell,
)
from orchestrator.adapters.ray_train.sizes import Size
from tests.contract.ray_train_world import World, running_world, step


def test_only_the_keepers_beside_its_own_ranks_are_waited_for() -> None:
    world = World(alive=frozenset({"n", "far"}))
    world.idle()
    world.start()
    assert world.begun == [("n", "n")]


def test_the_first_attempt_starts_when_the_controller_asks() -> None:
    world = World()
    world.driver.tick()
    assert not world.hub.offers
    world.idle()
    world.start()
    assert (world.plan.world_size, world.plan.job.start_step, world.plan.job.restore) == (2, 0, None)
    assert world.driver.status is Status.RUNNING


def test_a_planned_stop_is_never_charged() -> None:
    world = World(failures=0)
    world.idle()
    world.start()
    for attempt in range(1, 6):
        world.driver.ask_to_stop(Cause.GROW, "")
        assert world.hub.orders[-1] == Tell(attempt=attempt, line=encode(Stop("grow")))
        world.leave(Leaving.STOPPED, attempt, steps=attempt)
        world.restore = RestoreFrom(step=attempt, keepers=False)
        world.idle(error="WorkerGroupError")
        world.start(attempt + 1)
        assert world.plan.job.start_step == attempt
    assert [event.outcome for event in world.of(AttemptClosed)] == [Outcome.PLANNED] * 5
    assert [event.cause for event in world.of(AttemptOpened)] == [Cause.START] + [Cause.GROW] * 5


def test_failures_without_progress_end_the_run_with_the_reason() -> None:
    world = World(failures=1)
    world.idle()
    for attempt in (1, 2):
        world.start(attempt)
        world.leave(Leaving.FAILED, attempt, kind="killed", workers=1)
        world.idle(error="WorkerGroupError")
        world.now_s += 1000
    assert isinstance(world.hub.offers[-1], RunOver)
    assert "2 failures without progress" in world.hub.offers[-1].error


@pytest.mark.parametrize(("steps", "waits"), [(0, []), (3, [0])])
def test_a_run_that_never_made_a_step_waits_for_no_state_to_be_saved(steps: int, waits: list[int]) -> None:
    """It would wait for minutes: of a task that fails at its start, keepers have nothing to write."""
    world = World(failures=0)
    world.idle()
    world.start(steps=steps)
    world.leave(Leaving.FAILED, 1, steps=steps, kind="killed", workers=1)
    world.idle(error="WorkerGroupError")
    assert isinstance(world.hub.offers[-1], RunOver)
    assert world.secured == waits


def test_no_order_is_given_before_every_worker_has_joined() -> None:
    world = World()
    world.idle()
    world.driver.tick()
    world.stop = 1
    world.driver.tick()
    assert not world.hub.orders


def test_ctrl_c_stops_in_order_and_ends_the_run_in_peace() -> None:
    world = World()
    world.idle()
    world.start()
    world.stop = 1
    world.driver.tick()
    world.driver.tick()
    assert [event.cause for event in world.of(StopAsked)] == [Cause.INTERRUPT]
    world.leave(Leaving.STOPPED, steps=1)
    world.idle(error="WorkerGroupError")
    assert world.hub.offers[-1] == RunOver()


def test_ctrl_c_twice_does_not_wait() -> None:
    world = World()
    world.idle()
    world.start()
    world.stop = 1
    world.driver.tick()
    world.stop = 2
    world.driver.tick()
    assert isinstance(world.hub.orders[-1], Abort)


def test_a_stop_that_hangs_is_cut_short() -> None:
    world = World()
    world.idle()
    world.start()
    world.driver.ask_to_stop(Cause.SHRINK, "")
    world.now_s += 1000
    world.driver.tick()
    assert isinstance(world.hub.orders[-1], Abort)
    assert world.hub.orders[-1].stacks


def test_too_little_room_waits_and_says_so_once() -> None:
    world = World(size="there is room for 1 workers; 2 are needed")
    world.idle()
    world.driver.tick()
    world.driver.tick()
    assert not world.hub.offers
    assert [event.detail for event in world.events if event.status is Status.WAITING] == [world.size]  # type: ignore[union-attr]
    world.size = Size(world_size=2, nodes=("n", "n"))
    world.driver.tick()
    assert world.plan.attempt == 1


def test_a_snapshot_counts_when_every_rank_has_sealed_it() -> None:
    world = World()
    world.idle()
    world.start()
    world.driver.read([world.said(1, 0, Snapshot(5, 100, 0.1))])
    assert not world.of(Snapshotted)
    world.driver.read([world.said(1, 1, Snapshot(5, 300, 0.2))])
    (event,) = world.of(Snapshotted)
    assert (event.step, event.num_bytes, event.seconds) == (5, 400, 0.2)  # type: ignore[union-attr]


def test_parts_of_a_stall_are_those_of_the_slowest_rank() -> None:
    world = World()
    world.idle()
    world.driver.tick()
    world.driver.read([GroupStarting(at_s=100.0, attempt=1), GroupPlaced(at_s=101.0, attempt=1)])
    world.driver.read([Joined(attempt=1, worker=w, node_id="n", at_s=103.0 + w) for w in (0, 1)])
    world.driver.read([world.said(1, 0, Phase("imports", 0.2)), world.said(1, 1, Phase("imports", 0.9))])
    world.driver.read([world.said(1, 0, step(1))])
    parts = {event.part: event.seconds for event in world.of(StallPart)}  # type: ignore[union-attr]
    assert parts == {Part.PLACEMENT: 1.0, Part.PROCESS_START: 3.0, Part.IMPORTS: 0.9}


def test_a_group_on_devices_that_are_overdue_is_killed_and_nothing_is_charged_for_it() -> None:
    world = running_world(failures=0)
    world.late = True
    world.driver.tick()
    assert isinstance(world.hub.orders[-1], Abort)
    world.late = False
    world.leave(Leaving.FAILED, steps=1, kind="killed")
    world.idle(error="WorkerGroupError")
    (gone,) = world.of(AttemptClosed)
    assert (gone.outcome, gone.cause) == (Outcome.FAILED, Cause.SHRINK)
    world.driver.tick()
    assert [event.cause for event in world.of(AttemptOpened)] == [Cause.START, Cause.SHRINK]
