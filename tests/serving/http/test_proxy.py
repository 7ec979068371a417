"""The time a client allows reaches the replica past Serve's proxy, which would cut the answer off by itself."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from ray._common.utils import import_attr
from ray.serve._private.constants import SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER
from ray.serve._private.http_util import convert_object_to_asgi_messages

from orchestrator.adapters.ray_cluster.environment import loopback_environment
from serving.http.proxy import CARRIED, HEADER, SESSION, Renamed, Sessions, Shaped


def test_the_header_is_hidden_from_the_proxy_and_shown_to_the_replica() -> None:
    assert SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER.encode() == HEADER
    seen: list[dict[bytes, bytes]] = []

    async def replica(scope: Any, _: Any, __: Any) -> None:
        seen.append(dict(scope["headers"]))

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope["headers"]))
        await Renamed(replica, before=CARRIED, after=HEADER)(scope, receive, send)

    with loopback_environment():
        middleware, *_ = import_attr(os.environ["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"])()
    app = middleware.cls(proxy, *middleware.args, **middleware.kwargs)
    asked = [(b"host", b"h"), (HEADER, b"3"), (CARRIED, b"99")]
    asyncio.run(app({"type": "http", "headers": asked}, None, None))
    in_the_proxy, in_the_replica = seen
    assert HEADER not in in_the_proxy
    assert in_the_replica == {b"host": b"h", HEADER: b"3"}


def test_other_requests_pass_as_they_are() -> None:
    seen = []

    async def replica(scope: Any, _: Any, __: Any) -> None:
        seen.append(scope)

    scope = {"type": "http", "headers": [(b"host", b"h")]}
    asyncio.run(Renamed(replica, before=CARRIED, after=HEADER)(scope, None, None))  # type: ignore[arg-type]
    assert seen == [scope]


def routed(body: bytes, *, path: str = "/v1/completions", pieces: int = 1, header: bytes | None = None) -> Any:
    """(the session that routing sees, the body that the replica gets) of a request."""
    size = -(-len(body) // pieces)
    parts = [
        {"type": "http.request", "body": body[i * size : (i + 1) * size], "more_body": i < pieces - 1}
        for i in range(pieces)
    ]
    coming, seen = iter([*parts, {"type": "http.disconnect"}]), {}

    async def proxy(scope: Any, receive: Any, _: Any) -> None:
        got = [await receive() for _ in range(pieces + 1)]
        assert got[-1]["type"] == "http.disconnect"
        seen["body"] = b"".join(message["body"] for message in got[:-1])
        seen["session"] = dict(scope["headers"]).get(SESSION)

    async def receive() -> Any:
        return next(coming)

    headers = [(b"content-length", str(len(body)).encode()), *([(SESSION, header)] if header else [])]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    asyncio.run(Sessions(proxy)(scope, receive, None))  # type: ignore[arg-type]
    return seen["session"], seen["body"]


def test_a_session_that_only_the_body_names_decides_which_replica_gets_it() -> None:
    first, second, other = (
        json.dumps({"model": "m", "prompt": prompt, "prompt_cache_key": key}).encode()
        for prompt, key in (("a", "editor \u00e9"), ("ab", "editor \u00e9"), ("a", "another"))
    )
    session, body = routed(first)
    assert body == first
    assert session is not None
    assert routed(second, pieces=3) == (session, second)
    assert routed(second, path="/keystroke/v1/chat/completions", header=b"h")[0] == session
    assert routed(other)[0] not in (None, session)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"prompt": "a"}, "/v1/completions"),
        ({"prompt": 'say "prompt_cache_key": "x"'}, "/v1/completions"),
        ({"prompt": "a", "prompt_cache_key": None}, "/v1/completions"),
        ({"prompt_cache_key": "x"}, "/v1/batches"),
        ({"prompt": "a" * 2**18, "prompt_cache_key": "x"}, "/v1/completions"),
    ],
)
def test_otherwise_the_header_stays_as_it_came(body: dict[str, Any], path: str) -> None:
    content = json.dumps(body).encode()
    assert routed(content, path=path) == (None, content)
    assert routed(content, path=path, header=b"h") == (b"h", content)


def through_the_proxy(path: str, messages: list[Any]) -> list[Any]:
    """What a client gets when Serve's proxy answers with these ASGI messages."""
    sent: list[Any] = []

    async def proxy(_: Any, __: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    asyncio.run(Shaped(proxy)(scope, None, send))  # type: ignore[arg-type]
    return sent


@pytest.mark.parametrize(("status", "code"), [(404, "unknown_url"), (500, "replica_gone"), (503, "replica_gone")])
def test_errors_that_the_proxy_makes_itself_have_openais_shape(status: int, code: str) -> None:
    made = convert_object_to_asgi_messages("Traceback (most recent call last): secrets", status)
    start, body = through_the_proxy("/v1/completions", made)
    error = json.loads(body["body"])["error"]
    assert start["status"] == status
    assert dict(start["headers"]) == {
        b"content-type": b"application/json", b"content-length": str(len(body["body"])).encode(),
    }  # fmt: skip
    assert (set(error), error["code"]) == ({"message", "type", "param", "code"}, code)
    assert "Traceback" not in error["message"]


@pytest.mark.parametrize(
    ("path", "messages"),
    [
        ("/-/routes", convert_object_to_asgi_messages("draining", 503)),
        ("/v1/models", convert_object_to_asgi_messages("fine")),
        ("/v1/models", convert_object_to_asgi_messages({"error": {}}, 404)),
        ("/v1/completions", [{"type": "http.response.start", "status": 499, "headers": []},
                             {"type": "http.response.body", "body": b"", "more_body": False}]),
    ],
)  # fmt: skip
def test_what_replicas_and_serve_itself_say_passes_as_it_is(path: str, messages: list[Any]) -> None:
    assert through_the_proxy(path, messages) == messages


def test_the_proxy_imports_nothing_heavy_for_it() -> None:
    """Serve gives a proxy five seconds to be ready, and kills it after that."""
    check = "import sys, serving.http.proxy; print([m for m in ('torch', 'ray', 'fastapi') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
