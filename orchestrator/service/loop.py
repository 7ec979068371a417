"""The thread that runs the control cycle while this process leads.

It never dies silently: whatever a cycle raises is logged and kept for `health`, and the next one is tried. Somebody
else leads: it stands by and asks again. Something does not answer: it asks again after 1, 2, 4 periods, never so late
that the lead would be lost for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import structlog

from orchestrator.adapters.jobs.archive import FileLogArchive
from orchestrator.cycle import CycleReport, Ports, run_cycle
from orchestrator.ledger.errors import NotLeadingError
from orchestrator.policy.queueing.roll import Roll
from orchestrator.ports import FencedError, UnreachableError
from orchestrator.service.footprint import Footprint
from orchestrator.service.metrics import PlaneMetrics

log = structlog.get_logger(__name__)

LONGEST_BACKOFF_S = 3.0
"""A leader that says nothing for ten seconds has lost the lead; the loop says something at least this often."""


@runtime_checkable
class Leading(Protocol):
    """A ledger with a leader, as `orchestrator.ledger.repository.Ledger` is one."""

    def lead(self) -> bool:
        """Lead if nobody else does, or go on leading; False if somebody else leads."""
        ...


class Chore(Protocol):
    """Something that the leader does before each cycle. It may raise what a cycle may."""

    def __call__(self, now_s: float) -> float | None:
        """Do what is due; when to be called again at the latest (UTC seconds), None = with the next cycle."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopHealth:
    """How the loop is. `cycles` were run to their end; `last_error` is the sentence of the last round if it failed."""

    leading: bool
    cycles: int
    last_cycle_at_s: float | None
    last_error: str | None


def _say_nothing(job: str) -> None:
    """Nothing is known of it."""
    return


def _ignore(report: CycleReport, seconds: float) -> None:
    """Nobody counts cycles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePorts(Ports):
    """The ports of a live control plane. `logs`: of attempts. `chores` are done by the leader before every cycle;
    `observe` is told of every cycle with the seconds that it took. `describe`: how an endpoint
    stands, and `footprint`: what a job has used, for people. `metrics` is a collector for whoever is scraped."""

    logs: FileLogArchive
    chores: tuple[Chore, ...] = ()
    observe: Callable[[CycleReport, float], None] = _ignore
    metrics: PlaneMetrics | None = None
    describe: Callable[[str], dict[str, Any] | None] = _say_nothing
    footprint: Callable[[str], Footprint | None] = _say_nothing


class ControlLoop:
    """One thread that leads and runs cycles, and what else its ports (`LivePorts`) ask for."""

    def __init__(self, ports: Ports, *, every_s: float = 1.0) -> None:
        if not isinstance(ports.ledger, Leading):
            raise TypeError(f"{type(ports.ledger).__name__} has no lead(): nobody would know who decides")
        self._ports = ports
        self._ledger: Leading = ports.ledger
        self._every_s = every_s
        self._chores = ports.chores if isinstance(ports, LivePorts) else ()
        self._observe = ports.observe if isinstance(ports, LivePorts) else _ignore
        if isinstance(ports, LivePorts) and ports.metrics is not None:
            ports.metrics.leading = lambda: self._health.leading
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed_rounds = 0
        self._roll = Roll()
        self._health = LoopHealth(leading=False, cycles=0, last_cycle_at_s=None, last_error=None)

    def start(self) -> None:
        """Begin. Calling it twice is an error of the caller's."""
        if self._thread is not None:
            raise ValueError("the control loop was started already")
        self._thread = threading.Thread(target=self._run, name="control-loop", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End after the present round. Raises: TimeoutError when that takes longer."""
        self._stopping.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                raise TimeoutError(f"the control loop did not end within {timeout_s:g} s")

    def wake(self) -> None:
        """Run the next cycle now: something was written."""
        self._woken.set()

    def health(self) -> LoopHealth:
        """How it is now."""
        return self._health

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._woken.clear()  # before looking: what is written from here on wakes the next round
                self._woken.wait(self._round())
        finally:
            self._health = replace(self._health, leading=False)

    def _round(self) -> float:
        """One attempt to lead and run a cycle; how long to rest after it."""
        try:
            return self._lead_and_cycle()
        except (FencedError, NotLeadingError) as error:
            log.warning("somebody else leads", error=str(error))
            self._health = replace(self._health, leading=False, last_error=None)
            return self._every_s
        except UnreachableError as error:
            return self._failed("not reached; trying again", error)
        except Exception as error:
            return self._failed("a control cycle failed", error, exc_info=True)

    def _lead_and_cycle(self) -> float:
        if not self._ledger.lead():
            if self._health.leading:
                log.warning("somebody else leads")
            self._health = replace(self._health, leading=False, last_error=None)
            self._failed_rounds = 0
            return self._every_s
        if not self._health.leading:
            log.info("this process leads")
            self._health = replace(self._health, leading=True)
        due_s = [self._every_s]
        for chore in self._chores:
            now_s = self._ports.clock.now_s()
            again_s = chore(now_s)
            due_s += [] if again_s is None else [max(0.0, again_s - now_s)]
        began_s = time.perf_counter()
        report = run_cycle(self._ports, self._roll)
        self._observe(report, time.perf_counter() - began_s)
        self._failed_rounds = 0
        self._health = LoopHealth(
            leading=True, cycles=self._health.cycles + 1, last_cycle_at_s=report.now_s, last_error=None
        )
        wake_s = report.decisions.wake_at_s
        return min([*due_s, *([] if wake_s is None else [max(0.0, wake_s - report.now_s)])])

    def _failed(self, what: str, error: Exception, *, exc_info: bool = False) -> float:
        sentence = f"{type(error).__name__}: {error}"
        if self._health.last_error != sentence:
            log.error(what, error=sentence, exc_info=exc_info)
        rest_s = min(self._every_s * 2.0**self._failed_rounds, max(LONGEST_BACKOFF_S, self._every_s))
        self._failed_rounds += 1
        self._health = replace(self._health, last_error=sentence)
        return rest_s
