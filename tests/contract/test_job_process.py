"""The job's side of its folder: orders become leases and wishes to stop, events become reports and lines of the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.adapters.jobs.archive import FileLogArchive
from orchestrator.adapters.jobs.chronicle import Chronicle, plan_of
from orchestrator.adapters.jobs.desk import REPORT_S, Desk
from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.jobs.letters import Letter, letter_of
from orchestrator.adapters.jobs.log_writer import LogWriter
from orchestrator.adapters.jobs.process import as_run
from orchestrator.adapters.ray_train.events import AttemptClosed, AttemptOpened, Cause, Outcome, StepDone
from orchestrator.adapters.ray_train.run import HABITS
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.queueing.decisions import ChangeCause, Resize, Seats
from orchestrator.policy.queueing.orders import Order, Phase
from tests.cluster.ray_train_runs import make_job

T0 = 1000.0


class Job:
    """A job's process without Ray, at a time that the test sets."""

    def __init__(self, root: Path) -> None:
        self.at_s = T0
        self.folder = JobFolder(root / "jobs" / "a")
        self.ranks = root / "runs" / "a" / "logs"
        self.archive = FileLogArchive(root / "logs")
        plan = plan_of(min_workers=1, max_workers=4, batch=BatchPlan(24, 2), habits=HABITS)
        chronicle = Chronicle("a", plan=plan, steps=100, habits=HABITS)
        log = LogWriter(root / "logs", "a", self.ranks, lambda: "12:00")
        self.desk = Desk(self.folder, chronicle, log, lambda: self.at_s)

    def order(self, attempt: int, workers: int, *, stop: bool = False, until_s: float | None = None) -> None:
        seats = {} if stop else {"n": workers}
        suffix = "-stop" if stop else ""
        letter = Letter(
            id=f"a-a{attempt}{suffix}", attempt=attempt, at_s=self.at_s, seats=seats, stop=stop, until_s=until_s
        )
        self.folder.write_order(letter)
        self.desk.look()

    def runs(self, workers: int, step: int) -> None:
        opened = AttemptOpened(
            at_s=self.at_s, attempt=1, cause=Cause.START, world_size=workers, start_step=step - 1,
            nodes=("n",) * workers,
        )  # fmt: skip
        self.desk.observe(opened)
        self.at_s += 1.0
        self.desk.observe(
            StepDone(
                at_s=self.at_s, attempt=1, step=step, world_size=workers, loss=2.5, lr=0.1, grad_norm=1.0,
                num_tokens=1, step_s=1.0,
            )
        )  # fmt: skip

    def phases(self) -> dict[int, Phase]:
        return {one.attempt: one.phase for one in self.folder.read_reports()}

    def log(self, attempt: int = 1) -> str:
        return self.archive.chunk("a", attempt, offset=0, limit=10_000).data.decode()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_an_order_is_a_lease_on_its_seats(job: Job) -> None:
    job.order(1, 3)
    lease = job.desk.lease()
    assert (lease.workers, lease.seats) == (3, {"n": 3})
    assert job.phases() == {1: Phase.STARTING}
    assert job.desk.wants_stop() == 0


def test_a_stop_is_asked_in_order_and_after_its_deadline_at_once(job: Job) -> None:
    job.order(1, 3)
    job.order(1, 0, stop=True, until_s=T0 + 10.0)
    assert job.desk.wants_stop() == 1
    assert job.desk.lease().workers == 3
    job.at_s = T0 + 11.0
    assert job.desk.wants_stop() == 2


def test_a_resize_ends_the_attempt_before_with_its_log(job: Job) -> None:
    job.order(1, 4)
    job.runs(4, 1)
    job.order(2, 2)
    assert not job.archive.chunk("a", 1, offset=0, limit=1).ended
    job.desk.observe(AttemptClosed(at_s=job.at_s, attempt=1, outcome=Outcome.PLANNED, cause=Cause.SHRINK, step=1))
    job.runs(2, 2)
    assert job.phases() == {1: Phase.STOPPED, 2: Phase.RUNNING}
    assert job.archive.chunk("a", 1, offset=0, limit=10_000).ended
    assert "order a-a1: 4 workers" in job.log(1)
    assert "group 1: 2 workers from step 1" in job.log(2)


