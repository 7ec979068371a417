"""What Serve's proxy does by itself that a client of ours must not see.

`x-request-timeout-seconds` is the replica's to keep. Serve's proxy reads the header, too, and always before the
replica: it cuts a stream in the middle, and answers with a plain text that OpenAI's client takes for a reason to ask
again. So the proxy is made to look past it: a middleware in the proxy gives the header another name, and one in the
replica gives it back its own.

Which replica gets a request is decided by a header. A session that only the body names gets one here, so that a newer
keystroke finds the older one where both are sent by a plain OpenAI client.

Errors that the proxy makes (an address that no replica has, a replica that dies with a request) are plain text, some of
it a traceback. They leave in OpenAI's shape.

Ray takes a proxy's middlewares from the environment in which its nodes start (`adapters/ray_cluster/environment.py`).
The proxy's process imports this module, and has five seconds to be ready: nothing heavy may be imported here.
"""

from __future__ import annotations

import hashlib
import json
import re

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER, CARRIED = b"x-request-timeout-seconds", b"x-tide-request-timeout-seconds"
SESSION = b"x-session-id"
# A quote inside a text of the document has a backslash before it. Whoever finds the wrong place picks a replica by it,
# and nothing else.
_NAMED = re.compile(rb'(?<!\\)"prompt_cache_key"\s*:\s*"((?:[^"\\]|\\.)+)"')
_MOST_BYTES = 2**18


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


class Sessions:
    """ASGI middleware: a completion whose body names a session has it in a header, too, by which replicas are chosen.
    The body counts more than a header that came with it, as in the replica."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _may_name_a_session(scope):
            await self._app(scope, receive, send)
            return
        messages = [await receive()]
        while messages[-1]["type"] == "http.request" and messages[-1].get("more_body"):
            messages.append(await receive())
        if found := _NAMED.search(b"".join(message.get("body", b"") for message in messages)):
            kept = [(name, value) for name, value in scope["headers"] if name != SESSION]
            named = hashlib.blake2b(found.group(1), digest_size=16).hexdigest().encode()
            scope = {**scope, "headers": [*kept, (SESSION, named)]}
        messages.reverse()

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, replay, send)


class Shaped:
    """ASGI middleware: an error in plain text becomes one in OpenAI's shape. Serve's own paths, `/-/...`, stay."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/-/"):
            await self._app(scope, receive, send)
            return
        replaced = False

        async def shape(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and _is_plain_error(message):
                replaced = True
                for part in _error(message["status"], f"{scope['method']} {scope['path']}"):
                    await send(part)
            elif not replaced:
                await send(message)

        await self._app(scope, receive, shape)


def middlewares() -> list[Middleware]:
    """What Serve's proxies call."""
    return [Middleware(Renamed, before=HEADER, after=CARRIED), Middleware(Sessions), Middleware(Shaped)]


def _may_name_a_session(scope: Scope) -> bool:
    """A completion of known and moderate size: nothing else is held back until it is whole."""
    if scope["method"] != "POST" or not scope["path"].endswith(("/v1/completions", "/v1/chat/completions")):
        return False
    size = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return bool(size.isdigit()) and len(size) < 8 and int(size) <= _MOST_BYTES


def _is_plain_error(start: Message) -> bool:
    kinds = [value for name, value in start.get("headers", ()) if bytes(name).lower() == b"content-type"]
    return start["status"] >= 400 and any(bytes(kind).startswith(b"text/plain") for kind in kinds)


def _error(status: int, asked: str) -> list[Message]:
    """The whole answer."""
    if status == 404:
        kind, code = "invalid_request_error", "unknown_url"
        message = (
            f"there is no {asked} at this address; use the one that 'tide serve' or 'tide describe' names. "
            "With dedicated placement it ends with the tier: /keystroke/v1, /interactive/v1 or /batch/v1"
        )
    elif status >= 500:
        kind, code = "server_error", "replica_gone"
        message = "no replica could answer, or the one that had the request has gone; please try again"
    else:
        kind, code, message = "invalid_request_error", "refused", f"{asked} was refused with status {status}"
    error = {"message": message, "type": kind, "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    return [
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": body, "more_body": False},
    ]
