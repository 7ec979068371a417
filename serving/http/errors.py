"""Errors in OpenAI's shape: `{"error": {message, type, param, code}}`, whatever went wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException

from serving.batch.records import BatchError, ConflictError, UnknownError, WindowError
from serving.engine.generation import EngineFailedError, RefusedError
from serving.http.limits import Limited

_log = structlog.get_logger(__name__)
# Clients of OpenAI repeat these statuses by themselves; this header tells them when that is no use.
NO_RETRY = {"x-should-retry": "false"}
_BELOW_V1 = ("/completions", "/chat/completions", "/embeddings", "/models", "/files", "/batches")
_NO_OBJECT = "the body must be a JSON object, sent with 'content-type: application/json'"


class ApiError(Exception):
    """An answer that is an error. `param` names the field that is wrong, `code` is for programs, `more` goes beside."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None,
        kind: str = "invalid_request_error", headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    @property
    def body(self) -> dict[str, Any]:
        """The JSON document."""
        # What a client sent may stand in a message, and not all of it can be encoded.
        message = self.message.encode("utf-8", "backslashreplace").decode()
        return {"error": {"message": message, "type": self.kind, "param": self.param, "code": self.code, **self.more}}

    def response(self) -> JSONResponse:
        """The HTTP answer."""
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def retry_headers(retry_s: float) -> dict[str, str]:
    """Whole seconds for everybody, milliseconds for OpenAI's client."""
    milliseconds = max(1, math.ceil(retry_s * 1000))
    return {"retry-after": str(max(1, math.ceil(retry_s))), "retry-after-ms": str(milliseconds)}


def from_refusal(error: RefusedError) -> ApiError:
    """429 with the computed time to come again."""
    retry_s, headers = error.refusal.retry_after_s, retry_headers(error.refusal.retry_after_s)
    message = f"no capacity to answer in time ({error.refusal.reason}); come again in {retry_s:.2f} s"
    return ApiError(429, message, code=str(error.refusal.reason), kind="rate_limit_error", headers=headers)


def from_limit(limited: Limited) -> ApiError:
    """429 for a tenant above its limit, with the time at which the limit allows the request."""
    code, allowed = str(limited.limit), limited.allowed
    if limited.retry_after_s is None:
        message = f"the request may cost more than {code} ({allowed:,}) allows in a whole minute; ask for less"
        return ApiError(429, message, code=code, kind="rate_limit_error", headers=NO_RETRY)
    message = f"{code} is {allowed:,} for each tenant; come again in {limited.retry_after_s:.2f} s"
    headers = retry_headers(limited.retry_after_s)
    return ApiError(429, message, code=code, kind="rate_limit_error", headers=headers)


def from_batch(error: BatchError) -> ApiError:
    """404, 409, 429 with an ETA, or 400. None of them is mended by asking the same again at once."""
    match error:
        case UnknownError():
            return ApiError(404, error.message, code=error.code, param=error.param)
        case ConflictError():
            return ApiError(409, error.message, code=error.code, param=error.param, headers=NO_RETRY)
        case WindowError(eta_s=eta_s, retry_after_s=retry_after_s):
            headers = {**NO_RETRY, **({} if retry_after_s is None else retry_headers(retry_after_s))}
            return ApiError(
                429, error.message, code=error.code, param=error.param, kind="rate_limit_error", headers=headers,
                more={"eta_s": round(eta_s, 1)},
            )  # fmt: skip
        case _:
            return ApiError(400, error.message, code=error.code, param=error.param)


def from_engine(error: EngineFailedError) -> ApiError:
    """503: this replica computes no more; another one may."""
    return ApiError(503, f"{error}; please try again", code="engine_unavailable", kind="server_error")


def install(app: FastAPI) -> None:
    """Make every error of the application leave in OpenAI's shape."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(EngineFailedError, _engine_failed)
    app.add_exception_handler(BatchError, _batch_error)
    app.add_exception_handler(DBAPIError, _store_away)
    app.add_exception_handler(Exception, _bug)


async def _api_error(_: Request, error: Any) -> JSONResponse:
    response: JSONResponse = error.response()
    return response


async def _refused(_: Request, error: Any) -> JSONResponse:
    return from_refusal(error).response()


async def _batch_error(_: Request, error: Any) -> JSONResponse:
    return from_batch(error).response()


async def _store_away(_: Request, error: Any) -> JSONResponse:
    _log.error("batch store failed", error=type(error).__name__)
    message = "the batch store does not answer; please try again"
    return ApiError(503, message, code="store_unavailable", kind="server_error").response()


async def _engine_failed(_: Request, error: Any) -> JSONResponse:
    return from_engine(error).response()


async def _invalid(_: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        reason, (_, position) = first.get("ctx", {}).get("error", "cannot be read"), first["loc"]
        message = f"the body is not JSON: {reason} at character {position}"
        return ApiError(400, message, code="invalid_json").response()
    if tuple(first["loc"]) == ("body",) and "field" not in first.get(
        "ctx", {}
    ):  # nothing, a list, another content type
        return ApiError(400, _NO_OBJECT, code="invalid_json").response()
    param = field_of(first)
    return ApiError(400, f"{param or 'body'}: {sentence(first)}", param=param, code="invalid_value").response()


async def _http_error(request: Request, error: Any) -> JSONResponse:
    """What Starlette and FastAPI refuse by themselves."""
    asked, headers = f"{request.method} {request.url.path}", error.headers
    match error.status_code, error.__cause__:
        case 404, _:
            message = f"there is no {asked}; {_meant(request.url.path)}"
            refused = ApiError(404, message, code="unknown_url", headers=headers)
        case 405, _:
            message = f"there is no {asked}; {(headers or {}).get('Allow', 'another method')} is right"
            refused = ApiError(405, message, code="method_not_allowed", headers=headers)
        case _, UnicodeDecodeError() as cause:
            refused = ApiError(400, f"the body is not UTF-8: byte {cause.start} is wrong", code="invalid_json")
        case 400, RecursionError():
            refused = ApiError(400, "the body is nested too deeply", code="invalid_json")
        case 400, ValueError():
            refused = ApiError(400, "the body holds a number with too many digits", code="invalid_json")
        case status, _:
            refused = ApiError(status, str(error.detail), headers=headers)
    return refused.response()


def _meant(path: str) -> str:
    if path.startswith(_BELOW_V1):
        return f"/v1{path} is meant? A client's base_url ends with /v1"
    return "/openapi.json lists what there is"


async def _bug(_: Request, error: Exception) -> JSONResponse:
    _log.error("unexpected error in a request", error=type(error).__name__)
    return ApiError(500, "an unexpected error; it has been logged", code="internal", kind="server_error").response()


def field_of(problem: Mapping[str, Any]) -> str | None:
    """The field that a problem of pydantic's is about: the one it names itself, else the one where it was found."""
    named = problem.get("ctx", {}).get("field")
    return str(named) if named else field_name(problem["loc"])


def field_name(location: Sequence[str | int]) -> str | None:
    """The field behind a place such as ("body", "stop", 1): `stop[1]`."""
    if location[0] in ("header", "query", "path"):
        return str(location[1])
    text = ""
    for part in location[1:]:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier():
            text += f".{part}" if text else part
    return text or None


def sentence(problem: Mapping[str, Any]) -> str:
    """What pydantic says, without its prefix; of an option that is not known, what to do."""
    if problem["type"] == "extra_forbidden":
        return "there is no such option here; check its spelling, or leave it out"
    return str(problem["msg"]).removeprefix("Value error, ")
