"""What is decided: verdicts on waiting jobs, changes of running ones, plans."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from orchestrator.api.models.base import Model
from orchestrator.api.models.jobs import Seat
from orchestrator.ledger.states import JobState
from orchestrator.policy.queueing.decisions import StartReason, WaitReason


class Change(Model):
    """An edit after which the next decision starts the job."""

    kind: str
    text: str
    values: dict[str, Any]


class Verdict(Model):
    """What is decided for one waiting job. `pool` and `missing`: who came nearest to taking it, and what it lacks."""

    job: str
    decision: Literal["start", "wait", "never"]
    reason: WaitReason | StartReason
    detail: str
    eta: str | None
    pool: str | None
    missing: int
    workers: int | None
    placement: list[Seat]


class Effect(Model):
    """What is decided for one running job."""

    job: str
    action: Literal["resize", "evict"]
    cause: str
    detail: str
    workers: int
    drain_until: str
    for_job: str | None


class Why(Model):
    """Why a job waits, or what it does. Of jobs that wait: `verdict`, `unblock`, `what_if`; of one that runs: `effect`,
    what the next cycle would do to it."""

    job: str
    state: JobState
    detail: str
    verdict: Verdict | None = None
    unblock: list[Change] = Field(default_factory=list)
    what_if: Verdict | None = None
    effect: Effect | None = None


class Plan(Model):
    """What the next cycle would do. `job`: the verdict on the job that was sent; it was not submitted."""

    at: str
    job: Verdict | None
    starts: list[Verdict]
    changes: list[Effect]
    waiting: dict[str, int]
