"""What a rank and its supervisor say to each other: one JSON object a line, typed, versioned, tolerant of nothing.

`step` always counts completed optimizer steps, so the first step of a run is reported as 1 and a snapshot of step s
is continued with the samples of step index s.
"""

from __future__ import annotations

import json
import typing
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from jobs.train import wire
from jobs.train.wire import WIRE, WireError

VERSION = 1

Part = Literal["process_start", "imports", "process_groups", "engine", "state", "first_step", "stop", "snapshot"]
FailureKind = Literal["user_code", "nan", "hang", "state", "environment", "lost_peer", "internal"]


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of this attempt's stall is over. Every rank.

    `stop` is the time from a stop's arrival to the end of the last step, `snapshot` from there until all have left.
    """

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    part: Part
    seconds: float


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step of the whole group. Rank 0 only, one step late: nothing waits for it.

    `loss` is the mean over the global batch, `tokens` those of the whole group, `grad_norm` the norm before clipping.
    `hash_hi` and `hash_lo` are the summed halves of the sample ledger's hash. `mfu` is 0 where the peak is unknown.
    `age_s`: how long ago the step ended when this is said.
    """

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    step_s: float
    hash_hi: int
    hash_lo: int
    mfu: float
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Pace:
    """What this rank has computed by itself since it last said so: `passes` of it took `seconds`, up to `step`. Every
    rank, every few seconds."""

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    step: int
    passes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """This rank's share of a step is in the node's keeper, sealed. `seconds` is the time the loop was held up."""

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    step: int
    nbytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint is committed in storage. Rank 0 only."""

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    step: int
    path: str


@dataclass(frozen=True, slots=True)
class Restored:
    """The attempt continues after `step` steps, which may be older than asked for: `detail` says why. Every rank.

    `source` is where the bytes came from ("keepers" or "storage"); `read_bytes` is this rank's share.
    """

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    step: int
    source: Literal["keepers", "storage"]
    read_bytes: int
    detail: str


@dataclass(frozen=True, slots=True)
class NotSaved:
    """A snapshot or checkpoint did not come about; earlier ones are untouched and training goes on."""

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    step: int
    detail: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """The update of this step was not applied: loss or gradient was not finite and the job says `on_nan: skip`."""

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    step: int


@dataclass(frozen=True, slots=True)
class RolledBack:
    """Loss or gradient of `step` was not finite: the state is again that of `to_step`, the samples between are passed
    over, and training goes on after `step`."""

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    step: int
    to_step: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """All ranks left after this step, their state saved; `reason` is the one of the stop that was asked for."""

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The job's last step is done and its state saved: in the keeper where there is one, else in storage."""

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Failed:
    """The rank gives up; it exits right after this."""

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    kind: FailureKind
    detail: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave together with all other ranks at the next step they can agree on. Telling one rank is enough."""

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    reason: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Write a checkpoint at the next step that the ranks can agree on."""

    __pydantic_config__: ClassVar[ConfigDict] = WIRE


Message = (
    Phase | Restored | Step | Pace | Snapshot | Saved | NotSaved | Skipped | RolledBack | Stopped | Finished | Failed
)
Control = Stop | Checkpoint

KINDS: tuple[type[Message | Control], ...] = (*typing.get_args(Message), *typing.get_args(Control))
_BY_NAME = {kind.__name__: kind for kind in KINDS}


def encode(message: Message | Control) -> bytes:
    """The message as one line, line break included."""
    name = type(message).__name__
    return b'{"v":%d,"is":"%s","body":%s}\n' % (VERSION, name.encode(), wire.dump(message))


def decode(line: bytes) -> Message | Control:
    """The message in one line.

    Raises: WireError for another version, an unknown kind, or any field that is missing, unknown or wrong.
    """
    try:
        envelope = json.loads(line)
        version, name, body = envelope["v"], envelope["is"], envelope["body"]
    except (ValueError, KeyError, TypeError):
        raise WireError(f"not a message: {line[:200]!r}") from None
    if version != VERSION:
        raise WireError(f"message version {version!r}; this side speaks {VERSION}. Restart both from one installation")
    if name not in _BY_NAME:
        raise WireError(f"unknown message {name!r}; known are {', '.join(sorted(_BY_NAME))}")
    return wire.load(_BY_NAME[name], json.dumps(body))


class LineBuffer:
    """Cuts a stream of bytes into whole lines; a line that is not finished yet waits."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Lines completed by `data`, without their line breaks."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines
