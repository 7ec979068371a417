"""The time a client allows reaches the replica past Serve's proxy, which would cut the answer off by itself."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

from ray._common.utils import import_attr
from ray.serve._private.constants import SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER

from orchestrator.adapters.ray_cluster.environment import loopback_environment
from serving.http.proxy import CARRIED, HEADER, Renamed


def test_the_header_is_hidden_from_the_proxy_and_shown_to_the_replica() -> None:
    assert SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER.encode() == HEADER
    seen: list[dict[bytes, bytes]] = []

    async def replica(scope: Any, _: Any, __: Any) -> None:
        seen.append(dict(scope["headers"]))

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope["headers"]))
        await Renamed(replica, before=CARRIED, after=HEADER)(scope, receive, send)

    with loopback_environment():
        (middleware,) = import_attr(os.environ["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"])()
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


def test_the_proxy_imports_nothing_heavy_for_it() -> None:
    """Serve gives a proxy five seconds to be ready, and kills it after that."""
    check = "import sys, serving.http.proxy; print([m for m in ('torch', 'ray', 'fastapi') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
