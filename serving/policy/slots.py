"""Which rows hold the engine's cache slots; who gives way to whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.policy.rows import Row
from serving.policy.tiers import Tier

_RANK = {Tier.BATCH: 0, Tier.INTERACTIVE: 1, Tier.KEYSTROKE: 2}
_OWNER = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """Cache moves before a step, in this order: park rows out of their slots, then give slots to rows.

    `park` holds (row id, old slot, tokens cached), `resume` (row id, new slot) of rows whose parked cache comes back.
    """

    park: tuple[tuple[str, int, int], ...] = ()
    resume: tuple[tuple[str, int], ...] = ()


def assign_slots(
    wanting: Sequence[Row], free: Sequence[int], promoted: frozenset[str], owner: Row | None = None
) -> tuple[Moves, tuple[int, ...]]:
    """Give slots to rows in the order of `wanting` (all live rows, most urgent first); returns moves and slots left.

    A row takes a free slot, else that of the last row which must give way: a batch row to anyone waited for, an
    interactive row to a keystroke. Promoted batch rows rank as interactive. Rows of one rank never displace each
    other, so nothing is parked back and forth. `owner`, one of `wanting`, takes a slot before all others and from any
    of them, and nobody takes its own.
    """
    slots, park, resume = sorted(free, reverse=True), [], []
    if owner is not None:
        wanting = [owner, *(row for row in wanting if row is not owner)]
    for position, row in enumerate(wanting):
        if row.slot is not None:
            continue
        if not slots:
            rank = _OWNER if row is owner else _rank(row, promoted)
            victim = _victim(rank, wanting[position + 1 :], promoted)
            if victim is None:
                continue
            assert victim.slot is not None
            slots.append(victim.slot)
            if victim.prefilled:  # a row without a cached token has nothing to keep
                park.append((victim.request.id, victim.slot, victim.cached_tokens))
                victim.parked = True
            victim.slot = None
        row.slot = slots.pop()
        if row.parked:
            row.parked = False
            resume.append((row.request.id, row.slot))
    return Moves(park=tuple(park), resume=tuple(resume)), tuple(slots)


def _victim(rank: int, later: Sequence[Row], promoted: frozenset[str]) -> Row | None:
    if rank == 0:  # nobody ranks lower
        return None
    holders = (other for other in reversed(later) if other.slot is not None)
    return next((other for other in holders if _rank(other, promoted) < rank), None)


def _rank(row: Row, promoted: frozenset[str]) -> int:
    return _RANK[Tier.INTERACTIVE if row.request.id in promoted else row.request.tier]
