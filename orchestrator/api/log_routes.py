"""/api/v1/jobs/JOB/logs: what an attempt's workers said, as parts and as a stream that goes on from attempt to attempt.

Offsets are positions in bytes of the kept file; what is answered is cut between characters.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query

from orchestrator.api import models
from orchestrator.api.callers import Caller
from orchestrator.api.parts import JobId, TheCaller, TheService, job_for
from orchestrator.api.problem_answers import responses
from orchestrator.api.problems import ApiError, ProblemCode, gone
from orchestrator.api.service import Service
from orchestrator.api.streams import KEEP_ALIVE, KEEP_ALIVE_S, frame, stream_answer, streaming
from orchestrator.ledger.rows import JobRow
from orchestrator.ledger.states import ENDED
from orchestrator.service.logs import LogChunk, LogPurgedError
from orchestrator.spec.errors import ExitCode

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])
_MOST_OFFSET = 2**62
_CHUNK_BYTES = 64 * 1024
# Nothing tells us that a worker has said something.
_LOOK_EVERY_S = 0.5


@router.get(
    "/{job}/logs",
    response_model=models.LogPage,
    responses={**responses(404, 410), **stream_answer("A part, or with `follow` a stream.")},
)
async def get_logs(
    job: JobId,
    service: TheService,
    caller: TheCaller,
    attempt: Annotated[
        int | None, Query(ge=1, le=10**6, description="Default: the latest; of a stream: the first.")
    ] = None,
    offset: Annotated[int, Query(ge=0, le=_MOST_OFFSET, description="Position in bytes.")] = 0,
    limit: Annotated[int, Query(ge=4, le=2**20, description="Bytes at most.")] = _CHUNK_BYTES,
    follow: Annotated[bool, Query(description="A stream of server-sent events that ends with the job.")] = False,
    last_event_id: Annotated[
        str | None,
        Header(pattern=r"^[1-9][0-9]{0,5}:[0-9]{1,18}$", description="ATTEMPT:OFFSET; goes before the others."),
    ] = None,
) -> Any:
    """Logs of an attempt from a position on. 410 when what was asked for was removed."""
    row = await _job(service, caller, job)
    if last_event_id is not None:
        named, _, position = last_event_id.partition(":")
        attempt, offset = int(named), int(position)
    if follow:
        one_only = attempt is not None and last_event_id is None
        first = attempt or 1
        if first <= row.attempt:
            await _chunk(service, row.id, first, offset, 1)  # a stream cannot answer 410 any more
        return streaming(service, "logs", _frames(service, row, first, offset, one_only), caller)
    number = attempt or max(1, row.attempt)
    return _page(row.id, number, _cut(await _chunk(service, row.id, number, offset, limit)))


async def _job(service: Service, caller: Caller, name: str) -> JobRow:
    return await job_for(service, caller, name)


async def _chunk(service: Service, job: str, attempt: int, offset: int, limit: int) -> LogChunk:
    try:
        return await service.reading(service.logs.chunk, job, attempt, offset=offset, limit=limit)
    except LogPurgedError as error:
        what = f"the log of attempt {attempt} of {job} was removed after its time of keeping"
        raise gone(what, first=error.first_offset) from None
    except KeyError:
        row = await service.reading(service.read.job, job)
        if attempt <= row.attempt and row.state not in ENDED:
            return LogChunk(offset=offset, data=b"", next_offset=offset, ended=False)  # it has said nothing yet
        if attempt <= row.attempt:
            return LogChunk(offset=offset, data=b"", next_offset=offset, ended=True)
        detail = f"job {job!r} has no attempt {attempt}; it has had {row.attempt}"
        if row.attempt == 0:
            detail = f"job {job!r} has not started yet, so that nothing was said"
        raise ApiError(404, ProblemCode.UNKNOWN, detail, exit_code=ExitCode.UNKNOWN) from None


def _cut(chunk: LogChunk) -> LogChunk:
    """Without the first bytes of a character whose rest is still to come."""
    data = chunk.data
    for back in range(1, min(4, len(data)) + 1):
        lead = data[-back]
        if lead & 0xC0 != 0x80:  # the last byte that begins a character
            needed = 4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2 if lead >= 0xC0 else 1
            if needed > back and len(data) > back and not chunk.ended:
                data = data[:-back]
            break
    return LogChunk(
        offset=chunk.offset, data=data, next_offset=chunk.offset + len(data), ended=chunk.ended and data == chunk.data
    )


def _page(job: str, attempt: int, chunk: LogChunk) -> dict[str, Any]:
    return {
        "job": job,
        "attempt": attempt,
        "offset": chunk.offset,
        "next_offset": chunk.next_offset,
        "ended": chunk.ended,
        "text": chunk.data.decode("utf-8", "replace"),
    }


async def _frames(
    service: Service, row: JobRow, attempt: int, offset: int, one_only: bool
) -> AsyncGenerator[str, None]:
    silent_s = 0.0
    while not service.hub.stopping:
        # Asked before the log is read: what was said until then is in it.
        row = await service.reading(service.read.job, row.id)
        over = row.state in ENDED
        if attempt > row.attempt:
            if over:
                yield _end(row)
                return
            silent_s = await _rest(service, silent_s)
        else:
            try:
                chunk = _cut(await _chunk(service, row.id, attempt, offset, _CHUNK_BYTES))
            except ApiError as error:  # a later attempt whose log is gone: said, and passed over
                yield frame("gone", {"attempt": attempt, "detail": error.detail})
                attempt, offset = attempt + 1, 0
                continue
            if chunk.data:
                silent_s, offset = 0.0, chunk.next_offset
                yield frame("log", _page(row.id, attempt, chunk), f"{attempt}:{offset}")
            elif (chunk.ended or over or attempt < row.attempt) and one_only:
                yield _end(row) if over else frame("attempt-end", {"job": row.id, "attempt": attempt})
                return
            elif chunk.ended or over or attempt < row.attempt:
                attempt, offset = attempt + 1, 0
            else:
                silent_s = await _rest(service, silent_s)
        if silent_s >= KEEP_ALIVE_S:
            silent_s = 0.0
            yield KEEP_ALIVE


async def _rest(service: Service, silent_s: float) -> float:
    await service.hub.changed(service.hub.count, timeout_s=_LOOK_EVERY_S)
    return silent_s + _LOOK_EVERY_S


def _end(row: JobRow) -> str:
    return frame("end", {"job": row.id, "state": row.state.value})
