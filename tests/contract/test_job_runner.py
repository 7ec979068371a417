"""Job processes behind the runner's port: started once, found again, reported for when they die. No Ray."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.jobs.night import AFTERWARDS_S
from orchestrator.adapters.jobs.runner import (
    BETWEEN_SWEEPS_S,
    MAX_TRIES,
    STOP_PATIENCE_S,
    UNHEARD,
    UNORDERED_S,
    JobRunner,
)
from orchestrator.policy.queueing.decisions import Admit, ChangeCause, Evict, Resize, Seats, StartReason
from orchestrator.policy.queueing.orders import Order, Phase, Report
from orchestrator.ports import UnreachableError

PATIENCE_S = 60.0

# A job's process as far as the runner knows it: it takes orders, and ends as its document says.
PROCESS = """
import contextlib, sys, time
from pathlib import Path
from orchestrator.adapters.jobs.folder import BEGUN, JobFolder
from orchestrator.policy.queueing.orders import Phase, Report

folder = JobFolder(Path(sys.argv[1]))
with contextlib.ExitStack() as stack:
    if not folder.live(stack):
        sys.exit(0)
    how = folder.read_job()[0]["how"]
    if how == "unborn":
        sys.exit("it never took its order")
    taken = 0
    while True:
        order = folder.read_order()
        if order.stop and how != "deaf":
            folder.leave_nothing()
            folder.write_report(Report(job=folder.job, attempt=order.attempt, phase=Phase.STOPPED))
            while how == "lingers":
                time.sleep(0.02)
            sys.exit(0)
        if order.attempt != taken and not order.stop:
            if taken:
                folder.write_report(Report(job=folder.job, attempt=taken, phase=Phase.STOPPED))
            taken = order.attempt
            if how == "leaves":
                (folder.path / BEGUN).write_text("{}")
            folder.write_report(Report(job=folder.job, attempt=taken, phase=Phase.RUNNING, unsaved_work_s=2.0))
        if how == "short":
            folder.write_report(Report(job=folder.job, attempt=taken, phase=Phase.SUCCEEDED, steps_done=7))
            sys.exit(0)
        if how == "dies":
            sys.exit("out of everything")
        time.sleep(0.02)
