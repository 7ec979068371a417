"""Quotas of one decision in the making: what each queue uses, may borrow and must lend, in whole devices.

The arithmetic of cohorts is Kueue's (guaranteed = nominal not lent; the rest is a common store that idle queues fill
and borrowers empty); we keep integers throughout, because truncated parts of devices lost jobs elsewhere
(kueue#13763).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.policy.queueing.parties import Queue, Quota


@dataclass(slots=True)
class Store:
    """What the queues of a cohort lend each other in one pool, and how much of it is in use."""

    lendable: int = 0
    used: int = 0


@dataclass(slots=True)
class Account:
    """One queue in one pool. `guaranteed` devices are never lent; the others come from `store`."""

    nominal: int
    guaranteed: int
    borrow: int | None
    store: Store
    used: int = 0

    @property
    def available(self) -> int:
        """Devices the queue may take now: its own guaranteed ones and what the store and its limit allow."""
        # Asked thousands of times in a decision: no calls.
        beyond, common = self.used - self.guaranteed, self.store.lendable - self.store.used
        if self.borrow is not None:
            most = self.nominal - self.guaranteed + self.borrow - (beyond if beyond > 0 else 0)
            common = most if most < common else common
        return (-beyond if beyond < 0 else 0) + (common if common > 0 else 0)

    @property
    def most_ever(self) -> int:
        """Devices it could take if nobody used anything."""
        limit = self.store.lendable
        if self.borrow is not None:
            most = self.nominal - self.guaranteed + self.borrow
            limit = most if most < limit else limit
        return self.guaranteed + limit

    @property
    def borrowed(self) -> int:
        """Devices in use beyond nominal."""
        return max(0, self.used - self.nominal)

    def draw(self, devices: int) -> int:
        """How many of `devices` more would come out of the common store."""
        before = self.used - self.guaranteed
        return max(0, before + devices) - max(0, before)

    def charge(self, devices: int) -> None:
        """Use `devices` more; a negative number gives back."""
        self.store.used += self.draw(devices)
        self.used += devices


@dataclass(slots=True)
class Quotas:
    """All accounts, by (queue, pool). A pool that a queue does not name is not there."""

    accounts: dict[tuple[str, str], Account] = field(default_factory=dict)

    @classmethod
    def of(cls, queues: Iterable[Queue]) -> Quotas:
        """Accounts with nothing used yet."""
        stores: dict[tuple[str, str], Store] = {}
        accounts: dict[tuple[str, str], Account] = {}
        for queue in queues:
            for quota in queue.quotas:
                # A queue without cohort is a cohort of one, with nothing to borrow.
                key = (f"cohort {queue.cohort}" if queue.cohort else f"queue {queue.name}", quota.pool)
                accounts[queue.name, quota.pool] = _account(queue, quota, stores.setdefault(key, Store()))
        return cls(accounts)

    def charge(self, queue: str | None, pool: str, devices: int) -> None:
        """Charge a queue; devices of nobody's queue (an endpoint's, a removed queue's) are charged to none."""
        account = self.accounts.get((queue, pool)) if queue is not None else None
        if account is not None:
            account.charge(devices)


def _account(queue: Queue, quota: Quota, store: Store) -> Account:
    lent = 0 if queue.cohort is None else quota.nominal if quota.lend is None else min(quota.lend, quota.nominal)
    store.lendable += lent
    borrow = 0 if queue.cohort is None else quota.borrow
    return Account(nominal=quota.nominal, guaranteed=quota.nominal - lent, borrow=borrow, store=store)
