"""The control loop's ledger, watched: what capacity the last cycle saw is what `why` and `plan` decide on, and what it
decided is what lists say of those who wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.ledger.repository import Ledger
from orchestrator.policy.queueing.decisions import Decisions
from orchestrator.policy.queueing.orders import Order, Report
from orchestrator.policy.queueing.places import Pool
from orchestrator.policy.queueing.values import Snapshot


@dataclass(slots=True)
class WatchedLedger:
    """`ports.Ledger` and `lead()`, passed on. `pools`: as the last cycle observed them; None before the first.
    `decided`: the last snapshot and what was decided on it; None where this server does not decide."""

    ledger: Ledger
    pools: tuple[Pool, ...] | None = None
    decided: tuple[Snapshot, Decisions] | None = None

    def lead(self) -> bool:
        """See `Ledger.lead`."""
        leads = self.ledger.lead()
        if not leads:
            self.decided = None
        return leads

    def record(self, reports: tuple[Report, ...], *, now_s: float) -> tuple[Report, ...]:
        """See `ports.Ledger`."""
        return self.ledger.record(reports, now_s=now_s)

    def snapshot(self, pools: tuple[Pool, ...], *, now_s: float) -> Snapshot:
        """See `ports.Ledger`."""
        self.pools = pools
        return self.ledger.snapshot(pools, now_s=now_s)

    def commit(self, snapshot: Snapshot, decisions: Decisions) -> None:
        """See `ports.Ledger`."""
        self.ledger.commit(snapshot, decisions)
        self.decided = (snapshot, decisions)

    def unsent(self) -> tuple[Order, ...]:
        """See `ports.Ledger`."""
        return self.ledger.unsent()

    def sent(self, orders: Sequence[Order]) -> None:
        """See `ports.Ledger`."""
        self.ledger.sent(orders)
