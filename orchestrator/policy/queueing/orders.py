"""What is asked of those who run jobs, and what they answer: orders by deterministic id, reports by attempt."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from orchestrator.policy.lending.session import NO_ENDING, Ending
from orchestrator.policy.queueing.decisions import Admit, Evict, Resize
from orchestrator.policy.resize import Outlook, RunPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Something to be done outside. `id` follows from job and attempt alone, so an order may be repeated.

    `attempt` is the one that a start or a resize begins, and the one that a stop ends.
    """

    id: str
    what: Admit | Resize | Evict
    attempt: int = 1


class Phase(enum.StrEnum):
    """How far an attempt is, as its runner sees it."""

    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"


OVER = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.STOPPED, Phase.LOST})
"""Phases after which the attempt's workers are gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a job tells of its resizes; None in a report where it has measured nothing yet. `ending`: what follows the
    stop that ends its night. `slow_stop_s`: 95 of 100 of its stops took no longer, state being safe included; None
    where none was seen."""

    plan: RunPlan
    outlook: tuple[Outlook, ...]
    stall_s: float
    stop_s: float
    ending: Ending = NO_ENDING
    slow_stop_s: float | None = None


class NoteKind(enum.StrEnum):
    """What happened inside a job that is worth knowing outside."""

    STRAGGLER = "straggler"
    STRAGGLER_OVER = "straggler-over"
    WORKER_DIED = "worker-died"
    STACKS_TAKEN = "stacks-taken"
    SESSION = "session"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that happened in a job at `at_s` (UTC seconds). `id` tells it from all others of the job; it is told
    again and again, and counts once. `node`, `rank`: where, if it has a place; `data` is for people and pages."""

    id: str
    at_s: float
    kind: NoteKind
    node: str = ""
    rank: int | None = None
    data: tuple[tuple[str, str | float | int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a runner sees of one attempt; the same report may come again and again, and says the same each time. An
    end is reported once nobody of that attempt or an earlier one is left.

    All in worker-seconds: `stalled_worker_s` by part and `lost_worker_s` of this attempt so far, `work_left_s` still to
    do, `unsaved_work_s` what stopping now would waste. `final`: a failure that the runner has tried again itself as
    often as the job allows, or that would only repeat; there is no restart. `notes`: the newest, oldest first.
    """

    job: str
    attempt: int
    phase: Phase
    steps_done: int = 0
    work_left_s: float | None = None
    unsaved_work_s: float = 0.0
    checkpoint_age_s: float = 0.0
    stalled_worker_s: tuple[tuple[str, float], ...] = ()
    lost_worker_s: float = 0.0
    detail: str = ""
    measured: Measured | None = None
    final: bool = False
    notes: tuple[Note, ...] = ()

    @property
    def over(self) -> bool:
        """Whether the attempt's workers are gone."""
        return self.phase in OVER
