"""What driver, controller, supervisors and node agents of one run say to each other, as values that travel through Ray.

Rank messages stay the lines that ranks write (`jobs.train.messages`): nobody on the way needs to understand them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from jobs.train.config import RankJob
from orchestrator.adapters.ray_train.stacks import RankStack


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptPlan:
    """One attempt, decided by the driver: how many ranks, on how many workers, doing what.

    `nodes` names the node of every worker in rank order.
    """

    attempt: int
    world_size: int
    ranks_per_worker: int
    job: RankJob
    nodes: tuple[str, ...]

    @property
    def num_workers(self) -> int:
        """Ray Train workers; the last one may supervise fewer ranks."""
        return -(-self.world_size // self.ranks_per_worker)

    def ranks_of(self, worker: int) -> range:
        """Global ranks that worker number `worker` supervises."""
        first = worker * self.ranks_per_worker
        return range(first, min(first + self.ranks_per_worker, self.world_size))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOver:
    """No further attempt comes. `error` empty: the run ends in peace (finished or paused)."""

    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A worker's place in its attempt: the plan and where rank 0 listens."""

    plan: AttemptPlan
    master_addr: str
    master_port: int


class Leaving(enum.StrEnum):
    """How a worker leaves its attempt."""

    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One line from a rank, with the time (Unix seconds) at which its supervisor read it."""

    attempt: int
    rank: int
    at_s: float
    line: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A worker is up and asks its node for ranks."""

    attempt: int
    worker: int
    node_id: str
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A worker has no ranks any more. `kind` and `detail` say why when it failed; `step` as far as it knows."""

    attempt: int
    worker: int
    node_id: str
    at_s: float
    how: Leaving
    step: int = 0
    kind: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupIdle:
    """The controller has no running group and asks what next. `error` names the exception that ended the last one;
    on `silent_nodes` workers have died or do not answer."""

    at_s: float
    error: str = ""
    detail: str = ""
    silent_nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStarting:
    """The controller begins to start a group of this many workers."""

    at_s: float
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlaced:
    """All workers of the group have their room (placement is over, processes start)."""

    at_s: float
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The workers that the run holds on each node now, idle ones included."""

    at_s: float
    workers: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """A node's agent has heard at `at_s` that the node goes away at `ends_at_s` (Unix seconds; None: nobody said when).
    `advisory`: it may, nothing is decided."""

    at_s: float
    node_id: str
    ends_at_s: float | None
    detail: str
    advisory: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hung:
    """A rank of this worker has waited for others in vain. Said before its worker leaves, so that those who are told to
    end say first where they stand."""

    attempt: int
    worker: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StacksOf:
    """Where a worker's ranks stood when it was about to kill them."""

    attempt: int
    worker: int
    node_id: str
    stacks: tuple[RankStack, ...]


Item = Said | Joined | Left | GroupIdle | GroupStarting | GroupPlaced | Held | Announced | Hung | StacksOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """A control line for ranks (`jobs.train.messages.Control`), for every worker of the attempt."""

    attempt: int
    line: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """End the attempt's ranks now; their work since the last snapshot is given up. `stacks`: say first where they
    stand, because somebody hangs."""

    attempt: int
    reason: str
    stacks: bool = False


Order = Tell | Abort
