"""Budgets and grants in integers: what a slice costs, what a purse affords, what is reserved and what comes back.

Units: micro-dollars, device-milliseconds, optimizer steps. Amounts are rounded against the spender, once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.policy.queueing.parties import NOTHING, Purse
from orchestrator.policy.queueing.values import Job, Spending
from orchestrator.spec.quantities import render_duration

MS_PER_HOUR = 3_600_000


def cost_micro_usd(device_ms: int, micro_usd_per_device_hour: int) -> int:
    """The price of device-time, rounded up."""
    return -(-device_ms * micro_usd_per_device_hour // MS_PER_HOUR)


def device_ms(devices: int, seconds: float) -> int:
    """Device-time of so many devices, rounded up."""
    return math.ceil(devices * seconds * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What starting a job takes: device-time and its price."""

    device_ms: int
    micro_usd: int


def bill(job: Job, workers: int, seconds: float, micro_usd_per_device_hour: int) -> Bill:
    """The bill of holding `workers` for `seconds`."""
    time_ms = device_ms(workers * job.devices_per_worker, seconds)
    return Bill(device_ms=time_ms, micro_usd=cost_micro_usd(time_ms, micro_usd_per_device_hour))


def expected_bill(job: Job, workers: int, unknown_run_s: float, micro_usd_per_device_hour: int) -> Bill:
    """The bill of the whole job, cut to its own budget: the amount that is reserved when it starts."""
    seconds = unknown_run_s if job.work_s is None else job.work_s / workers
    whole = bill(job, workers, seconds, micro_usd_per_device_hour)
    limit = job.spending
    return Bill(
        device_ms=whole.device_ms if limit.device_ms is None else min(whole.device_ms, limit.device_ms),
        micro_usd=whole.micro_usd if limit.micro_usd is None else min(whole.micro_usd, limit.micro_usd),
    )


def within(limit: Spending, one: Bill) -> bool:
    """Whether a job's own budget still covers a bill."""
    covers_time = limit.device_ms is None or one.device_ms <= limit.device_ms
    return covers_time and (limit.micro_usd is None or one.micro_usd <= limit.micro_usd)


def spent_up(limit: Spending) -> bool:
    """Whether one of a job's own limits has come to its end."""
    return (limit.device_ms is not None and limit.device_ms <= 0) or (
        limit.micro_usd is not None and limit.micro_usd <= 0
    )


def reserve_from(purse: Purse, job: Job, one: Bill) -> Purse | None:
    """What to set aside in a purse for a bill: steps for all that the job has left, else device-time, else money.

    None if the purse covers it in no single way: a job must not stop half-way because two grants were mixed. A job that
    has made all its steps has only to end, and takes nothing more.
    """
    if job.steps_left is not None and 0 < job.steps_left <= purse.iterations:
        return Purse(iterations=job.steps_left)
    if one.device_ms <= purse.device_ms:
        return Purse(device_ms=one.device_ms)
    if one.micro_usd <= purse.micro_usd and purse.micro_usd > 0:
        return Purse(micro_usd=one.micro_usd)
    return NOTHING if job.steps_left == 0 else None


def asked(job: Job, one: Bill, unknown_run_s: float) -> str:
    """What a purse must have for a bill, in words: each of these would do."""
    steps = f", or {job.steps_left} steps" if job.steps_left else ""
    guess = f" (for {render_duration(unknown_run_s)}: nobody knows how long it runs)" if job.work_s is None else ""
    return f"{one.micro_usd / 1e6:.2f} dollars, or {one.device_ms / MS_PER_HOUR:.2f} device-hours{guess}{steps}"


def contents(purse: Purse) -> str:
    """What a purse has, in words."""
    parts = [f"{purse.micro_usd / 1e6:.2f} dollars"] if purse.micro_usd else []
    parts += [f"{purse.device_ms / MS_PER_HOUR:.2f} device-hours"] if purse.device_ms else []
    parts += [f"{purse.iterations} steps"] if purse.iterations else []
    return ", ".join(parts) or "nothing"


def less(purse: Purse, reserved: Purse) -> Purse:
    """A purse without what is set aside in it; below zero where more was promised than is left."""
    return Purse(
        micro_usd=purse.micro_usd - reserved.micro_usd,
        device_ms=purse.device_ms - reserved.device_ms,
        iterations=purse.iterations - reserved.iterations,
    )


def plus(one: Purse, other: Purse) -> Purse:
    """Two amounts together."""
    return Purse(
        micro_usd=one.micro_usd + other.micro_usd,
        device_ms=one.device_ms + other.device_ms,
        iterations=one.iterations + other.iterations,
    )
