"""What a job must pass before devices are looked at: is it meant to run, now, here, on its own terms?

Every gate depends on the job and the cluster alone, never on who else waits.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from orchestrator.policy.lending.session import Ending, SessionPlan, plan_session
from orchestrator.policy.queueing.board import Board
from orchestrator.policy.queueing.decisions import Explanation, WaitReason, Waits
from orchestrator.policy.queueing.money import bill, spent_up, within
from orchestrator.policy.queueing.roll import LineKey, Roll, Row
from orchestrator.policy.queueing.values import UNLIMITED, Job
from orchestrator.policy.windows import current, time_left_s, upcoming
from orchestrator.policy.windows import next_opening_s as opens_next_s


@dataclass(slots=True)
class Passed:
    """Who passed the gates: whole rows of a roll, and special jobs by id."""

    roll: Roll
    rows: dict[LineKey, Row] = field(default_factory=dict)
    special: dict[str, Job] = field(default_factory=dict)

    def get(self, job_id: str) -> Job | None:
        """A job that passed, by id."""
        job = self.roll.jobs.get(job_id)
        passed = job is not None and (job.line in self.rows if job.plain else job.id in self.special)
        return job if passed else None

    def of_tenants(self, names: Collection[str]) -> Iterator[Job]:
        """Jobs of these tenants."""
        for (_, _, tenant, _), row in self.rows.items():
            if tenant in names:
                yield from row.jobs
        yield from (job for job in self.special.values() if job.tenant in names)

    def newer(self, queues: Collection[str], since_s: float) -> Iterator[Job]:
        """Jobs of these queues that came after an instant."""
        for (queue, _, _, _), row in self.rows.items():
            if queue in queues:
                yield from itertools.takewhile(lambda job: job.submitted_s > since_s, reversed(row.jobs))
        yield from (job for job in self.special.values() if job.queue in queues and job.submitted_s > since_s)


@dataclass(slots=True)
class Gatekeeper:
    """The gates of one decision; what many jobs share (a queue, a window) is looked up once."""

    board: Board
    _tenants: frozenset[str] = field(init=False)
    _queues: dict[tuple[str, str], Explanation | None] = field(default_factory=dict)
    _windows: dict[tuple[str, float, Ending], Explanation | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tenants = frozenset(tenant.name for tenant in self.board.snapshot.tenants)

    def part(self, roll: Roll) -> tuple[Passed, list[Waits]]:
        """Jobs that pass, and why the others do not. Plain ones of a line pass together, or not at all."""
        passed, gated = Passed(roll), []
        for key, row in roll.rows.items():
            why = self.stops(row.jobs[0])
            if why is None:
                passed.rows[key] = row
            else:
                gated.append(Waits(tuple(sorted([job.id for job in row.jobs])), why))
        for job in roll.special.values():
            why = self.stops(job)
            if why is None:
                passed.special[job.id] = job
            else:
                gated.append(Waits((job.id,), why))
        return passed, gated

    def stops(self, job: Job) -> Explanation | None:
        """The first gate that does not let a job through; None if all do."""
        if not job.active:
            return Explanation(WaitReason.DEACTIVATED, f"{job.id} is paused; resume it")
        key = (job.queue, job.tenant)
        shared = self._queues[key] if key in self._queues else self._remember(key, job)
        if shared is not None:
            return shared
        if job.unmet:
            return Explanation(WaitReason.DEPENDENCY_PENDING, f"waits for {', '.join(sorted(job.unmet))} to succeed")
        if not job.data_staged:
            return Explanation(WaitReason.DATA_NOT_STAGED, "its data set is not on the cluster yet")
        if job.window is not None and (closed := self._window(job)) is not None:
            return closed
        return self._money(job) if job.spending is not UNLIMITED else None

    def _remember(self, key: tuple[str, str], job: Job) -> Explanation | None:
        found = self._queues[key] = self._queue(job)
        return found

    def _queue(self, job: Job) -> Explanation | None:
        queue = self.board.queues.get(job.queue)
        if queue is None:
            return Explanation(WaitReason.MISCONFIGURED, f"there is no queue {job.queue!r}")
        if self._tenants and job.tenant not in self._tenants:
            return Explanation(WaitReason.MISCONFIGURED, f"there is no tenant {job.tenant!r}")
        if queue.tenants and job.tenant not in queue.tenants:
            return Explanation(WaitReason.MISCONFIGURED, f"tenant {job.tenant!r} may not submit to queue {job.queue!r}")
        if queue.on_hold:
            return Explanation(WaitReason.ON_HOLD, f"queue {job.queue!r} is on hold: nothing starts from it")
        return None

    def _window(self, job: Job) -> Explanation | None:
        assert job.window is not None, "asked only for jobs that name a window"
        key = (job.window, job.min_slice_s, job.ending)
        if key not in self._windows:
            self._windows[key] = self._look_up_window(*key)
        return self._windows[key]

    def _look_up_window(self, name: str, slice_s: float, ending: Ending) -> Explanation | None:
        hours, now_s = self.board.windows.get(name), self.board.snapshot.now_s
        if hours is None:
            return Explanation(WaitReason.MISCONFIGURED, f"there is no window {name!r}")
        left_s = time_left_s([hours.window], now_s=now_s)
        plan = plan_session(ending, begins_s=now_s, until_s=now_s + left_s, min_slice_s=slice_s)
        if isinstance(plan, SessionPlan):
            return None
        needed_s, coming = plan.needed_s, upcoming(hours.window, now_s=now_s)
        eta_s = next((one.opens_at_s for one in coming if one.length_s >= needed_s), None)
        if left_s > 0 or eta_s is None:
            detail = f"window {name!r} has {left_s:.0f} s left; the job needs {needed_s:.0f} s to get anything done"
            if ending.leave_s:
                detail += f", {ending.leave_s:.0f} s of them to save its state and let go"
            return Explanation(WaitReason.WINDOW_TOO_SHORT, detail, eta_s)
        return Explanation(WaitReason.OUTSIDE_WINDOW, f"window {name!r} is closed", eta_s)

    def _money(self, job: Job) -> Explanation | None:
        """A job's own budget must cover its shortest useful stay at the cheapest pool it could use."""
        pools = self.board.candidates(job)
        price = self.board.grounds[pools[0]].pool.micro_usd_per_device_hour if pools else 0
        if spent_up(job.spending) or not within(job.spending, bill(job, job.sizes[0], job.min_slice_s, price)):
            detail = f"its budget does not cover {job.min_slice_s:.0f} s with {job.sizes[0]} workers"
            return Explanation(WaitReason.BUDGET_EXHAUSTED, detail)
        return None


def closes_at_s(board: Board, job: Job) -> float | None:
    """When the window closes in which a job runs: now if it is closed; None without a window."""
    if job.window is None or job.window not in board.windows:
        return None
    if job.window not in board.closes:
        now_s = board.snapshot.now_s
        board.closes[job.window] = now_s + time_left_s([board.windows[job.window].window], now_s=now_s)
    return board.closes[job.window]


def next_opening_s(board: Board) -> float | None:
    """The next instant at which any window opens or closes; None if there are none."""
    now_s = board.snapshot.now_s
    instants: list[float] = []
    for hours in board.windows.values():
        held = current(hours.window, now_s=now_s)
        opens_s = opens_next_s(hours.window, now_s=now_s)
        instants += [held.closes_at_s] if held else []
        instants += [] if opens_s is None else [opens_s]
    return min(instants, default=None)
