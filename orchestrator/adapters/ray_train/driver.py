"""The driver's loop of one run: hears what happens, decides what comes next, offers it to the controller.

Every decision is made here, in one thread, from values: retries by `retries.py`, sizes by the `Sizes` port. The
controller executes; workers and ranks hear through the hub.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import ray

from jobs.train.config import RankJob, RestoreFrom
from jobs.train.messages import Stop, encode
from orchestrator.adapters.ray_train.events import (
    AttemptClosed,
    AttemptOpened,
    Cause,
    Event,
    Outcome,
    Status,
    StatusChanged,
    StopAsked,
)
from orchestrator.adapters.ray_train.journal import Journal, Metrics, OpenAttempt
from orchestrator.adapters.ray_train.protocol import Abort, AttemptPlan, GroupIdle, Held, Item, Order, RunOver, Tell
from orchestrator.adapters.ray_train.retries import Failure, GiveUp, RetryBudget, RetryState, after_failure
from orchestrator.adapters.ray_train.sizes import Size

TICK_S = 0.5
# An orderly stop needs at most two steps and a snapshot; a group that is longer at it is not going to stop.
STOP_PATIENCE_S = 120.0


class Sizes(Protocol):
    """Decides how large the run may be. Called in the driver's loop: must not block."""

    def start_size(self, held: Mapping[str, int]) -> Size | str:
        """The size to start at, given the workers held on each node; a sentence when there is not enough room."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverConfig:
    """What does not change in a run's session. `job` is the template of every attempt."""

    job: RankJob
    ranks_per_worker: int
    first_attempt: int
    first_cause: Cause
    budget: RetryBudget


