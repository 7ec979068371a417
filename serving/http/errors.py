"""Errors in OpenAI's shape: `{"error": {message, type, param, code}}`, whatever went wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serving.engine.generation import EngineFailedError, RefusedError

_log = structlog.get_logger(__name__)
# Clients of OpenAI repeat these statuses by themselves; this header tells them when that is no use.
NO_RETRY = {"x-should-retry": "false"}


class ApiError(Exception):
    """An answer that is an error. `param` names the field that is wrong, `code` is for programs."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None,
        kind: str = "invalid_request_error", headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The JSON document."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The HTTP answer."""
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def from_refusal(error: RefusedError) -> ApiError:
    """429 with the computed time to come again, in whole seconds for everybody and milliseconds for OpenAI's client."""
    retry_s = error.refusal.retry_after_s
    headers = {"retry-after": str(max(1, math.ceil(retry_s))), "retry-after-ms": str(max(1, math.ceil(retry_s * 1000)))}
    message = f"no capacity to answer in time ({error.refusal.reason}); come again in {retry_s:.2f} s"
    return ApiError(429, message, code=str(error.refusal.reason), kind="rate_limit_error", headers=headers)


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
    app.add_exception_handler(Exception, _bug)


async def _api_error(_: Request, error: Any) -> JSONResponse:
    response: JSONResponse = error.response()
    return response


async def _refused(_: Request, error: Any) -> JSONResponse:
    return from_refusal(error).response()


async def _engine_failed(_: Request, error: Any) -> JSONResponse:
    return from_engine(error).response()


async def _invalid(_: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "cannot be read")
        return ApiError(400, f"the body is not JSON: {reason}", code="invalid_json").response()
    param = _field(first["loc"])
    return ApiError(400, f"{param or 'body'}: {_sentence(first)}", param=param, code="invalid_value").response()


async def _http_error(_: Request, error: Any) -> JSONResponse:
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
    return ApiError(error.status_code, str(error.detail), code=code, headers=error.headers).response()


async def _bug(_: Request, error: Exception) -> JSONResponse:
    _log.error("unexpected error in a request", error=type(error).__name__)
    return ApiError(500, "an unexpected error; it has been logged", code="internal", kind="server_error").response()


def _field(location: Sequence[str | int]) -> str | None:
    """`prompt`, `stop[1]`, ...; names of pydantic's union members are left out."""
    text = ""
    for part in location[1:]:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier():
            text += f".{part}" if text else part
    return text or None


def _sentence(problem: Mapping[str, Any]) -> str:
    return str(problem["msg"]).removeprefix("Value error, ")
