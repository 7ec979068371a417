"""/api/v1/schedules: jobs that start by a clock. They are submitted as jobs are; each start is a job of its own."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path

from orchestrator.api import models, render
from orchestrator.api.paging import after_of, page_of
from orchestrator.api.parts import Cursor, Limit, TheCaller, TheService
from orchestrator.api.problem_answers import responses
from orchestrator.api.service import Service
from orchestrator.ledger.errors import UnknownJobError
from orchestrator.ledger.keys import Role
from orchestrator.ledger.rows import ScheduleRow
from orchestrator.policy.schedule import next_due_s
from orchestrator.spec import TrainJob, load_text
from orchestrator.spec.names import NAME_PATTERN

router = APIRouter(prefix="/api/v1/schedules", tags=["jobs"])
Name = Annotated[str, Path(pattern=NAME_PATTERN)]


@router.get("", response_model=models.ScheduleList, responses=responses())
async def list_schedules(
    service: TheService, caller: TheCaller, limit: Limit = 100, cursor: Cursor = None
) -> dict[str, Any]:
    """Schedules by name, with their next start, page by page."""
    return await service.reading(_schedules, service, caller.only_tenant, after_of(cursor), limit)


def _schedules(service: Service, tenant: str | None, after: str | None, limit: int) -> dict[str, Any]:
    rows = service.read.schedules(tenant=tenant, after=after, limit=limit + 1)
    shown, following = page_of(rows, limit, lambda row: row.name)
    return {"items": [_schedule(row, service.clock()) for row in shown], "next_cursor": following}


def _schedule(row: ScheduleRow, now_s: float) -> dict[str, Any]:
    (job,) = load_text(row.document, f"schedule {row.name}")
    assert isinstance(job, TrainJob), "only TrainJobs have schedules"
    schedule = job.spec.schedule
    assert schedule is not None, "only scheduled jobs have a row"
    next_s = next_due_s(schedule, after_s=now_s)
    return {
        "name": row.name,
        "tenant": row.tenant,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "next_at": None if next_s is None else render.instant(next_s),
        "instances": list(row.instances),
        "submitted_at": render.instant_ms(row.created_ms),
        "submitted_by": row.submitted_by,
    }


@router.delete("/{name}", response_model=models.ScheduleList, responses=responses(404, 409))
async def cancel_schedule(name: Name, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """Start no more of it; jobs that it started go on."""
    rows = [row for row in await service.reading(service.read.schedules) if row.name == name]
    if not rows:
        raise UnknownJobError(name)
    caller.need_tenant(rows[0].tenant)
    caller.need(Role.OPERATOR)
    await service.writer.do(lambda: service.ledger.cancel(name, actor=caller.actor))
    return {"items": [_schedule(rows[0], service.clock())], "next_cursor": None}
