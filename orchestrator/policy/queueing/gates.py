"""What a job must pass before devices are looked at: is it meant to run, now, here, on its own terms?

Every gate depends on the job and the cluster alone, never on who else waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.policy.queueing.board import Board
from orchestrator.policy.queueing.decisions import Explanation, WaitReason
from orchestrator.policy.queueing.money import bill, spent_up, within
from orchestrator.policy.queueing.values import UNLIMITED, Job
from orchestrator.policy.windows import current, time_left_s, upcoming

_UNKNOWN = object()


@dataclass(slots=True)
class Gatekeeper:
    """The gates of one decision; what many jobs share (a queue, a window) is looked up once."""

    board: Board
    _tenants: frozenset[str] = field(init=False)
    _queues: dict[tuple[str, str], Explanation | None] = field(default_factory=dict)
    _windows: dict[tuple[str, float], Explanation | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tenants = frozenset(tenant.name for tenant in self.board.snapshot.tenants)

    def part(self, jobs: Iterable[Job]) -> tuple[list[Job], dict[str, Explanation]]:
        """Jobs that pass, and why the others do not. Most jobs ask for nothing special: they are told at a glance."""
        passed: list[Job] = []
        gated: dict[str, Explanation] = {}
        opened: dict[tuple[str, int, str, str], bool] = {}
        for job in jobs:
            if job.plain and opened.get(job.line):
                passed.append(job)
                continue
            why = self.stops(job)
            if why is None:
                passed.append(job)
            else:
                gated[job.id] = why
            opened[job.line] = self._queues.get((job.queue, job.tenant), _UNKNOWN) is None
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
        key = (job.window, job.min_slice_s)
        if key not in self._windows:
            self._windows[key] = self._look_up_window(job.window, job.min_slice_s)
        return self._windows[key]

    def _look_up_window(self, name: str, slice_s: float) -> Explanation | None:
        hours, now_s = self.board.windows.get(name), self.board.snapshot.now_s
        if hours is None:
            return Explanation(WaitReason.MISCONFIGURED, f"there is no window {name!r}")
        left_s = time_left_s([hours.window], now_s=now_s)
        if left_s > 0 and left_s >= slice_s:
            return None
        long_enough = (one.opens_at_s for one in upcoming(hours.window, now_s=now_s) if one.length_s >= slice_s)
        eta_s = next(long_enough, None)
        if left_s > 0 or eta_s is None:
            detail = f"window {name!r} has {left_s:.0f} s left; the job needs {slice_s:.0f} s to get anything done"
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
    hours = board.windows.get(job.window) if job.window is not None else None
    if hours is None:
        return None
    return board.snapshot.now_s + time_left_s([hours.window], now_s=board.snapshot.now_s)


def next_opening_s(board: Board) -> float | None:
    """The next instant at which any window opens or closes; None if there are none."""
    now_s = board.snapshot.now_s
    instants: list[float] = []
    for hours in board.windows.values():
        held = current(hours.window, now_s=now_s)
        following = next(upcoming(hours.window, now_s=now_s), None)
        instants += [held.closes_at_s] if held else []
        instants += [following.opens_at_s] if following else []
    return min(instants, default=None)


NEVER: frozenset[WaitReason] = frozenset(
    {WaitReason.MISCONFIGURED, WaitReason.NO_MATCHING_POOL, WaitReason.EXCEEDS_MAX_QUOTA}
)
"""Reasons that no passing of time takes away: the job is rejected, not queued."""
