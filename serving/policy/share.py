"""The part of step time that batch rows have earned and not had, and what it entitles them to.

Rows that somebody waits for go first to slots and steps. Where they hold every slot, earned time is of no use to a
batch row, and where they fill every step, what a batch row adds to one can be less than the share. So one of several
slots is the batch rows' own while there are any, and a debt that pays for a step buys one without the others, who keep
their slots meanwhile. A single slot is lent for that one step.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.policy.fill import Packing
from serving.policy.rows import Row
from serving.policy.rules import Rules

# Batch time owed or had in advance is forgotten beyond this: an hour without batch rows earns them no hour.
_MAX_DEBT_S = 0.5


class BatchShare:
    """The account of one replica's batch rows. One thread owns it."""

    def __init__(self, share: float) -> None:
        self.owed_s = 0.0
        self._share = share

    @property
    def debt_s(self) -> float:
        """Time that batch rows may take before anything else; what they had in advance is no claim against them."""
        return max(0.0, self.owed_s)

    def book(self, elapsed_s: float, *, had_s: float, backlog: bool) -> None:
        """A step has lasted `elapsed_s`, `had_s` of it for batch rows; without a backlog nothing is owed."""
        owed_s = self.owed_s + self._share * elapsed_s - had_s if backlog else 0.0
        self.owed_s = min(_MAX_DEBT_S, max(-_MAX_DEBT_S, owed_s))

    def owner(self, batch: Sequence[Row], rules: Rules) -> Row | None:
        """The batch row whose slot nobody may take and that takes one from anybody; the one that has a slot already."""
        if not self._share or not batch:
            return None
        row = next((row for row in batch if row.slot is not None), batch[0])
        return row if rules.num_slots > 1 or self.buys_step(row, rules) else None

    def buys_step(self, row: Row, rules: Rules) -> bool:
        """Whether the debt pays for work of this row in a step without others."""
        return Packing(rules).add(row, self.owed_s)