def test_an_end_that_was_said_is_not_said_again(job: Job) -> None:
    job.order(1, 4)
    job.runs(4, 1)
    job.order(2, 4)
    job.desk.look()
    assert job.phases()[1] is Phase.STOPPED
    job.folder.drop_report(1)  # it was acknowledged
    job.at_s += REPORT_S
    job.desk.look()
    assert 1 not in job.phases()


def test_what_ranks_write_is_kept_line_by_line(job: Job) -> None:
    job.order(1, 2)
    job.ranks.mkdir(parents=True)
    (job.ranks / "rank-0.log").write_bytes(b"one\ntw")
    job.desk.look()
    assert job.log().endswith("[rank-0] one\n")
    with (job.ranks / "rank-0.log").open("ab") as file:
        file.write(b"o\n")
    job.desk.look()
    assert job.log().endswith("[rank-0] one\n[rank-0] two\n")


def test_the_end_is_said_for_every_attempt_after_the_last_line_of_the_log(job: Job) -> None:
    job.order(1, 2)
    job.runs(2, 1)
    job.ranks.mkdir(parents=True)
    (job.ranks / "rank-0.log").write_bytes(b"last words\n")
    job.desk.finish(Phase.FAILED, "its loss is not a number", final=True)
    (report,) = job.folder.read_reports()
    assert (report.phase, report.detail, report.final) == (Phase.FAILED, "its loss is not a number", True)
    assert "[rank-0] last words\n" in job.log()
    assert "the end: failed: its loss is not a number" in job.log()
    assert job.archive.chunk("a", 1, offset=0, limit=10_000).ended


def test_a_disk_that_is_full_for_a_moment_ends_no_run(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: JobFolder, report: object) -> None:
        raise OSError("no space left on device")

    job.order(1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(JobFolder, "write_report", full)
        job.runs(2, 1)
        job.at_s += REPORT_S
        job.desk.look()
        job.desk.look()
    assert capsys.readouterr().err.count("OSError: no space left on device") == 1
    job.at_s += REPORT_S
    job.desk.look()
    assert job.phases() == {1: Phase.RUNNING}


def test_an_order_that_comes_while_the_disk_is_full_is_followed(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: LogWriter, sentence: str) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LogWriter, "say", full)
        job.order(1, 2)
    assert job.desk.lease().workers == 2
    job.at_s += REPORT_S
    job.desk.look()
    assert job.phases() == {1: Phase.STARTING}


def test_a_later_job_of_the_same_name_does_not_go_on_from_this_ones_state() -> None:
    found = as_run(make_job("nightly").to_document(), "nightly.2")
    assert found.metadata.name == "nightly.2"


def test_seats_that_are_called_back_are_due_and_what_follows_a_stop_is_for_another_process(job: Job) -> None:
    job.order(1, 4)
    assert job.desk.lease().others_end_s is None
    job.order(2, 2, until_s=T0 + 5.0)
    assert job.desk.lease().others_end_s == T0 + 5.0
    job.order(2, 0, stop=True, until_s=T0 + 9.0)
    assert job.desk.lease().others_end_s is None
    job.order(3, 4)
    assert job.desk.wants_stop() == 1
    assert job.desk.lease().workers == 2


@pytest.mark.parametrize(
    ("cause", "until_s", "urgent"),
    [(ChangeCause.EMERGENCY, T0, True), (ChangeCause.RECALL, T0, False), (ChangeCause.GROWS, None, False)],
)
def test_only_who_is_called_back_is_killed_when_it_is_late(
    cause: ChangeCause, until_s: float | None, urgent: bool
) -> None:
    what = Resize(job="a", placement=(Seats("p", "n", 2),), cause=cause, detail="", drain_until_s=T0)
    letter = letter_of(Order(id="a-a2", what=what, attempt=2), now_s=T0)
    assert (letter.until_s, letter.urgent) == (until_s, urgent)
    assert Letter.from_json(json.loads(json.dumps(letter.to_json()))) == letter
    assert ("urgent" in letter.to_json()) is urgent  # a process of an earlier version knows no such word
