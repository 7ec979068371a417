"""Objects of one kind as the API server last told them: listed once, then watched, listed again when it has forgotten.

A thread of its own listens; whoever asks gets what is known at once, or is told that nobody can say.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol

import structlog

from orchestrator.adapters.capacity.kuberay.api import GoneError, KubeApi, Object
from orchestrator.ports import UnreachableError

log = structlog.get_logger(__name__)

LONGEST_BACKOFF_S = 30.0


class Known(Protocol):
    """Objects by name, and a number that changes with them."""

    def objects(self) -> Mapping[str, Object]:
        """All of them. Raises: UnreachableError while nobody can say."""
        ...

    def close(self) -> None:
        """Nobody will ask again."""
        ...


class Watched:
    """`selector` is what the API takes: `labelSelector` or `fieldSelector`. The thread starts when somebody asks.

    `api` is this watch's own: its connections are closed at the end.
    """

    def __init__(self, api: KubeApi, path: str, selector: Mapping[str, str]) -> None:
        self._api = api
        self._path = path
        self._selector = dict(selector)
        self._lock = threading.Lock()
        self._objects: dict[str, Object] = {}
        self._version: str | None = None
        self._trouble = "it has not answered yet"
        self._listed = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def objects(self) -> Mapping[str, Object]:
        """All objects by name; the first call waits a moment for the first list. Raises: UnreachableError."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"watch {self._path}", daemon=True)
            self._thread.start()
            self._listed.wait(3.0)
        with self._lock:
            if self._trouble:
                raise UnreachableError(self._trouble)
            return dict(self._objects)

    def close(self) -> None:
        """Listen no more; a watch that is open ends with the server's next word."""
        self._stop.set()

    def round(self) -> None:
        """List if nothing is known to go on from, then listen until the server ends it. Raises: UnreachableError."""
        try:
            if self._version is None:
                self._list()
            assert self._version is not None, "a list has a version"
            for kind, found in self._api.watch(self._path, self._selector, self._version):
                self._take(kind, found)
                if self._stop.is_set():
                    return
            self._heard()
        except GoneError:
            # What happened in between is lost: only a new list says what is there now.
            self._version = None

    def _run(self) -> None:
        try:
            self._listen()
        finally:
            self._api.close()

    def _listen(self) -> None:
        backoff_s = 1.0
        while not self._stop.is_set():
            try:
                self.round()
                backoff_s = 1.0
            except UnreachableError as error:
                self._lost(str(error))
                self._stop.wait(backoff_s)
                backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S)
            except Exception as error:
                # A thread that dies silently would leave the last answer standing for good.
                log.exception("a watch failed", path=self._path)
                self._lost(f"the watch of {self._path} failed: {error!r}")
                self._version = None
                self._stop.wait(LONGEST_BACKOFF_S)

    def _list(self) -> None:
        items, version = self._api.list(self._path, self._selector)
        with self._lock:
            self._objects = {_name(one): one for one in items}
            self._version, self._trouble = version, ""
        self._listed.set()

    def _take(self, kind: str, found: Object) -> None:
        with self._lock:
            self._version = str(found["metadata"]["resourceVersion"])
            self._trouble = ""
            if kind == "DELETED":
                self._objects.pop(_name(found), None)
            elif kind in ("ADDED", "MODIFIED"):
                self._objects[_name(found)] = found

    def _heard(self) -> None:
        with self._lock:
            self._trouble = ""

    def _lost(self, trouble: str) -> None:
        with self._lock:
            self._trouble = trouble
        self._listed.set()


def _name(found: Object) -> str:
    return str(found["metadata"]["name"])
