"""Double entry: device-time from the moment it is paid for to what it was good for, and money beside it.

    paid:POOL -> idle:POOL | open:POOL          as time passes (meters)
    open:POOL -> held:POOL | draining:POOL      when a lease is over
    held:POOL -> useful | stalled | lost :POOL  when its attempt has ended and said how it went

So paid = useful + stalled + lost + draining + idle, exactly, once nothing is open or held. Money: provider:POOL ->
cost:TENANT for every lease; sponsor -> purse -> reserved -> spent for what a tenant was granted.

Granted steps have a price, too: sponsors:TENANT -> pledged:TENANT when they are set aside, at what a step of the job
was measured to cost, -> steps:TENANT as they are made, back to sponsors:TENANT if they are not. What they cost beyond
that the house bears; steps that nobody had measured before are priced once they are made, at what their attempt cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.ledger.change import Change
from orchestrator.ledger.rows import AttemptRow, JobRow, LeaseRow, MeterRow, RecentRow
from orchestrator.ledger.states import Unit
from orchestrator.policy.queueing.money import cost_micro_usd
from orchestrator.policy.queueing.places import Pool
from orchestrator.policy.queueing.shares import recent_after
from orchestrator.policy.queueing.values import LeaseState


def read_meter(change: Change, pool: str) -> MeterRow:
    """Book what a pool has had since its meter was last read."""
    meter = change.meters.get(pool)
    assert meter is not None, f"pool {pool} was never observed"
    elapsed_ms = change.now_ms - meter.since_ms
    if elapsed_ms > 0:
        leased_ms, idle_ms = meter.leased * elapsed_ms, (meter.observed - meter.leased) * elapsed_ms
        change.transfer(idle_ms, Unit.DEVICE_MS, f"paid:{pool}", f"idle:{pool}")
        change.transfer(leased_ms, Unit.DEVICE_MS, f"paid:{pool}", f"open:{pool}")
        meter = replace(meter, since_ms=change.now_ms)
        change.meters.put(meter)
    return meter


def observe(change: Change, pool: Pool) -> None:
    """Enter what a pool has from now on."""
    before = change.meters.get(pool.name)
    price = pool.micro_usd_per_device_hour
    if before is None:
        fresh = MeterRow(
            pool=pool.name,
            resource=pool.resource,
            observed=pool.observed,
            leased=0,
            since_ms=change.now_ms,
            micro_usd_per_device_hour=price,
        )
        change.meters.put(fresh)
    elif (before.observed, before.micro_usd_per_device_hour) != (pool.observed, price):
        meter = read_meter(change, pool.name)
        change.meters.put(replace(meter, observed=pool.observed, micro_usd_per_device_hour=price))


def open_lease(change: Change, lease: LeaseRow) -> None:
    """Devices are somebody's from now on."""
    change.leases.put(lease)
    _hold(change, lease, lease.devices)


def close_lease(change: Change, lease: LeaseRow) -> None:
    """Devices are nobody's from now on; their time goes to the attempt that held them, their price to its tenant."""
    meter = _hold(change, lease, -lease.devices)
    change.leases.drop(lease.id)
    device_ms = lease.devices * (change.now_ms - lease.since_ms)
    draining = lease.state is LeaseState.DRAINING
    target = f"draining:{lease.pool}" if draining else f"held:{lease.pool}"
    one = {"job": lease.holder, "attempt": lease.attempt}
    change.transfer(device_ms, Unit.DEVICE_MS, f"open:{lease.pool}", target, **one)  # type: ignore[arg-type]
    _to_attempt(change, lease, device_ms, draining)
    cost = cost_micro_usd(device_ms, meter.micro_usd_per_device_hour)
    change.transfer(cost, Unit.MICRO_USD, f"provider:{lease.pool}", f"cost:{lease.tenant}", **one)  # type: ignore[arg-type]
    _spend(change, lease.holder, device_ms, cost)


def _hold(change: Change, lease: LeaseRow, devices: int) -> MeterRow:
    meter = read_meter(change, lease.pool)
    meter = replace(meter, leased=meter.leased + devices)
    change.meters.put(meter)
    if lease.tenant is not None:
        _use(change, lease.tenant, meter.resource, devices)
    return meter


def _use(change: Change, tenant: str, resource: str, devices: int) -> None:
    """A tenant holds so many devices more from now on; until now it held what it held."""
    row = change.recents.get((tenant, resource))
    row = row or RecentRow(tenant=tenant, resource=resource, devices=0.0, held=0, at_ms=change.now_ms)
    decayed = recent_at(change.mirror.facts.rules.usage_half_life_s, row, change.now_ms)
    change.recents.put(replace(row, devices=decayed, held=row.held + devices, at_ms=change.now_ms))


def recent_at(half_life_s: float, row: RecentRow, now_ms: int) -> float:
    """A tenant's decayed use at a later instant."""
    return recent_after(row.devices, row.held, max(0, now_ms - row.at_ms) / 1000, half_life_s)


def _to_attempt(change: Change, lease: LeaseRow, device_ms: int, draining: bool) -> None:
    attempt = change.attempts.get((lease.holder, lease.attempt))
    assert attempt is not None, f"lease {lease.id} of an attempt that is over"
    if draining:
        change.attempts.put(replace(attempt, draining_ms=attempt.draining_ms + device_ms))
        return
    held = dict(attempt.held_ms)
    held[lease.pool] = held.get(lease.pool, 0) + device_ms
    change.attempts.put(replace(attempt, held_ms=tuple(sorted(held.items()))))


