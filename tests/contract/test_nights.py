"""A nightly job's stages, driven by the cycle over the real books, and what gives way at the end of a night."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.adapters.jobs import ending
from orchestrator.adapters.jobs.chronicle import Chronicle, plan_of
from orchestrator.adapters.jobs.desk import Desk
from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.jobs.letters import Letter, letter_of
from orchestrator.adapters.jobs.log_writer import LogWriter
from orchestrator.adapters.jobs.night import Nights, Steps, end_night
from orchestrator.adapters.ray_train.run import HABITS
from orchestrator.cycle import Ports, run_cycle
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.schema import upgrade
from orchestrator.ledger.states import JobState
from orchestrator.ledger.submission import new_holder
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.lending.session import UNSEEN, Ending, Stage, StageReason
from orchestrator.policy.queueing.decisions import ChangeCause, Evict
from orchestrator.policy.queueing.orders import Measured, NoteKind, Order, Phase, Report
from orchestrator.policy.queueing.places import Pool, flat_pool
from orchestrator.policy.resize import Outlook
from orchestrator.service.staging import AGAIN_S, Staging
from orchestrator.sim.outside import SimEndpoints
from orchestrator.spec import Cluster, load_text
from orchestrator.spec.errors import UserError

EVENING_S = dt.datetime(2026, 6, 2, 21, 50, tzinfo=dt.UTC).timestamp()
OPENS_S, CLOSES_S = EVENING_S + 600.0, EVENING_S + 600.0 + 8 * 3600.0
FINISH_S = 300.0
ENDING = Ending(leave_s=25.0, finish_s=FINISH_S)

CLUSTER = """
apiVersion: tideline/v1
kind: Cluster
metadata: {name: c}
spec:
  pools: [{name: pool, device: cpu, resource: CPU, count: 4, market: on_demand, price: "1", capacity: {source: ray}}]
  windows: [{name: night, start: "22:00", end: "06:00", timezone: UTC, grace: 60s}]
  lending: {pools: [pool], min_slice: 30m}
"""
JOB = """
apiVersion: tideline/v1
kind: TrainJob
metadata: {name: nightly}
spec:
  window: night
  workers: {min: 1, max: 4, resources: {CPU: 1}}
  task: t:t
  data: {dataset: corpus@latest}
  batch: {global_batch_size: 4, micro_batch_size: 1}
  steps: 1000000
  register: {model: m}
