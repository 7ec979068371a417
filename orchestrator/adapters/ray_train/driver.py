"""The driver's loop of one run: hears what happens, decides what comes next, offers it to the controller.

Every decision is made here, in one thread, from values: retries by `retries.py`, sizes by the resize policy behind
`governor.py`. The controller executes; workers and ranks hear through the hub.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from jobs.train.messages import Checkpoint, Stop, encode
from orchestrator.adapters.ray_train.driver_ports import DriverConfig, Surroundings
from orchestrator.adapters.ray_train.events import (
    AttemptClosed,
    AttemptOpened,
    Cause,
    Event,
    Outcome,
    Remark,
    Status,
    StatusChanged,
    StopAsked,
)
from orchestrator.adapters.ray_train.explain import deaths, explain
from orchestrator.adapters.ray_train.governor import Change
from orchestrator.adapters.ray_train.journal import Journal, Metrics, OpenAttempt
from orchestrator.adapters.ray_train.lookout import Lookout
from orchestrator.adapters.ray_train.protocol import (
    Abort,
    Announced,
    AttemptPlan,
    GroupIdle,
    Held,
    Item,
    RunOver,
    Tell,
)
from orchestrator.adapters.ray_train.retries import Failure, GiveUp, RetryState, after_failure
from orchestrator.adapters.ray_train.sizes import Size, missing_seats
from orchestrator.adapters.ray_train.tempo import Tempo

# An orderly stop needs at most two steps and a snapshot; a group that is longer at it is not going to stop.
STOP_PATIENCE_S = 120.0
ENDING = frozenset({Cause.INTERRUPT, Cause.PAUSE})


class Driver:
    """One session of a run. Feed it with `read` and `tick`; the outcome is in `status` and `detail`."""

    def __init__(
        self,
        config: DriverConfig,
        around: Surroundings,
        *,
        emit: Callable[[Event], None],
        wants_stop: Callable[[], int],
        metrics: Metrics = lambda loss: {},
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._around = around
        self._emit_event = emit
        self._wants_stop = wants_stop
        self._now_s = now_s
        self._journal = Journal(metrics)
        self._tempo = Tempo(config.job.steps)
        self._retries = RetryState()
        self._next_attempt = config.first_attempt
        self._next_cause = config.first_cause
        self._not_before_s = 0.0
        self._is_idle = False
        self._is_over = False
        self._stopping: Cause | None = None
        self._stopping_since_s = 0.0
        self._growing: Change | None = None
        self._recalled = False
        self._waiting_for = ""
        self._lookout = Lookout(around, self._journal, self._emit)
        self.status = Status.WAITING
        self.detail = ""

    def read(self, items: Iterable[Item]) -> None:
        """Take in what happened."""
        for item in items:
            for event in self._journal.read(item):
                self._emit(event)
            if isinstance(item, Held):
                self._lookout.held = item.workers
            if isinstance(item, Announced):
                self._lookout.announced(item)
            if isinstance(item, GroupIdle):
                self._on_idle(item)

    def tick(self) -> None:
        """Do what is due: look at the cluster, start, stop, resize, give up on a stop that hangs."""
        now_s = self._now_s()
        self._lookout.look(now_s)
        for event in self._around.state.news(self._tempo.steps_done, now_s):
            self._emit(event)
        attempt, wanted = self._journal.attempt, self._wants_stop()
        if self._is_idle and not self._is_over:
            self._over(RunOver()) if wanted else self._try_to_start(now_s)
        elif attempt is None:
            return
        elif self._around.sizing.overdue(attempt.plan, now_s):
            self._recalled = True
            due = "the devices that it had to give back were due"
            self._around.hub.order(Abort(attempt=attempt.plan.attempt, reason=due, stacks=False))
        elif self._stopping is not None:
            if wanted > 1 or now_s - self._stopping_since_s > STOP_PATIENCE_S:
                late = "the orderly stop took too long"
                self._around.hub.order(Abort(attempt=attempt.plan.attempt, reason=late, stacks=wanted <= 1))
        elif wanted:
            self.ask_to_stop(Cause.INTERRUPT, "asked to stop")
        elif attempt.first_step_at_s is not None:
            self._consider(attempt, now_s)

    @property
    def running(self) -> tuple[AttemptPlan, int] | None:
        """The group that has been started and the last step of the run that was finished; None between groups. Any
        thread."""
        attempt = self._journal.attempt
        return None if attempt is None else (attempt.plan, self._tempo.steps_done)

    # -- while an attempt runs ----------------------------------------------------------------------------------

    def _consider(self, attempt: OpenAttempt, now_s: float) -> None:
        """Resize when the policy says so; a larger group's workers must be up before the present one is touched."""
        if self._growing is not None and self._is_growing(attempt, self._growing, now_s):
            return
        progress = self._tempo.progress()
        ready = self._around.agents.ready()
        change = self._around.sizing.change(attempt.plan, self._lookout.held, ready, progress, now_s)
        is_warned = self._lookout.take_warning()
        if change is None:
            if is_warned:  # other departures may follow and be answered together: the state need not wait for them
                self._around.hub.order(Tell(attempt=attempt.plan.attempt, line=encode(Checkpoint())))
            return
        missing = missing_seats(change.size, self._lookout.held) if change.size else ()
        if change.cause is Cause.GROW and missing:
            self._growing = change
            self._around.warming.begin(missing, self._config.ranks_per_worker)
        else:
            self.ask_to_stop(change.cause, change.detail)

    def _is_growing(self, attempt: OpenAttempt, change: Change, now_s: float) -> bool:
        """Whether growing goes on, that is nothing else is to be decided now."""
        if not set(attempt.plan.nodes) <= self._around.sizing.staying():
            self._growing = None  # somebody must leave: what has been started rides along with that restart
            return False
        came = self._around.warming.outcome()
        if came is None:
            return True
        self._growing = None
        if came:
            self.ask_to_stop(change.cause, change.detail)
        elif change.size is not None:
            refused = set(change.size.nodes) - set(attempt.plan.nodes)
            self._around.sizing.refused(refused, now_s)
            names = ", ".join(sorted(node[:12] for node in refused))
            detail = f"no worker came up on {names}: the group stays as it is"
            self._emit(Remark(at_s=now_s, attempt=attempt.plan.attempt, detail=detail))
        return True

    def ask_to_stop(self, cause: Cause, detail: str) -> None:
        """Ask every rank to stop at one agreed step; once all workers have joined, for orders reach only them."""
        attempt = self._journal.attempt
        assert attempt is not None
        if len(attempt.joined) < attempt.plan.num_workers:
            return
        number = attempt.plan.attempt
        self._stopping, self._stopping_since_s = cause, self._now_s()
        self._around.hub.order(Tell(attempt=number, line=encode(Stop(cause.value))))
        self._emit(StopAsked(at_s=self._stopping_since_s, attempt=number, cause=cause, detail=detail))
        self._say(Status.STOPPING, detail)

    # -- between attempts ---------------------------------------------------------------------------------------

    def _on_idle(self, idle: GroupIdle) -> None:
        self._is_idle = True
        attempt = self._journal.attempt
        if attempt is None:
            return
        if attempt.is_stopped:
            self._next_cause = self._stopping or Cause.NOTICE
            self._close(idle, Outcome.PLANNED, self._next_cause, "")
            if self._stopping in ENDING:
                self._secure(attempt.last_step)
                self._over(RunOver())
        else:
            self._on_failure(attempt, idle)
        self._journal.attempt, self._stopping, self._growing = None, None, None
        self._recalled = False
        self._lookout.take_warning()
        self._lookout.look_again()

    def _on_failure(self, attempt: OpenAttempt, idle: GroupIdle) -> None:
        if self._recalled and self._stopping not in ENDING:
            # Killed for its devices: the keepers have its last snapshot, and nothing is charged for it.
            self._next_cause = Cause.SHRINK
            self._close(idle, Outcome.FAILED, Cause.SHRINK, "killed: the devices that it had to give back were due")
            return
        lost_nodes = self._around.agents.unreachable(idle.silent_nodes)
        cause, kind, detail = explain(attempt, idle, lost_nodes)
        for died in deaths(attempt, idle, lost_nodes):
            self._emit(died)
        self._close(idle, Outcome.FAILED, cause, detail)
        num_steps = 0 if attempt.first_step_at_s is None else 1
        failure = Failure(cause=cause, kind=kind, start_step=attempt.plan.job.start_step, num_steps=num_steps)
        verdict, self._retries = after_failure(self._config.budget, self._retries, failure)
        self._next_cause = cause
        if isinstance(verdict, GiveUp):
            self._secure(0)
            self._over(RunOver(error=f"{detail} ({verdict.reason})"))
        elif self._stopping in ENDING:
            self._secure(0)
            self._over(RunOver())
        else:
            self._not_before_s = self._now_s() + verdict.delay_s

    def _close(self, idle: GroupIdle, outcome: Outcome, cause: Cause | None, detail: str) -> None:
        attempt = self._journal.attempt
        assert attempt is not None
        if attempt.stacks:
            number, step = attempt.plan.attempt, self._tempo.steps_done
            taken = self._around.stacks.keep(number, step, attempt.stacks, idle.at_s, "before the ranks were killed")
            if taken is not None:
                self._emit(taken)
        for event in self._journal.closing_parts(idle.at_s):
            self._emit(event)
        number, step = attempt.plan.attempt, attempt.last_step
        closed = AttemptClosed(at_s=idle.at_s, attempt=number, outcome=outcome, cause=cause, step=step, detail=detail)
        self._emit(closed)

    def _secure(self, step: int) -> None:
        """The keepers end with this session: what they hold goes to storage, unless somebody cannot wait.

        Of a session that made no step they hold nothing, and whoever waited for it would wait in vain.
        """
        if not self._tempo.steps_done:
            return
        self._around.state.secure(step, lambda: self._wants_stop() > 1)
        for event in self._around.state.committed(self._now_s()):
            self._emit(event)

    def _over(self, over: RunOver) -> None:
        self._is_over = True
        self.detail = over.error
        self._around.hub.offer(over)

    def _try_to_start(self, now_s: float) -> None:
        if now_s < self._not_before_s:
            return
        agents = self._around.agents
        is_first = self._next_attempt == self._config.first_attempt
        if is_first and agents.is_warming():
            self._warm_up(now_s)
            return
        size = self._around.sizing.start_size(self._lookout.held, agents.ready(), now_s)
        if isinstance(size, str):
            self._wait_for_room(agents.trouble or size)
            return
        self._start(size, now_s)

    def _warm_up(self, now_s: float) -> None:
        """While the nodes' agents warm up, so do the workers of the group that will then start."""
        if self._waiting_for:
            return
        self._wait("warming up the nodes")
        size = self._around.sizing.start_size(self._lookout.held, self._around.sizing.staying(), now_s)
        if isinstance(size, Size):
            self._around.warming.begin(size.nodes, self._config.ranks_per_worker)

    def _start(self, size: Size, now_s: float) -> None:
        restore = self._around.state.restore_point()
        start_step = restore.step if restore else 0
        number, self._next_attempt = self._next_attempt, self._next_attempt + 1
        sizing = self._around.sizing
        self._lookout.group_starts()
        self._around.state.begin(number, size.world_size, sizing.look() - sizing.staying(), size.nodes)
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
                nodes=size.nodes,
            )
        )
        self._say(Status.STARTING, f"starting {size.world_size} workers at step {start_step}")
        self._around.hub.offer(plan)

    def _wait_for_room(self, why: str) -> None:
        """Too few workers are left: the state goes to storage before more nodes go."""
        if not self._waiting_for and self._tempo.steps_done:
            self._secure(0)
            self._around.agents.drained(self._around.sizing.look() - self._around.sizing.staying())
        self._wait(why)

    def _wait(self, why: str) -> None:
        if why != self._waiting_for:
            self._waiting_for = why
            self._say(Status.WAITING, why)

    # -- the end ------------------------------------------------------------------------------------------------

    def finish(self, error: str) -> None:
        """The controller has ended, with `error` if it failed by itself: close what is open and say how it went."""
        attempt = self._journal.attempt
        idle = GroupIdle(at_s=self._now_s())
        if attempt is not None and attempt.is_finished:
            self._close(idle, Outcome.FINISHED, None, "")
            self._secure(attempt.last_step)
            self._say(Status.SUCCEEDED, "")
            return
        self.detail = self.detail or error
        if attempt is not None:
            cause, _, detail = explain(attempt, idle, ())
            self._close(idle, Outcome.FAILED, cause, detail)
            self.detail = self.detail or detail
        self._say(Status.FAILED if self.detail else Status.PAUSED, self.detail)

    def _emit(self, event: Event) -> None:
        self._tempo.observe(event)
        self._emit_event(event)
        attempt = self._journal.attempt
        if self.status is Status.STARTING and attempt is not None and attempt.first_step_at_s is not None:
            self._say(Status.RUNNING, "")

    def _say(self, status: Status, detail: str) -> None:
        self.status = status
        self._emit_event(StatusChanged(at_s=self._now_s(), status=status, detail=detail))
