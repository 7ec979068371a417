"""The words keepers use among themselves: which snapshot, who holds which part, what the lead has judged.

Frozen values that travel as JSON (`jobs.train.wire`). A *part* is what one rank saved of one step; a *snapshot* is all
parts of a step; it is *complete* when every part is sealed somewhere and *safe* when every part is on two nodes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict

from jobs.train.wire import WIRE

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class SnapshotKey:
    """One step of one attempt of a run. Sorted by (run, step, attempt): the later attempt wins a tie.

    The attempt is part of it, so that parts of two attempts never make up one snapshot: their sums differ in the last
    bits. Raises: ValueError for values that no run can have.
    """

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    run: str
    step: int
    attempt: int
    world_size: int

    def __post_init__(self) -> None:
        if not _RUN_NAME.fullmatch(self.run):
            raise ValueError(f"run name {self.run!r}; letters, digits, '.', '_' and '-' are allowed, 128 at most")
        if self.step < 0 or self.attempt < 0 or self.world_size < 1:
            raise ValueError(f"step {self.step}, attempt {self.attempt}, world_size {self.world_size}: out of range")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PartKey:
    """One rank's part of a snapshot. Raises: ValueError if the rank is not one of the snapshot's world."""

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    snapshot: SnapshotKey
    rank: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.snapshot.world_size:
            raise ValueError(f"rank {self.rank} is not in a world of {self.snapshot.world_size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartMeta:
    """A sealed part: its entry in the manifest (size and block hashes are in it) and the node whose rank wrote it.

    `header` is the manifest without its parts; rank 0 writes it, for all others it is None.
    """

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    key: PartKey
    origin: str
    entry: dict[str, Any]
    header: dict[str, Any] | None

    @property
    def nbytes(self) -> int:
        """Size of the part in bytes."""
        return int(self.entry["nbytes"])

    @property
    def blocks(self) -> list[str]:
        """One hexadecimal hash per block."""
        return list(self.entry["blocks"])

    @property
    def file(self) -> str:
        """The part's name in the manifest."""
        return str(self.entry["file"])


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldPart:
    """A node holds this part, sealed. `flushed`: it wrote it to storage, too."""

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    key: PartKey
    origin: str
    flushed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """All that one node holds of a run, and its troubles.

    `skipped`: snapshots that a rank of this node could not take, which will therefore never be complete.
    `mirror_error` is "" while all is well; `flush_error` says why `flush_failed` could not be written to storage.
    """

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    node: str
    run: str
    attempt: int
    held: tuple[HeldPart, ...] = ()
    skipped: tuple[SnapshotKey, ...] = ()
    mirror_error: str = ""
    flush_failed: SnapshotKey | None = None
    flush_error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What the lead has judged of a run, and what every node acts on.

    `complete`: the newest complete snapshots, oldest first. `safe`: the newest safe one. `abandoned`: will never be
    complete. `flush`: to be written to storage now. `mirror_failing`: some node cannot mirror, so waiting for it is
    pointless. Applying old verdicts late is harmless: they only keep more.
    """

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    run: str
    attempt: int
    complete: tuple[SnapshotKey, ...] = ()
    safe: SnapshotKey | None = None
    abandoned: tuple[SnapshotKey, ...] = ()
    flush: SnapshotKey | None = None
    mirror_failing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptPlan:
    """What a keeper must know of an attempt; the same for all keepers of the run.

    `nodes`: every node with a keeper, also those without ranks. `lead`: the one among them that judges. `mirrors`: to
    whom each node mirrors its ranks' parts (`topology.choose_mirrors`). `leaving`: nodes that will soon be gone.
    `kept`: snapshots of earlier attempts worth keeping: the one restored and the older complete ones.
    `storage_url` "": nothing is ever flushed; `checkpoint_every_s` 0: only when asked. The first flush is due
    `first_checkpoint_in_s` after the attempt begins (a short attempt must not start the wait anew); `committed_step` is
    the newest step in storage by then (-1: none); the newest `keep_checkpoints` stay there.
    """

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    run: str
    attempt: int
    world_size: int
    nodes: tuple[str, ...]
    lead: str
    mirrors: dict[str, tuple[str, ...]]
    leaving: tuple[str, ...] = ()
    kept: tuple[SnapshotKey, ...] = ()
    storage_url: str = ""
    checkpoint_every_s: float = 0.0
    first_checkpoint_in_s: float = 0.0
    committed_step: int = -1
    keep_checkpoints: int = 1

    def __post_init__(self) -> None:
        known = {self.lead, *self.leaving, *self.mirrors, *(peer for peers in self.mirrors.values() for peer in peers)}
        if strangers := known - set(self.nodes):
            raise ValueError(f"attempt {self.attempt} of {self.run}: {sorted(strangers)} not among nodes {self.nodes}")
