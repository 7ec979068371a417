"""The live rows of one replica, kept so that a step costs no more when ten thousand batch rows wait."""

from __future__ import annotations

import bisect
from collections import Counter

from serving.policy.rows import Row, urgency
from serving.policy.tiers import Tier


class RowTable:
    """Rows by id. Batch rows that never had a slot lie in a list of their own, sorted by urgency."""

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._rows: dict[str, Row] = {}
        self._active: dict[str, Row] = {}
        self._waiting: list[tuple[float, str]] = []
        self._per_tier: Counter[Tier] = Counter()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._rows

    def get(self, request_id: str) -> Row | None:
        """The live row, if there is one."""
        return self._rows.get(request_id)

    def add(self, row: Row) -> None:
        """Take a new row without a slot."""
        self._rows[row.request.id] = row
        self._per_tier[row.request.tier] += 1
        if row.request.tier is Tier.BATCH:
            bisect.insort(self._waiting, urgency(row))
        else:
            self._active[row.request.id] = row

    def pop(self, request_id: str) -> Row | None:
        """Remove and return a row, if it is live."""
        row = self._rows.pop(request_id, None)
        if row is None:
            return None
        self._per_tier[row.request.tier] -= 1
        if self._active.pop(request_id, None) is None:
            del self._waiting[bisect.bisect_left(self._waiting, urgency(row))]
        return row

    def considered(self) -> list[Row]:
        """Rows the next step can concern: all online ones, all that had a slot, and the next batch rows in line."""
        return [*self._active.values(), *(self._rows[row_id] for _, row_id in self._waiting[: self._num_slots])]

    def mark_seated(self) -> None:
        """Note which of the batch rows in line have a slot now."""
        for key in self._waiting[: self._num_slots]:
            row = self._rows[key[1]]
            if row.slot is not None:
                self._active[key[1]] = row
                self._waiting.remove(key)  # near the front

    def count(self, tier: Tier) -> tuple[int, int]:
        """Live rows of a tier: (holding a slot, waiting for one)."""
        holding = sum(row.slot is not None for row in self._active.values() if row.request.tier is tier)
        return holding, self._per_tier[tier] - holding
