"""The live rows of one replica, kept so that a step costs no more when ten thousand batch rows wait."""

from __future__ import annotations

import bisect
from collections import Counter

from serving.policy.rows import Row, urgency
from serving.policy.tiers import Tier


class RowTable:
    """Rows by id. Batch rows that never had a slot lie in lists of their own, one a tenant, sorted by urgency."""

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._rows: dict[str, Row] = {}
        self._active: dict[str, Row] = {}
        self._waiting: dict[str, list[tuple[float, str]]] = {}
        self._per_tier: Counter[Tier] = Counter()
        self._per_tenant: dict[Tier, Counter[str]] = {tier: Counter() for tier in Tier}

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
        self._per_tenant[row.request.tier][row.request.tenant] += 1
        if row.request.tier is Tier.BATCH:
            bisect.insort(self._waiting.setdefault(row.request.tenant, []), urgency(row))
        else:
            self._active[row.request.id] = row

    def pop(self, request_id: str) -> Row | None:
        """Remove and return a row, if it is live."""
        row = self._rows.pop(request_id, None)
        if row is None:
            return None
        self._per_tier[row.request.tier] -= 1
        tenants = self._per_tenant[row.request.tier]
        tenants[row.request.tenant] -= 1
        if not tenants[row.request.tenant]:
            del tenants[row.request.tenant]
        if self._active.pop(request_id, None) is None:
            self._stop_waiting(row)
        return row

    def considered(self) -> list[Row]:
        """Rows the next step can concern: all online ones, all that had a slot, and the next batch rows of each tenant
        in line."""
        return [*self._active.values(), *(self._rows[row_id] for row_id in self._in_line())]

    def mark_seated(self) -> None:
        """Note which of the batch rows in line have a slot now."""
        for row_id in self._in_line():
            row = self._rows[row_id]
            if row.slot is not None:
                self._active[row_id] = row
                self._stop_waiting(row)

    def has(self, tier: Tier) -> bool:
        """Whether there is a live row of this tier."""
        return self._per_tier[tier] > 0

    def fair_waiting(self, tier: Tier, tenant: str) -> int:
        """How long the tier's queue is for this tenant: all that wait, or less while it has less than its share."""
        tenants = self._per_tenant[tier]
        return min(self.count(tier)[1], tenants[tenant] * len(tenants.keys() | {tenant}))

    def _in_line(self) -> list[str]:
        return [row_id for line in self._waiting.values() for _, row_id in line[: self._num_slots]]

    def _stop_waiting(self, row: Row) -> None:
        line = self._waiting[row.request.tenant]
        del line[bisect.bisect_left(line, urgency(row))]
        if not line:
            del self._waiting[row.request.tenant]

    def count(self, tier: Tier) -> tuple[int, int]:
        """Live rows of a tier: (holding a slot, waiting for one)."""
        holding = sum(row.slot is not None for row in self._active.values() if row.request.tier is tier)
        return holding, self._per_tier[tier] - holding
