"""/api/v1/events: what happened, as pages and as a stream that can be resumed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query

from orchestrator.api import models, render
from orchestrator.api.parts import Limit, NameFilter, TheCaller, TheService, job_for
from orchestrator.api.problem_answers import responses
from orchestrator.api.problems import gone
from orchestrator.api.service import Service
from orchestrator.api.streams import KEEP_ALIVE, KEEP_ALIVE_S, frame, stream_answer, streaming
from orchestrator.ledger.event_reads import Event
from orchestrator.ledger.rows import JobRow
from orchestrator.ledger.states import ENDED
from orchestrator.spec.names import JOB_PATTERN

router = APIRouter(prefix="/api/v1/events", tags=["events"])
_MOST_SEQ = 2**63 - 1
_PAGE = 500


@router.get(
    "",
    response_model=models.EventList,
    responses={**responses(404, 410), **stream_answer("A page, or with `follow` a stream.")},
)
async def list_events(
    service: TheService,
    caller: TheCaller,
    after: Annotated[int, Query(ge=0, le=_MOST_SEQ, description="The seq of the last event that is known.")] = 0,
    job: Annotated[str | None, Query(pattern=JOB_PATTERN)] = None,
    tenant: NameFilter = None,
    limit: Limit = 100,
    follow: Annotated[
        bool, Query(description="A stream of server-sent events; with `job` it ends with the job.")
    ] = False,
    last_event_id: Annotated[str | None, Header(pattern=r"^[0-9]{1,18}$", description="Goes before `after`.")] = None,
) -> Any:
    """Events after one that is known, oldest first. 410 when some of those after it were removed, and when these books
    never had that one."""
    if tenant is not None:
        caller.need_tenant(tenant)
    only = tenant or caller.only_tenant
    row = None if job is None else await job_for(service, caller, job)
    start = int(last_event_id) if last_event_id is not None else after
    await _not_purged(service, start)
    if follow:
        return streaming(service, "events", _frames(service, start, row, only), caller)
    # Asked before the events are read: what happened until then is among them.
    last = await service.reading(service.read.last_event)
    found = await _read(service, start, row, only, limit)
    # Whoever asks for few of many goes on behind those that are none of his, so that his place is not removed.
    upto = found[-1].seq if found else start
    seen = upto if len(found) == limit else max(upto, last)
    return {"items": [render.event(one) for one in found], "next_after": seen}


async def _not_purged(service: Service, after: int) -> None:
    if not after:
        return
    first, last = await service.reading(lambda: (service.read.first_event(), service.read.last_event()))
    if after < first - 1:
        raise gone(f"events {after + 1} to {first - 1} were removed after their time of keeping", first=first)
    if after > last:
        # Going on from there would leave out, without a word, what is given those numbers again.
        detail = f"there is no event {after} here, the last one is {last}: the books were restored from an older copy"
        raise gone(detail, first=first or None)


async def _read(service: Service, after: int, job: JobRow | None, tenant: str | None, limit: int) -> list[Event]:
    of = None if job is None else job.id
    return await service.reading(service.read.events, after=after, job=of, tenant=tenant, limit=limit)


async def _frames(service: Service, after: int, job: JobRow | None, tenant: str | None) -> AsyncGenerator[str, None]:
    while not service.hub.stopping:
        count = service.hub.count
        # Asked before the events are read: what happened until then is among them.
        if job is not None:
            job = await service.reading(service.read.job, job.id)
        found = await _read(service, after, job, tenant, _PAGE)
        for one in found:
            yield frame(one.kind, render.event(one), str(one.seq))
        after = found[-1].seq if found else after
        if job is not None and job.state in ENDED and len(found) < _PAGE:
            yield frame("end", {"job": job.id, "state": job.state.value})
            return
        if not found and not await service.hub.changed(count, timeout_s=KEEP_ALIVE_S):
            yield KEEP_ALIVE
