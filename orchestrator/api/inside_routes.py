"""/api/v1/jobs/JOB/stacks and /exec: looking into a running job, beside its workers.

The command and what passes through its pipes stand in bodies alone: the audit log holds who, when and which job.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Path

from orchestrator.api import models
from orchestrator.api.callers import Caller
from orchestrator.api.parts import JobId, TheCaller, TheService, job_for
from orchestrator.api.problem_answers import responses
from orchestrator.api.problems import ApiError, ProblemCode
from orchestrator.api.service import Service
from orchestrator.api.streams import KEEP_ALIVE, frame, stream_answer, streaming
from orchestrator.ledger.errors import ConflictError
from orchestrator.ledger.keys import Role
from orchestrator.ledger.rows import JobRow
from orchestrator.ledger.states import ENDED, JobState
from orchestrator.service.visits import NoDoorError, Visit
from orchestrator.spec.errors import ExitCode, UserError

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])
VisitId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{22}$", description="What starting the command answered.")]
_PARTS = {"Study": ("a study", "trials"), "Endpoint": ("an endpoint", "replicas")}
_WITHOUT_WORKERS = frozenset({JobState.SUBMITTED, JobState.QUEUED, JobState.PAUSED, *ENDED})


@router.post("/{job}/stacks", response_model=models.Stacks, responses=responses(404, 409))
async def take_stacks(job: JobId, body: models.StacksBody, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """Where the threads of a job's ranks stand, without stopping them."""
    row = await _job_with_ranks(service, caller, job)
    try:
        return {"job": row.id, **await service.visits.stacks(row.id, body.rank)}
    except NoDoorError:
        raise _without_process(row) from None


@router.post("/{job}/exec", status_code=201, response_model=models.Exec, responses=responses(404, 409))
async def begin(job: JobId, body: models.ExecBody, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """Run a command in the environment of a worker. It ends when nobody watches it."""
    row = await _job_with_ranks(service, caller, job)
    if not body.command[0]:
        raise UserError("command[0]: it is empty; it must name a program", code=ExitCode.INVALID)
    try:
        terminal = None if body.terminal is None else body.terminal.model_dump()
        visit = await service.visits.begin(
            row.id, caller.actor, body.command, rank=body.rank, node=body.node, terminal=terminal
        )
    except NoDoorError:
        raise _without_process(row) from None
    output = f"/api/v1/jobs/{row.id}/exec/{visit.id}/output"
    where = {"rank": visit.rank, "node": visit.node, "terminal": visit.terminal}
    return {"id": visit.id, "job": row.id, **where, "output": output}


@router.get(
    "/{job}/exec/{visit}/output",
    response_model=None,
    responses={**responses(404, 409), **stream_answer("Pieces of output (base64), at last `exit`.")},
)
async def watch(job: JobId, visit: VisitId, service: TheService, caller: TheCaller) -> Any:
    """What the command says, once; whoever leaves before its end ends it."""
    found = await _visit(service, caller, job, visit)
    return streaming(service, "exec", _frames(service.visits.watch(found)), caller)


async def _frames(said: AsyncIterator[dict[str, Any]]) -> AsyncGenerator[str, None]:
    async for one in said:
        yield frame("exit" if "code" in one else "output", one) if one else KEEP_ALIVE


@router.post("/{job}/exec/{visit}/input", response_model=models.Done, responses=responses(404, 409))
async def tell(
    job: JobId, visit: VisitId, body: models.ExecInput, service: TheService, caller: TheCaller
) -> dict[str, Any]:
    """Input for the command. Answered once there is room for more."""
    found = await _visit(service, caller, job, visit)
    try:
        data = base64.b64decode(body.data, validate=True)
    except binascii.Error as error:
        raise ApiError(422, ProblemCode.INVALID, f"data: {error}", exit_code=ExitCode.INVALID) from None
    size = None if body.size is None else body.size.model_dump()
    await service.visits.tell(found, data, end=body.end, size=size)
    return {"done": True}


@router.delete("/{job}/exec/{visit}", response_model=models.Done, responses=responses(404, 409))
async def end(job: JobId, visit: VisitId, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """End the command."""
    service.visits.end(await _visit(service, caller, job, visit))
    return {"done": True}


async def _visit(service: Service, caller: Caller, job: str, visit: str) -> Visit:
    row = await job_for(service, caller, job, Role.OPERATOR)
    return service.visits.find(row.id, visit, caller.actor)


async def _job_with_ranks(service: Service, caller: Caller, job: str) -> JobRow:
    """A training job. Raises: ConflictError for a study or an endpoint, whose trials and replicas are no ranks."""
    row = await job_for(service, caller, job, Role.OPERATOR)
    if row.shape.kind in _PARTS:
        whole, parts = _PARTS[row.shape.kind]
        problem = f"{row.id!r} is {whole}: exec and dump look into the ranks of a training job, and it has {parts}"
        step = (
            f"'tide logs {row.id}' shows what they say; stacks: 'py-spy dump --pid PID' on the node of one that hangs"
        )
        raise ConflictError(problem, next_step=step)
    return row


def _without_process(row: JobRow) -> Exception:
    """Why there is nobody to ask."""
    if row.state in _WITHOUT_WORKERS:
        how = f"has ended ({row.state})" if row.state in ENDED else f"holds no devices ({row.state})"
        return ConflictError(f"job {row.id!r} {how}: it has no workers", next_step=f"See 'tide describe {row.id}'")
    problem = f"job {row.id!r} is {row.state}, and this server has no process of it that answers"
    step = "Ask the server that decides; capacity that is only recorded runs nothing"
    return UserError(problem, code=ExitCode.UNREACHABLE, next_step=step)
