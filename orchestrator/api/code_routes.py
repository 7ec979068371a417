"""/api/v1/code: the folders of code that jobs bring along, each named by what it holds.

Whoever submits asks first whether the code is here, and sends what is missing; a job then names it.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse

from jobs.code.store import CodeStore
from orchestrator.api import models
from orchestrator.api.parts import TheCaller, TheService
from orchestrator.api.problem_answers import responses
from orchestrator.api.problems import ApiError, ProblemCode
from orchestrator.api.service import Service
from orchestrator.ledger.keys import Role
from orchestrator.spec.errors import ExitCode
from orchestrator.spec.job_parts import CODE_ID_PATTERN

router = APIRouter(prefix="/api/v1/code", tags=["jobs"])
MEDIA_TYPE = "application/gzip"
CodeId = Annotated[str, Path(pattern=CODE_ID_PATTERN, description="SHA-256 over paths, modes and contents.")]
_BODY = {"requestBody": {"required": True, "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}}


@router.get("/{code}", response_model=models.Code, responses=responses(404))
async def find(code: CodeId, service: TheService, caller: TheCaller) -> dict[str, str]:
    """Whether code is here."""
    caller.need(Role.OPERATOR)
    if not await asyncio.to_thread(_store(service).has, code):
        detail = f"there is no code {code[:12]} here"
        step = f"Send it: PUT /api/v1/code/{code}"
        raise ApiError(404, ProblemCode.UNKNOWN, detail, exit_code=ExitCode.UNKNOWN, next_step=step)
    return {"id": code}


@router.put(
    "/{code}",
    status_code=201,
    response_model=models.Code,
    responses={200: {"model": models.Code, "description": "It was here before."}, **responses(413, 415)},
    openapi_extra=_BODY,
)
async def keep(code: CodeId, request: Request, service: TheService, caller: TheCaller) -> JSONResponse:
    """Keep code: a gzipped tar of plain files, which must be exactly what the address says."""
    caller.need(Role.OPERATOR)
    if request.headers.get("content-type", "").partition(";")[0].strip() != MEDIA_TYPE:
        detail = f"the body must be {MEDIA_TYPE}: a gzipped tar"
        raise ApiError(415, ProblemCode.MEDIA_TYPE, detail, exit_code=ExitCode.INVALID)
    store = _store(service)
    was_here = await asyncio.to_thread(store.has, code)
    if not was_here:
        await asyncio.to_thread(store.add, code, await request.body())
    return JSONResponse({"id": code}, status_code=200 if was_here else 201)


def _store(service: Service) -> CodeStore:
    if service.code is None:
        detail = "this server keeps no code: nothing runs on the devices that it plays"
        raise ApiError(404, ProblemCode.UNKNOWN, detail, exit_code=ExitCode.UNKNOWN)
    return service.code