"""


class Bench:
    """Runners over one folder: `new` is what a restarted orchestrator has."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.how = "long"
        self.kind = "TrainJob"
        self.reachable = True
        self.over = False
        self.late_s = 0.0
        self.asked = 0
        (root / "process.py").write_text(PROCESS)
        self.runner = self.new()

    def new(self) -> JobRunner:
        return JobRunner(
            self.root,
            command=(sys.executable, str(self.root / "process.py")),
            document=self._document,
            surroundings=dict,
            environment=lambda: {"PYTHONPATH": os.pathsep.join(sys.path)},
            is_reachable=lambda: self.reachable,
            now_s=lambda: time.time() + self.late_s,
            is_over=lambda job: self.over,
        )

    def _document(self, job: str) -> dict[str, str]:
        self.asked += 1
        return {"how": self.how, "kind": self.kind}

    def folder(self, job: str = "a") -> JobFolder:
        return JobFolder(self.root / "jobs" / job)

    def pid(self) -> int:
        birth = self.folder().read_birth()
        assert birth is not None
        return birth.pid

    def until(self, holds: Callable[[tuple[Report, ...]], bool]) -> tuple[Report, ...]:
        """The first reports that are so."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            found = self.runner.reports()
            if holds(found):
                return found
            assert time.monotonic() < deadline_s, found
            time.sleep(0.02)

    def until_phase(self, phase: Phase, attempt: int = 1) -> Report:
        reports = self.until(lambda found: any((one.attempt, one.phase) == (attempt, phase) for one in found))
        return next(one for one in reports if one.attempt == attempt)

    def started(self) -> list[psutil.Process]:
        mark = str(self.folder().path)
        return [one for one in psutil.Process().children() if one.status() != "zombie" and mark in one.cmdline()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for path in (tmp_path / "jobs").glob("*"):
        birth = JobFolder(path).read_birth()
        if birth is not None:
            birth.kill()
            psutil.wait_procs([one for one in psutil.Process().children() if one.pid == birth.pid], timeout=5.0)


def start(attempt: int = 1, workers: int = 2, job: str = "a") -> Order:
    seats = (Seats("p", "n1", workers),)
    what = Admit(job=job, placement=seats, reason=StartReason.IN_ORDER, detail="")
    return Order(id=f"{job}-a{attempt}", what=what, attempt=attempt)


def resize(attempt: int, workers: int) -> Order:
    seats = (Seats("p", "n1", workers),)
    what = Resize(job="a", placement=seats, cause=ChangeCause.PRIORITY, detail="", drain_until_s=0.0)
    return Order(id=f"a-a{attempt}", what=what, attempt=attempt)


def stop(attempt: int = 1, cause: ChangeCause = ChangeCause.CANCELLED) -> Order:
    what = Evict(job="a", cause=cause, detail="", drain_until_s=time.time() + 5.0)
    return Order(id=f"a-a{attempt}-stop", what=what, attempt=attempt)


def test_a_restarted_orchestrator_adopts_the_process_that_is_there(bench: Bench) -> None:
    bench.runner.ask(start())
    bench.until_phase(Phase.RUNNING)
    pid = bench.pid()
    bench.runner = bench.new()
    bench.runner.ask(start())
    assert bench.until_phase(Phase.RUNNING).attempt == 1
    assert bench.pid() == pid
    assert len(bench.started()) == 1


def test_an_order_that_comes_again_changes_nothing(bench: Bench) -> None:
    for _ in range(3):
        bench.runner.ask(start())
    bench.until_phase(Phase.RUNNING)
    assert len(bench.started()) == 1
    assert bench.asked == 1


def test_a_resize_reaches_the_running_process_and_ends_the_attempt_before(bench: Bench) -> None:
    bench.runner.ask(start())
    bench.until_phase(Phase.RUNNING)
    pid = bench.pid()
    bench.runner.ask(resize(2, 4))
    bench.until_phase(Phase.RUNNING, attempt=2)
    assert {one.attempt: one.phase for one in bench.runner.reports()} == {1: Phase.STOPPED, 2: Phase.RUNNING}
    assert bench.pid() == pid
    bench.runner.ask(start())  # from a leader who does not know yet that he leads no more
    letter = bench.folder().read_order()
    assert letter is not None
    assert (letter.attempt, letter.workers) == (2, 4)


def test_an_end_is_said_until_it_is_acknowledged_and_then_forgotten_whole(bench: Bench) -> None:
    bench.how = "short"
    bench.runner.ask(start())
    end = bench.until_phase(Phase.SUCCEEDED)
    bench.runner = bench.new()
    assert bench.until_phase(Phase.SUCCEEDED).steps_done == end.steps_done == 7
    bench.runner.acknowledge((end,))
    bench.until(lambda found: not found and not bench.folder().path.exists())
    bench.runner.ask(start())
    assert bench.started() == []


def test_time_until_an_end_is_heard_of_is_stalled(bench: Bench) -> None:
    bench.how = "short"
    bench.runner.ask(start(workers=2))
    bench.until_phase(Phase.SUCCEEDED)
    bench.late_s = 600.0
    assert dict(bench.until_phase(Phase.SUCCEEDED).stalled_worker_s)[UNHEARD] == pytest.approx(1200.0, abs=60.0)


def test_a_process_that_dies_without_a_word_is_reported_as_failed_with_its_last_output(bench: Bench) -> None:
    bench.how = "dies"
    bench.runner.ask(start())
    end = bench.until_phase(Phase.FAILED)
    assert "out of everything" in end.detail
    assert not end.final
    assert end.lost_worker_s == 2.0
    assert bench.until_phase(Phase.FAILED).detail == end.detail


def test_a_process_that_is_killed_while_ray_is_gone_is_lost_not_failed(bench: Bench) -> None:
    bench.runner.ask(start())
    bench.until_phase(Phase.RUNNING)
    bench.reachable = False
    os.kill(bench.pid(), signal.SIGKILL)
    assert "Ray cannot be reached" in bench.until_phase(Phase.LOST).detail


def test_a_process_that_never_takes_its_order_is_tried_again_and_then_given_up(bench: Bench) -> None:
    bench.how = "unborn"
    bench.runner.ask(start())
    assert "it never took its order" in bench.until_phase(Phase.FAILED).detail
    birth = bench.folder().read_birth()
    assert birth is not None
    assert birth.tries == MAX_TRIES


def test_a_restart_after_a_failure_is_a_new_process(bench: Bench) -> None:
    bench.how = "dies"
    bench.runner.ask(start())
    end = bench.until_phase(Phase.FAILED)
    bench.how = "long"
    bench.runner.acknowledge((end,))
    bench.runner.ask(start(attempt=2))
    bench.until_phase(Phase.RUNNING, attempt=2)
    assert [one.attempt for one in bench.runner.reports()] == [2]


def test_an_order_that_comes_while_the_process_ends_in_peace_starts_another(bench: Bench) -> None:
    bench.runner.ask(start())
    bench.until_phase(Phase.RUNNING)
    bench.runner.ask(stop())
    bench.until_phase(Phase.STOPPED)
    bench.runner.ask(start(attempt=2))
    bench.until_phase(Phase.RUNNING, attempt=2)


def test_a_stop_of_what_never_started_is_its_end(bench: Bench) -> None:
    bench.runner.ask(stop())
    assert bench.until_phase(Phase.STOPPED).attempt == 1
    assert bench.started() == []


def test_a_process_that_does_not_stop_is_killed_long_after_its_deadline(bench: Bench) -> None:
    bench.how = "deaf"
    bench.runner.ask(start())
    bench.until_phase(Phase.RUNNING)
    bench.runner.ask(stop())
    assert bench.runner.reports()[0].phase is Phase.RUNNING
    bench.late_s = STOP_PATIENCE_S + 10.0
    bench.until_phase(Phase.STOPPED)


def test_a_process_whose_devices_were_called_back_may_go_on_without_them_but_not_for_ever(bench: Bench) -> None:
    bench.how = "lingers"
    bench.runner.ask(start())
    bench.until_phase(Phase.RUNNING)
    bench.runner.ask(stop(cause=ChangeCause.RECALL))
    bench.runner.acknowledge((bench.until_phase(Phase.STOPPED),))
    bench.late_s = AFTERWARDS_S - 10.0
    bench.until(lambda found: found == ())
    assert bench.folder().is_alive
    bench.late_s = AFTERWARDS_S + 10.0
    bench.until(lambda found: not bench.folder().is_alive)


@pytest.mark.parametrize(("kind", "again"), [("Endpoint", True), ("TrainJob", False)])
def test_what_outlives_its_process_is_taken_down_though_that_is_killed_while_it_stops(
    bench: Bench, kind: str, again: bool
) -> None:
    bench.how, bench.kind = "deaf", kind
    bench.runner.ask(start())
    bench.until_phase(Phase.RUNNING)
    pid = bench.pid()
    bench.runner.ask(stop())
    bench.folder().write_job({"how": "long", "kind": kind}, {})
    os.kill(pid, signal.SIGKILL)
    bench.until_phase(Phase.STOPPED)
    assert (bench.pid() != pid) is again


def killed_between_attempts(bench: Bench) -> None:
    """An endpoint whose process is dead, and that end is in the books: nobody has ordered it again yet."""
    bench.how, bench.kind = "leaves", "Endpoint"
    bench.runner.ask(start())
    bench.until_phase(Phase.RUNNING)
    os.kill(bench.pid(), signal.SIGKILL)
    bench.runner.acknowledge([bench.until_phase(Phase.FAILED)])
    assert bench.runner.reports() == ()
    assert bench.folder().leaves_something


@pytest.mark.parametrize("why", ["cancelled", "not ordered again", "cancelled, and a new orchestrator"])
def test_what_a_process_leaves_that_dies_between_attempts_is_taken_down(bench: Bench, why: str) -> None:
    killed_between_attempts(bench)
    dead = bench.pid()
    bench.over = why != "not ordered again"
    bench.late_s = 0.0 if bench.over else UNORDERED_S + 1.0
    if "new" in why:
        bench.runner = bench.new()
    bench.reachable = False
    assert bench.runner.reports() == ()
    assert bench.folder().leaves_something  # nobody could take it down; the next look tries again
    bench.reachable, bench.late_s = True, bench.late_s + BETWEEN_SWEEPS_S
    bench.runner.reports()
    assert bench.pid() != dead
    swept = bench.until_phase(Phase.STOPPED)
    bench.runner.acknowledge([swept])
    bench.until(lambda found: not bench.folder().path.exists())


def test_a_next_attempt_that_is_stopped_before_it_began_takes_down_what_the_one_before_left(bench: Bench) -> None:
    killed_between_attempts(bench)
    dead = bench.pid()
    bench.runner.ask(stop(attempt=2))
    bench.until_phase(Phase.STOPPED, attempt=2)
    assert bench.pid() != dead
    assert not bench.folder().leaves_something


def test_what_goes_on_between_two_attempts_is_there_for_the_next(bench: Bench) -> None:
    killed_between_attempts(bench)
    bench.runner.ask(start(attempt=2))
    bench.until_phase(Phase.RUNNING, attempt=2)
    assert bench.folder().leaves_something


def test_a_later_run_of_the_same_name_has_what_an_earlier_one_left(bench: Bench) -> None:
    killed_between_attempts(bench)
    dead, bench.over = bench.pid(), True
    bench.runner.ask(start(job="a.2"))
    bench.until(lambda found: any(one.job == "a.2" and one.phase is Phase.RUNNING for one in found))
    assert not bench.folder().path.exists()
    assert not psutil.pid_exists(dead) or psutil.Process(dead).status() == "zombie"


def test_a_process_number_that_was_given_away_is_not_killed(bench: Bench) -> None:
    bench.runner.ask(start())
    birth = bench.folder().read_birth()
    assert birth is not None
    stranger = type(birth)(pid=os.getpid(), created_s=1.0, attempt=1, tries=1)
    assert not stranger.is_alive
    stranger.kill()


def test_a_disk_that_fails_is_a_runner_out_of_sight(bench: Bench) -> None:
    (bench.root / "jobs").write_text("no folder")
    with pytest.raises(UnreachableError, match="jobs"):
        bench.runner.ask(start())
    with pytest.raises(UnreachableError):
        bench.runner.reports()
    (bench.root / "jobs").unlink()
