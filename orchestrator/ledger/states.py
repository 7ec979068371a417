"""The life of a job: its states, and which may follow which."""

from __future__ import annotations

import enum


class JobState(enum.StrEnum):
    """Where a job is. SUBMITTED: accepted, no cycle has looked at it yet. PREEMPTED ones are QUEUED again."""

    SUBMITTED = "submitted"
    QUEUED = "queued"
    PAUSED = "paused"
    ADMITTED = "admitted"
    STARTING = "starting"
    RUNNING = "running"
    RESIZING = "resizing"
    DRAINING = "draining"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Then(enum.StrEnum):
    """What a draining job becomes once its exit is confirmed."""

    QUEUED = "queued"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Cause(enum.StrEnum):
    """Why an attempt was begun."""

    START = "start"
    RESUMED = "resumed"
    RESIZE = "resize"
    RESTART = "restart"
    PREEMPTED = "preempted"


class Outcome(enum.StrEnum):
    """How an attempt ended. LOST: its devices vanished. REPLACED: the next attempt was ordered before it began."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"
    REPLACED = "replaced"


class Unit(enum.StrEnum):
    """What accounts count, always in whole units."""

    DEVICE_MS = "device_ms"
    MICRO_USD = "micro_usd"
    ITERATIONS = "iterations"


WAITING = frozenset({JobState.SUBMITTED, JobState.QUEUED, JobState.PAUSED})
"""Holds nothing."""
HOLDING = frozenset({JobState.ADMITTED, JobState.STARTING, JobState.RUNNING, JobState.RESIZING})
"""Holds devices, and keeps them unless a cycle decides otherwise."""
ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
"""Nothing ever follows."""

_LEAVES = {JobState.DRAINING, JobState.SUCCEEDED, JobState.FAILED, JobState.QUEUED}
ALLOWED: dict[JobState, frozenset[JobState]] = {
    JobState.SUBMITTED: frozenset({JobState.QUEUED, JobState.PAUSED, JobState.ADMITTED, JobState.CANCELLED}),
    JobState.QUEUED: frozenset({JobState.PAUSED, JobState.ADMITTED, JobState.CANCELLED}),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.ADMITTED: frozenset({JobState.STARTING, JobState.RUNNING, JobState.RESIZING, *_LEAVES}),
    JobState.STARTING: frozenset({JobState.RUNNING, JobState.ADMITTED, JobState.RESIZING, *_LEAVES}),
    JobState.RUNNING: frozenset({JobState.RESIZING, JobState.ADMITTED, *_LEAVES}),
    JobState.RESIZING: frozenset({JobState.RUNNING, JobState.ADMITTED, *_LEAVES}),
    JobState.DRAINING: frozenset(
        {JobState.QUEUED, JobState.PAUSED, JobState.CANCELLED, JobState.FAILED, JobState.SUCCEEDED}
    ),
    **dict.fromkeys(ENDED, frozenset()),
}
"""Which state may follow which; a job may always stay what it is."""
