"""The control plane end to end on real Ray: two tenants, two queues, and an orchestrator that is killed twice."""

from __future__ import annotations

import asyncio
import base64
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.data import pack
from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.own_code import with_pinned_code
from orchestrator.adapters.ray_cluster.host import await_host, start_host, stop_host
from orchestrator.adapters.ray_train.events import AttemptOpened, StepDone
from orchestrator.adapters.ray_train.record_store import load_events
from orchestrator.ledger.check import check
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.schema import upgrade
from orchestrator.ledger.states import Cause, JobState, Outcome
from orchestrator.ledger.submission import new_job
from orchestrator.service.local_nodes import nodes_for
from orchestrator.service.logs import FileLogArchive
from orchestrator.service.visits import Visits
from orchestrator.spec import Cluster, TrainJob, load_text
from tests.cluster.ray_train_runs import FAST, PACE, ROOT, set_pace

pytestmark = pytest.mark.cluster
PATIENCE_S, LOOK_S = 240.0, 0.1

CLUSTER = """
apiVersion: tideline/v1
kind: Cluster
metadata: {name: two-nodes}
spec:
  ray: {address: local}
  pools:
  - {name: cores, device: cpu, resource: CPU, devices_per_node: 2, count: 4, market: on_demand, price: "0.36",
     capacity: {source: ray}}
  tenants:
  - {name: red}
  - {name: blue}
  queues:
  - {name: patient, tenants: [red], cohort: all, min_run: 0s, quotas: [{pool: cores, nominal: 2, borrow: 2}]}
  - {name: urgent, tenants: [blue], cohort: all, min_run: 0s, quotas: [{pool: cores, nominal: 2}]}
"""

JOB = """
apiVersion: tideline/v1
kind: TrainJob
metadata: {{name: {name}, tenant: {tenant}}}
spec:
  queue: {queue}
  priority: {priority}
  workers: {{min: 2, max: {most}}}
  runtime: {{working_dir: {code}, secrets: [hub-token]}}
  task: ray_train_task:task
  args: {{pace_file: {pace}}}
  data: {{dataset: corpus@latest, seed: 3}}
  batch: {{global_batch_size: 24, micro_batch_size: 2}}
  steps: {steps}
  deepspeed: {{zero_stage: 1, precision: fp32}}
  checkpoint: {{every: 600s, snapshot_every_steps: 50}}
"""
LONG, SHORT = 400, 40


