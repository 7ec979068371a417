"""Who is served before anybody's turn: owners of devices, jobs with a claim, jobs that were promised a start."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.policy.queueing.decisions import StartReason
from orchestrator.policy.queueing.desk import CLAIMABLE, Desk
from orchestrator.policy.queueing.fit import Fit
from orchestrator.policy.queueing.gates import Passed
from orchestrator.policy.queueing.values import Claimed, Job, Promised


def serve_owners(desk: Desk, passed: Passed) -> None:
    """Tenants within what they brought start, or recall it."""
    brought = desk.known.brought
    for job in sorted(
        passed.of_tenants(brought) if brought else (), key=lambda one: (-one.priority, one.submitted_s, one.id)
    ):
        for pool in desk.board.candidates(job):
            most = desk.board.now.shares.own_available(job.tenant, pool) // job.devices_per_worker
            if most >= job.sizes[0] and _serve_owner(desk, job, pool, most):
                break


def _serve_owner(desk: Desk, job: Job, pool: str, most_workers: int) -> bool:
    found = desk.fitter.fit(job, most_workers, (pool,))
    if isinstance(found, Fit):
        desk.start(job, found, StartReason.OWN_DEVICES)
        return True
    asks = found.reason in CLAIMABLE and pool in desk.payable(job)
    claim = desk.finder.claim(job, (pool,)) if asks else None
    if claim is not None:
        desk.enter_claim(claim)
    return claim is not None


def honour_claims(desk: Desk, passed: Passed) -> None:
    """What was asked back for a job is its own once it is there, unless a higher class came to its queue since."""
    records = {one.job: one for one in desk.board.snapshot.claims}
    mine = _left(desk, [job for name in records if (job := passed.get(name)) is not None])
    newcomers = _newcomers(desk, passed, mine, records.values())
    for job in sorted(mine, key=lambda one: (records[one.id].since_s, one.submitted_s, one.id)):
        if not _overruled(job, records[job.id].since_s, newcomers.get(job.queue, ())):
            _redeem(desk, job, records[job.id])


def _redeem(desk: Desk, job: Job, record: Claimed) -> None:
    if record.pool not in desk.payable(job):
        return
    found = desk.fitter.fit(job, record.workers, (record.pool,))
    if isinstance(found, Fit):
        desk.start(job, found, StartReason.IN_ORDER)
    elif found.reason in CLAIMABLE and (claim := desk.finder.keep(job, record.pool, record.workers)):
        desk.enter_claim(claim, record.since_s)


def keep_promises(desk: Desk, passed: Passed) -> None:
    """Who was promised a start is before everybody who was not: it starts, or is promised again."""
    records = {one.job: one for one in desk.board.snapshot.promises}
    mine = _left(desk, [job for name in records if (job := passed.get(name)) is not None])
    newcomers = _newcomers(desk, passed, mine, records.values())
    for job in sorted(mine, key=lambda one: (records[one.id].at_s, one.id)):
        record = records[job.id]
        if _overruled(job, record.since_s, newcomers.get(job.queue, ())):
            continue
        found = desk.fitter.fit(job, job.sizes[0])
        if isinstance(found, Fit):
            desk.start(job, found, StartReason.IN_ORDER)
        elif found.reason in CLAIMABLE and desk.payable(job):
            desk.promise_start(job, record)


def _left(desk: Desk, waiting: Iterable[Job]) -> list[Job]:
    return [job for job in waiting if job.id not in desk.starts and job.id not in desk.waits]


def _newcomers(
    desk: Desk, passed: Passed, mine: Iterable[Job], records: Iterable[Claimed | Promised]
) -> dict[str, list[Job]]:
    """Jobs that came to the queues of `mine` after the first thing was said, by queue: they alone can overrule."""
    queues = {job.queue for job in mine}
    first_s = min((one.since_s for one in records), default=0.0)
    found: dict[str, list[Job]] = {}
    for job in _left(desk, passed.newer(queues, first_s)) if queues else ():
        found.setdefault(job.queue, []).append(job)
    return found


def _overruled(job: Job, since_s: float, others: Iterable[Job]) -> bool:
    """Whether a higher class is among the others of a job's queue that came after something was said to the job."""
    return any(one.priority > job.priority and one.submitted_s > since_s for one in others)
