"""The process of one study under the control plane: reads orders, searches on its lease, reports every attempt.

The twin of a job's process (`adapters.jobs.process`, which calls `run_as_study`). A study that is stopped has its
trials saved and goes on from its journal, on whatever it is given then.
"""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.jobs.letters import Letter
from orchestrator.adapters.jobs.log_writer import LogWriter
from orchestrator.adapters.jobs.orders import DiskPatience, Orders
from orchestrator.policy.queueing.orders import Phase, Report
from orchestrator.policy.study.values import Rates
from orchestrator.spec import Study, load_text
from orchestrator.spec.errors import ExitCode, UserError

if TYPE_CHECKING:
    from orchestrator.study.events import Event
    from orchestrator.study.record import StudyRecord

TICK_S = 0.2
REPORT_S = 1.0
SEATING = "seating"
"""The part of a stall in which leased workers have no seat yet."""


class StudyDesk:
    """Between the folder and the study: what it may hold, what it holds, and reports. Safe from any thread."""

    def __init__(self, folder: JobFolder, log: LogWriter, now_s: Callable[[], float]) -> None:
        self._folder = folder
        self._log = log
        self._now_s = now_s
        self._lock = threading.RLock()
        self._orders = Orders(folder)
        self._disk = DiskPatience()
        self._turns: list[Letter] = []
        self._over: set[int] = set()
        self._seated_s: dict[int, float] = {}
        self._seen_s: float | None = None
        self._held: dict[str, int] = {}
        self._reported_s = float("-inf")
        self._finished = 0

    def look(self) -> None:
        """Take an order that has come, and report when it is time."""
        with self._lock, self._disk():
            if letter := self._orders.take():
                self._take(letter)
            self._count()
            if self._now_s() - self._reported_s >= REPORT_S:
                self._report()
            self._log.follow()

    def lease(self) -> Mapping[str, int]:
        """Workers that the study may have, by node."""
        with self._lock:
            return dict(self._turns[-1].seats) if self._turns else {}

    def holds(self, workers: Mapping[str, int]) -> None:
        """What its seats hold. Attempts before the newest are over once it holds nothing that is not in its lease."""
        with self._lock:
            self._count()
            self._held = dict(workers)
            seats = self.lease()
            if all(count <= seats.get(node, 0) for node, count in workers.items()):
                self._over |= {turn.attempt for turn in self._turns[:-1]}

    def wants_stop(self) -> int:
        """0 = go on, 1 = stop in order, 2 = at once, for the deadline has passed."""
        with self._lock:
            return self._orders.wants_stop(self._now_s())

    def observe(self, event: Event, record: StudyRecord) -> None:
        """Something has happened in the study."""
        from orchestrator.policy.study.values import TrialState
        from orchestrator.study.events import AttemptOver, Began, Closed, TrialOver

        with self._lock, self._disk():
            self._finished = sum(one.state is TrialState.FINISHED for one in record.trials.values())
            match event:
                case Began(attempt=attempt, step=step, workers=workers):
                    self._log.say(f"{event.trial} attempt {attempt}: {workers} workers from step {step}")
                case AttemptOver(attempt=attempt, step=step):
                    self._log.say(f"{event.trial} attempt {attempt} {event.why} at step {step} {event.detail}".rstrip())
                case TrialOver():
                    self._log.say(f"{event.trial} {event.state} {event.detail}".rstrip())
                case Closed():
                    self._log.say(f"closed: {event.why}: {event.detail}")
                case _:
                    pass

    def finish(self, phase: Phase, detail: str, *, final: bool) -> None:
        """Nobody is left: say how every attempt ended."""
        with self._lock:
            self._log.say(f"the end: {phase}" + (f": {detail}" if detail else ""))
            self._count()
            for turn in self._turns:
                newest = turn is self._turns[-1]
                self._log.end(turn.attempt)
                how = phase if newest else Phase.STOPPED
                self._folder.write_report(self._of(turn, how, detail if newest else "replaced", final and newest))

    def _take(self, letter: Letter) -> None:
        if letter.stop:
            self._log.say("asked to stop")
            return
        self._count()
        self._turns.append(letter)
        self._log.attempt = max(self._log.attempt, letter.attempt)
        self._log.say(f"order {letter.id}: {letter.workers} workers")

    def _count(self) -> None:
        """Leased workers without a seat, over time."""
        now_s = self._now_s()
        if self._turns:
            turn = self._turns[-1]
            since_s = turn.at_s if self._seen_s is None else max(self._seen_s, turn.at_s)
            missing = max(0, turn.workers - sum(self._held.values()))
            before = self._seated_s.get(turn.attempt, 0.0)
            self._seated_s[turn.attempt] = before + missing * max(0.0, now_s - since_s)
            self._seen_s = now_s

    def _report(self) -> None:
        self._reported_s = self._now_s()
        for turn in list(self._turns):
            over = turn.attempt in self._over
            phase = Phase.STOPPED if over else Phase.RUNNING if any(self._held.values()) else Phase.STARTING
            if over:
                self._log.end(turn.attempt)
            if over or turn is self._turns[-1]:
                self._folder.write_report(self._of(turn, phase))
            if over:
                self._turns.remove(turn)

    def _of(self, turn: Letter, phase: Phase, detail: str = "", final: bool = False) -> Report:
        stalled_s = self._seated_s.get(turn.attempt, 0.0)
        return Report(
            job=self._folder.job,
            attempt=turn.attempt,
            phase=phase,
            steps_done=self._finished,
            stalled_worker_s=((SEATING, stalled_s),) if stalled_s else (),
            detail=detail,
            final=final,
        )


