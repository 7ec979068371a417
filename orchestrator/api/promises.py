"""What a job asks to be promised, a deadline and a budget, held against the best that could ever happen.

Whatever is known is used: what steps of the same work cost before, else the least that anything is booked for. A
promise that might be kept is no business of this room: whether it is, shows as the job goes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.api.render import instant
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.experience import Experience
from orchestrator.ledger.submission import NewJob
from orchestrator.policy.queueing.deadlines import earliest_finish_s
from orchestrator.policy.queueing.money import bill
from orchestrator.policy.queueing.values import Job
from orchestrator.policy.windows import Window
from orchestrator.spec.errors import ExitCode
from orchestrator.spec.quantities import render_duration

# Nothing that a worker does is booked in less than this.
SHORTEST_STEP_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Fastest:
    """The least seconds of running, with the most workers; `measured_on` is the run that tells, None = no run does."""

    run_s: float
    workers: int
    measured_on: str | None

    @property
    def source(self) -> str:
        """Where it is known from."""
        return "at the very least" if self.measured_on is None else f"as measured on {self.measured_on}"


def check_deadline(job: NewJob, fastest: Fastest, *, now_s: float, window: Window | None) -> None:
    """Raises: LedgerError (never) for a deadline before the earliest finish, which it names."""
    deadline_s = job.shape.deadline_s
    finish_s = earliest_finish_s(fastest.run_s, now_s=now_s, window=window)
    if deadline_s is None or (finish_s is not None and finish_s <= deadline_s):
        return
    inside = "" if window is None else f", inside window {window.name!r}"
    problem = (
        f"spec.deadline: {instant(deadline_s)} cannot be kept: {job.shape.steps:,} steps take {_spoken(fastest.run_s)}"
        f" {fastest.source} with {fastest.workers} workers, the most that it could ever hold{inside}"
    )
    step = "Make it fewer steps, or name another window"
    if finish_s is not None:
        after = f"{_spoken(finish_s - now_s)} after {'each start' if job.scheduled else 'submission'}"
        earliest = after if job.scheduled else f"{instant(_up(finish_s))} ({after})"
        step = f"The earliest finish that could be kept is {earliest}: set the deadline there or later"
    if fastest.measured_on is not None:
        step += "; work that has become faster is measured anew under another name"
    raise LedgerError(problem, code=ExitCode.NEVER, where=f"job {job.name}", next_step=step)


def check_budget(job: NewJob, value: Job, prices: Sequence[int], known: Experience | None) -> None:
    """Raises: LedgerError (never) for a budget below what one step costs. `prices`: micro-dollars a device-hour, of
    every pool that it could run on."""
    shape = job.shape
    if shape.budget_micro_usd is None and shape.budget_device_ms is None:
        return
    least = bill(value, value.sizes[0], SHORTEST_STEP_S, min(prices, default=0))
    micro_usd, device_ms, how = max(1, least.micro_usd) if any(prices) else 0, least.device_ms, "at the very least"
    if known is not None:
        micro_usd, device_ms = max(micro_usd, known.step_micro_usd), max(device_ms, known.step_device_ms)
        how = f"as measured on {known.job}"
    for key, limit, cost, unit in (
        ("usd", shape.budget_micro_usd, micro_usd / 1e6, 1e6),
        ("device_hours", shape.budget_device_ms, device_ms / 3.6e6, 3.6e6),
    ):
        if limit is not None and limit / unit < cost:
            problem = f"spec.budget.{key}: {limit / unit:g} is less than one step costs, {cost:g} {how}"
            step = f"Give it {cost:g} for each of its steps"
            raise LedgerError(problem, code=ExitCode.NEVER, where=f"job {job.name}", next_step=step)


def _up(at_s: float) -> float:
    """The next whole second: a deadline that is written down must not be early."""
    return float(math.ceil(at_s))


def _spoken(seconds: float) -> str:
    """A duration as specs take it, never shorter than it is."""
    return render_duration(_up(seconds) if seconds >= 1 else math.ceil(seconds * 1000) / 1000)