def _spend(change: Change, job_id: str, device_ms: int, cost: int) -> None:
    job = change.jobs.get(job_id)
    assert job is not None, f"a lease of {job_id}, which is not there"
    job = replace(job, spent_micro_usd=job.spent_micro_usd + cost, spent_device_ms=job.spent_device_ms + device_ms)
    change.jobs.put(job)
    match job.paid_in:
        case Unit.MICRO_USD:
            pay(change, job, cost)
        case Unit.DEVICE_MS:
            pay(change, job, device_ms)
        case Unit.ITERATIONS | None:
            pass  # Steps are paid for when their attempt ends; without a grant nothing is metered.


def pay(change: Change, job: JobRow, amount: int) -> None:
    """Pay from what is set aside for a job, and beyond it from its tenant's purse."""
    assert job.paid_in is not None, "only what a tenant was granted is paid for"
    set_aside = _reserved(job)
    part = min(set_aside, amount)
    change.transfer(part, job.paid_in, f"reserved:{job.tenant}", f"spent:{job.tenant}", job=job.id)
    change.transfer(amount - part, job.paid_in, f"purse:{job.tenant}", f"spent:{job.tenant}", job=job.id)
    change.jobs.put(_with_reserved(job, job.paid_in, set_aside - part))


def pay_steps(change: Change, job: JobRow, steps: int, made_by: AttemptRow) -> None:
    """Pay for steps that an attempt has made beyond those its job was known to have made."""
    part = min(steps, job.reserved_iterations)
    if job.reserved_micro_usd:
        # Rounded down, so that the last step takes what is left, to the micro-dollar.
        worth = job.reserved_micro_usd * part // job.reserved_iterations
        change.transfer(worth, Unit.MICRO_USD, f"pledged:{job.tenant}", f"steps:{job.tenant}", job=job.id)
        job = replace(job, reserved_micro_usd=job.reserved_micro_usd - worth)
    else:
        worth = sum(cost_micro_usd(held_ms, _price(change, pool)) for pool, held_ms in made_by.held_ms)
        change.transfer(worth, Unit.MICRO_USD, f"sponsors:{job.tenant}", f"steps:{job.tenant}", job=job.id)
    pay(change, job, steps)


def worth_of_steps(change: Change, job: JobRow, devices: Mapping[str, int]) -> int:
    """What all steps that a job has left were measured to cost, in micro-dollars, on so many devices of each pool; 0
    while nobody has measured any."""
    work_ms = round((job.work_left_s or 0.0) * 1000 * job.shape.devices_per_worker)
    worth, total = 0, sum(devices.values())
    for pool, count in devices.items():
        worth += cost_micro_usd(work_ms * count // total, _price(change, pool))
    return worth


def _price(change: Change, pool: str) -> int:
    meter = change.meters.get(pool)
    assert meter is not None, f"pool {pool} was never observed"
    return meter.micro_usd_per_device_hour


def reserve(change: Change, job: JobRow, unit: Unit, amount: int, *, worth: int = 0) -> JobRow:
    """Set an amount aside for a job that starts; `worth` of it in micro-dollars, where it is steps."""
    change.transfer(amount, unit, f"purse:{job.tenant}", f"reserved:{job.tenant}", job=job.id)
    job = replace(_with_reserved(job, unit, amount), paid_in=unit)
    if unit is not Unit.ITERATIONS:
        return job
    change.transfer(worth, Unit.MICRO_USD, f"sponsors:{job.tenant}", f"pledged:{job.tenant}", job=job.id)
    return replace(job, reserved_micro_usd=worth)


def refund(change: Change, job: JobRow) -> JobRow:
    """Give back what was set aside and is not used."""
    unit = job.paid_in
    if unit is None:
        return job
    change.transfer(_reserved(job), unit, f"reserved:{job.tenant}", f"purse:{job.tenant}", job=job.id)
    if unit is Unit.ITERATIONS:
        pledged = job.reserved_micro_usd
        change.transfer(pledged, Unit.MICRO_USD, f"pledged:{job.tenant}", f"sponsors:{job.tenant}", job=job.id)
        job = replace(job, reserved_micro_usd=0)
    return replace(_with_reserved(job, unit, 0), paid_in=None)


def _reserved(job: JobRow) -> int:
    amount: int = 0 if job.paid_in is None else getattr(job, f"reserved_{job.paid_in.value}")
    return amount


def _with_reserved(job: JobRow, unit: Unit, amount: int) -> JobRow:
    match unit:
        case Unit.MICRO_USD:
            return replace(job, reserved_micro_usd=amount)
        case Unit.DEVICE_MS:
            return replace(job, reserved_device_ms=amount)
        case Unit.ITERATIONS:
            return replace(job, reserved_iterations=amount)


def settle_attempt(change: Change, attempt: AttemptRow, stalled_ms: int, lost_ms: int) -> AttemptRow:
    """Part what an attempt held into stalled, lost and useful; what it says beyond what it held is cut off."""
    whole = sum(held for _, held in attempt.held_ms)
    stalled_ms = min(whole, max(0, stalled_ms))
    lost_ms = min(whole - stalled_ms, max(0, lost_ms))
    left = {"stalled": stalled_ms, "lost": lost_ms, "useful": whole - stalled_ms - lost_ms}
    for pool, held in attempt.held_ms:
        for kind in left:
            part = min(held, left[kind])
            one = {"job": attempt.job, "attempt": attempt.attempt}
            change.transfer(part, Unit.DEVICE_MS, f"held:{pool}", f"{kind}:{pool}", **one)  # type: ignore[arg-type]
            held -= part
            left[kind] -= part
    useful_ms = whole - stalled_ms - lost_ms
    return replace(attempt, stalled_ms=stalled_ms, lost_ms=lost_ms, useful_ms=useful_ms)
