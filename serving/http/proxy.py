"""`x-request-timeout-seconds` is the replica's to keep, not the proxy's.

Serve's proxy reads the header, too, and always before the replica: it cuts a stream in the middle, and answers with a
plain text that OpenAI's client takes for a reason to ask again. So the proxy is made to look past it: a middleware in
the proxy gives the header another name, and one in the replica gives it back its own.

Ray takes a proxy's middlewares from the environment in which its nodes start (`adapters/ray_cluster/environment.py`).
The proxy's process imports this module, and has five seconds to be ready: nothing heavy may be imported here.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

HEADER, CARRIED = b"x-request-timeout-seconds", b"x-tide-request-timeout-seconds"


class Renamed:
    """ASGI middleware: what comes as the header `before` goes on as `after`; a sent `after` is dropped."""

    def __init__(self, app: ASGIApp, before: bytes, after: bytes) -> None:
        self._app = app
        self._before = before
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and any(name == self._before for name, _ in scope["headers"]):
            kept = [(name, value) for name, value in scope["headers"] if name != self._after]
            renamed = [(self._after if name == self._before else name, value) for name, value in kept]
            scope = {**scope, "headers": renamed}
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """What Serve's proxies call."""
    return [Middleware(Renamed, before=HEADER, after=CARRIED)]
