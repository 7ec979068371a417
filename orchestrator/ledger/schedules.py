"""Jobs that start by a clock, as changes: added, looked at, removed. What is due, `policy.schedule` decides."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.ledger.change import Change
from orchestrator.ledger.rows import ScheduleRow
from orchestrator.policy.schedule import Due


def add(change: Change, name: str, tenant: str, actor: str, document: str) -> None:
    """Start jobs of this kind from now on; what was due before is not made up for."""
    now_ms = change.now_ms
    row = ScheduleRow(
        name=name, tenant=tenant, submitted_by=actor, created_ms=now_ms, looked_ms=now_ms, document=document
    )
    change.schedules.put(row)
    change.event("scheduled", schedule=name, tenant=tenant)


def remove(change: Change, name: str) -> bool:
    """Start no more of them; those that live go on. False if there is no such schedule."""
    row = change.schedules.get(name)
    if row is None:
        return False
    change.schedules.drop(name)
    change.event("unscheduled", schedule=name, tenant=row.tenant)
    return True


def unchanged(change: Change, seen: ScheduleRow) -> ScheduleRow | None:
    """The row that a decision was made on; None if it is not what it was then."""
    row = change.schedules.get(seen.name)
    same = row is not None and (row.created_ms, row.looked_ms) == (seen.created_ms, seen.looked_ms)
    return row if same else None


def looked(change: Change, row: ScheduleRow, due: Due, started: tuple[str, ...], now_s: float) -> None:
    """Keep that everything up to `now_s` was decided, and what lives of it."""
    alive = tuple(one for one in row.instances if change.jobs.get(one) is not None)
    # A clock that was set back decides nothing again.
    looked_ms = max(row.looked_ms, round(now_s * 1000))
    change.schedules.put(replace(row, looked_ms=looked_ms, instances=alive + started))
    for start, job_id in zip(due.starts, started, strict=True):
        change.event("schedule-started", schedule=row.name, instance=job_id, reason=start.reason)
    for skip in due.skipped:
        change.event("schedule-skipped", schedule=row.name, instance=skip.instance.id, reason=skip.reason)
