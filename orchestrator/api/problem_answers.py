"""Every error of the application as a problem document: its status, its exit code, and what OpenAPI says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from orchestrator.api.problems import MEDIA_TYPE, ApiError, ProblemCode, bug, unreachable
from orchestrator.spec.errors import ExitCode, FencedError, UnreachableError, UserError
from orchestrator.spec.names import JOB_PATTERN, NAME_PATTERN
from orchestrator.spec.problems import SpecError
from orchestrator.spec.scalars import shown

_log = structlog.get_logger(__name__)
_MOST_SAID = 20
# Of other patterns the value is not repeated: what stands where a key's id should may be the key.
_WORDS = {
    NAME_PATTERN: "1 to 63 lower-case letters, digits and '-'",
    JOB_PATTERN: "1 to 63 lower-case letters, digits and '-', and may end in '.' and the number of a run",
}
_SHOULD_BE = "Input should be "

_BY_EXIT = {
    ExitCode.USAGE: ProblemCode.USAGE,
    ExitCode.INVALID: ProblemCode.INVALID,
    ExitCode.UNKNOWN: ProblemCode.UNKNOWN,
    ExitCode.FORBIDDEN: ProblemCode.FORBIDDEN,
    ExitCode.UNREACHABLE: ProblemCode.UNREACHABLE,
    ExitCode.CONFLICT: ProblemCode.CONFLICT,
    ExitCode.NEVER: ProblemCode.NEVER,
}
_BY_STATUS = {
    400: (ProblemCode.USAGE, ExitCode.USAGE),
    401: (ProblemCode.UNAUTHENTICATED, ExitCode.FORBIDDEN),
    404: (ProblemCode.UNKNOWN, ExitCode.UNKNOWN),
    405: (ProblemCode.METHOD, ExitCode.USAGE),
    413: (ProblemCode.TOO_LARGE, ExitCode.INVALID),
    415: (ProblemCode.MEDIA_TYPE, ExitCode.USAGE),
}


def from_user_error(error: UserError) -> ApiError:
    """The problem that a refusal is."""
    code = ExitCode(error.code)
    problems: list[dict[str, str]] = []
    if isinstance(error, SpecError):
        problems = [
            {
                "where": f"{one.file}:{one.line}:{one.column}" if one.line else one.file,
                **{key: str(getattr(one, key)) for key in ("code", "path", "what", "want", "next_step")},
            }
            for one in error.problems
        ]
    return ApiError(
        code.http_status,
        _BY_EXIT.get(code, ProblemCode.BUG),
        error.problem,
        exit_code=code,
        where=error.where,
        next_step=error.next_step,
        problems=problems,
        headers={"retry-after": "2"} if code is ExitCode.UNREACHABLE else None,
    )


def of(error: BaseException) -> ApiError:
    """The problem that any error is."""
    match error:
        case ApiError():
            return error
        case UserError():
            return from_user_error(error)
        case UnreachableError():
            return unreachable("the database does not answer")
        case FencedError():
            return unreachable("this server has just lost the lead to another one; nothing was written by it")
        case RequestValidationError():
            return _invalid(error)
        case HTTPException():
            return _http(error)
        case _:
            return bug()


def _invalid(error: RequestValidationError) -> ApiError:
    first, *others = error.errors()
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "cannot be read")
        return ApiError(400, ProblemCode.USAGE, f"the body is not JSON: {reason}", exit_code=ExitCode.USAGE)
    where, text = _said(first)
    # Everything at once, as of documents.
    text = "; ".join([text, *(": ".join(_said(one)) for one in others[:_MOST_SAID])])
    return ApiError(422, ProblemCode.INVALID, text, exit_code=ExitCode.INVALID, where=where)


def _said(error: Mapping[str, Any]) -> tuple[str, str]:
    """Where something is wrong, and what."""
    kind, *path = [str(part) for part in error["loc"]]
    said, value = str(error["msg"]).removeprefix("Value error, "), error.get("input")
    words = _WORDS.get(str(error.get("ctx", {}).get("pattern")))
    if words is None and said.startswith(_SHOULD_BE) and isinstance(value, str | int | float):
        words = said.removeprefix(_SHOULD_BE)
    return f"{kind} {'.'.join(path) or kind}", said if words is None else f"{shown(value)} is none; it must be {words}"


def _http(error: HTTPException) -> ApiError:
    code, exit_code = _BY_STATUS.get(error.status_code, (ProblemCode.USAGE, ExitCode.USAGE))
    detail = "there is no such address" if error.status_code == 404 else str(error.detail)
    return ApiError(
        error.status_code,
        code,
        detail,
        exit_code=exit_code,
        next_step="GET /openapi.json describes every address",
        headers=error.headers,
    )


def install(app: FastAPI) -> None:
    """Make every error of the application leave as a problem document."""
    for kind in (ApiError, UserError, UnreachableError, FencedError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(Exception, _unexpected)


async def _answer(_: Request, error: Exception) -> JSONResponse:
    return of(error).response()


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    _log.error("unexpected error in a request", path=request.url.path, exc_info=error)
    return bug().response()


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of errors that a route may answer beside those that every route may."""
    every = {*statuses, 400, 401, 403, 422, 500, 503}
    body = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}}
    return {status: {"description": _described(status), **body} for status in sorted(every)}


def _described(status: int) -> str:
    return {
        400: "The request cannot be read.",
        401: "No key, or one that opens nothing.",
        403: "Role, tenant or budget do not allow it.",
        404: "There is no such thing.",
        409: "The state of things forbids it.",
        410: "What was asked for was removed after its time of keeping.",
        413: "The request is too large.",
        415: "The body is of another type than JSON or YAML.",
        422: "A value is not valid, or (code `never`) the job can never run as written.",
        500: "A bug of ours.",
        503: "The database, the leader or Ray does not answer, or too many writes wait.",
    }[status]
