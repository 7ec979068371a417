"""What a cycle decided, as one change: capacity observed, starts, resizes, stops, reasons to wait, claims, promises."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar, assert_never

from sqlalchemy import insert

from orchestrator.ledger import tables
from orchestrator.ledger.books import close_lease, observe, open_lease
from orchestrator.ledger.change import Change
from orchestrator.ledger.digest import Digest
from orchestrator.ledger.life import Missing, admit, evict, resize
from orchestrator.ledger.rows import ClaimRow, LeaseRow, PromiseRow, TempoRow
from orchestrator.ledger.shelf import Draft
from orchestrator.ledger.states import HOLDING, WAITING, JobState, Then
from orchestrator.ledger.telling import Teller
from orchestrator.policy.queueing.decisions import Admit, Decisions, Evict, Resize
from orchestrator.policy.queueing.places import Pool
from orchestrator.policy.queueing.record import to_text
from orchestrator.policy.queueing.values import LeaseState, Snapshot

R = TypeVar("R")
_STARTABLE = frozenset({JobState.SUBMITTED, JobState.QUEUED})


@dataclass(slots=True)
class Scribe:
    """Enters decisions. `seen`: the pools that were entered last; the same objects are not looked at again."""

    digest: Digest
    seen: tuple[Pool, ...] | None = None
    _teller: Teller = field(default_factory=Teller)

    def enter(self, change: Change, snapshot: Snapshot, decisions: Decisions) -> bool:
        """Enter what was decided on a snapshot; whether anybody starts, changes or stops by it.

        Jobs that have changed since are left alone.
        """
        missing = self._capacity(change, snapshot.pools)
        did: list[Admit | Resize | Evict] = []
        for what in decisions.changes:
            did += _changed(change, what, missing)
        for start in decisions.starts:
            did += _admitted(change, start)
        self._teller.tell(change, decisions.waits)
        if any(missing.values()):
            _cut(change, missing)
        _remember(change, decisions)
        if did:
            self._write_down(change, snapshot, did)
        return bool(did)

    def _capacity(self, change: Change, pools: tuple[Pool, ...]) -> Missing:
        if self.seen is not None and _same(self.seen, pools):
            return {}
        for pool in pools:
            _price(change, pool)
            observe(change, pool)
        return _missing(change, pools)

    def _write_down(self, change: Change, snapshot: Snapshot, did: list[Admit | Resize | Evict]) -> None:
        row = {
            "at_ms": change.now_ms,
            "token": change.token,
            "snapshot_hash": self.digest.of(snapshot),
            "num_waiting": len(snapshot.waiting),
            "num_running": len(snapshot.running),
            "what": "[" + ",".join(to_text(one) for one in did) + "]",
        }
        change.others.append((insert(tables.decisions), [row]))


def _same(before: tuple[Pool, ...], pools: tuple[Pool, ...]) -> bool:
    """Whether capacity is what it was; headroom and sight are no capacity."""
    return len(before) == len(pools) and all(
        one.name == other.name
        and one.nodes is other.nodes
        and one.micro_usd_per_device_hour == other.micro_usd_per_device_hour
        for one, other in zip(before, pools, strict=True)
    )


def _price(change: Change, pool: Pool) -> None:
    """At a new price, what was used at the old one is booked first."""
    meter = change.meters.get(pool.name)
    if meter is None or meter.micro_usd_per_device_hour == pool.micro_usd_per_device_hour:
        return
    for lease in [one for one in change.leases.values() if one.pool == pool.name]:
        _reopen(change, lease, lease.nodes)


def _reopen(change: Change, lease: LeaseRow, nodes: tuple[tuple[str, int], ...]) -> None:
    close_lease(change, lease)
    if nodes:
        open_lease(change, replace(lease, id=change.new_lease_id(), nodes=nodes, since_ms=change.now_ms))


def _missing(change: Change, pools: Iterable[Pool]) -> Missing:
    """Devices that are leased on nodes that do not have them any more."""
    there = {(pool.name, node.name): node.devices for pool in pools for node in pool.nodes}
    known = {pool.name for pool in pools}
    leased: Missing = {}
    for lease in change.leases.values():
        if lease.pool in known:
            for node, devices in lease.nodes:
                leased[lease.pool, node] = leased.get((lease.pool, node), 0) + devices
    return {spot: devices - there.get(spot, 0) for spot, devices in leased.items() if devices > there.get(spot, 0)}


def _cut(change: Change, missing: Missing) -> None:
    """End what is left of leases on devices that are gone: draining ones first."""
    rows = sorted(change.leases.values(), key=lambda row: (row.state is LeaseState.HELD, row.id))
    for lease in rows:
        left = []
        for node, devices in lease.nodes:
            gone = min(devices, missing.get((lease.pool, node), 0))
            if gone:
                missing[lease.pool, node] -= gone
            left.append((node, devices - gone))
        kept = tuple((node, devices) for node, devices in left if devices)
        if kept != lease.nodes:
            _reopen(change, lease, kept)


def _admitted(change: Change, what: Admit) -> list[Admit | Resize | Evict]:
    job = change.jobs.get(what.job)
    if job is None or job.state not in _STARTABLE:
        return []
    admit(change, job, what)
    return [what]


def _changed(change: Change, what: Resize | Evict, missing: Missing) -> list[Admit | Resize | Evict]:
    job = change.jobs.get(what.job)
    if job is None or job.state not in HOLDING:
        return []
    match what:
        case Resize():
            resize(change, job, what, missing)
        case Evict():
            evict(change, job, what, Then.QUEUED if what.requeue else Then.FAILED, missing)
        case _:
            assert_never(what)
    return [what]


def _remember(change: Change, decisions: Decisions) -> None:
    """What the next decision must know of this one."""
    claims = [
        ClaimRow(job=one.job, pool=one.pool, workers=one.workers, since_s=one.since_s) for one in decisions.claims
    ]
    _replace(change, change.claims, {row.job: row for row in claims})
    promises = [PromiseRow(job=one.job, since_s=one.since_s, at_s=one.at_s) for one in decisions.promises]
    _replace(change, change.promises, {row.job: row for row in promises})
    for job_id, state in decisions.resize_states:
        job, row = change.jobs.get(job_id), TempoRow(job=job_id, state=to_text(state))
        if job is not None and job.state in HOLDING and change.tempos.get(job_id) != row:
            change.tempos.put(row)


def _replace(change: Change, draft: Draft[R], wanted: dict[str, R]) -> None:
    before = draft.shelf.rows
    for key in [key for key in before if key not in wanted]:
        draft.drop(key)
    for job_id, row in wanted.items():
        job = change.jobs.get(job_id)
        if before.get(job_id) != row and job is not None and job.state in WAITING:
            draft.put(row)
