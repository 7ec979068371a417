"""The door: who asks, whether the body is small enough, how long it took, and who did what.

One ASGI layer around all routes; what it refuses never reaches them.
"""

from __future__ import annotations

import enum
import ipaddress
import itertools
import secrets
import time
from dataclasses import dataclass

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.code.bundle import MAX_PACKED_BYTES
from orchestrator.api.callers import Caller
from orchestrator.api.documents import MAX_BATCH, MAX_BATCH_BYTES, MAX_DOCUMENT_BYTES
from orchestrator.api.problem_answers import of
from orchestrator.api.problems import ApiError, ProblemCode, forbidden, too_large, unauthenticated
from orchestrator.api.service import Service
from orchestrator.api.short_way import ShortWay
from orchestrator.ledger.keys import Role
from orchestrator.spec.errors import ExitCode

_log = structlog.get_logger(__name__)
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json"})
BATCH_PATH = "/api/v1/jobs/batch"
CODE_PATHS = "/api/v1/code/"
_PROCESS, _NUMBERS = secrets.token_hex(4), itertools.count(1)
"""Requests are numbered; the begin of a number tells processes apart."""
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Entrance(enum.StrEnum):
    """How a request came in."""

    SOCKET = "socket"
    """A unix socket that only its owner can open: he needs no key, and may do everything."""
    LOOPBACK = "loopback"
    """This machine: no key is needed as long as none was issued."""
    NETWORK = "network"
    """Anywhere: nobody enters without a key."""


@dataclass(slots=True)
class _Seen:
    """What is known of a request once it was answered."""

    began_s: float
    request_id: str
    caller: Caller | None = None
    status: int = 500
    counted: bool = False


class Guard:
    """ASGI middleware around the application of `service`. `owner`: who the owner of the unix socket is called."""

    def __init__(self, app: ASGIApp, service: Service, entrance: Entrance, *, owner: str = "owner") -> None:
        self._app, self._service, self._entrance = ShortWay(app, service), service, entrance
        self._owner = Caller(actor=f"local:{owner}"[:64], role=Role.ADMIN, scope="local")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = _Seen(began_s=time.perf_counter(), request_id=f"{_PROCESS}-{next(_NUMBERS):x}")
        watched = self._watch(scope, send, seen)
        try:
            headers = _headers(scope)
            if scope["path"] not in OPEN_PATHS:
                seen.caller = await self._caller(headers)
                scope.setdefault("state", {})["caller"] = seen.caller
            receive = await _whole_body(scope, headers, receive)
        except Exception as error:
            if not isinstance(error, ApiError):
                _log.warning("a request could not be let in", error=type(error).__name__)
            await of(error).response()(scope, receive, watched)
        else:
            await self._app(scope, receive, watched)
        finally:
            self._note(scope, seen)

    async def _caller(self, headers: dict[bytes, bytes]) -> Caller:
        text = headers.get(b"authorization")
        if text is None:
            return await self._without_key(headers)
        scheme, _, key = text.decode("latin-1").partition(" ")
        keys = self._service.keys
        found = keys.remembered(key) if scheme.lower() == "bearer" else None
        if found is False:
            found = await self._service.reading(keys.find, key.strip())
        if not isinstance(found, Caller):
            self._service.counts.refused.labels("key").inc()
            raise unauthenticated("the key is not known, was revoked, or has expired")
        return found

    async def _without_key(self, headers: dict[bytes, bytes]) -> Caller:
        if self._entrance is Entrance.SOCKET:
            return self._owner
        if self._entrance is Entrance.NETWORK or await self._service.reading(self._service.keys.any_issued):
            self._service.counts.refused.labels("no_key").inc()
            raise unauthenticated("the request has no key")
        # A web page that made a name of its own point here must not act as this machine's user.
        host = headers.get(b"host", b"").decode("latin-1")
        if not _is_loopback(host):
            self._service.counts.refused.labels("host").inc()
            raise forbidden(f"without keys only this machine is answered, under its own name, not as {host[:80]!r}")
        return self._owner

    def _watch(self, scope: Scope, send: Send, seen: _Seen) -> Send:
        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status, seen.counted = message["status"], True
                message.setdefault("headers", [])
                message["headers"] = [*message["headers"], *_HEADERS, (b"x-request-id", seen.request_id.encode())]
                seconds = time.perf_counter() - seen.began_s
                self._service.counts.answered(_route(scope), scope["method"], seen.status, seconds)
            await send(message)

        return watched

    def _note(self, scope: Scope, seen: _Seen) -> None:
        typed = scope["path"].endswith("/input") and seen.status == 200
        if (scope["method"] in _READING or typed) and seen.status not in (401, 403):
            # Of a command, its begin is a line: each key that is typed there would be one, with its time.
            return
        caller, client = seen.caller, scope.get("client")
        self._service.audit.write(
            at=self._service.now().isoformat(timespec="milliseconds"),
            request=seen.request_id,
            actor=caller.actor if caller else None,
            role=caller.role.value if caller else None,
            tenant=caller.tenant if caller else None,
            entrance=self._entrance.value,
            client=client[0] if client else None,
            method=scope["method"],
            path=scope["path"][:300],
            status=seen.status,
        )


_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


def _headers(scope: Scope) -> dict[bytes, bytes]:
    return {name: value for name, value in scope["headers"]}  # noqa: C416 - header names may repeat: the last counts


def _route(scope: Scope) -> str:
    """The template of the route, or one word for all that there is none of: labels must not grow without end."""
    route = scope.get("route")
    path: str = getattr(route, "path", "other")
    return path


def _is_loopback(host: str) -> bool:
    name = host.rsplit(":", 1)[0] if host.count(":") == 1 else host.partition("]")[0].lstrip("[")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _whole_body(scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> Receive:
    """The body, read as far as is allowed. Raises: ApiError: 413, before more than that is in memory; 400 for one whose
    sender has gone before its end."""
    if b"content-length" not in headers and b"transfer-encoding" not in headers:
        return receive
    limit, step = _limit(scope["path"])
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and (len(announced) > 18 or int(announced) > limit):
        raise too_large(f"the body is larger than {limit:,} bytes", step)
    parts, num_bytes, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            # The begin of a document may be a document, and another one than was meant.
            raise ApiError(400, ProblemCode.USAGE, "the body ended before it was whole", exit_code=ExitCode.USAGE)
        parts.append(message.get("body", b""))
        num_bytes += len(parts[-1])
        more = message.get("more_body", False)
        if num_bytes > limit:
            raise too_large(f"the body is larger than {limit:,} bytes", step)
    replayed: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

    async def replay() -> Message:
        return replayed.pop() if replayed else await receive()

    return replay


def _limit(path: str) -> tuple[int, str]:
    """How many bytes a body may have there, and what to do with more."""
    if path == BATCH_PATH:
        return MAX_BATCH_BYTES, f"Send at most {MAX_BATCH:,} jobs in one request"
    if path.startswith(CODE_PATHS):
        return MAX_PACKED_BYTES, "Leave out what is no code: name it in .tideignore"
    return MAX_DOCUMENT_BYTES, "Send many jobs to /api/v1/jobs/batch"
