"""The runner: everything leased ends up committed or back in line, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from serving.batch.rate import RateMeter
from serving.batch.records import BatchStatus, LeasedRow, RowResult
from serving.batch.runner import BatchRunner, Compute, RowNotDoneError, RowOutcome, RunnerConfig
from serving.batch.store import BatchStore
from tests.serving.batch.worlds import World, answer, sqlite_world

CONFIG = RunnerConfig(rows_at_once=4, poll_s=0.01, gather_s=0.0, heartbeat_s=0.01)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = sqlite_world(tmp_path)
    yield world
    world.store.close()


class Computer:
    """Answers every row, once the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started: list[int] = []
        self.cancelled: list[int] = []

    async def __call__(self, row: LeasedRow) -> RowResult:
        self.started.append(row.index)
        try:
            while not self.gate.is_set():
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.cancelled.append(row.index)
            raise
        return answer(row)


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


@contextlib.contextmanager
def runner(world: World, compute: Compute, *, store: BatchStore | None = None) -> Iterator[list[RowOutcome]]:
    outcomes: list[RowOutcome] = []
    each = BatchRunner(store or world.store, compute, CONFIG, observe=lambda row, outcome: outcomes.append(outcome))
    each.start()
    try:
        yield outcomes
    finally:
        each.drain()


def test_all_rows_of_a_batch_are_computed_and_committed(world: World) -> None:
    batch, computer = world.batch(25), Computer()
    computer.gate.set()
    with runner(world, computer) as outcomes:
        until(lambda: world.get(batch).status is BatchStatus.COMPLETED)
    assert sorted(computer.started) == list(range(25))
    assert outcomes == [RowOutcome.SUCCEEDED] * 25


def test_no_more_rows_are_held_than_allowed_and_a_drain_returns_them(world: World) -> None:
    world.batch(9)
    computer = Computer()
    with runner(world, computer) as outcomes:
        until(lambda: len(computer.started) == 4)
    assert sorted(computer.cancelled) == [0, 1, 2, 3]
    assert outcomes == [RowOutcome.RETURNED] * 4
    assert [row.index for row in world.store.leases.lease(9)] == list(range(9))


def test_a_cancelled_batch_frees_its_slots(world: World) -> None:
    batch, computer = world.batch(4), Computer()
    with runner(world, computer) as outcomes:
        until(lambda: len(computer.started) == 4)
        world.store.batches.cancel("t", batch.id)
        until(lambda: len(computer.cancelled) == 4)
        until(lambda: len(outcomes) == 4)
    assert outcomes == [RowOutcome.DISCARDED] * 4


def test_a_window_ends_while_rows_run(world: World) -> None:
    batch, computer = world.batch(4, window_s=60), Computer()
    with runner(world, computer):
        until(lambda: len(computer.started) == 4)
        world.clock.now_s += 61
        until(lambda: len(computer.cancelled) == 4)
    assert world.get(batch).status is BatchStatus.EXPIRED


def test_a_row_that_this_replica_cannot_compute_goes_back_and_it_leases_no_more(world: World) -> None:
    world.batch(9)

    async def broken(row: LeasedRow) -> RowResult:
        raise RowNotDoneError

    with runner(world, broken) as outcomes:
        until(lambda: len(outcomes) == 4)
    assert outcomes == [RowOutcome.RETURNED] * 4
    assert len(world.store.leases.lease(9)) == 9


def test_a_bug_in_a_row_is_that_rows_error(world: World) -> None:
    batch = world.batch(2)

    async def buggy(row: LeasedRow) -> RowResult:
        if row.index == 0:
            raise ZeroDivisionError
        return answer(row)

    with runner(world, buggy):
        until(lambda: world.get(batch).status is BatchStatus.COMPLETED)
    assert world.content(world.get(batch).error_file_id)[0]["response"]["status_code"] == 500


def test_a_store_that_is_away_for_a_while_loses_nothing(world: World) -> None:
    batch, computer, store = world.batch(6), Computer(), world.open()
    commit, failures = store.leases.commit, [OperationalError("", None, Exception()) for _ in range(3)]

    def flaky(done):
        if failures and done:
            raise failures.pop()
        return commit(done)

    store.leases.commit = flaky  # type: ignore[method-assign]
    computer.gate.set()
    with runner(world, computer, store=store):
        until(lambda: world.get(batch).status is BatchStatus.COMPLETED)
    assert failures == []
    assert sorted(computer.started) == list(range(6))
    store.close()


def test_two_runners_share_a_batch_and_double_nothing(world: World) -> None:
    batch, computer, other = world.batch(60), Computer(), world.open()
    computer.gate.set()
    with runner(world, computer) as first, runner(world, computer, store=other) as second:
        until(lambda: world.get(batch).status is BatchStatus.COMPLETED)
    assert [*first, *second] == [RowOutcome.SUCCEEDED] * 60
    assert sorted(computer.started) == list(range(60))
    other.close()


def test_a_busy_runner_measures_and_reports_its_rate(world: World) -> None:
    world.batch(200)
    reported, computer = list[float](), Computer()
    computer.gate.set()
    each = BatchRunner(world.store, computer, CONFIG)
    report = world.store.leases.report_rate

    def note(replica_id: str, tokens_per_s: float) -> None:
        reported.append(tokens_per_s)
        report(replica_id, tokens_per_s)

    world.store.leases.report_rate = note  # type: ignore[method-assign]
    each.start()
    until(lambda: len(computer.started) == 200)
    each.drain()
    assert max(reported) > 0
    assert reported[-1] == 0.0  # nobody counts on it any more


def test_the_rate_counts_only_time_in_which_the_replica_was_full() -> None:
    meter = RateMeter(100.0)
    assert meter.tokens_per_s == 100.0
    for _ in range(100):
        meter.observe(1, 10.0, was_full=False)
    assert meter.tokens_per_s == 100.0
    for _ in range(100):
        meter.observe(2000, 10.0, was_full=True)
    assert meter.tokens_per_s == pytest.approx(200.0, rel=0.01)
    assert RateMeter(0.0).tokens_per_s == 0.0
