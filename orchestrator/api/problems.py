"""Errors as problem documents (RFC 9457): the status and exit code of every condition, and what to do next.

`code` is a closed set that programs switch on; `detail` is for people. What a client sent is never repeated where it
could be a secret.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from orchestrator.spec.errors import ExitCode, FencedError, UnreachableError, UserError
from orchestrator.spec.problems import SpecError

MEDIA_TYPE = "application/problem+json"
_MOST_SAID = 20
_log = structlog.get_logger(__name__)


class ProblemCode(enum.StrEnum):
    """What went wrong, for programs."""

    USAGE = "usage"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    UNKNOWN = "unknown"
    METHOD = "method"
    CONFLICT = "conflict"
    GONE = "gone"
    TOO_LARGE = "too_large"
    MEDIA_TYPE = "media_type"
    INVALID = "invalid"
    NEVER = "never"
    BUSY = "busy"
    UNREACHABLE = "unreachable"
    BUG = "bug"


_TITLES = {
    ProblemCode.USAGE: "The request cannot be read",
    ProblemCode.UNAUTHENTICATED: "A valid API key is needed",
    ProblemCode.FORBIDDEN: "Not allowed",
    ProblemCode.UNKNOWN: "There is no such thing",
    ProblemCode.METHOD: "This address does not answer that method",
    ProblemCode.CONFLICT: "The state of things forbids it",
    ProblemCode.GONE: "It was removed after its time of keeping",
    ProblemCode.TOO_LARGE: "The request is too large",
    ProblemCode.MEDIA_TYPE: "The body is of a type that is not read here",
    ProblemCode.INVALID: "A value is not valid",
    ProblemCode.NEVER: "It can never run as written",
    ProblemCode.BUSY: "Too many writes are waiting",
    ProblemCode.UNREACHABLE: "The control plane cannot answer this now",
    ProblemCode.BUG: "An unexpected error",
}
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


class SpecProblem(BaseModel):
    """One problem of a document, with its place where it has one."""

    model_config = ConfigDict(extra="forbid")

    where: str
    code: str
    path: str
    what: str
    want: str
    next_step: str


class ProblemDocument(BaseModel):
    """An error, as RFC 9457 has it. `exit_code` is what `tide` exits with for the same condition."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: ProblemCode
    exit_code: int
    where: str = ""
    next_step: str = ""
    problems: list[SpecProblem] = []


class ApiError(Exception):
    """An answer that is an error. `more` goes into the document beside the rest."""

    def __init__(
        self,
        status: int,
        code: ProblemCode,
        detail: str,
        *,
        exit_code: ExitCode,
        where: str = "",
        next_step: str = "",
        headers: Mapping[str, str] | None = None,
        problems: Sequence[Mapping[str, str]] = (),
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.exit_code = status, code, exit_code
        self.detail, self.where, self.next_step = detail, where, next_step
        self.headers, self.problems, self.more = dict(headers or {}), list(problems), dict(more or {})

    def document(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "type": f"urn:tideline:problem:{self.code}",
            "title": _TITLES[self.code],
            "status": self.status,
            # What a client sent may stand in it, and not all of that can be encoded.
            "detail": _clean(self.detail),
            "code": self.code.value,
            "exit_code": int(self.exit_code),
            "where": _clean(self.where),
            "next_step": _clean(self.next_step),
            "problems": [{key: _clean(text) for key, text in one.items()} for one in self.problems],
            **self.more,
        }

    def response(self) -> JSONResponse:
        """The HTTP answer."""
        return JSONResponse(self.document(), status_code=self.status, headers=self.headers, media_type=MEDIA_TYPE)


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


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


def unauthenticated(detail: str) -> ApiError:
    """401; the key itself is never repeated."""
    return ApiError(
        401,
        ProblemCode.UNAUTHENTICATED,
        detail,
        exit_code=ExitCode.FORBIDDEN,
        next_step="Send 'Authorization: Bearer KEY'; an admin makes keys with 'tide keys create'",
        headers={"www-authenticate": "Bearer"},
    )


def forbidden(detail: str, next_step: str = "Ask an admin of the cluster") -> ApiError:
    """403."""
    return ApiError(403, ProblemCode.FORBIDDEN, detail, exit_code=ExitCode.FORBIDDEN, next_step=next_step)


def gone(detail: str, *, first: int | None) -> ApiError:
    """410; `first` is where what is still kept begins."""
    step = "Nothing of it is kept" if first is None else f"Go on from {first}"
    return ApiError(
        410, ProblemCode.GONE, detail, exit_code=ExitCode.UNKNOWN, next_step=step, more={"first_kept": first}
    )


def too_large(detail: str, next_step: str) -> ApiError:
    """413."""
    return ApiError(413, ProblemCode.TOO_LARGE, detail, exit_code=ExitCode.INVALID, next_step=next_step)


def unreachable(detail: str) -> ApiError:
    """503: nothing is known to be wrong with the request; asking again is safe."""
    return ApiError(
        503,
        ProblemCode.UNREACHABLE,
        detail,
        exit_code=ExitCode.UNREACHABLE,
        next_step="Try again in a few seconds",
        headers={"retry-after": "2"},
    )


def busy() -> ApiError:
    """503: more writes wait than can be answered soon."""
    detail = "too many writes are waiting; nothing was written"
    return ApiError(
        503,
        ProblemCode.BUSY,
        detail,
        exit_code=ExitCode.UNREACHABLE,
        next_step="Try again in a second, or submit in batches",
        headers={"retry-after": "1"},
    )


def bug() -> ApiError:
    """500: the reason is in the log."""
    return ApiError(
        500,
        ProblemCode.BUG,
        "an unexpected error; it is in the server's log",
        exit_code=ExitCode.BUG,
        next_step="Report it with the server's log",
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
    return f"{kind} {'.'.join(path) or kind}", str(error["msg"]).removeprefix("Value error, ")


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
