"""From where a run continues, and all that a rank needs to read it: gathered from whichever keepers survive."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from jobs.train import wire
from jobs.train.keeper.judge import Choice, Source, choose_source
from jobs.train.keeper.transport import PeerGoneError, PeerRefusedError, PeerTransport
from jobs.train.keeper.values import Inventory, PartKey, PartMeta, SnapshotKey
from jobs.train.state.errors import CorruptStateError
from jobs.train.wire import WIRE


class PartsLostError(CorruptStateError):
    """Parts of a snapshot that was complete a moment ago cannot be had any more; an older one may do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one part file is: its key, and the nodes that hold it."""

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    key: PartKey
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """What ranks read: the manifest of the snapshot and where its files are, by file name.

    `manifest` is "" when the state comes from storage (or there is none): read it there, at `step`.
    `detail` says for people where the state comes from and what was passed over.
    """

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    source: Source
    step: int
    detail: str
    manifest: str = ""
    places: dict[str, Place]
    older: tuple[SnapshotKey, ...] = ()


def gather(transport: PeerTransport, nodes: Iterable[str], run: str) -> list[Inventory]:
    """What the surviving keepers among `nodes` hold of a run; those that do not answer hold nothing."""
    found = []
    for node in nodes:
        try:
            reply = transport.call(node, "inventory", {"body": run})
        except (PeerGoneError, PeerRefusedError):
            continue
        found.append(wire.load(Inventory, reply.fields["inventory"]))
    return found


def plan_restore(
    transport: PeerTransport,
    nodes: Collection[str],
    run: str,
    *,
    storage_step: int | None = None,
    refused: Collection[SnapshotKey] = (),
) -> RestorePlan:
    """The plan for the newest usable state; `refused`: snapshots that turned out to be damaged.

    A keeper that dies between two questions makes its snapshot fall out, and the next older one is tried.
    """
    passed_over = set(refused)
    while True:
        inventories = [_without(inventory, passed_over) for inventory in gather(transport, nodes, run)]
        choice = choose_source(run, inventories, storage_step)
        if choice.key is None:
            return RestorePlan(source=choice.source, step=choice.step, detail=choice.detail, places={})
        try:
            holders = sorted({node for places in choice.places.values() for node in places})
            entries = collect_entries(transport, holders, choice.key)
            return _plan(choice, choice.key, entries)
        except PartsLostError:
            passed_over.add(choice.key)


def collect_entries(transport: PeerTransport, nodes: Iterable[str], key: SnapshotKey) -> list[PartMeta]:
    """The entries of all parts of a snapshot, by rank, from whoever among `nodes` has them.

    Raises: PartsLostError naming the ranks that are missing.
    """
    found: dict[int, PartMeta] = {}
    for node in nodes:
        try:
            reply = transport.call(node, "entries", {"key": wire.dump(key).decode()})
        except (PeerGoneError, PeerRefusedError):
            continue
        for text in reply.fields["parts"]:
            meta = wire.load(PartMeta, text)
            found.setdefault(meta.key.rank, meta)
        if len(found) == key.world_size:
            return [found[rank] for rank in sorted(found)]
    missing = sorted(set(range(key.world_size)) - set(found))
    raise PartsLostError(f"step {key.step} of {key.run}: no keeper has the parts of ranks {missing[:8]}")


def assemble_manifest(key: SnapshotKey, entries: Collection[PartMeta]) -> bytes:
    """The snapshot's manifest: rank 0's header with every rank's entry. Opaque but for the list of parts."""
    header = next(meta.header for meta in entries if meta.header is not None)
    parts = [meta.entry for meta in sorted(entries, key=lambda meta: meta.key)]
    assert len(parts) == key.world_size, (key, len(parts))
    return json.dumps({**header, "parts": parts}, separators=(",", ":")).encode()


def _plan(choice: Choice, key: SnapshotKey, entries: Collection[PartMeta]) -> RestorePlan:
    return RestorePlan(
        source=choice.source,
        step=choice.step,
        detail=choice.detail,
        manifest=assemble_manifest(key, entries).decode(),
        places={meta.file: Place(key=meta.key, nodes=choice.places[meta.key.rank]) for meta in entries},
        older=choice.older,
    )


def _without(inventory: Inventory, keys: Collection[SnapshotKey]) -> Inventory:
    held = tuple(part for part in inventory.held if part.key.snapshot not in keys)
    return Inventory(node=inventory.node, run=inventory.run, attempt=inventory.attempt, held=held)
