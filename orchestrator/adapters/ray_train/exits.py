"""Exceptions with which a worker's train function leaves Ray Train; all survive pickling, callers read the fields."""

from __future__ import annotations

from orchestrator.adapters.ray_train.protocol import Left


class WorkerExit(Exception):  # noqa: N818 - not always an error
    """The worker leaves its attempt otherwise than by finishing the job; `left` says how."""

    def __init__(self, left: Left) -> None:
        super().__init__(left)
        self.left = left

    def __str__(self) -> str:
        return f"{self.left.how}: {self.left.detail or self.left.kind or f'after step {self.left.step}'}"


class PlannedRestart(WorkerExit):
    """All ranks stopped at one step with their state saved: start again, at the size the lease says; no failure."""


class RankFailed(WorkerExit):
    """A rank of this worker failed; `left.kind` and `left.detail` say how."""


class AttemptAborted(WorkerExit):
    """This worker was well, but its attempt was given up."""
