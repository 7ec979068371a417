"""Trials on a Ray cluster: a seat on every node that stays, ranks on the seats, states in shared storage."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ray
import structlog

from jobs.train.config import RestoreFrom
from jobs.train.state.checkpoints import commit, prune, read_manifest, steps
from jobs.train.state.errors import StateError
from jobs.train.state.storage import Storage
from orchestrator.adapters.ray_train.capacity import NodeView, read_nodes, room
from orchestrator.adapters.ray_train.prepare import Prepared
from orchestrator.adapters.ray_train.sizes import size_on
from orchestrator.adapters.ray_tune.seat import SeatConfig, start_seat
from orchestrator.adapters.ray_tune.seat_messages import SeatItem, SeatOrder, SeatOver, SeatReport, SeatSteps
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.train_job import TrainJobSpec
from orchestrator.study.ports import Leaving, Left, News, Progress, Report, Start

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
SEAT_TRIES = 3
RETRY_SEAT_S = 1.0
LONG_POLL_S = 20.0
KEEP_STATES = 2


@dataclass(slots=True)
class _Seat:
    """A seat as the driver knows it. `workers` it can run; not `ready` while its stem warms up; one that `leaves` goes
    once nothing runs there, because the study is to hold another number of workers on its node."""

    handle: Any
    workers: int
    starting: Any
    ready: bool = False
    draining: bool = False
    leaves: bool = False
    read: int = 0
    asked: Any = None


@dataclass(slots=True)
class _Running:
    """An attempt under way. `seats`: its ranks by node; `waits_for`: nodes that have not said that it is over."""

    start: Start
    seats: dict[str, tuple[int, ...]]
    waits_for: set[str]
    ran_to: int
    failure: SeatOver | None = None
    is_lost: bool = False


class Allotment(Protocol):
    """Who bounds what a study may hold, node by node."""

    def lease(self) -> Mapping[str, int]:
        """Workers that it may have, by node."""
        ...

    def holds(self, workers: Mapping[str, int]) -> None:
        """It is told what the study's seats hold, a little after every change."""
        ...


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
        resources = config.template.workers.resources
        self._per_worker = {"CPU": resources.CPU, "GPU": resources.GPU, **resources.custom}
        if resources.memory is not None:
            self._per_worker["memory"] = float(resources.memory)
        self._seats: dict[str, _Seat] = {}
        self._running: dict[str, _Running] = {}
        self._news: list[News] = []
        self._looked_s = float("-inf")
        self._refused: dict[str, tuple[int, float]] = {}  # seats that did not start: how often, and not before when

    def now_s(self) -> float:
        return time.time()

    def workers(self) -> int:
        return sum(seat.workers for seat in self._seats.values() if seat.ready and not seat.draining)

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
        host, port = ray.get(self._seats[next(iter(seats))].handle.address.remote())
        running = _Running(start, seats, set(seats), ran_to=step)
        self._running[start.trial] = running
        for node, ranks in seats.items():
            self._seats[node].handle.start.remote(
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
                    environment=prepared.environment,
                    log_dir=str(self._config.log_dir),
                )
            )

    def _place(self, workers: int) -> dict[str, tuple[int, ...]]:
        """Ranks by node, rank 0's first: as few nodes as will do."""
        free = {
            node: seat.workers - sum(len(one.seats.get(node, ())) for one in self._running.values())
            for node, seat in self._seats.items()
            if seat.ready and not seat.draining
        }
        snug = [node for node, count in sorted(free.items(), key=lambda item: (item[1], item[0])) if count >= workers]
        nodes = (snug[0],) * workers if snug else size_on(free, {}, workers, 1).nodes
        seats: dict[str, tuple[int, ...]] = {}
        for rank, node in enumerate(nodes):
            seats[node] = (*seats.get(node, ()), rank)
        return seats

    def go_on(self, trial: str) -> None:
        self._command(trial, "go_on")

    def leave(self, trial: str) -> None:
        self._command(trial, "leave")

    def stop(self, trial: str, *, at_once: bool = False) -> None:
        self._command(trial, "kill" if at_once else "stop")

    def _command(self, trial: str, what: str) -> None:
        running = self._running.get(trial)
        for node in running.seats if running else ():
            if running is not None and node in self._seats:
                self._seats[node].handle.command.remote(trial, running.start.attempt, what)

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
        self._look()
        asked = {seat.asked: node for node, seat in self._seats.items() if seat.asked is not None}
        if asked:
            done, _ = ray.wait(list(asked), num_returns=1, timeout=timeout_s)
            more, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0)
            for future in {*done, *more}:
                self._hear(asked[future])
        else:
            time.sleep(timeout_s)
        news, self._news = self._news, []
        return news

    def _hear(self, node: str) -> None:
        seat = self._seats[node]
        try:
            items: list[SeatItem] = ray.get(seat.asked)
        except ray.exceptions.RayError as error:
            self._lost(node, f"{type(error).__name__}")
            return
        seat.read += len(items)
        seat.asked = seat.handle.news.remote(seat.read, LONG_POLL_S)
        for item in items:
            running = self._running.get(item.trial)
            if running is not None and running.start.attempt == item.attempt:
                self._take(node, item, running)

    def _take(self, node: str, item: SeatItem, running: _Running) -> None:
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
                self._gone(node, item.trial, running)

    def _gone(self, node: str, trial: str, running: _Running) -> None:
        """One node has nothing of the attempt any more; at the last one it is over."""
        running.waits_for.discard(node)
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

    # -- nodes --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Take a seat on nodes that came, give up those that go; a few times a minute would do, it is cheap."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        nodes = read_nodes()
        alive = {node.node_id: node for node in nodes}
        for node_id in [node_id for node_id in self._seats if node_id not in alive]:
            self._lost(node_id, "the node is gone")
        for node_id, seat in list(self._seats.items()):
            if alive[node_id].drain_deadline_s is not None and not seat.draining:
                self._drain(node_id, seat)
            elif not seat.ready:
                self._check_ready(node_id, seat)
        leased = None if self._config.allotment is None else self._config.allotment.lease()
        if leased is not None:
            self._follow(leased, nodes)
        self._sit_down(nodes, leased)
        if self._config.allotment is not None:
            self._config.allotment.holds({node_id: seat.workers for node_id, seat in self._seats.items()})

    def _follow(self, leased: Mapping[str, int], nodes: tuple[NodeView, ...]) -> None:
        """Give up seats that are not as large as the lease says: another is taken in their place.

        What they reserve in Ray cannot change; attempts there save, and go on where there is room.
        """
        needs = {name: amount for name, amount in self._per_worker.items() if amount}
        free = room(nodes, needs, {}, 1)
        for node_id, seat in list(self._seats.items()):
            may = leased.get(node_id, 0)
            if seat.workers > may or (seat.ready and seat.workers < may and free.get(node_id, 0)):
                seat.leaves = True
                if not seat.draining:
                    self._drain(node_id, seat)
            if seat.leaves and all(node_id not in one.waits_for for one in self._running.values()):
                self._retire(node_id)

    def _retire(self, node_id: str) -> None:
        seat = self._seats.pop(node_id)
        if seat.ready:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.wait([seat.handle.close.remote()], timeout=10.0)
        ray.kill(seat.handle)

    def _sit_down(self, nodes: tuple[NodeView, ...], leased: Mapping[str, int] | None) -> None:
        held = sum(seat.workers for seat in self._seats.values() if not seat.draining)
        needs = {name: amount for name, amount in self._per_worker.items() if amount}
        for node_id, fits in room(nodes, needs, {}, 1).items():
            count = min(fits, self._config.most_workers - held)
            if leased is not None:
                count = min(count, leased.get(node_id, 0))
            if node_id in self._seats or count < 1 or time.monotonic() < self._refused.get(node_id, (0, 0.0))[1]:
                continue
            reserve = {name: amount * count for name, amount in needs.items()}
            config = SeatConfig(
                session=self._config.session,
                log_dir=str(self._config.log_dir),
                preload=self._config.preload,
                environment={},
            )
            handle = start_seat(config, node_id, reserve)
            self._seats[node_id] = _Seat(handle=handle, workers=count, starting=handle.ready.remote())
            held += count

    def _check_ready(self, node_id: str, seat: _Seat) -> None:
        done, _ = ray.wait([seat.starting], timeout=0)
        if not done:
            return
        try:
            ray.get(seat.starting)
        except ray.exceptions.RayError as error:
            self._lost(node_id, "the seat did not start")
            self._refuse(node_id, str(error))
            return
        seat.ready = True
        seat.asked = seat.handle.news.remote(0, LONG_POLL_S)

    def _refuse(self, node_id: str, why: str) -> None:
        """Try a node again later, ever later. Raises: UserError when no node of several tries could seat anybody."""
        count = self._refused.get(node_id, (0, 0.0))[0] + 1
        self._refused[node_id] = (count, time.monotonic() + RETRY_SEAT_S * 2**count)
        log.warning("no trial can run on this node", node=node_id, tries=count, error=why.strip()[-400:])
        if count >= SEAT_TRIES and not self._seats:
            raise UserError(
                f"no node can run trials: {why.strip().splitlines()[-1]}",
                code=ExitCode.UNREACHABLE,
                next_step=f"Output of the nodes: {self._config.log_dir}; 'tide doctor' checks this machine",
            )

    def _drain(self, node_id: str, seat: _Seat) -> None:
        """A notice: attempts there save and leave while there is time."""
        seat.draining = True
        for trial, running in list(self._running.items()):
            if node_id in running.seats:
                self.stop(trial)

    def _lost(self, node_id: str, detail: str) -> None:
        seat = self._seats.pop(node_id)
        log.info("a seat is gone", node=node_id, detail=detail)
        with contextlib.suppress(ray.exceptions.RayError):  # it may be gone already
            ray.kill(seat.handle)
        for trial, running in list(self._running.items()):
            if node_id in running.waits_for:
                running.is_lost = True
                self._command(trial, "kill")
                self._gone(node_id, trial, running)

    def close(self) -> None:
        """End every seat, and with it what runs there."""
        closing = [seat.handle.close.remote() for seat in self._seats.values() if seat.ready]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=10.0)
        for seat in self._seats.values():
            ray.kill(seat.handle)
        self._seats.clear()