"""


@dataclass
class World:
    """Time, capacity, and a runner whose job trains until it is told to stop, and lets go one look later."""

    now: float = EVENING_S
    letters: list[Letter] = field(default_factory=list)
    attempt: int = 0
    stopped: bool = False

    def now_s(self) -> float:
        return self.now

    def observe(self) -> tuple[Pool, ...]:
        return (flat_pool("pool", 4, resource="CPU"),)

    def ask(self, order: Order) -> None:
        letter = letter_of(order, now_s=self.now)
        self.letters.append(letter)
        self.attempt, self.stopped = letter.attempt, letter.stop

    def reports(self) -> tuple[Report, ...]:
        if not self.attempt:
            return ()
        plan = plan_of(min_workers=1, max_workers=4, batch=BatchPlan(4, 1), habits=HABITS)
        known = Measured(
            plan=plan, outlook=(Outlook(workers=4, expected_s=1.0),), stall_s=5.0, stop_s=2.0, ending=ENDING
        )
        phase = Phase.STOPPED if self.stopped else Phase.RUNNING
        return (Report(job="nightly", attempt=self.attempt, phase=phase, measured=None if self.stopped else known),)

    def acknowledge(self, ended: tuple[Report, ...]) -> None:
        if ended:
            self.attempt = 0


@dataclass
class Plane:
    ledger: Ledger
    world: World
    staging: Staging

    def until(self, at_s: float, step_s: float = 60.0) -> None:
        while self.world.now < at_s:
            self.staging(self.world.now)
            world = self.world
            run_cycle(Ports(clock=world, capacity=world, endpoints=SimEndpoints(), ledger=self.ledger, runner=world))
            world.now += step_s

    @property
    def job(self) -> tuple[JobState, str | None]:
        row = self.ledger.read.job("nightly")
        return row.state, row.reason


@pytest.fixture
def staged() -> list[str]:
    return []


@pytest.fixture
def plane(tmp_path: Path, staged: list[str]) -> Iterator[Plane]:
    world = World()
    ledger = Ledger(f"sqlite:///{tmp_path / 'tide.db'}", holder="test", clock=world.now_s, patience_s=1e9)
    upgrade(ledger.database)
    assert ledger.lead()
    cluster, job = *load_text(CLUSTER), *load_text(JOB)
    assert isinstance(cluster, Cluster)
    ledger.apply(cluster)
    ledger.submit(new_holder(job, cluster, now_s=world.now))  # type: ignore[arg-type]

    def stage(ref: str, home: Path) -> int:
        if world.now < EVENING_S + 180.0:
            raise OSError("the store does not answer")
        staged.append(ref)
        return 1

    try:
        yield Plane(ledger, world, Staging(ledger, tmp_path, stage=stage, start=lambda work: work()))
    finally:
        ledger.close()


def test_data_is_staged_before_the_night_and_the_nights_end_is_ordered_before_the_close(
    plane: Plane, staged: list[str]
) -> None:
    plane.until(EVENING_S + 120.0)
    assert plane.job == (JobState.QUEUED, "DataNotStaged")
    plane.until(EVENING_S + 180.0 + 2 * AGAIN_S)
    assert plane.job == (JobState.QUEUED, "OutsideWindow")
    assert staged == ["corpus@latest"]
    plane.until(OPENS_S + 180.0)
    assert plane.job[0] is JobState.RUNNING
    plane.until(CLOSES_S - FINISH_S - 60.0)
    assert plane.job[0] is JobState.RUNNING
    plane.until(CLOSES_S - FINISH_S + 120.0)
    stop = plane.world.letters[-1]
    assert (stop.stop, stop.night_over, stop.until_s) == (True, True, CLOSES_S)
    assert CLOSES_S - FINISH_S <= stop.at_s < CLOSES_S - FINISH_S + 60.0
    assert plane.job == (JobState.QUEUED, "WindowTooShort")
    assert plane.ledger.read.job("nightly").preemptions == 0
    before = len(plane.world.letters)
    plane.until(CLOSES_S + 3600.0)
    assert len(plane.world.letters) == before
    plane.until(OPENS_S + 86_400.0 + 180.0)
    assert plane.job[0] is JobState.RUNNING
    assert len(staged) == 2


@pytest.mark.parametrize(
    ("checkpoint_s", "told"),
    [(5.0, (JobState.RUNNING, None)), (295.0, (JobState.QUEUED, "WindowTooShort"))],
    ids=["there is room for it", "there is none"],
)
def test_what_ended_earlier_nights_is_known_before_one_begins(
    plane: Plane, tmp_path: Path, checkpoint_s: float, told: tuple[JobState, str | None]
) -> None:
    nights = Nights(tmp_path / "runs" / "nightly")
    nights.took(Stage.CHECKPOINT, checkpoint_s)
    plane.world.now = CLOSES_S - 1800.0 - 180.0
    plane.until(plane.world.now + 180.0)
    assert plane.job == told
    staged = nights.take_staged()
    assert staged is not None
    assert staged[1].startswith("corpus@latest")
    assert nights.take_staged() is None


def test_nights_that_nobody_can_read_keep_no_job_from_starting(plane: Plane, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "nightly"
    run.mkdir(parents=True)
    (run / "nights.json").write_text("{")
    plane.world.now = OPENS_S
    plane.until(OPENS_S + 180.0)
    assert plane.job[0] is JobState.RUNNING


def test_a_data_set_that_there_is_not_keeps_no_job_from_saying_so(tmp_path: Path, plane: Plane) -> None:
    def stage(ref: str, home: Path) -> int:
        raise UserError("there is no such data set")

    plane.staging = Staging(plane.ledger, tmp_path, stage=stage, start=lambda work: work())
    plane.until(OPENS_S + 180.0)
    assert plane.job[0] is JobState.RUNNING


# --- In the job's process ---------------------------------------------------------------------------------------------


@dataclass
class Night:
    """The end of a night at a time that its stages move."""

    folder: Path
    at_s: float = 1000.0
    told: list[tuple[Stage, StageReason]] = field(default_factory=list)

    def end(self, until_s: float, *, saved: bool = True, registers: bool = True, takes: float = 10.0) -> str:
        def work(words: str) -> str:
            self.at_s += takes
            return words

        asked_s, self.at_s = self.at_s, self.at_s + 5.0
        steps = Steps(evaluate=lambda: work("evaluated"), register=lambda: work("registered as m@1"))
        return end_night(
            Nights(self.folder), steps, asked_s=asked_s, until_s=asked_s + until_s, saved=saved, registers=registers,
            now_s=lambda: self.at_s, say=lambda stage, reason, seconds, said: self.told.append((stage, reason)),
        )  # fmt: skip

    @property
    def stages(self) -> list[Stage]:
        return list(dict.fromkeys(stage for stage, _ in self.told))


def test_a_night_ends_with_evaluation_and_registration_and_learns_what_they_take(tmp_path: Path) -> None:
    night = Night(tmp_path)
    assert Nights(tmp_path).times == UNSEEN
    assert UNSEEN.ending(registers=True) == Ending(leave_s=25.0, finish_s=105.0)
    assert night.end(600.0) == "its night is over; evaluated; registered as m@1"
    assert night.stages == [Stage.CHECKPOINT, Stage.EVALUATE, Stage.REGISTER, Stage.RELEASE]
    times = Nights(tmp_path).times
    assert (times.checkpoint_s, times.evaluate_s, times.register_s) == (5.0, 10.0, 10.0)


@pytest.mark.parametrize(
    ("until_s", "options", "stages", "words"),
    [
        (80.0, {}, [Stage.CHECKPOINT, Stage.RELEASE], "waits for another night"),
        (600.0, {"saved": False}, [Stage.RELEASE], "waits for another night"),
        (600.0, {"registers": False}, [Stage.CHECKPOINT, Stage.RELEASE], "its night is over"),
        (95.0, {"takes": 80.0}, [Stage.CHECKPOINT, Stage.EVALUATE, Stage.RELEASE], "waits for another night"),
    ],
    ids=["no time for both", "nothing on storage", "a job without a model", "evaluation took longer than ever"],
)
def test_what_does_not_fit_is_left_out_and_the_release_never_waits(
    tmp_path: Path, until_s: float, options: dict[str, float], stages: list[Stage], words: str
) -> None:
    night = Night(tmp_path)
    assert words in night.end(until_s, **options)  # type: ignore[arg-type]
    assert night.stages == stages


def test_an_evaluation_that_fails_costs_a_version_and_not_the_job(tmp_path: Path) -> None:
    def broken() -> str:
        raise OSError("no space left on device")

    told: list[str] = []
    said = end_night(
        Nights(tmp_path), Steps(evaluate=broken, register=broken), asked_s=0.0, until_s=600.0, saved=True,
        registers=True, now_s=lambda: 5.0, say=lambda stage, reason, seconds, words: told.append(words),
    )  # fmt: skip
    assert "evaluate failed: OSError: no space left on device; registration waits for another night" in said
    assert "evaluate failed: OSError: no space left on device" in told
    assert Nights(tmp_path).times.evaluate_s == 60.0  # nothing is learnt from it


@pytest.mark.parametrize("cause", [ChangeCause.RECALL, ChangeCause.EMERGENCY])
def test_a_stop_for_devices_that_are_called_back_says_so_and_can_be_overtaken(
    tmp_path: Path, cause: ChangeCause
) -> None:
    what = Evict(job="a", cause=cause, detail="", drain_until_s=99.0)
    letter = letter_of(Order(id="a-a1-stop", what=what, attempt=1), now_s=9.0)
    assert (letter.called_back, letter.night_over) == (True, False)
    assert Letter.from_json({**letter.to_json(), "a later version's": 1}) == letter
    folder, desk = a_desk(tmp_path)
    folder.write_order(letter)
    desk.look()
    assert desk.night_over == letter
    assert not desk.is_overtaken()
    folder.write_order(Letter(id="a-a2", attempt=2, at_s=50.0, seats={"n": 1}))
    assert desk.is_overtaken()


class _Result:
    """A run that was stopped in order, as far as the end of a night looks at it."""

    def __init__(self, run_dir: Path, *, saved: bool = True) -> None:
        self.run_dir, self.steps, self.checkpoint_step = run_dir, 7, 7 if saved else 3


@pytest.mark.parametrize("called_back", [False, True], ids=["window closes", "devices are called back"])
def test_who_waits_for_the_devices_does_not_wait_for_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called_back: bool
) -> None:
    done: list[str] = []
    steps = Steps(evaluate=lambda: done.append("evaluated") or "evaluated", register=lambda: "registered as m@1")  # type: ignore[func-returns-value]
    monkeypatch.setattr(ending, "steps_of", lambda job, result, home: steps)
    (job,) = load_text(JOB)
    stop = Letter(
        id="a", attempt=1, at_s=0.0, stop=True, until_s=1e12, night_over=not called_back, called_back=called_back
    )
    end = ending.end_of_night(job, _Result(tmp_path), tmp_path, stop, lambda *said: None)  # type: ignore[arg-type]
    assert end.phase is Phase.STOPPED
    assert done == ([] if called_back else ["evaluated"])
    end.afterwards()
    assert done == ["evaluated"]
    nights = Nights(tmp_path)
    assert nights.take_afterwards() == ("its night is over; evaluated; registered as m@1" if called_back else "")
    assert nights.take_afterwards() == ""


def test_nothing_is_evaluated_of_a_night_whose_last_steps_are_on_no_storage(tmp_path: Path) -> None:
    (job,) = load_text(JOB)
    stop = Letter(id="a", attempt=1, at_s=0.0, stop=True, until_s=1.0, called_back=True)
    end = ending.end_of_night(job, _Result(tmp_path, saved=False), tmp_path, stop, lambda *said: None)  # type: ignore[arg-type]
    end.afterwards()
    assert Nights(tmp_path).take_afterwards() == ""


def test_what_is_done_without_devices_ends_at_once_when_the_job_is_ordered_again() -> None:
    script = (
        "import threading; from orchestrator.adapters.jobs.ending import do_afterwards; "
        "do_afterwards(threading.Event().wait, lambda: True); print('went on')"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == ""


def test_what_fails_without_devices_costs_nothing_but_itself(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise OSError("no space left on device")

    ending.do_afterwards(broken, lambda: False)
    assert "no space left on device" in capsys.readouterr().err


def a_desk(root: Path) -> tuple[JobFolder, Desk]:
    folder = JobFolder(root / "jobs" / "a")
    plan = plan_of(min_workers=1, max_workers=4, batch=BatchPlan(4, 1), habits=HABITS)
    chronicle = Chronicle("a", plan=plan, steps=9, habits=HABITS, ending=Ending(finish_s=30.0))
    desk = Desk(folder, chronicle, LogWriter(root / "logs", "a", root / "r", lambda: "12:00"), lambda: 50.0)
    folder.write_order(Letter(id="a-a1", attempt=1, at_s=0.0, seats={"n": 1}))
    desk.look()
    return folder, desk


def test_stages_are_told_in_the_log_and_in_the_reports(tmp_path: Path) -> None:
    folder, desk = a_desk(tmp_path)
    assert desk.night_over is None
    folder.write_order(Letter(id="a-a1-stop", attempt=1, at_s=9.0, stop=True, until_s=99.0, night_over=True))
    desk.look()
    assert desk.night_over is not None
    desk.stage(Stage.EVALUATE, StageReason.IN_ORDER, 3.0, "evaluated")
    (report,) = folder.read_reports()
    (note,) = report.notes
    assert note.kind is NoteKind.SESSION
    assert dict(note.data) == {"stage": "evaluate", "reason": "in_order", "seconds": 3.0, "said": "evaluated"}
