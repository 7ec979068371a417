"""The control loop: it leads, wakes, stands by, backs off, and survives whatever a cycle raises."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cycle import CycleReport
from orchestrator.policy.queueing.places import Pool
from orchestrator.ports import UnreachableError
from orchestrator.service.logs import FileLogArchive
from orchestrator.service.loop import LONGEST_BACKOFF_S, ControlLoop, LivePorts
from tests.ledger.world import World, new

PATIENCE_S = 30.0


class Faulty:
    """Capacity that raises what it is told to, once for each."""

    def __init__(self, pools: tuple[Pool, ...], faults: list[Exception]) -> None:
        self.pools = pools
        self.faults = faults

    def observe(self) -> tuple[Pool, ...]:
        if self.faults:
            raise self.faults.pop(0)
        return self.pools


class Cycles:
    """Counts cycles, and lets a test wait for one."""

    def __init__(self) -> None:
        self.seen = threading.Semaphore(0)

    def __call__(self, report: CycleReport, seconds: float) -> None:
        assert seconds >= 0
        self.seen.release()

    def wait(self) -> None:
        assert self.seen.acquire(timeout=PATIENCE_S)


def ports(world: World, tmp_path: Path, cycles: Cycles, **more: object) -> LivePorts:
    plain = {
        "clock": world.clock,
        "capacity": world.capacity,
        "endpoints": world.endpoints,
        "ledger": world.ledger,
        "runner": world.runner,
    }
    return LivePorts(**{**plain, "logs": FileLogArchive(tmp_path), "observe": cycles, **more})  # type: ignore[arg-type]


def running(loop: ControlLoop) -> Callable[[], None]:
    loop.start()
    return loop.stop


def test_it_leads_and_a_write_wakes_it(world: World, tmp_path: Path) -> None:
    cycles = Cycles()
    loop = ControlLoop(ports(world, tmp_path, cycles), every_s=3600.0)
    stop = running(loop)
    cycles.wait()
    world.ledger.submit(new("a"))
    loop.wake()
    cycles.wait()
    assert world.state("a") == "starting"
    health = loop.health()
    assert health.leading
    assert health.last_error is None
    assert health.cycles == 2
    stop()
    assert not loop.health().leading


def test_whatever_a_cycle_raises_is_said_and_the_next_is_tried(world: World, tmp_path: Path) -> None:
    cycles, capacity = Cycles(), Faulty(world.pools, [ZeroDivisionError("no devices"), UnreachableError("no Ray")])
    loop = ControlLoop(ports(world, tmp_path, cycles, capacity=capacity), every_s=0.01)
    stop = running(loop)
    cycles.wait()
    stop()
    assert capacity.faults == []
    assert loop.health().last_error is None


def test_it_backs_off_by_doubling_and_says_why(world: World, tmp_path: Path) -> None:
    capacity = Faulty(world.pools, [UnreachableError("no Ray")] * 5)
    loop = ControlLoop(ports(world, tmp_path, Cycles(), capacity=capacity), every_s=1.0)
    rests = [loop._round() for _ in range(6)]
    assert rests == [1.0, 2.0, LONGEST_BACKOFF_S, LONGEST_BACKOFF_S, LONGEST_BACKOFF_S, 1.0]
    assert loop.health().last_error is None
    capacity.faults.append(UnreachableError("no Ray"))
    assert loop._round() == 1.0
    assert loop.health().last_error == "UnreachableError: no Ray"
    assert loop.health().leading


def test_who_was_overtaken_stands_by_and_leads_again(world: World, tmp_path: Path) -> None:
    loop = ControlLoop(ports(world, tmp_path, Cycles()), every_s=1.0)
    loop._round()
    assert loop.health().leading
    world.clock.at_s += 60.0  # this process slept, and another one took over meanwhile
    other = world.open("two")
    assert other.lead()
    loop._round()
    assert not loop.health().leading
    assert loop.health().last_error is None
    other.resign()
    loop._round()
    assert loop.health().leading
    other.close()


def test_a_chore_is_done_before_each_cycle_and_shortens_the_rest(world: World, tmp_path: Path) -> None:
    asked: list[float] = []

    def chore(now_s: float) -> float | None:
        asked.append(now_s)
        return now_s + 0.25

    loop = ControlLoop(ports(world, tmp_path, Cycles(), chores=(chore,)), every_s=5.0)
    assert loop._round() == 0.25
    assert asked == [world.clock.at_s]


def test_a_ledger_that_nobody_leads_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="has no lead"):
        ControlLoop(replace(ports(world, tmp_path, Cycles()), ledger=object()))  # type: ignore[arg-type]
