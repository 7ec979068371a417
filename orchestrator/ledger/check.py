"""Do the books balance? Every law of the ledger, read anew from the database in one instant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from sqlalchemy import Connection, func, select

from orchestrator.ledger import forms, tables
from orchestrator.ledger.rows import LeaseRow, MeterRow
from orchestrator.ledger.states import ENDED, HOLDING, JobState, Unit
from orchestrator.policy.queueing.values import LeaseState

_SPENT_ON = ("useful", "stalled", "lost", "draining", "idle")


def check(connection: Connection) -> list[str]:
    """Every law that is broken, as a sentence; none = the books balance."""
    leases, meters = forms.LEASES.load(connection), forms.METERS.load(connection)
    return [
        *_sums(connection),
        *_balances(connection),
        *_set_aside(connection),
        *_device_time(connection, leases, meters),
        *_meters(leases, meters),
        *_holders(connection, leases),
        *_lives(connection, leases),
    ]


def _sums(connection: Connection) -> Iterator[str]:
    table = tables.entries.c
    for unit, total in connection.execute(select(table.unit, func.sum(table.amount)).group_by(table.unit)):
        if total:
            yield f"entries in {unit} sum to {int(total)}; they must sum to 0"


def _balances(connection: Connection) -> Iterator[str]:
    table, accounts = tables.entries.c, forms.ACCOUNTS.load(connection)
    query = select(table.account, table.unit, func.sum(table.amount)).group_by(table.account, table.unit)
    booked = {(name, Unit(unit)): int(total) for name, unit, total in connection.execute(query)}
    kept = {(row.name, row.unit): row.balance for row in accounts}
    for key in sorted(booked.keys() | kept.keys()):
        if booked.get(key, 0) != kept.get(key, 0):
            yield f"account {key[0]} says {kept.get(key, 0)} {key[1]}; its entries sum to {booked.get(key, 0)}"
    for row in accounts:
        if row.name.startswith("reserved:") and row.balance < 0:
            yield f"account {row.name} is {row.balance} {row.unit}; nothing below 0 can be set aside"


def _set_aside(connection: Connection) -> Iterator[str]:
    """What is set aside is set aside for jobs that live, and for nobody else."""
    held: Counter[tuple[str, Unit]] = Counter()
    for job in forms.JOBS.load(connection, tables.jobs.c.paid_in.is_not(None)):
        money = "pledged" if job.paid_in is Unit.ITERATIONS else "reserved"
        held[f"{money}:{job.tenant}", Unit.MICRO_USD] += job.reserved_micro_usd
        held[f"reserved:{job.tenant}", Unit.DEVICE_MS] += job.reserved_device_ms
        held[f"reserved:{job.tenant}", Unit.ITERATIONS] += job.reserved_iterations
    for row in sorted(forms.ACCOUNTS.load(connection), key=lambda one: (one.name, one.unit)):
        is_meant = row.name.startswith(("reserved:", "pledged:"))
        if is_meant and row.balance != held[row.name, row.unit]:
            of_jobs = held[row.name, row.unit]
            yield f"account {row.name} is {row.balance} {row.unit}; {of_jobs} are set aside for jobs that live"


def _device_time(connection: Connection, leases: list[LeaseRow], meters: list[MeterRow]) -> Iterator[str]:
    """Paid = useful + stalled + lost + draining + idle + what is still open, in every pool, to the millisecond."""
    balances = {row.name: row.balance for row in forms.ACCOUNTS.load(connection) if row.unit is Unit.DEVICE_MS}
    held = Counter[str]()
    for attempt in forms.ATTEMPTS.load(connection, tables.attempts.c.ended_ms.is_(None)):
        held.update(dict(attempt.held_ms))
    for meter in meters:
        pool = meter.pool
        mine = [lease for lease in leases if lease.pool == pool]
        running = sum(lease.devices * (meter.since_ms - lease.since_ms) for lease in mine)
        if balances.get(f"open:{pool}", 0) != running:
            yield f"pool {pool}: {balances.get(f'open:{pool}', 0)} ms are open; its leases have held {running} ms"
        if balances.get(f"held:{pool}", 0) != held[pool]:
            yield f"pool {pool}: {balances.get(f'held:{pool}', 0)} ms are held; its open attempts have {held[pool]} ms"
        spent = sum(balances.get(f"{kind}:{pool}", 0) for kind in _SPENT_ON)
        paid = -balances.get(f"paid:{pool}", 0)
        if paid != spent + running + held[pool]:
            yield f"pool {pool}: {paid} ms were paid; {spent} are accounted for and {running + held[pool]} are open"


def _meters(leases: list[LeaseRow], meters: list[MeterRow]) -> Iterator[str]:
    leased = Counter[str]()
    for lease in leases:
        leased[lease.pool] += lease.devices
    for meter in meters:
        if meter.leased != leased[meter.pool]:
            yield f"pool {meter.pool}: its meter says {meter.leased} devices are leased; {leased[meter.pool]} are"
        if meter.leased > meter.observed:
            yield f"pool {meter.pool}: {meter.leased} devices are leased of {meter.observed}"
    for pool in sorted(leased.keys() - {meter.pool for meter in meters}):
        yield f"pool {pool}: {leased[pool]} devices are leased and it was never observed"


def _holders(connection: Connection, leases: list[LeaseRow]) -> Iterator[str]:
    table = tables.jobs.c
    query = select(table.id, table.state).where(table.state.not_in(sorted(ENDED)))
    alive = {job: JobState(state) for job, state in connection.execute(query)}
    open_attempts = {
        (row.job, row.attempt) for row in forms.ATTEMPTS.load(connection, tables.attempts.c.ended_ms.is_(None))
    }
    for lease in leases:
        state = alive.get(lease.holder)
        if state is None:
            yield f"lease {lease.id} has no holder: {lease.holder} is not there, or has ended"
        elif (lease.holder, lease.attempt) not in open_attempts:
            yield f"lease {lease.id} is of attempt {lease.attempt} of {lease.holder}, which is over"
        elif lease.state is LeaseState.HELD and state not in HOLDING:
            yield f"lease {lease.id} is held by {lease.holder}, which is {state}"


def _lives(connection: Connection, leases: list[LeaseRow]) -> Iterator[str]:
    """Jobs that hold have held leases and an open attempt; orders are of jobs that live."""
    held = {lease.holder for lease in leases if lease.state is LeaseState.HELD}
    rows = forms.JOBS.load(connection, tables.jobs.c.state.not_in(sorted(ENDED)))
    going = {(one.job, one.attempt) for one in forms.ATTEMPTS.load(connection, tables.attempts.c.ended_ms.is_(None))}
    for row in rows:
        if row.state in HOLDING and row.id not in held:
            yield f"job {row.id} is {row.state} and holds nothing"
        if (row.state in HOLDING or row.state is JobState.DRAINING) and (row.id, row.attempt) not in going:
            yield f"job {row.id} is {row.state} and its attempt {row.attempt} is over"
    alive = {row.id for row in rows}
    for order in forms.ORDERS.load(connection):
        if order.job not in alive:
            yield f"order {order.id} is of a job that has ended"
    for job, attempt in sorted(going):
        if job not in alive:
            yield f"attempt {attempt} of {job} is open, and the job has ended"
