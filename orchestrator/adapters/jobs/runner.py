"""The control plane's `Runner`: job processes that live in sessions of their own, found again by the job's id.

A process may be started twice in a crash; only one gets the folder's lock, the other ends. A process that dies without
a word is reported for it: failed, or lost if Ray cannot be reached either.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import structlog

from orchestrator.adapters.detached import reap, spawn
from orchestrator.adapters.files import read_json, write_json
from orchestrator.adapters.jobs.folder import Birth, JobFolder
from orchestrator.adapters.jobs.letters import Letter, letter_of
from orchestrator.adapters.jobs.night import AFTERWARDS_S
from orchestrator.policy.queueing.orders import Order, Phase, Report
from orchestrator.ports import UnreachableError

log = structlog.get_logger(__name__)

MAX_TRIES = 3
"""Starts of a process that never took its order."""
STOP_PATIENCE_S = 30.0
"""Beyond the deadline of a stop; then the process is killed, and Ray ends its workers."""
OUTLIVED = frozenset({"Endpoint"})
"""Kinds whose process leaves something that goes on without it: a stop is over once that was taken down, too."""
UNORDERED_S = 60.0
"""How long what is left goes on between two attempts; after that somebody else may have been given its devices."""
BETWEEN_SWEEPS_S = 30.0
UNHEARD = "unheard"
"""The part of a stall between an attempt's end and the moment when the control plane heard of it."""
_SAID_BYTES = 600


