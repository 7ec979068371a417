"""Reads for people: on connections of their own, so that they never wait for a writer; also where nobody leads.

Here: who holds and has what, what it cost, and who may ask. Jobs are in `job_reads`, events in `event_reads`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from orchestrator.ledger import forms, tables
from orchestrator.ledger.clusters import load_cluster, load_holds
from orchestrator.ledger.event_reads import EventReads
from orchestrator.ledger.job_reads import JobReads
from orchestrator.ledger.keys import KeyRow, Role, matches, split
from orchestrator.ledger.leader import Leader, read_leader
from orchestrator.ledger.node_holds import Holds, load_node_holds
from orchestrator.ledger.queries import page_of
from orchestrator.ledger.rows import LeaseRow, MeterRow
from orchestrator.ledger.shelf import Form
from orchestrator.ledger.states import Unit
from orchestrator.spec import Cluster

_KEYS = Form(tables.api_keys, KeyRow, ("id",), read={"role": Role})


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantUsage:
    """What a tenant's jobs were booked for."""

    tenant: str
    jobs: int
    micro_usd: int
    device_ms: int


class Reader(JobReads, EventReads):
    """Answers about what is committed. Raises everywhere: UnreachableError."""

    def leases(
        self, *, pool: str | None = None, tenant: str | None = None, after: int | None = None, limit: int = 1_000_000
    ) -> list[LeaseRow]:
        """Who holds what now, in order of id; `after` is the id of the last one of the page before."""
        table, where = tables.leases.c, []
        for column, wanted in ((table.pool, pool), (table.tenant, tenant)):
            if wanted is not None:
                where.append(column == wanted)
        if after is not None:
            where.append(table.id > after)
        return self._rows(forms.LEASES, page_of(forms.LEASES, where, table.id, limit))

    def meters(self) -> list[MeterRow]:
        """Pools, with what they have and what of it is leased."""
        return self._rows(forms.METERS, page_of(forms.METERS, [], tables.meters.c.pool, 10_000))

    def balances(self, unit: Unit) -> dict[str, int]:
        """All accounts of a unit."""
        table = tables.accounts.c
        with self._database.reading() as connection:
            rows = connection.execute(select(table.name, table.balance).where(table.unit == unit.value))
            return {row.name: row.balance for row in rows}

    def booked(self, job_id: str) -> dict[Unit, dict[str, int]]:
        """What was booked to accounts of each kind for a job, by unit; what left one again is not taken off."""
        table = tables.entries.c
        query = select(table.unit, table.account, func.sum(table.amount)).where(table.job == job_id, table.amount > 0)
        with self._database.reading() as connection:
            rows = connection.execute(query.group_by(table.unit, table.account)).all()
        found: dict[Unit, dict[str, int]] = {unit: {} for unit in Unit}
        for unit, account, amount in rows:
            kind, of = account.partition(":")[0], found[Unit(unit)]
            of[kind] = of.get(kind, 0) + int(amount)
        return found

    def tenant_usage(self) -> list[TenantUsage]:
        """What each tenant's jobs were booked for so far, ended ones included; what is still open is not in it."""
        table = tables.jobs.c
        money, time = func.sum(table.spent_micro_usd), func.sum(table.spent_device_ms)
        query = select(table.tenant, func.count(), money, time).group_by(table.tenant).order_by(table.tenant)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [
            TenantUsage(tenant=tenant, jobs=jobs, micro_usd=int(usd), device_ms=int(ms))
            for tenant, jobs, usd, ms in rows
        ]

    def generation(self) -> int:
        """The number of the Cluster that holds; 0 if none was applied yet."""
        return self._scalar(select(func.max(tables.clusters.c.generation))) or 0

    def cluster(self) -> tuple[int, Cluster] | None:
        """The Cluster that holds, with its generation."""
        with self._database.reading() as connection:
            return load_cluster(connection)

    def holds(self) -> set[str]:
        """Queues that are on hold."""
        with self._database.reading() as connection:
            return load_holds(connection)

    def node_holds(self) -> Holds:
        """Nodes that are held back."""
        with self._database.reading() as connection:
            return load_node_holds(connection)

    def api_keys(self, *, after: str | None = None, limit: int = 100_000) -> list[KeyRow]:
        """Keys in order of id, without their secrets; `after` is the id of the last one of the page before."""
        where = [] if after is None else [tables.api_keys.c.id > after]
        return self._rows(_KEYS, page_of(_KEYS, where, tables.api_keys.c.id, limit))

    def authenticate(self, text: str, *, now_s: float) -> KeyRow | None:
        """The key that a text is; None if it is none, or holds no more."""
        parts = split(text)
        if parts is None:
            return None
        rows = self._rows(_KEYS, page_of(_KEYS, [tables.api_keys.c.id == parts[0]], tables.api_keys.c.id, 1))
        return rows[0] if rows and matches(rows[0], parts[1], now_s=now_s) else None

    def leader(self) -> Leader:
        """Who leads, and when it was last heard of."""
        with self._database.reading() as connection:
            return read_leader(connection)