class Plane:
    """A state folder, and the orchestrator process over it."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.file = state / "cluster.yaml"
        self.file.write_text(CLUSTER)
        (self.spec,) = load_text(CLUSTER)
        assert isinstance(self.spec, Cluster)
        self.process: subprocess.Popen[bytes] | None = None
        self.code = state / "project"
        self.code.mkdir()
        (self.code / "ray_train_task.py").write_text((ROOT / "tests" / "cluster" / "ray_train_task.py").read_text())
        for tenant in ("red", "blue"):
            secret = state / "secrets" / tenant / "hub-token"
            secret.parent.mkdir(parents=True)
            secret.write_text(f"of {tenant}\n")
            secret.chmod(0o600)

    @contextmanager
    def edited_code(self) -> Iterator[None]:
        """Somebody works in the folder from which a job was submitted; nothing in it can be imported meanwhile."""
        file = self.code / "ray_train_task.py"
        was = file.read_text()
        file.write_text("half a line (")
        try:
            yield
        finally:
            file.write_text(was)

    @contextmanager
    def ledger(self, *, lead: bool = False) -> Iterator[Ledger]:
        """Its books, also to write in while no orchestrator lives."""
        ledger = Ledger(f"sqlite:///{self.state / 'tide.db'}", holder="test", clock=time.time, patience_s=0.0)
        try:
            if lead:
                upgrade(ledger.database)
                assert ledger.lead()
            yield ledger
        finally:
            ledger.close()

    def submit(self, name: str, tenant: str, queue: str, *, priority: int, most: int, steps: int) -> None:
        text = JOB.format(
            name=name, tenant=tenant, queue=queue, priority=priority, most=most, steps=steps, code=self.code, pace=PACE
        )
        (job,) = load_text(text)
        assert isinstance(job, TrainJob)
        with self.ledger(lead=True) as ledger:
            ledger.apply(self.spec)
            ledger.submit(new_job(with_pinned_code(job, self.state), self.spec, now_s=time.time()))

    def start(self) -> None:
        with (self.state / "orchestrator.log").open("ab") as log:
            command = [sys.executable, "-m", "orchestrator.service", str(self.state), str(self.file)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        for _ in range(round(PATIENCE_S / LOOK_S)):  # looks, not seconds: a machine may stand still meanwhile
            if holds():
                return
            time.sleep(LOOK_S)
        raise AssertionError(f"{what}: not so after {PATIENCE_S:g} s; {self._story()}")

    def _story(self) -> str:
        with self.ledger() as ledger:
            jobs = [(row.id, row.state.value, row.attempt, row.reason, row.detail) for row in ledger.read.jobs()]
        said = [path.read_text()[-1500:] for path in sorted(self.state.glob("jobs/jobs/*/output"))]
        return f"{jobs}\n{(self.state / 'orchestrator.log').read_text()[-3000:]}\n{said}"

    def job_state(self, name: str) -> JobState:
        with self.ledger() as ledger:
            return ledger.read.job(name).state

    def workers(self, name: str) -> int:
        """Workers of the group that made the newest step."""
        steps = self.steps(name)
        return steps[-1].world_size if steps else 0

    def steps(self, name: str) -> list[StepDone]:
        return [event for event in load_events(self.state / "runs" / name) if isinstance(event, StepDone)]

    def groups(self, name: str) -> list[AttemptOpened]:
        return [event for event in load_events(self.state / "runs" / name) if isinstance(event, AttemptOpened)]

    def goes_on(self, name: str) -> None:
        """Some steps further."""
        before = len(self.steps(name))
        self.until(f"{name} goes on", lambda: len(self.steps(name)) >= before + 5)


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    pack(ROOT / "orchestrator", name="corpus", home=tmp_path)
    plane = Plane(tmp_path)
    start_host(tmp_path / "ray", nodes_for(plane.spec))
    try:
        yield plane
    finally:
        if plane.process is not None and plane.process.poll() is None:
            plane.process.kill()
            plane.process.wait()
        for folder in (tmp_path / "jobs" / "jobs").glob("*"):
            birth = JobFolder(folder).read_birth()
            if birth is not None:
                birth.kill()
        stop_host(tmp_path / "ray")


def test_a_job_gives_way_and_grows_back_and_never_notices_that_its_orchestrator_is_killed(plane: Plane) -> None:
    set_pace(0.05)
    await_host(plane.state / "ray", timeout_s=PATIENCE_S)
    plane.submit("patient-job", "red", "patient", priority=10, most=4, steps=LONG)
    plane.start()
    plane.until("the first job runs on all devices", lambda: plane.workers("patient-job") == 4)
    process = JobFolder(plane.state / "jobs" / "jobs" / "patient-job").read_birth()
    plane.kill()
    plane.submit("urgent-job", "blue", "urgent", priority=90, most=2, steps=SHORT)
    plane.goes_on("patient-job")
    with plane.edited_code():
        plane.start()
        plane.until("the first job gives way", lambda: plane.workers("patient-job") == 2)
    plane.until("the second job runs", lambda: plane.workers("urgent-job") == 2)
    plane.kill()
    plane.goes_on("patient-job")
    plane.goes_on("urgent-job")
    plane.start()
    plane.until("the second job is done", lambda: plane.job_state("urgent-job") is JobState.SUCCEEDED)
    plane.until("the first job grows back", lambda: plane.workers("patient-job") == 4)
    asyncio.run(_people_look_inside(plane))
    set_pace(FAST)
    plane.until("the first job is done", lambda: plane.job_state("patient-job") is JobState.SUCCEEDED)
    _is_as_if_nothing_had_happened(plane)
    assert process is not None
    with plane.ledger() as ledger:
        sizes = [(row.cause, row.world_size, row.outcome) for row in ledger.read.attempts("patient-job")]
        assert sizes == [
            (Cause.START, 4, Outcome.STOPPED),
            (Cause.RESIZE, 2, Outcome.STOPPED),
            (Cause.RESIZE, 4, Outcome.SUCCEEDED),
        ]
        for row in ledger.read.attempts("patient-job"):
            assert row.useful_ms > 0
            assert row.useful_ms + row.stalled_ms + row.lost_ms == sum(held for _, held in row.held_ms)
            assert row.lost_ms == 0
        with ledger.database.reading() as connection:
            assert check(connection) == []


async def _people_look_inside(plane: Plane) -> None:
    """A command beside a rank finds its environment; stacks name every rank, its node and step; training goes on."""
    visits = Visits(plane.state / "jobs" / "jobs")
    visit = await visits.begin(
        "patient-job", "t", ["sh", "-c", "echo $RANK $TIDE_JOB; pwd; echo $HUB_TOKEN; exit 7"], rank=3, node=None
    )
    said = [one async for one in visits.watch(visit)]
    out = b"".join(base64.b64decode(one["data"]) for one in said[:-1]).decode()
    where, said_secret = out.splitlines()[1:]
    assert out.splitlines()[0].split() == ["3", "patient-job"]
    assert Path(where).parent == plane.state / "code", "a rank runs in the copy of its code"
    assert said_secret == "of red"
    assert said[-1] == {"code": 7, "why": ""}
    await _people_sit_at_a_terminal(visits)
    dump = await visits.stacks("patient-job", None)
    nodes = plane.groups("patient-job")[-1].nodes
    for rank in range(4):
        assert f"=== rank {rank} on node {nodes[rank][:12]}, in step " in dump["text"]
    assert dump["text"].count("(MainThread)") + dump["text"].count('"MainThread"') >= 4
    assert Path(dump["path"]).read_text() == dump["text"]


async def _people_sit_at_a_terminal(visits: Visits) -> None:
    command = ["sh", "-c", "read line; echo got $line $TERM $RANK; stty size"]
    terminal = {"rows": 30, "columns": 90, "term": "vt100"}
    visit = await visits.begin("patient-job", "t", command, rank=1, node=None, terminal=terminal)
    assert visit.terminal
    await visits.tell(visit, b"this\n", end=False, size={"rows": 30, "columns": 91})
    said = [one async for one in visits.watch(visit)]
    assert {one["stream"] for one in said[:-1]} == {"stdout"}
    out = b"".join(base64.b64decode(one["data"]) for one in said[:-1]).decode()
    assert out.endswith("got this vt100 1\r\n30 91\r\n"), out
    assert said[-1] == {"code": 0, "why": ""}


def _is_as_if_nothing_had_happened(plane: Plane) -> None:
    """Every step was made once, in three groups of one process, and its log was kept from the first to the last."""
    assert [step.step for step in plane.steps("patient-job")] == list(range(1, LONG + 1))
    assert [group.world_size for group in plane.groups("patient-job")] == [4, 2, 4]
    archive = FileLogArchive(plane.state / "logs" / "jobs")
    logs = [archive.chunk("patient-job", number, offset=0, limit=1 << 20) for number in (1, 2, 3)]
    assert all(log.ended for log in logs)
    said = b"".join(log.data for log in logs).decode()
    assert said.count("starting") >= 1
    assert "group 1: 4 workers from step 0 (start)" in said
    assert f"the end: {JobState.SUCCEEDED}" in said
    plane.until("nothing is left of the processes", lambda: not list((plane.state / "jobs" / "jobs").iterdir()))
