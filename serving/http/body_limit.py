"""Refuse a body that is too large, announced or not, before more than that of it is in memory."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.errors import ApiError
from serving.http.paths import path_inside


class BodyLimit:
    """ASGI middleware: 413 for a body of more than `max_bytes`.

    `streamed` names paths with a limit of their own, whose bodies are passed on piece by piece; there the 413 is an
    ApiError raised where the route reads.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, streamed: Mapping[str, int]) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = path_inside(scope)
        is_streamed = scope["method"] == "POST" and path in self._streamed
        limit = self._streamed[path] if is_streamed else self._max_bytes
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and (len(announced) > 18 or int(announced) > limit):
            await _error(limit).response()(scope, receive, send)
        elif is_streamed:
            await self._app(scope, _counted(receive, limit), send)
        else:
            await self._read_first(scope, receive, send)

    async def _read_first(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._read(receive)
        if body is None:
            await _error(self._max_bytes).response()(scope, receive, send)
            return
        replayed: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return replayed.pop() if replayed else await receive()

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body; None as soon as it is too large."""
        parts, num_bytes, more = [], 0, True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            num_bytes += len(parts[-1])
            more = message.get("more_body", False)
            if num_bytes > self._max_bytes:
                return None
        return b"".join(parts)


def _counted(receive: Receive, limit: int) -> Receive:
    num_bytes = 0

    async def count() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > limit:
            raise _error(limit)
        return message

    return count


def _error(limit: int) -> ApiError:
    return ApiError(413, f"the body is larger than {limit:,} bytes; send less at once", code="body_too_large")
