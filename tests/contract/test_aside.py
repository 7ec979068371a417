"""A job that trains on when lent devices are called back: when its version is made, and by whom."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.adapters.files import write_json
from orchestrator.adapters.jobs import process
from orchestrator.adapters.jobs.aside import LONGEST_S, QUIET_S, Aside, LoanEnd, leaves_versions
from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.jobs.letters import Letter
from orchestrator.adapters.jobs.night import AFTERWARDS_S
from orchestrator.policy.lending.session import Stage, StageReason
from orchestrator.spec import TrainJob, load_text

JOB = """
apiVersion: tideline/v1
kind: TrainJob
metadata: {name: j}
spec:
  workers: {min: 1, max: 4, resources: {CPU: 1}}
  task: t:t
  data: {dataset: corpus@latest}
  batch: {global_batch_size: 4, micro_batch_size: 1}
  steps: 10
"""


def order(attempt: int, workers: int, at_s: float, *, back: bool = False, stop: bool = False) -> Letter:
    until_s = at_s + 30.0 if back or stop else None
    return Letter(id=f"j-a{attempt}", attempt=attempt, at_s=at_s, seats={"n": workers}, stop=stop, until_s=until_s)


STARTS = order(1, 2, 0.0)
GROWS = order(2, 4, 100.0)
SHRINKS = order(3, 3, 1000.0, back=True)


@pytest.mark.parametrize(
    ("orders", "due_s"),
    [
        ((STARTS, GROWS), None),
        ((STARTS, GROWS, SHRINKS), 1000.0 + QUIET_S),
        ((STARTS, GROWS, SHRINKS, order(4, 2, 1300.0, back=True)), 1300.0 + QUIET_S),
        ((STARTS, GROWS, SHRINKS, order(4, 4, 1300.0)), 1000.0 + LONGEST_S),
        ((STARTS, GROWS, SHRINKS, order(4, 4, 1300.0), order(5, 3, 4000.0, back=True)), 1000.0 + LONGEST_S),
        ((STARTS, GROWS, SHRINKS, order(4, 2, 1300.0)), 1000.0 + QUIET_S),
        ((STARTS, GROWS, SHRINKS, order(3, 3, 1300.0, stop=True)), None),
        ((SHRINKS,), 1000.0 + QUIET_S),
    ],
    ids=[
        "nothing was called back",
        "called back once",
        "called back in pieces",
        "lent again, for longer than anybody waits",
        "lent again and called back shortly before that",
        "shrunk for another reason meanwhile",
        "stopped meanwhile",
        "the process came after the order",
    ],
)
def test_a_loan_has_ended_when_nothing_more_is_called_back_or_lent(
    orders: tuple[Letter, ...], due_s: float | None
) -> None:
    loan = LoanEnd()
    for one in orders:
        assert not loan.is_due(one, one.at_s)
    if due_s is not None:
        assert not loan.is_due(orders[-1], due_s - 1.0)
    assert loan.is_due(orders[-1], due_s or 1e9) == (due_s is not None)
    assert not loan.is_due(orders[-1], 1e9)  # once


@pytest.mark.parametrize(
    ("more", "leaves"),
    [("", False), ("  register: {model: m}\n", True), ("  register: {model: m}\n  window: night\n", False)],
    ids=["no model", "a model", "a window, whose ends leave versions"],
)
def test_who_leaves_versions_beside_its_run(more: str, leaves: bool) -> None:
    (job,) = load_text(JOB + more)
    assert isinstance(job, TrainJob)
    assert leaves_versions(job) == leaves


@dataclass
class Child:
    code: int | None = None
    killed: bool = False

    def poll(self) -> int | None:
        return self.code

    def kill(self) -> None:
        self.killed, self.code = True, -9

    def wait(self) -> int:
        assert self.code is not None
        return self.code


@dataclass
class World:
    root: Path
    children: list[Child] = field(default_factory=list)
    told: list[tuple[Stage, float | None, str]] = field(default_factory=list)
    full: bool = False

    def __post_init__(self) -> None:
        self.run_dir = self.root / "runs" / "j"
        self.run_dir.mkdir(parents=True)
        self.aside = Aside(JobFolder(self.root / "j"), self.run_dir, self.say, start=self.start, quiet_s=60.0)
        for one in (STARTS, GROWS, SHRINKS):
            self.aside.look(one, one.at_s)

    def start(self, folder: JobFolder) -> Child:
        if self.full:
            raise OSError("no more processes")
        self.children.append(Child())
        return self.children[-1]

    def say(self, stage: Stage, reason: StageReason, seconds: float | None, said: str) -> None:
        self.told.append((stage, seconds, said))

    def look(self, at_s: float) -> None:
        self.aside.look(SHRINKS, at_s)


def test_the_version_is_made_beside_the_run_and_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.look(1059.0)
    assert not world.children
    world.look(1060.0)
    world.look(1065.0)
    (child,) = world.children
    write_json(world.run_dir / "aside.json", {"said": "registered as m@1"})
    child.code = 0
    world.look(1070.0)
    world.look(1e6)
    assert [stage for stage, _, _ in world.told] == [Stage.EVALUATE, Stage.REGISTER]
    assert world.told[-1][1:] == (10.0, "registered as m@1")
    assert len(world.children) == 1


def test_the_runs_end_does_not_wait_for_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.look(1060.0)
    world.aside.close()
    assert world.children[0].killed
    world.aside.look(order(4, 2, 2000.0, back=True), 2000.0)
    world.aside.look(order(4, 2, 2000.0, back=True), 1e6)
    assert len(world.children) == 1


def test_what_goes_wrong_is_told_and_ends_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.full = True
    world.look(1060.0)
    assert world.told[-1][2] == "not begun: no more processes"
    world.full, again = False, order(4, 2, 2000.0, back=True)
    world.aside.look(again, 2060.0)
    world.aside.look(again, 2061.0 + AFTERWARDS_S)  # it hangs
    assert world.children[0].killed
    assert "its process ended with -9" in world.told[-1][2]


def test_the_jobs_process_shows_it_every_order() -> None:
    shown: list[Letter | None] = []
    ended = SimpleNamespace(wait=lambda seconds: len(shown) == 2)
    desk = SimpleNamespace(look=lambda: None, order=SHRINKS)
    aside = SimpleNamespace(look=lambda order, now_s: shown.append(order))
    process._tick(desk, aside, ended)  # type: ignore[arg-type]
    assert shown == [SHRINKS, SHRINKS]


def test_it_does_not_outlive_who_asked_for_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestrator.adapters.jobs.aside", str(tmp_path), "1"]
    assert subprocess.run(command, timeout=60, check=False).returncode == 1
