"""Refuse a body that is too large, announced or not, before more than that of it is in memory."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.errors import ApiError


class BodyLimit:
    """ASGI middleware: 413 for a body of more than `max_bytes`."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            await self._error().response()(scope, receive, send)
            return
        body = await self._read(receive)
        if body is None:
            await self._error().response()(scope, receive, send)
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

    def _error(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self._max_bytes:,} bytes", code="body_too_large")
