"""Decisions, and the edits that would change them, as the API answers them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from orchestrator.api import models
from orchestrator.api.render import instant, seats, usd
from orchestrator.policy.queueing import edits
from orchestrator.policy.queueing.decisions import (
    Admit,
    Change,
    Decisions,
    Evict,
    Reject,
    Verdict,
    WaitReason,
    workers_in,
)
from orchestrator.policy.queueing.edits import Edit


def verdict(found: Verdict) -> models.Verdict:
    """What is decided for a waiting job."""
    if isinstance(found, Admit):
        return models.Verdict(
            job=found.job,
            decision="start",
            reason=found.reason,
            detail=found.detail,
            eta=None,
            pool=None,
            missing=0,
            workers=workers_in(found.placement),
            placement=[models.Seat(**one) for one in seats(found.placement)],
        )
    why = found.why
    return models.Verdict(
        job=found.job,
        decision="never" if isinstance(found, Reject) else "wait",
        reason=why.reason,
        detail=why.detail,
        eta=None if why.eta_s is None else instant(why.eta_s),
        pool=why.pool,
        missing=max(0, why.missing),
        workers=None,
        placement=[],
    )


def effect(change: Change) -> models.Effect:
    """What is decided for a running job."""
    stops = isinstance(change, Evict)
    return models.Effect(
        job=change.job,
        action="evict" if stops else "resize",
        cause=change.cause.value,
        detail=change.detail,
        workers=0 if isinstance(change, Evict) else workers_in(change.placement),
        drain_until=instant(change.drain_until_s),
        for_job=change.for_job,
    )


def reasons(decisions: Decisions, jobs: Collection[str]) -> dict[str, int]:
    """How many of these jobs wait, by reason."""
    found: dict[str, int] = {}
    for group in decisions.waits:
        reason: WaitReason = group.why.reason
        if count := sum(job in jobs for job in group.jobs):
            found[reason.value] = found.get(reason.value, 0) + count
    return dict(sorted(found.items()))


def change(edit: Edit) -> models.Change:
    """An edit in words and values."""
    values = {one.name: _plain(getattr(edit, one.name)) for one in dataclasses.fields(edit)}
    return models.Change(kind=type(edit).__name__, text=_in_words(edit), values=values)


def _plain(value: Any) -> Any:
    return [list(one) for one in value] if isinstance(value, tuple) else value


def _in_words(edit: Edit) -> str:
    match edit:
        case edits.ResumeJob(job=of):
            return f"resume it: tide resume {of}"
        case edits.SetMinWorkers(min_workers=least):
            return f"accept {least} workers (workers.min)"
        case edits.SetPriority(priority=priority):
            return f"give it priority {priority}"
        case edits.SetCoupling(coupling=coupling):
            return f"let its workers sit as coupling {coupling.value} allows"
        case edits.SetWindow(window=window):
            return "let it run at any time" if window is None else f"run it in window {window}"
        case edits.MoveToQueue(queue=queue):
            return f"submit it to queue {queue}"
        case edits.StageData():
            return "bring its data set to the cluster"
        case edits.MeetDependencies():
            return "let the jobs it waits for succeed"
        case edits.LiftBudget():
            return "take its own budget away, or raise it"
        case edits.GrantMoney(tenant=tenant, micro_usd=amount):
            return f"grant tenant {tenant} {usd(amount)} dollars"
        case edits.GrantSteps(tenant=tenant, steps=steps):
            return f"grant tenant {tenant} {steps} steps (iterations)"
        case edits.AddTenant(tenant=tenant, queue=queue):
            return f"let tenant {tenant} submit to queue {queue}"
        case edits.ReleaseQueue(queue=queue):
            return f"release the queue: tide queue release {queue}"
        case edits.RaiseQuota(queue=queue, pool=pool, devices=devices):
            return f"raise the quota of queue {queue} in pool {pool} by {devices}"
        case edits.AddDevices(pool=pool, devices=devices):
            return f"add {devices} devices to pool {pool}"
        case edits.CutHeadroom(pool=pool, devices=devices):
            return f"keep {devices} devices of pool {pool} less for endpoints"
        case edits.ReleaseNodes(pool=pool):
            return f"let nodes of pool {pool} that are held back take work again"
        case edits.SeePool(pool=pool):
            return f"bring pool {pool} back into sight"
        case edits.RaiseStarts(max_starts=most):
            return f"let one cycle start {most} jobs"
        case edits.GiveBack(seats=given):
            who = ", ".join(sorted({holder for holder, _, _, _ in given}))
            return f"have {who} give back {sum(devices for _, _, _, devices in given)} devices"
