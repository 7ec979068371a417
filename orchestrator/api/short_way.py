"""The way of a submission around the framework: the same function, without its routing and injection.

Both take as long as everything else that a submission needs before it is written, and submissions come by the thousand.
All other requests, and the OpenAPI document, go through the application.
"""

from __future__ import annotations

import re
from types import SimpleNamespace

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.api import problem_answers
from orchestrator.api.job_routes import accept_job
from orchestrator.api.parts import KEY_PATTERN, refuse_unknown
from orchestrator.api.problems import ApiError, ProblemCode
from orchestrator.api.service import Service
from orchestrator.spec.errors import ExitCode

PATH = "/api/v1/jobs"
_log = structlog.get_logger(__name__)
_ROUTE = SimpleNamespace(path=PATH)
_KEY = re.compile(KEY_PATTERN)


class ShortWay:
    """ASGI: POST of a job is answered here, everything else by `app`. The guard has been passed."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = _ROUTE
        request = Request(scope, receive)
        try:
            refuse_unknown(request.query_params.keys(), ())
            answer = await accept_job(request, self._service, request.state.caller, _key(request))
        except Exception as error:
            found = problem_answers.of(error)
            if found.code is ProblemCode.BUG:
                _log.error("unexpected error in a request", path=PATH, exc_info=error)
            answer = found.response()
        await answer(scope, receive, send)


def _key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.search(key):
        detail = "must be 1..128 printable characters without spaces"
        where = "header Idempotency-Key"
        raise ApiError(422, ProblemCode.INVALID, detail, exit_code=ExitCode.INVALID, where=where)
    return key