class JobRunner:
    """Job processes under `root`. `document` tells what a job is; `surroundings` (address of Ray, folders) and
    `environment` are given to each process as it starts; `is_reachable` asks whether Ray answers; `is_over` whether a
    job has ended for good.

    Used from one thread.
    """

    def __init__(
        self,
        root: Path,
        *,
        command: Sequence[str],
        document: Callable[[str], Mapping[str, Any]],
        surroundings: Callable[[], Mapping[str, Any]],
        environment: Callable[[], Mapping[str, str]],
        is_reachable: Callable[[], bool],
        now_s: Callable[[], float],
        is_over: Callable[[str], bool] = lambda job: False,
    ) -> None:
        self._root = root
        self._command = tuple(command)
        self._document = document
        self._surroundings = surroundings
        self._environment = environment
        self._is_reachable = is_reachable
        self._now_s = now_s
        self._is_over = is_over
        self._children: set[int] = set()
        self._swept_s: dict[str, float] = {}

    # --- ports.Runner ------------------------------------------------------------------------------------------------

    def ask(self, order: Order) -> None:
        """Take an order; one that was taken before, or that a later one has overtaken, changes nothing."""
        letter = letter_of(order, now_s=self._now_s())
        folder = self._folder(order.what.job)
        with _disk(folder):
            if letter.attempt < self._acknowledged(folder.job) or (
                letter.attempt == self._acknowledged(folder.job) and not letter.stop
            ):
                return
            if letter.follows(folder.read_order()):
                if any(report.phase is Phase.SUCCEEDED for report in folder.read_reports()):
                    return  # it is done: the end is on its way into the books
                if not letter.stop:
                    folder.write_job(self._document(folder.job), self._surroundings())
                folder.write_order(letter)
            self._ensure(folder)

    def reports(self) -> tuple[Report, ...]:
        """How every attempt is. Raises: UnreachableError when the folder cannot be read."""
        self._reap()
        return tuple(report for folder in self._folders() for report in self._reports(folder))

    def acknowledge(self, ended: Sequence[Report]) -> None:
        """Forget these ends; a job that has no more to say is forgotten whole."""
        for report in ended:
            folder = self._folder(report.job)
            with _disk(folder):
                if report.attempt > self._acknowledged(folder.job):
                    write_json(self._past(folder.job), {"attempt": report.attempt})
                folder.drop_report(report.attempt)
                self._tidy(folder)

    # --- For the control plane alone ---------------------------------------------------------------------------------

    def revise(self, job: str, document: Mapping[str, Any]) -> None:
        """What a job is has changed: its process, if it has one, reads it. Raises: UnreachableError."""
        folder = self._folder(job)
        with _disk(folder):
            if folder.kind and folder.read_job()[0] != document:
                folder.write_job(document, folder.read_job()[1])

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _reports(self, folder: JobFolder) -> Iterator[Report]:
        with _disk(folder):
            # Asked first: an end that was written before the process died is then seen below.
            alive = folder.is_alive
            letter, reports = folder.read_order(), folder.read_reports()
            if letter is None:
                return
            if alive:
                self._hurry(folder, letter)
            elif not self._tidy(folder):
                reports = self._after_death(folder, letter, reports)
            yield from (self._until_now(folder, letter, report) for report in reports)

    def _until_now(self, folder: JobFolder, letter: Letter, report: Report) -> Report:
        """Devices are leased until an end is in the books: nothing was done with them since it was said."""
        if not report.over or report.attempt < letter.attempt:
            return report
        seconds = letter.workers * max(0.0, self._now_s() - folder.reported_s(report.attempt))
        return replace(report, stalled_worker_s=(*report.stalled_worker_s, (UNHEARD, seconds)))

    def _after_death(self, folder: JobFolder, letter: Letter, reports: tuple[Report, ...]) -> tuple[Report, ...]:
        """Reports once nobody lives who could write them: each attempt has an end, or its order is tried again."""
        number = letter.attempt
        newest = next((one for one in reports if one.attempt == number), None)
        if newest is None and not letter.stop and self._ensure(folder):
            return reports
        if letter.stop and (newest is None or not newest.over) and self._take_down(folder, letter):
            return reports
        ended = []
        for report in reports:
            if not report.over and report.attempt < number:
                report = _ending(report, Phase.STOPPED, "replaced")
                folder.write_report(report)
            ended.append(report)
        if newest is None or not newest.over:
            end = self._end(folder, letter, newest or Report(job=folder.job, attempt=number, phase=Phase.STARTING))
            folder.write_report(end)
            ended = [one for one in ended if one.attempt != number] + [end]
        return tuple(ended)

    def _end(self, folder: JobFolder, letter: Letter, last: Report) -> Report:
        if letter.stop:
            return _ending(last, Phase.STOPPED, "its process ended before it had stopped in order")
        said = _tail(folder.output)
        if not self._is_reachable():
            return _ending(last, Phase.LOST, f"Ray cannot be reached, and the job's process has ended: {said}")
        log.error("a job's process died", job=folder.job, attempt=letter.attempt, output=said)
        return _ending(last, Phase.FAILED, f"the job's process died without a word; its last output: {said}")

    def _ensure(self, folder: JobFolder) -> bool:
        """Start the job's process unless it lives; False where that has been tried often enough."""
        letter = folder.read_order()
        if letter is None or letter.stop or folder.is_alive:
            return True
        if any(report.attempt >= letter.attempt for report in folder.read_reports()):
            return True  # it was taken: what became of it, reports say
        return self._try(folder, letter.attempt)

    def _take_down(self, folder: JobFolder, letter: Letter) -> bool:
        """Start a process once more to take down what a dead one has left; False where there is no such thing."""
        return folder.kind in OUTLIVED and self._is_reachable() and self._try(folder, letter.attempt)

    def _try(self, folder: JobFolder, attempt: int) -> bool:
        if folder.kind in OUTLIVED and any(one.is_alive for one in self._kin(folder)):
            return True  # an earlier run of it is being taken down: the next look tries again
        birth = folder.read_birth()
        tries = 1 + (birth.tries if birth is not None and birth.attempt == attempt else 0)
        if tries > MAX_TRIES:
            return False
        self._spawn(folder, attempt, tries)
        return True

    def _spawn(self, folder: JobFolder, attempt: int, tries: int) -> None:
        given = self._environment()
        # A token in our own environment is another cluster's, and would be preferred to the file that is named.
        own = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN" or not given}
        environment = {**own, **given}
        pid = spawn((*self._command, str(folder.path)), folder.output, environment)
        self._children.add(pid)
        created_s = psutil.Process(pid).create_time()  # also of one that has ended: it was not reaped yet
        folder.write_birth(Birth(pid=pid, created_s=created_s, attempt=attempt, tries=tries))
        log.info("started a job's process", job=folder.job, attempt=attempt, pid=pid)

    def _hurry(self, folder: JobFolder, letter: Letter) -> None:
        """Kill a process that is far beyond the deadline of its stop."""
        late_s = 0.0 if letter.until_s is None else self._now_s() - letter.until_s
        patience_s = AFTERWARDS_S if letter.called_back and self._is_said(folder, letter) else STOP_PATIENCE_S
        if letter.stop and late_s > patience_s:
            log.error("a job did not stop in time; its process is killed", job=folder.job, late_s=round(late_s))
            folder.kill()

    def _is_said(self, folder: JobFolder, letter: Letter) -> bool:
        """Whether the end of the ordered attempt was: its devices are free, or will be in a moment."""
        told = any(one.over for one in folder.read_reports() if one.attempt == letter.attempt)
        return told or letter.attempt <= self._acknowledged(folder.job)

    def _tidy(self, folder: JobFolder) -> bool:
        """Forget a job whose last end is in the books, and whose process has gone and has left nothing."""
        letter = folder.read_order()
        if letter is None or letter.attempt > self._acknowledged(folder.job) or folder.read_reports():
            return False
        if folder.is_alive:
            return False
        if folder.leaves_something and not self._has_heir(folder):
            self._sweep(folder, letter)
            return True
        shutil.rmtree(folder.path, ignore_errors=True)
        return True

    def _sweep(self, folder: JobFolder, letter: Letter) -> None:
        """Have taken down what a dead process has left, once its job is over or was not ordered again."""
        now_s, job = self._now_s(), folder.job
        if now_s - self._past(job).stat().st_mtime < UNORDERED_S and not self._is_over(job):
            return
        if now_s - self._swept_s.get(job, float("-inf")) < BETWEEN_SWEEPS_S:
            return
        self._swept_s[job] = now_s
        if self._is_reachable():
            log.warning("what a dead process has left is taken down", job=job)
            folder.write_order(replace(letter, seats={}, stop=True))
            self._spawn(folder, letter.attempt, tries=1)

    def _has_heir(self, folder: JobFolder) -> bool:
        """Whether a later run of the same name was ordered: it has what an earlier one left."""
        orders = (one.read_order() for one in self._kin(folder))
        return any(order is not None and not order.stop for order in orders)

    def _kin(self, folder: JobFolder) -> list[JobFolder]:
        """Folders of other runs of the same name, which share what outlives them."""
        name = folder.job.partition(".")[0]
        return [one for one in self._folders() if one.job.partition(".")[0] == name and one.job != folder.job]

    def _acknowledged(self, job: str) -> int:
        """The latest attempt whose end was acknowledged: orders for it or an earlier one are stale."""
        data = read_json(self._past(job))
        return 0 if data is None else int(data["attempt"])

    def _past(self, job: str) -> Path:
        return self._root / "past" / f"{job}.json"

    def _folder(self, job: str) -> JobFolder:
        return JobFolder(self._root / "jobs" / job)

    def _folders(self) -> list[JobFolder]:
        try:
            return [JobFolder(path) for path in sorted((self._root / "jobs").iterdir())]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UnreachableError(f"{self._root}: {error}") from error

    def _reap(self) -> None:
        self._children -= {pid for pid in self._children if reap(pid)}


def living_jobs(root: Path) -> list[str]:
    """Jobs under this root whose process runs, whoever asks."""
    folders = root / "jobs"
    return [path.name for path in sorted(folders.iterdir()) if JobFolder(path).is_alive] if folders.is_dir() else []


def _ending(report: Report, phase: Phase, detail: str) -> Report:
    """A report of the same attempt as its end. Work that was not saved is done again, unless somebody goes on."""
    lost_s = 0.0 if phase is Phase.STOPPED else report.unsaved_work_s
    return Report(
        job=report.job,
        attempt=report.attempt,
        phase=phase,
        steps_done=report.steps_done,
        work_left_s=report.work_left_s,
        stalled_worker_s=report.stalled_worker_s,
        lost_worker_s=report.lost_worker_s + lost_s,
        detail=detail,
        notes=report.notes,
    )


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _SAID_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except FileNotFoundError:
        return "none"
    return lines[-1].strip() if lines else "none"


@contextlib.contextmanager
def _disk(folder: JobFolder) -> Iterator[None]:
    """A disk that fails is a runner out of sight: nothing is known, and asking again is safe."""
    try:
        yield
    except OSError as error:
        raise UnreachableError(f"{folder.path}: {error}") from error
