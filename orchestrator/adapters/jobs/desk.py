"""A job's desk: orders come in and reports go out by its folder, while the run goes on in other threads.

Refuses to know how a job is run, and who reads what it reports.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.adapters.jobs.chronicle import Chronicle
from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.jobs.letters import Letter
from orchestrator.adapters.jobs.log_writer import LogWriter
from orchestrator.adapters.jobs.orders import DiskPatience, Orders
from orchestrator.policy.lending.session import Stage, StageReason
from orchestrator.policy.queueing.orders import Phase, Report

if TYPE_CHECKING:
    from orchestrator.adapters.ray_train.events import Event
    from orchestrator.adapters.ray_train.lease import Lease

REPORT_S = 1.0


class Desk:
    """Between the folder and the run: the newest order, and reports as the run goes on. Safe from any thread."""

    def __init__(self, folder: JobFolder, chronicle: Chronicle, log: LogWriter, now_s: Callable[[], float]) -> None:
        self._folder = folder
        self._chronicle = chronicle
        self._log = log
        self._now_s = now_s
        self._lock = threading.RLock()
        self._orders = Orders(folder)
        self._disk = DiskPatience()
        self._seats: dict[str, int] = {}
        self._reported_at_s = float("-inf")
        self._said: list[tuple[int, Phase]] = []

    def look(self) -> None:
        """Take an order that has come, and report when it is time."""
        with self._lock, self._disk():
            if letter := self._orders.take():
                self._take(letter)
            if self._now_s() - self._reported_at_s >= REPORT_S:
                self._report(self._chronicle.reports(self._now_s()))
            self._log.follow()

    def _take(self, letter: Letter) -> None:
        """Words come last: a disk that takes none must not keep an order from being followed."""
        if not letter.stop:
            self._seats = dict(letter.seats)
        self._chronicle.take(letter)
        self._log.say("asked to stop" if letter.stop else f"order {letter.id}: {letter.workers} workers")
        self._report(self._chronicle.reports(self._now_s()))

    def observe(self, event: Event) -> None:
        """Something has happened in the run."""
        with self._lock:
            self._chronicle.observe(event)
            with self._disk():
                reports = self._chronicle.reports(self._now_s())
                if [(one.attempt, one.phase) for one in reports] != self._said:
                    self._report(reports)
                self._log.event(event)

    @property
    def order(self) -> Letter | None:
        """The order that holds."""
        with self._lock:
            return self._orders.newest

    @property
    def night_over(self) -> Letter | None:
        """The stop that ended the job's night, if it was one: at a close, or because lent devices are called back."""
        order = self.order
        return order if order is not None and (order.night_over or order.called_back) else None

    def is_overtaken(self) -> bool:
        """Whether the job was ordered again since it was stopped. For what goes on after `finish`."""
        with self._lock, self._disk():
            self._orders.take()
        return self._orders.is_overtaken

    def stage(self, stage: Stage, reason: StageReason, seconds: float | None, said: str) -> None:
        """A stage of the night has begun (no seconds), or is over: said in the log and in the report."""
        took = {} if seconds is None else {"seconds": round(seconds, 3)}
        with self._lock:
            self._chronicle.session(self._now_s(), stage=stage.value, reason=reason.value, **took, said=said)
            with self._disk():
                when = "" if seconds is None else f" ({seconds:.1f} s)"
                self._log.say(f"night: {stage}{when}" + (f": {said}" if said else ""))
                self._report(self._chronicle.reports(self._now_s()))

    def finish(self, phase: Phase, detail: str, *, final: bool = False) -> None:
        """Nobody is left: say how every attempt ended, and end the log. Raises: OSError where it cannot be said."""
        with self._lock:
            with self._disk():
                self._log.say(f"the end: {phase}" + (f": {detail}" if detail else ""))
            for report in self._chronicle.finish(phase, detail, self._now_s(), final=final):
                with self._disk():
                    self._log.end(report.attempt)
                self._folder.write_report(report)

    def _report(self, reports: tuple[Report, ...]) -> None:
        """The log of an attempt is whole before its end is said."""
        self._reported_at_s = self._now_s()
        self._said = [(one.attempt, one.phase) for one in reports if not one.over]
        for report in reports:
            if report.over:
                self._log.end(report.attempt)
            else:
                self._log.attempt = max(self._log.attempt, report.attempt)
            self._folder.write_report(report)
            if report.over:
                self._chronicle.forget(report.attempt)

    def wants_stop(self) -> int:
        """0 = go on, 1 = stop in order, 2 = at once, for the deadline has passed."""
        with self._lock:
            return self._orders.wants_stop(self._now_s())

    def lease(self) -> Lease:
        """What the run may hold."""
        from orchestrator.adapters.ray_train.lease import Lease

        with self._lock:
            order = self._orders.newest
            due_s = None if order is None or order.stop else order.until_s
            return Lease(workers=sum(self._seats.values()), seats=dict(self._seats), others_end_s=due_s)
