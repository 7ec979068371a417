"""What happens in a run, as values. The run's record, its metrics and the live line are folds over these events.

Times (`at_s`) are Unix seconds. `step` counts completed optimizer steps: the first step of a run is 1.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Cause(enum.StrEnum):
    """Why an attempt was opened, or why worker-time was not useful. Closed: ledger column and metric label."""

    START = "start"
    RESUME = "resume"
    GROW = "grow"
    SHRINK = "shrink"
    NOTICE = "notice"
    WORKER_FAILURE = "worker_failure"
    NODE_LOSS = "node_loss"
    HANG = "hang"
    START_FAILURE = "start_failure"
    PAUSE = "pause"
    INTERRUPT = "interrupt"
    CAPACITY = "capacity"


class Part(enum.StrEnum):
    """The parts of a stall, in the order in which they happen."""

    STOP = "stop"
    SNAPSHOT = "snapshot"
    TEARDOWN = "teardown"
    PLACEMENT = "placement"
    PROCESS_START = "process_start"
    IMPORTS = "imports"
    PROCESS_GROUPS = "process_groups"
    ENGINE = "engine"
    STATE = "state"
    FIRST_STEP = "first_step"


class Outcome(enum.StrEnum):
    """How an attempt ended."""

    FINISHED = "finished"
    PLANNED = "planned"
    FAILED = "failed"


class Status(enum.StrEnum):
    """Where a run stands."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    PAUSED = "paused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOpened:
    """Workers are being asked for; from here on `world_size` workers are charged. `nodes`: every worker's, in rank
    order."""

    at_s: float
    attempt: int
    cause: Cause
    world_size: int
    start_step: int
    source: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StallPart:
    """One measured part of the stall that opens or closes an attempt: the slowest rank's seconds."""

    at_s: float
    attempt: int
    part: Part
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    """Step number `step` (from 1) of the whole group. `ledger` holds the two summed halves of the sample ids' hash;
    `mfu` is a fraction, 0 where the device's peak is unknown; `metrics` are the task's (bits_per_byte, say)."""

    at_s: float
    attempt: int
    step: int
    world_size: int
    loss: float
    lr: float
    grad_norm: float
    num_tokens: int
    step_s: float
    mfu: float = 0.0
    ledger: tuple[int, int] = (0, 0)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshotted:
    """The state after `step` steps is in the keepers of every rank's node."""

    at_s: float
    attempt: int
    step: int
    num_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSafe:
    """Every part of this snapshot is on two nodes. `lag_steps`: the most steps that training has been ahead of the
    mirrors so far; None where it was not measured."""

    at_s: float
    attempt: int
    step: int
    lag_steps: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSaved:
    """The state after `step` steps is committed in storage."""

    at_s: float
    attempt: int
    step: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAsked:
    """Every rank is asked to stop at one agreed step."""

    at_s: float
    attempt: int
    cause: Cause
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptClosed:
    """No worker of this attempt trains any more. `step` = steps whose result survives at this moment."""

    at_s: float
    attempt: int
    outcome: Outcome
    cause: Cause | None
    step: int
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noticed:
    """A node was announced to go away `deadline_s` seconds after `at_s` (None: not said when)."""

    at_s: float
    node_id: str
    deadline_s: float | None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """Something worth a line in the log: a skipped update, a roll-back, a damaged checkpoint that was passed over."""

    at_s: float
    attempt: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Straggler:
    """A rank needs `ratio` times as long for its own work as the median of all, over `steps` steps; with `over` it does
    so no more. All wait for it in every step."""

    at_s: float
    attempt: int
    rank: int
    node_id: str
    ratio: float
    steps: int
    over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDied:
    """A worker or a rank of it has ended by itself on a node that goes on: the node's fault, or what runs there."""

    at_s: float
    attempt: int
    node_id: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StacksTaken:
    """Where the threads of ranks stood, because somebody hung or asked, is in the file `path`. `step`: the last step
    that the group had finished."""

    at_s: float
    attempt: int
    step: int
    num_ranks: int
    path: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusChanged:
    """The run's standing as a whole; `detail` is the human sentence."""

    at_s: float
    status: Status
    detail: str = ""


Event = (
    AttemptOpened
    | StallPart
    | StepDone
    | Snapshotted
    | SnapshotSafe
    | CheckpointSaved
    | StopAsked
    | AttemptClosed
    | Noticed
    | Remark
    | StacksTaken
    | Straggler
    | WorkerDied
    | StatusChanged
)

KINDS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        AttemptOpened,
        StallPart,
        StepDone,
        Snapshotted,
        SnapshotSafe,
        CheckpointSaved,
        StopAsked,
        AttemptClosed,
        Noticed,
        Remark,
        StacksTaken,
        Straggler,
        WorkerDied,
        StatusChanged,
    )
}


def to_json(event: Event) -> dict[str, Any]:
    """A JSON object with the event's kind under `kind`."""
    return {"kind": type(event).__name__, **dataclasses.asdict(event)}


def from_json(data: Mapping[str, Any]) -> Event:
    """The event that `to_json` wrote. Raises: ValueError for an unknown kind or missing fields."""
    fields = dict(data)
    kind = KINDS.get(fields.pop("kind", ""))
    if kind is None:
        raise ValueError(f"unknown event kind {data.get('kind')!r}; known: {', '.join(sorted(KINDS))}")
    for name, enumeration in (("cause", Cause), ("part", Part), ("outcome", Outcome), ("status", Status)):
        if fields.get(name) is not None:
            fields[name] = enumeration(fields[name])
    if "nodes" in fields:
        fields["nodes"] = tuple(fields["nodes"])
    if "ledger" in fields:
        high, low = fields["ledger"]
        fields["ledger"] = (high, low)
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"event {kind.__name__}: {error}") from None