def run_as_study(folder: JobFolder, document: Mapping[str, Any], around: Mapping[str, Any], log: LogWriter) -> None:
    """Be a study's process until it ends. The folder is ours already, and the process is not connected to Ray."""
    from orchestrator.adapters.jobs.process import say_the_end

    (study,) = load_text(json.dumps(document), where=folder.job)
    assert isinstance(study, Study), "a study's process has a Study"
    study = study.model_copy(update={"metadata": study.metadata.model_copy(update={"name": folder.job})})
    desk = StudyDesk(folder, log, time.time)
    desk.look()
    ended = threading.Event()
    ticker = threading.Thread(target=_tick, args=(desk, ended), name="desk", daemon=True)
    ticker.start()
    try:
        phase, detail, final = _run(study, desk, around)
    finally:
        ended.set()
        ticker.join()
    say_the_end(lambda: desk.finish(phase, detail, final=final))


def _tick(desk: StudyDesk, ended: threading.Event) -> None:
    while not ended.wait(TICK_S):
        desk.look()


def _run(study: Study, desk: StudyDesk, around: Mapping[str, Any]) -> tuple[Phase, str, bool]:
    import ray

    from orchestrator.adapters.jobs.process import connected
    from orchestrator.adapters.ray_cluster.loopback import for_ray_init
    from orchestrator.adapters.ray_train.signals import StopSignals
    from orchestrator.adapters.ray_tune.run import StudyOptions, run_study

    home = Path(around["home"])
    rates = dearest(around.get("prices", ()), study)
    try:
        with connected(for_ray_init(around["ray"])), StopSignals() as signals:
            options = StudyOptions(
                rates=rates,
                wants_stop=lambda: max(signals(), desk.wants_stop()),
                on_event=desk.observe,
                allotment=desk,
            )
            return _outcome(study, run_study(study, home, options), home, rates)
    except UserError as error:
        return Phase.FAILED, str(error), error.code is not ExitCode.CONFLICT
    except (ray.exceptions.RayError, ConnectionError) as error:
        traceback.print_exc()
        return Phase.LOST, f"Ray was lost: {error}", False
    except Exception as error:
        traceback.print_exc()
        return Phase.FAILED, f"{type(error).__name__}: {error}", False


def _outcome(study: Study, record: StudyRecord, home: Path, rates: Rates) -> tuple[Phase, str, bool]:
    from orchestrator.adapters.ray_tune.run import study_dir
    from orchestrator.study.pages import write_page

    write_page(study, record, rates, study_dir(home, study.metadata.name) / "report.html", running=False)
    if record.closed is None or not record.closed.why.is_done:
        return Phase.STOPPED, "stopped with its trials saved", False
    return (
        Phase.SUCCEEDED,
        f"{record.closed.why}: {found(study, record)}; 'tide study status {study.metadata.name}'",
        True,
    )


def found(study: Study, record: StudyRecord) -> str:
    """What a search has come to, for the books."""
    from orchestrator.study.summary import best_trial, best_values

    done = sum(1 for one in record.trials.values() if one.value(study.spec.metric) is not None)
    best = best_trial(study, record)
    if best is None:
        return f"{done} trials have a result"
    mean = best_values(best, study, record, Rates())["mean"]
    value = best.value(study.spec.metric) if mean is None else mean
    config = ", ".join(
        f"{key} {one:.4g}" if isinstance(one, float) else f"{key} {one}" for key, one in best.config.items()
    )
    return f"{done} trials have a result, the best {study.spec.metric} {value:.5g} ({best.trial}: {config})"


def dearest(prices: Any, study: Study) -> Rates:
    """What a device costs and draws at most: of the pools whose devices a trial's worker can be counted in."""
    asked = study.spec.template.workers.resources.as_ray()
    fitting = [one for one in prices if one["resource"] in asked]
    usd = [float(one["usd"]) for one in fitting if one["usd"] is not None]
    watts = [float(one["watts"]) for one in fitting if one["watts"] is not None]
    return Rates(
        usd_per_device_hour=max(usd) if usd else None,
        watts_per_device=max(watts) if watts else None,
    )
