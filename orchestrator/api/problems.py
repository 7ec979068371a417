"""Problem documents (RFC 9457): what an error looks like, and those that routes raise themselves.

`code` is a closed set that programs switch on; `detail` is for people. What a client sent is never repeated where it
could be a secret. How every other error becomes one: `problem_answers`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from orchestrator.spec.errors import ExitCode

MEDIA_TYPE = "application/problem+json"


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
