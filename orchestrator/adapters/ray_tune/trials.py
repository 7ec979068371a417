"""Trials on a Ray cluster: ranks on the seats that the study holds (`seating.py`), states in shared storage."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import ray
import structlog

from jobs.train.config import RestoreFrom
from jobs.train.state.checkpoints import commit, prune, read_manifest, steps
from jobs.train.state.errors import StateError
from jobs.train.state.storage import Storage
from orchestrator.adapters.ray_train.prepare import Prepared
from orchestrator.adapters.ray_train.sizes import size_on
from orchestrator.adapters.ray_tune.seat_messages import SeatItem, SeatOrder, SeatOver, SeatReport, SeatSteps
from orchestrator.adapters.ray_tune.seating import Allotment, Seating, SeatingConfig
from orchestrator.spec.errors import UserError
from orchestrator.spec.train_job import TrainJobSpec
from orchestrator.study.ports import Leaving, Left, News, Progress, Report, Start

log = structlog.get_logger(__name__)

LONG_POLL_S = 20.0
KEEP_STATES = 2


@dataclass(slots=True)
class _Running:
    """An attempt under way. `seats`: its ranks by seat; `waits_for`: seats that have not said that it is over."""

    start: Start
    seats: dict[str, tuple[int, ...]]
    waits_for: set[str]
    ran_to: int
    failure: SeatOver | None = None
    is_lost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialsConfig:
    """`prepare_trial` makes what a rank is told from a trial's job and the name of its states. `allotment`: None = all
    that is free may be held."""

    storage: Storage
    prepare_trial: Callable[[TrainJobSpec, str], Prepared]
    template: TrainJobSpec
    most_workers: int
    log_dir: Path
    preload: tuple[str, ...]
    evaluation_samples: int
    allotment: Allotment | None = None
    session: str = field(default_factory=lambda: uuid.uuid4().hex[:8])


class RayTrials:
    """A study's `Trials`. Use from one thread; `close` ends every seat."""

    def __init__(self, config: TrialsConfig) -> None:
        self._config = config
        self._running: dict[str, _Running] = {}
        self._news: list[News] = []
        self._seating = Seating(
            SeatingConfig(
                session=config.session,
                per_worker=_per_worker(config.template),
                most_workers=config.most_workers,
                log_dir=config.log_dir,
                preload=config.preload,
                allotment=config.allotment,
            ),
            is_busy=self._is_busy,
            on_ready=self._seat_ready,
            on_drain=self._seat_drains,
            on_lost=self._seat_lost,
        )

    def now_s(self) -> float:
        return time.time()

    def workers(self) -> int:
        return sum(seat.workers for seat in self._seating.open_seats().values())

    def start(self, start: Start) -> None:
        """What keeps an attempt from starting is news of that attempt: the study goes on."""
        try:
            self._start(start)
        except UserError as error:  # a drawn value that the task refuses, storage that is gone
            kind = "environment" if isinstance(error, StateError) else "user_code"
            self._not_started(start, Leaving.FAILED, kind, str(error))
        except ray.exceptions.RayError as error:  # its node has just died
            self._not_started(start, Leaving.LOST, "", type(error).__name__)

    def _not_started(self, start: Start, how: Leaving, kind: str, detail: str) -> None:
        self._running.pop(start.trial, None)
        left = Left(
            trial=start.trial, attempt=start.attempt, how=how, step=start.step, ran_to=0, kind=kind, detail=detail
        )
        self._news.append(left)

    def _start(self, start: Start) -> None:
        prepared = self._config.prepare_trial(start.job, start.run)
        found = steps(self._config.storage, start.run)
        step = found[-1] if found else 0
        job = dataclasses.replace(
            prepared.job,
            attempt=start.attempt,
            start_step=step,
            restore=RestoreFrom(step=step, keepers=False) if found else None,
        )
        seats = self._place(start.workers)
        host, port = ray.get(self._seating.seats[next(iter(seats))].handle.address.remote())
        running = _Running(start, seats, set(seats), ran_to=step)
        self._running[start.trial] = running
        for key, ranks in seats.items():
            self._seating.seats[key].handle.start.remote(
                SeatOrder(
                    trial=start.trial,
                    attempt=start.attempt,
                    job=job,
                    ranks=ranks,
                    world_size=start.workers,
                    master_addr=host,
                    master_port=port,
                    reports=start.reports,
                    evaluation_samples=self._config.evaluation_samples,
                    cwd=prepared.cwd,
                    environment={**prepared.environment, **prepared.secrets},
                    log_dir=str(self._config.log_dir),
                )
            )

    def _place(self, workers: int) -> dict[str, tuple[int, ...]]:
        """Ranks by seat, rank 0's first: as few seats as will do."""
        free = {
            key: seat.workers - sum(len(one.seats.get(key, ())) for one in self._running.values())
            for key, seat in self._seating.open_seats().items()
        }
        snug = [key for key, count in sorted(free.items(), key=lambda item: (item[1], item[0])) if count >= workers]
        chosen = (snug[0],) * workers if snug else size_on(free, {}, workers, 1).nodes
        seats: dict[str, tuple[int, ...]] = {}
        for rank, key in enumerate(chosen):
            seats[key] = (*seats.get(key, ()), rank)
        return seats

    def go_on(self, trial: str) -> None:
        self._command(trial, "go_on")

    def leave(self, trial: str) -> None:
        self._command(trial, "leave")

    def stop(self, trial: str, *, at_once: bool = False) -> None:
        self._command(trial, "kill" if at_once else "stop")

    def _command(self, trial: str, what: str) -> None:
        running = self._running.get(trial)
        for key in running.seats if running else ():
            if running is not None and key in self._seating.seats:
                self._seating.seats[key].handle.command.remote(trial, running.start.attempt, what)

    def copy_state(self, source_run: str, step: int, target_run: str) -> None:
        storage = self._config.storage
        if step in steps(storage, target_run):
            return
        manifest = read_manifest(storage, source_run, step)
        parts = []
        for part in manifest.parts:
            file = target_run + part.file.removeprefix(source_run)
            storage.write(file, [storage.read(part.file, 0, part.nbytes)], part.nbytes)
            parts.append(dataclasses.replace(part, file=file))
        commit(storage, dataclasses.replace(manifest, run=target_run, parts=tuple(parts)))

    # -- what happens -------------------------------------------------------------------------------------------

    def poll(self, timeout_s: float) -> list[News]:
        self._seating.look()
        asked = {seat.asked: key for key, seat in self._seating.seats.items() if seat.asked is not None}
        if asked:
            done, _ = ray.wait(list(asked), num_returns=1, timeout=timeout_s)
            more, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0)
            for future in {*done, *more}:
                self._hear(asked[future])
        else:
            time.sleep(timeout_s)
        news, self._news = self._news, []
        return news

    def _hear(self, key: str) -> None:
        seat = self._seating.seats[key]
        try:
            items: list[SeatItem] = ray.get(seat.asked)
        except ray.exceptions.RayError as error:
            self._seating.lost(key, f"{type(error).__name__}")
            return
        seat.read += len(items)
        seat.asked = seat.handle.news.remote(seat.read, LONG_POLL_S)
        for item in items:
            running = self._running.get(item.trial)
            if running is not None and running.start.attempt == item.attempt:
                self._take(key, item, running)

    def _take(self, key: str, item: SeatItem, running: _Running) -> None:
        match item:
            case SeatSteps():
                running.ran_to = max([running.ran_to, *(step for step, _, _ in item.points)])
                self._news.append(Progress(trial=item.trial, attempt=item.attempt, points=item.points))
            case SeatReport():
                self._prune(running.start.run)
                report = Report(trial=item.trial, attempt=item.attempt, step=item.step, metrics=item.metrics)
                self._news.append(report)
            case SeatOver():
                if item.kind and running.failure is None:
                    running.failure = item
                    self._command(item.trial, "kill")  # what is left of it elsewhere
                self._gone(key, item.trial, running)

    def _gone(self, key: str, trial: str, running: _Running) -> None:
        """One seat has nothing of the attempt any more; at the last one it is over."""
        running.waits_for.discard(key)
        if running.waits_for:
            return
        del self._running[trial]
        found = steps(self._config.storage, running.start.run)
        failure = running.failure
        how = Leaving.LOST if running.is_lost else Leaving.FAILED if failure else Leaving.ORDERLY
        self._news.append(
            Left(
                trial=trial,
                attempt=running.start.attempt,
                how=how,
                step=found[-1] if found else 0,
                ran_to=running.ran_to,
                kind=failure.kind if failure else "",
                detail=failure.detail if failure else ("its node is gone" if running.is_lost else ""),
            )
        )

    def _prune(self, run: str) -> None:
        try:
            prune(self._config.storage, run, KEEP_STATES)
        except StateError as error:
            log.warning("older states stay", run=run, error=str(error))

    # -- seats --------------------------------------------------------------------------------------------------

    def _is_busy(self, key: str) -> bool:
        return any(key in one.waits_for for one in self._running.values())

    def _seat_ready(self, key: str) -> None:
        seat = self._seating.seats[key]
        seat.asked = seat.handle.news.remote(0, LONG_POLL_S)

    def _seat_drains(self, key: str) -> None:
        for trial, running in list(self._running.items()):
            if key in running.seats:
                self.stop(trial)

    def _seat_lost(self, key: str) -> None:
        for trial, running in list(self._running.items()):
            if key in running.waits_for:
                running.is_lost = True
                self._command(trial, "kill")
                self._gone(key, trial, running)

    def close(self) -> None:
        """End every seat, and with it what runs there."""
        self._seating.close()


def _per_worker(template: TrainJobSpec) -> dict[str, float]:
    """What a worker reserves in Ray, by resource."""
    resources = template.workers.resources
    reserved = {"CPU": resources.CPU, "GPU": resources.GPU, **resources.custom}
    return reserved if resources.memory is None else {**reserved, "memory": float(resources.memory)}
