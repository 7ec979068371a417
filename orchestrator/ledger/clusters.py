"""The applied Cluster: its document, what tenants brought, what they were granted, and queues that are on hold."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from orchestrator.ledger import tables
from orchestrator.ledger.change import Change
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.facts import ClusterFacts, facts_of
from orchestrator.ledger.states import Unit
from orchestrator.policy.queueing.from_spec import granted_to
from orchestrator.policy.queueing.parties import Rules
from orchestrator.spec import Cluster, load_text
from orchestrator.spec.cluster_queues import Tenant
from orchestrator.spec.errors import ExitCode

HOUSE = "house"
"""The sponsor of grants that name none."""


def load_cluster(connection: Connection) -> tuple[int, Cluster] | None:
    """The Cluster that holds, with its generation; None if none was applied yet."""
    table = tables.clusters.c
    row = connection.execute(
        select(table.generation, table.document).order_by(table.generation.desc()).limit(1)
    ).first()
    if row is None:
        return None
    return row.generation, _parsed(row.document, row.generation)


@lru_cache(maxsize=8)
def _parsed(document: str, generation: int) -> Cluster:
    """Frozen, and read again whenever somebody begins to lead."""
    (cluster,) = load_text(document, f"cluster generation {generation}")
    assert isinstance(cluster, Cluster), "only Clusters are applied"
    return cluster


def load_facts(connection: Connection, rules: Rules) -> ClusterFacts:
    """What the Cluster that holds says."""
    found = load_cluster(connection)
    return ClusterFacts(rules=rules) if found is None else facts_of(found[1], found[0], rules)


def apply_cluster(change: Change, cluster: Cluster, rules: Rules) -> ClusterFacts:
    """Enter a Cluster with the contributions and grants in which it differs from the one before."""
    before = change.mirror.facts
    facts = facts_of(cluster, before.generation, rules)
    if before.generation and facts == before:
        return before
    facts = replace(facts, generation=before.generation + 1)
    row = {"generation": facts.generation, "document": facts.document}
    row |= {"applied_ms": change.now_ms, "actor": change.actor}
    change.others.append((insert(tables.clusters), [row]))
    _contributions(change, before.tenants, cluster.spec.tenants)
    _grants(change, before.tenants, cluster.spec.tenants)
    change.event("cluster-applied", generation=facts.generation)
    return facts


def _contributions(change: Change, before: tuple[Tenant, ...], after: tuple[Tenant, ...]) -> None:
    old, new = _brought(before), _brought(after)
    ended = [key for key, value in old.items() if new.get(key) != value]
    begun = [key for key, value in new.items() if old.get(key) != value]
    table = tables.contributions
    if ended:
        mine = (table.c.tenant == bindparam("of_tenant"), table.c.pool == bindparam("of_pool"))
        statement = update(table).where(*mine, table.c.until_ms.is_(None)).values(until_ms=change.now_ms)
        change.others.append((statement, [{"of_tenant": tenant, "of_pool": pool} for tenant, pool in ended]))
    if begun:
        rows = [
            {
                "tenant": tenant,
                "pool": pool,
                "since_ms": change.now_ms,
                "devices": new[tenant, pool][0],
                "recall_grace_ms": new[tenant, pool][1],
                "until_ms": None,
            }
            for tenant, pool in begun
        ]
        change.others.append((insert(table), rows))


def _brought(tenants: tuple[Tenant, ...]) -> dict[tuple[str, str], tuple[int, int]]:
    return {
        (tenant.name, one.pool): (one.devices, round(one.recall_grace * 1000))
        for tenant in tenants
        for one in tenant.contributions
    }


def _grants(change: Change, before: tuple[Tenant, ...], after: tuple[Tenant, ...]) -> None:
    """Move what was granted more (or less) from sponsors to purses; the budgets say what was granted in all."""
    old, new = _granted(before), _granted(after)
    table = tables.budgets
    for key in sorted(old.keys() | new.keys()):
        tenant, sponsor, unit = key
        amount = new.get(key, 0)
        change.transfer(amount - old.get(key, 0), unit, f"sponsor:{sponsor}", f"purse:{tenant}")
        if amount == old.get(key, 0):
            continue
        mine = (table.c.tenant == tenant, table.c.sponsor == sponsor, table.c.unit == unit.value)
        change.others.append((delete(table).where(*mine), [{}]))
        row = {"tenant": tenant, "sponsor": sponsor, "unit": unit.value, "granted": amount}
        change.others.append((insert(table), [{**row, "changed_ms": change.now_ms}]))


def _granted(tenants: tuple[Tenant, ...]) -> dict[tuple[str, str, Unit], int]:
    found: dict[tuple[str, str, Unit], int] = {}
    for tenant in tenants:
        for grant in tenant.grants:
            purse = granted_to([grant])
            assert purse is not None, "a grant grants something"
            for unit in Unit:
                key = (tenant.name, grant.sponsor or HOUSE, unit)
                amount: int = getattr(purse, unit.value)
                if amount:
                    found[key] = found.get(key, 0) + amount
    return found


def load_holds(connection: Connection) -> set[str]:
    """Queues that are on hold."""
    return set(connection.execute(select(tables.queue_holds.c.queue)).scalars())


def set_hold(change: Change, queue: str, on_hold: bool, held: set[str]) -> set[str]:
    """Hold a queue or let it go; the queues that are held afterwards. Raises: LedgerError for one that is not there."""
    names = [one.name for one in change.mirror.facts.queues]
    if queue not in names:
        known = ", ".join(names) or "none"
        raise LedgerError(f"there is no queue {queue!r}; there are {known}", code=ExitCode.UNKNOWN)
    if on_hold is (queue in held):
        return held
    table = tables.queue_holds
    if on_hold:
        row = {"queue": queue, "since_ms": change.now_ms, "actor": change.actor}
        change.others.append((insert(table), [row]))
    else:
        change.others.append((delete(table).where(table.c.queue == queue), [{}]))
    change.event("queue-held" if on_hold else "queue-released", queue=queue)
    return held | {queue} if on_hold else held - {queue}
