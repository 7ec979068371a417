"""Turns of tenants inside a tier: whoever floods it waits behind himself, not in front of others.

Only the order inside a tier changes; what the tiers owe each other, and every order within one tenant, stays.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from serving.policy.rows import Request
from serving.policy.rules import RANK


class Asked(Protocol):
    """Something that is computed for a request."""

    @property
    def request(self) -> Request: ...


T = TypeVar("T", bound=Asked)


def turns(rows: Sequence[Asked]) -> Mapping[str, int]:
    """Per row id, how many rows of the same tier and tenant stand before it."""
    seen: Counter[tuple[str, str]] = Counter()
    found = {}
    for row in rows:
        key = (row.request.tier, row.request.tenant)
        found[row.request.id] = seen[key]
        seen[key] += 1
    return found


def take_turns(rows: Sequence[T]) -> list[T]:
    """The same rows: the places of each tier stay its own, and its tenants' rows take them turn by turn.

    Rows that are being computed count as turns, so a slot that becomes free goes to who holds fewer of them.
    Holds: with one tenant nothing moves; a row never moves behind one of its own tenant that it stood before.
    """
    if len({row.request.tenant for row in rows}) < 2:
        return list(rows)
    turn, per_tier = turns(rows), defaultdict[str, list[T]](list)
    for row in rows:
        per_tier[row.request.tier].append(row)
    # sorted() is stable: within a turn, the given order.
    queues = {tier: iter(sorted(each, key=lambda row: turn[row.request.id])) for tier, each in per_tier.items()}
    return [next(queues[row.request.tier]) for row in rows]


def yielding(rows: Sequence[Asked], request_id: str) -> set[str]:
    """Rows that a request may delay: other tenants' of its tier or a slower one, further into their turns than it is
    into its own."""
    turn = turns(rows)
    mine = next(row.request for row in rows if row.request.id == request_id)
    others = (row.request for row in rows if row.request.tenant != mine.tenant)
    behind = (other for other in others if turn[other.id] > turn[request_id])
    return {other.id for other in behind if RANK[other.tier] >= RANK[mine.tier]}
