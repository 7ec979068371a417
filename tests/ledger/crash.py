"""One process of a crash test: `python -m tests.ledger.crash FOLDER POINT K` lives through a fixed story, and kills
itself with SIGKILL the K-th time it comes by a fault point. Run again (with K 0) it goes on where the books are.

The runner's memory is a journal in FOLDER: a line for every order that was taken, written before the answer, as a real
runner would keep it. What becomes of jobs follows from the journal and the time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from orchestrator.ledger import faults
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.submission import new_job
from orchestrator.policy.queueing.orders import Order, Phase, Report
from orchestrator.policy.queueing.record import from_text, to_text
from orchestrator.service.schedules import Schedules
from orchestrator.sim.outside import SimRunner
from orchestrator.spec import TrainJob, load_text
from tests.ledger.world import START_S, World, cluster, new, sqlite

END_S = 66.0
SPEC = """  tenants:
  - {name: red, grants: [{usd: "1"}]}
  - {name: blue, grants: [{iterations: 5000}]}
"""


class Journal:
    """A runner whose memory outlives the orchestrator."""

    def __init__(self, runner: SimRunner, path: Path, now_s: float) -> None:
        self.runner, self.path = runner, path
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        # A second is lived once: it begins with hearing, and what was asked in it comes after, as it did before the
        # death. Heard a second sooner, a job's end would be booked a second sooner.
        self._of_this_second = [entry for entry in entries if entry["at_s"] >= now_s]
        for entry in entries:
            if entry["at_s"] < now_s:
                self._apply(entry)

    def _apply(self, entry: dict) -> None:
        # Asked again, it is asked at the time at which it was: the past is what it was.
        self.runner.clock.at_s = entry["at_s"]
        match entry["kind"]:
            case "ask":
                self.runner.ask(Order(id=entry["id"], what=from_text(entry["what"]), attempt=entry["attempt"]))
            case "ack":
                self.runner.reports()
                self.runner.acknowledge(
                    [Report(job=job, attempt=at, phase=Phase.STOPPED) for job, at in entry["ended"]]
                )
            case "kill":
                self.runner.kill(entry["job"], Phase(entry["phase"]))

    def _note(self, **entry: object) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"at_s": self.runner.clock.at_s, **entry}) + "\n")

    def ask(self, order: Order) -> None:
        self._note(kind="ask", id=order.id, what=to_text(order.what), attempt=order.attempt)
        self.runner.ask(order)

    def reports(self) -> tuple[Report, ...]:
        heard = self.runner.reports()
        before, self._of_this_second = self._of_this_second, []
        for entry in before:
            self._apply(entry)
        return heard

    def acknowledge(self, ended) -> None:
        if ended:
            self._note(kind="ack", ended=[[one.job, one.attempt] for one in ended])
            self.runner.acknowledge(ended)

    def kill(self, job: str, phase: Phase) -> None:
        self._note(kind="kill", job=job, phase=phase.value)
        self.runner.kill(job, phase)


SCHEDULED = """
apiVersion: tideline/v1
kind: TrainJob
metadata: {name: clock, tenant: blue}
spec:
  queue: main
  after: [gone]
  workers: {min: 1, max: 1, resources: {GPU: 1}}
  schedule: {cron: "* * * * *", timezone: UTC}
  task: jobs.models.gpt:task
  data: {dataset: python-stdlib@latest}
  batch: {global_batch_size: 8, micro_batch_size: 1}
  steps: 10
"""
INSTANCE = "clock-19700112t1347z"
"""What is due in the 20th second. It waits for a job that never succeeds, so that it takes nobody's devices."""


def _schedule(world: World) -> None:
    (job,) = load_text(SCHEDULED)
    assert isinstance(job, TrainJob)
    world.ledger.submit(new_job(job, world.spec, now_s=START_S), key="clock", scope="s")


STORY = {
    2.0: _schedule,
    0.0: lambda world: world.ledger.submit(new("low", (2, 4, 8), work_s=160.0), key="low", scope="s"),
    5.0: lambda world: world.ledger.submit(
        new("high", 4, work_s=40.0, priority=90),
        new("blue", 4, tenant="blue", work_s=20.0, steps=40),
        key="two",
        scope="s",
    ),
    12.0: lambda world: world.ledger.submit(
        new("gone", 2, work_s=None, steps=1000, priority=70, tenant="blue"), key="gone", scope="s"
    ),
    28.0: lambda world: world.ledger.pause("low"),
    31.0: lambda world: world.ledger.resume("low"),
    36.0: lambda world: world.ledger.cancel("gone"),
    50.0: lambda world: world.ledger.cancel(INSTANCE),
    52.0: lambda world: world.ledger.cancel("clock"),
}
"""What people ask, and when. Each is safe to repeat: submissions carry a key, the others ask for a state."""


def live(folder: Path) -> None:
    """Go on from the second at which the last process was, to the end."""
    diary = folder / "second"
    second = float(diary.read_text()) if diary.exists() else 0.0
    is_new = not (folder / "ready").exists()
    world = World(sqlite(folder), spec=cluster(SPEC), is_new=is_new)
    (folder / "ready").touch()
    runner = Journal(world.runner, folder / "runner.jsonl", START_S + second)
    world.clock.at_s = START_S + second
    world.runner.clock = world.clock
    world.runner, simulated = runner, world.runner  # type: ignore[assignment]
    while second <= END_S:
        world.clock.at_s = START_S + second
        if second in STORY:
            _ask(world, second)
        if second == 20.0 and simulated.jobs.get("low") and simulated.jobs["low"].highest and not _killed(runner.path):
            runner.kill("low", Phase.FAILED)
        Schedules(world.ledger)(world.clock.at_s)
        world.cycle()
        second += 1.0
        diary.write_text(str(second))
    world.ledger.database.close()


def _killed(path: Path) -> bool:
    return path.exists() and any(json.loads(line)["kind"] == "kill" for line in path.read_text().splitlines())


def _ask(world: World, second: float) -> None:
    # The process before may have asked already, and the job may have ended since.
    with contextlib.suppress(LedgerError):
        STORY[second](world)


def main(folder: Path, point: str, times: int) -> None:
    """Live, and die at a point if it is reached so often."""
    left = times

    def die(name: str) -> None:
        nonlocal left
        if name == point:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    if times:
        faults.hook = die
    else:
        seen: dict[str, int] = {}

        def count(name: str) -> None:
            seen[name] = seen.get(name, 0) + 1
            (folder / "points.json").write_text(json.dumps(seen))

        faults.hook = count if point == "count" else None
    live(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
