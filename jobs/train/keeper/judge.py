"""Pure decisions about snapshots: which are complete and safe, which may go, from where to restore.

Values in, values out. The same functions judge live inventories and virtual ones in tests.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from jobs.train.keeper.values import Inventory, SnapshotKey, Verdicts

# How many complete snapshots a keeper holds on to. One is not enough: a crash while the newest one is being mirrored
# must find an older one that is safe.
KEPT_COMPLETE = 2
COPIES_FOR_SAFETY = 2


def holders(inventories: Iterable[Inventory]) -> dict[SnapshotKey, dict[int, frozenset[str]]]:
    """For every snapshot and rank of which some part is held: the nodes that hold it."""
    found: dict[SnapshotKey, dict[int, frozenset[str]]] = {}
    for inventory in inventories:
        for part in inventory.held:
            ranks = found.setdefault(part.key.snapshot, {})
            ranks[part.key.rank] = ranks.get(part.key.rank, frozenset()) | {inventory.node}
    return found


def is_complete(key: SnapshotKey, ranks: Mapping[int, frozenset[str]]) -> bool:
    """Whether every rank's part is held by somebody."""
    return len(ranks) == key.world_size


def is_safe(key: SnapshotKey, ranks: Mapping[int, frozenset[str]], leaving: Collection[str] = ()) -> bool:
    """Whether every part is on two nodes, at least one of which stays."""
    gone = frozenset(leaving)
    return is_complete(key, ranks) and all(len(nodes) >= COPIES_FOR_SAFETY and nodes - gone for nodes in ranks.values())


def judge(
    run: str,
    attempt: int,
    inventories: Collection[Inventory],
    *,
    leaving: Collection[str] = (),
    flush: SnapshotKey | None = None,
) -> Verdicts:
    """Judge a run from what its nodes last reported; the order of the reports does not matter."""
    by_key = holders(inventories)
    complete = sorted(key for key, ranks in by_key.items() if is_complete(key, ranks))
    safe = [key for key in complete if is_safe(key, by_key[key], leaving)]
    skipped = {key for inventory in inventories for key in inventory.skipped}
    return Verdicts(
        run=run,
        attempt=attempt,
        complete=tuple(complete[-KEPT_COMPLETE:]),
        safe=safe[-1] if safe else None,
        abandoned=tuple(sorted(skipped - set(complete))),
        flush=flush,
        mirror_failing=any(inventory.mirror_error for inventory in inventories),
    )


class Pressure(enum.IntEnum):
    """How badly room is needed for a new snapshot."""

    NONE = 0  # keep all that is worth keeping
    MIRROR_FAILING = 1  # nothing becomes safe any more: waiting for it would stop snapshots for good
    FINAL = 2  # the attempt ends here: this snapshot must not be skipped
    LAST_RESORT = 3  # and it has waited in vain for older ones to become complete


def droppable(
    held: Collection[SnapshotKey],
    verdicts: Verdicts,
    pressure: Pressure = Pressure.NONE,
    room_for: SnapshotKey | None = None,
    refused: Collection[SnapshotKey] = (),
) -> list[SnapshotKey]:
    """Which of the snapshots held of one run may go, oldest first.

    Kept always: the newest complete one and the newest safe one. Kept without pressure: the two newest complete ones
    and the one being flushed. What is newer than the newest complete one is kept, it may yet become complete, until a
    snapshot that is newer still (`room_for`) finds no room a second time (`refused`: those that found none before):
    then some rank has lost its part. Dropping it at once would be wrong: where snapshots come faster than verdicts,
    none would ever be complete.
    """
    complete = sorted(verdicts.complete)
    num_kept = KEPT_COMPLETE if pressure is Pressure.NONE else 1
    kept = {*complete[-num_kept:], verdicts.safe}
    if pressure < Pressure.FINAL:
        kept.add(verdicts.flush)
    abandoned = set(verdicts.abandoned)

    def is_past(key: SnapshotKey) -> bool:
        if complete and key <= complete[-1]:
            return True
        if room_for is None or key >= room_for:
            return False
        return pressure is Pressure.LAST_RESORT or any(key < other < room_for for other in refused)

    return sorted(key for key in held if key not in kept and (key in abandoned or is_past(key)))


class Source(enum.StrEnum):
    """Where state comes from."""

    KEEPERS = "keepers"
    STORAGE = "storage"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Incomplete:
    """A newer snapshot that cannot be used, and the ranks whose parts nobody has."""

    key: SnapshotKey
    missing_ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """From where a run continues.

    `step`: optimizer steps contained, 0 for nothing. `key` and `places` (rank -> holders, sorted) for keepers only.
    `older`: further complete snapshots in the keepers, newest first. `passed_over`: newer ones that lack parts.
    `detail` is for people.
    """

    source: Source
    step: int
    key: SnapshotKey | None
    places: Mapping[int, tuple[str, ...]]
    older: tuple[SnapshotKey, ...]
    passed_over: tuple[Incomplete, ...]
    detail: str


def choose_source(run: str, inventories: Sequence[Inventory], storage_step: int | None) -> Choice:
    """The nearest source that has the newest complete step of `run`: surviving keepers, else storage, else nothing.

    `storage_step`: steps contained in the newest committed checkpoint; None if there is none. At equal steps keepers
    win: memory is nearer than storage.
    """
    by_key = {key: ranks for key, ranks in holders(inventories).items() if key.run == run}
    complete = sorted((key for key, ranks in by_key.items() if is_complete(key, ranks)), reverse=True)
    best = complete[0] if complete and complete[0].step >= (storage_step or 0) else None
    step = best.step if best else storage_step or 0
    passed_over = tuple(
        Incomplete(key=key, missing_ranks=tuple(sorted(set(range(key.world_size)) - set(ranks))))
        for key, ranks in sorted(by_key.items(), reverse=True)
        if not is_complete(key, ranks) and key.step > step
    )
    if best:
        source, where = Source.KEEPERS, f"the keepers of {len(inventories)} nodes"
    elif storage_step is not None:
        source, where = Source.STORAGE, "storage"
    else:
        source, where = Source.NOTHING, "nothing: no complete snapshot and no checkpoint"
    return Choice(
        source=source,
        step=step,
        key=best,
        places={rank: tuple(sorted(nodes)) for rank, nodes in by_key[best].items()} if best else {},
        older=tuple(key for key in complete if key != best),
        passed_over=passed_over,
        detail=_explain(where, step, passed_over),
    )


def _explain(where: str, step: int, passed_over: Sequence[Incomplete]) -> str:
    text = f"continues after step {step} from {where}"
    if passed_over:
        lost = passed_over[0]
        ranks = ", ".join(map(str, lost.missing_ranks[:8])) + (", ..." if len(lost.missing_ranks) > 8 else "")
        text += f"; the snapshot of step {lost.key.step} lacks the parts of ranks {ranks} and was passed over"
    return text