class HubHandle:
    """The driver's side of the hub: fire and forget, except for the mailbox."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def offer(self, offer: AttemptPlan | RunOver) -> None:
        self.actor.offer.remote(offer)

    def order(self, order: Order) -> None:
        self.actor.order.remote(order)


class Driver:
    """One session of a run. `drive` blocks until the controller has ended; the outcome is in `status` and `detail`."""

    def __init__(
        self,
        config: DriverConfig,
        hub: HubHandle,
        sizes: Sizes,
        *,
        restore_point: Callable[[], RestoreFrom | None],
        emit: Callable[[Event], None],
        wants_stop: Callable[[], int],
        metrics: Metrics = lambda loss: {},
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._hub = hub
        self._sizes = sizes
        self._restore_point = restore_point
        self._emit_event = emit
        self._wants_stop = wants_stop
        self._now_s = now_s
        self._journal = Journal(metrics)
        self._retries = RetryState()
        self._next_attempt = config.first_attempt
        self._next_cause = config.first_cause
        self._not_before_s = 0.0
        self._is_idle = False
        self._is_over = False
        self._stopping: Cause | None = None
        self._stopping_since_s = 0.0
        self._waiting_for = ""
        self._held: Mapping[str, int] = {}
        self.status = Status.WAITING
        self.detail = ""

    def drive(self, controller: Any, running: Any) -> None:
        """The loop. Returns when the controller's run has ended, whatever the outcome."""
        del controller
        mail = self._hub.actor.items.remote(TICK_S)
        while True:
            done, _ = ray.wait([running, mail], num_returns=1, timeout=2 * TICK_S)
            if mail in done:
                self.read(ray.get(mail))
                mail = self._hub.actor.items.remote(TICK_S)
            self.tick()
            if running in done:
                self.read(ray.get(self._hub.actor.items.remote(0.0)))
                self._finish(running)
                return

    def read(self, items: Iterable[Item]) -> None:
        """Take in what happened."""
        for item in items:
            for event in self._journal.read(item):
                self._emit(event)
            if isinstance(item, Held):
                self._held = item.workers
            if isinstance(item, GroupIdle):
                self._on_idle(item)

    def tick(self) -> None:
        """Do what is due: stop when asked to, start when possible, give up on a stop that hangs."""
        now_s = self._now_s()
        wanted = self._wants_stop()
        attempt = self._journal.attempt
        if self._is_idle and not self._is_over:
            self._over(RunOver()) if wanted else self._try_to_start(now_s)
        elif attempt is not None and wanted and self._stopping is None:
            self.ask_to_stop(Cause.INTERRUPT, "asked to stop")
        if attempt is None or self._stopping is None:
            return
        if wanted > 1 or now_s - self._stopping_since_s > STOP_PATIENCE_S:
            self._hub.order(Abort(attempt=attempt.plan.attempt, reason="the orderly stop took too long"))

    def ask_to_stop(self, cause: Cause, detail: str) -> None:
        """Ask every rank to stop at one agreed step; once all workers have joined, for orders reach only them."""
        attempt = self._journal.attempt
        assert attempt is not None
        if len(attempt.joined) < attempt.plan.num_workers:
            return
        number = attempt.plan.attempt
        self._stopping, self._stopping_since_s = cause, self._now_s()
        self._hub.order(Tell(attempt=number, line=encode(Stop(cause.value))))
        self._emit(StopAsked(at_s=self._stopping_since_s, attempt=number, cause=cause, detail=detail))
        self._say(Status.STOPPING, detail)

    # -- between attempts ---------------------------------------------------------------------------------------

    def _on_idle(self, idle: GroupIdle) -> None:
        self._is_idle = True
        attempt = self._journal.attempt
        if attempt is None:
            return
        if attempt.is_stopped:
            self._close(idle, Outcome.PLANNED, self._stopping or Cause.NOTICE, "")
            self._next_cause = self._stopping or Cause.NOTICE
            if self._stopping in (Cause.INTERRUPT, Cause.PAUSE):
                self._over(RunOver())
        else:
            self._on_failure(attempt, idle)
        self._journal.attempt, self._stopping = None, None

    def _on_failure(self, attempt: OpenAttempt, idle: GroupIdle) -> None:
        cause, kind, detail = explain(attempt, idle)
        self._close(idle, Outcome.FAILED, cause, detail)
        failure = Failure(cause=cause, kind=kind, start_step=attempt.plan.job.start_step, num_steps=self._num_steps())
        verdict, self._retries = after_failure(self._config.budget, self._retries, failure)
        self._next_cause = cause
        match verdict:
            case GiveUp():
                self._over(RunOver(error=f"{detail} ({verdict.reason})"))
            case _ if self._stopping in (Cause.INTERRUPT, Cause.PAUSE):
                self._over(RunOver())
            case _:
                self._not_before_s = self._now_s() + verdict.delay_s

    def _close(self, idle: GroupIdle, outcome: Outcome, cause: Cause | None, detail: str) -> None:
        attempt = self._journal.attempt
        assert attempt is not None
        for event in self._journal.closing_parts(idle.at_s):
            self._emit(event)
        step = max((left.step for left in attempt.left.values()), default=0)
        self._emit(
            AttemptClosed(
                at_s=idle.at_s, attempt=attempt.plan.attempt, outcome=outcome, cause=cause, step=step, detail=detail
            )
        )

    def _num_steps(self) -> int:
        attempt = self._journal.attempt
        return 0 if attempt is None or attempt.first_step_at_s is None else 1

    def _over(self, over: RunOver) -> None:
        self._is_over = True
        self.detail = over.error
        self._hub.offer(over)

    def _try_to_start(self, now_s: float) -> None:
        if now_s < self._not_before_s:
            return
        size = self._sizes.start_size(self._held)
        if isinstance(size, str):
            self._wait(size)
            return
        restore = self._restore_point()
        start_step = restore.step if restore else 0
        number, self._next_attempt = self._next_attempt, self._next_attempt + 1
        plan = AttemptPlan(
            attempt=number,
            world_size=size.world_size,
            ranks_per_worker=self._config.ranks_per_worker,
            nodes=size.nodes,
            job=replace(self._config.job, attempt=number, start_step=start_step, restore=restore),
        )
        self._is_idle, self._waiting_for = False, ""
        self._journal.open(plan, now_s)
        self._emit(
            AttemptOpened(
                at_s=now_s,
                attempt=number,
                cause=self._next_cause,
                world_size=size.world_size,
                start_step=start_step,
                source="" if restore is None else ("keepers" if restore.keepers else "storage"),
            )
        )
        self._say(Status.STARTING, f"starting {size.world_size} workers at step {start_step}")
        self._hub.offer(plan)

    def _wait(self, why: str) -> None:
        if why != self._waiting_for:
            self._waiting_for = why
            self._say(Status.WAITING, why)

    # -- the end ------------------------------------------------------------------------------------------------

    def _finish(self, running: Any) -> None:
        attempt = self._journal.attempt
        idle = GroupIdle(at_s=self._now_s())
        if attempt is not None and attempt.is_finished:
            self._close(idle, Outcome.FINISHED, None, "")
            self._say(Status.SUCCEEDED, "")
            return
        try:
            ray.get(running)
        except ray.exceptions.RayError as error:
            self.detail = self.detail or f"Ray Train's controller ended: {error}"
        if attempt is not None:
            cause, _, detail = explain(attempt, idle)
            self._close(idle, Outcome.FAILED, cause, detail)
            self.detail = self.detail or detail
        self._say(Status.FAILED if self.detail else Status.PAUSED, self.detail)

    def _emit(self, event: Event) -> None:
        self._emit_event(event)
        if self.status is Status.STARTING and self._num_steps():
            self._say(Status.RUNNING, "")

    def _say(self, status: Status, detail: str) -> None:
        self.status = status
        self._emit_event(StatusChanged(at_s=self._now_s(), status=status, detail=detail))


def explain(attempt: OpenAttempt, idle: GroupIdle) -> tuple[Cause, str, str]:
    """Cause, kind and sentence of an attempt's failure: a lost node explains what its peers complain of."""
    failure = attempt.root_failure()
    if idle.lost_nodes:
        detail = f"lost node{'s' * (len(idle.lost_nodes) > 1)} {', '.join(node[:12] for node in idle.lost_nodes)}"
        return Cause.NODE_LOSS, "node_loss", detail
    if failure is not None:
        cause = Cause.HANG if failure.kind == "hang" else Cause.WORKER_FAILURE
        return cause, failure.kind, failure.detail or failure.kind
    if not attempt.joined:
        return Cause.START_FAILURE, "start", idle.detail or "the workers did not start"
    return Cause.WORKER_FAILURE, "internal", idle.detail or "the worker group ended without a word"
