"""Kubernetes' preStop hook as a notice: earlier than SIGTERM, and it can hold SIGTERM back until the node is drained.

Source: Kubernetes documentation, "Container Lifecycle Hooks". The grace period (`terminationGracePeriodSeconds`) runs
from the start of the hook and is configured here to what the pod has.
"""

from __future__ import annotations

import hmac
import json
import threading
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import structlog

from jobs.train.notices.values import Notice, NoticeKind

_log = structlog.get_logger(__name__)

TOKEN_HEADER = "X-Tide-Token"  # noqa: S105  a header's name, not a secret
PATH = "/prestop"
_STOP_CHECK_S = 0.1  # how often the server looks whether it should stop


class HookSource:
    """An HTTP server for the pod's preStop hook, `/prestop`; implements `NoticeSource`.

    The request is answered when `release` is called, or `hold_s` has passed: until then Kubernetes sends no SIGTERM.
    `token` must come in the header X-Tide-Token, which an `httpGet` hook can set; GET and POST mean the same.
    """

    name = "prestop"

    def __init__(self, host: str, port: int, *, token: str, grace_s: float, hold_s: float) -> None:
        """Raises: OSError if the address cannot be had; ValueError for an empty token."""
        if not token:
            raise ValueError("a hook without a token would let anybody end this node")
        self._token = token.encode()
        self._grace_s = grace_s
        self._hold_s = hold_s
        self._came_s: float | None = None
        self._called = threading.Event()
        self._released = threading.Event()
        self._server = _Server((host, port), partial(_Handler, self._accept))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_STOP_CHECK_S,), name="prestop-hook", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, the port filled in."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def poll(self, timeout_s: float) -> tuple[Notice, ...]:
        """The notice, once the hook was called."""
        self._called.wait(timeout_s)
        if self._came_s is None:
            return ()
        left_s = max(0.0, self._came_s + self._grace_s - time.monotonic())
        detail = "the preStop hook was called: Kubernetes ends this pod"
        return (Notice(kind=NoticeKind.TERMINATE, source=self.name, id="prestop", deadline_s=left_s, detail=detail),)

    def release(self) -> None:
        """The node is drained: let Kubernetes go on."""
        self._released.set()

    def close(self) -> None:
        self.release()
        self._called.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _accept(self, path: str, token: str) -> HTTPStatus:
        if path != PATH:
            return HTTPStatus.NOT_FOUND
        if not hmac.compare_digest(token.encode(), self._token):
            return HTTPStatus.FORBIDDEN
        if self._came_s is None:
            self._came_s = time.monotonic()
        self._called.set()
        self._released.wait(self._hold_s)
        return HTTPStatus.OK


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up before its answer is nobody's trouble; the base class prints it."""
        _log.info("connection to the preStop hook ended", client=str(client_address))


class _Handler(BaseHTTPRequestHandler):
    """One request; `accept(path, token)` gives its status."""

    def __init__(self, accept: Callable[[str, str], HTTPStatus], *args: Any) -> None:
        self._accept = accept
        super().__init__(*args)

    def do_POST(self) -> None:
        status = self._accept(self.path, self.headers.get(TOKEN_HEADER, ""))
        body = json.dumps({"status": status.phrase}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it so
        """Silent: the notice itself is logged."""
