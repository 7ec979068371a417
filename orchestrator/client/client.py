"""Calls of the API, one method each. Answers are the API's own JSON objects.

Raises everywhere: ServerProblemError for what the server refuses, UserError (unreachable) when it does not answer.
"""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import httpx

from orchestrator.client.errors import ServerProblemError, of_document
from orchestrator.client.places import Place
from orchestrator.client.sse import ServerEvent, read_events
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.names import matches, require_name
from orchestrator.spec.scalars import shown

Json = dict[str, Any]
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
# A stream says something every 15 s.
_STREAM_TIMEOUT = httpx.Timeout(45.0, connect=5.0)
_RETRY_S = (0.2, 0.5, 1.0, 2.0, 4.0)
_PAGE = 500
API = "/api/v1"
_PART = r"[A-Za-z0-9][A-Za-z0-9._:~-]{0,127}"


class Client:
    """A context manager; not for several threads at once."""

    def __init__(
        self, place: Place, *, transport: httpx.BaseTransport | None = None, timeout_s: float | None = None
    ) -> None:
        self.place = place
        timeout = _TIMEOUT if timeout_s is None else httpx.Timeout(timeout_s)
        self._given = transport is not None
        if transport is None and place.socket is not None:
            transport = httpx.HTTPTransport(uds=str(place.socket))
        headers = {"authorization": f"Bearer {place.key}"} if place.key else {}
        verify = True if place.ca is None else _trusting(str(place.ca))
        self._knocked = False
        self._http = httpx.Client(
            base_url=place.url, transport=transport, headers=headers, timeout=timeout, verify=verify, trust_env=False
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the connections."""
        self._http.close()

    # --- Calls -------------------------------------------------------------------------------------------------------

    def answers(self) -> bool:
        """Whether a server is there."""
        try:
            self._knock()
            return self._http.get("/healthz", timeout=2.0).status_code == 200
        except httpx.TransportError:
            self._knocked = False
            return False

    def readiness(self) -> Json:
        """What the server says of itself, ready or not."""
        return self._json(self._send("GET", "/readyz", allow=(503,)))

    def submit(self, document: Mapping[str, Any], *, key: str | None = None) -> Json:
        """Submit a TrainJob. A key is made where none is given, so that trying again cannot do it twice."""
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return self._json(self._send("POST", f"{API}/jobs", json=document, headers=headers))

    def submit_batch(self, documents: Sequence[Mapping[str, Any]], *, key: str | None = None) -> Json:
        """Submit TrainJobs, all or none."""
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return self._json(self._send("POST", f"{API}/jobs/batch", json={"items": list(documents)}, headers=headers))

    def jobs(self, **filters: Any) -> Iterator[Json]:
        """Jobs, page by page."""
        return self.every("/jobs", **filters)

    def every(self, path: str, **filters: Any) -> Iterator[Json]:
        """The items of a list below /api/v1, of all its pages."""
        cursor: str | None = None
        while True:
            page = self.get(path, **{"limit": _PAGE, **filters, "cursor": cursor})
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def job(self, job: str) -> Json:
        """Everything about a job."""
        return self.get(_job(job))

    def verb(self, job: str, verb: str, body: Json | None = None) -> Json:
        """cancel, pause, resume, resize."""
        return self._json(self._send("POST", f"{API}{_job(job)}/{verb}", json=body))

    def why(self, job: str, what_if: Sequence[str] = ()) -> Json:
        """Why a job waits."""
        return self._json(self._send("GET", f"{API}{_job(job)}/why", params={"what_if": list(what_if)}))

    def plan(self, document: Mapping[str, Any] | None = None) -> Json:
        """What the next cycle would do, with a job or as things are."""
        if document is None:
            return self.get("/plan")
        return self._json(self._send("POST", f"{API}/plan", json=document))

    def has_code(self, code: str) -> bool:
        """Whether the server has a folder of code."""
        return self._send("GET", f"{API}/code/{part(code)}", allow=(404,)).status_code == 200

    def send_code(self, code: str, packed: bytes) -> None:
        """Send one; twice is once."""
        self._send("PUT", f"{API}/code/{part(code)}", content=packed, headers={"content-type": "application/gzip"})

    def apply(self, document: Mapping[str, Any], *, dry_run: bool) -> Json:
        """Apply a Cluster, or say what would change."""
        params = {"dry_run": "true" if dry_run else "false"}
        return self._json(self._send("PUT", f"{API}/cluster", json=document, params=params))

    def get(self, path: str, **params: Any) -> Json:
        """Read something below /api/v1."""
        named = {name: value for name, value in params.items() if value is not None}
        return self._json(self._send("GET", f"{API}{path}", params=named))

    def post(self, path: str, body: Json | None = None) -> Json:
        """Ask for something below /api/v1."""
        return self._json(self._send("POST", f"{API}{path}", json=body))

    def delete(self, path: str) -> Json:
        """Take something below /api/v1 away."""
        return self._json(self._send("DELETE", f"{API}{path}"))

    def begin_exec(
        self, job: str, command: Sequence[str], *, rank: int | None, node: str | None, terminal: Json | None = None
    ) -> Json:
        """Run a command beside a worker of a job, at a terminal of that kind and size if need be."""
        body: Json = {"command": list(command), "rank": rank, "node": node}
        body |= {} if terminal is None else {"terminal": terminal}
        return self._json(self._send("POST", f"{API}{_job(job)}/exec", json=body))

    def stacks(self, job: str, rank: int | None) -> Json:
        """Where the ranks of a job stand."""
        return self._json(self._send("POST", f"{API}{_job(job)}/stacks", json={"rank": rank}))

    # --- Streams -----------------------------------------------------------------------------------------------------

    def follow(self, path: str, **params: Any) -> Iterator[ServerEvent]:
        """A stream below /api/v1, gone on with after every break until the server says that it has ended.

        Whoever reads it must not take its end for the job's: what became of the job is asked for.
        """
        last, failures = "", 0
        query = {"follow": "true", **{name: value for name, value in params.items() if value is not None}}
        while True:
            try:
                for event in self._stream(path, query, last):
                    failures, last = 0, event.id
                    yield event
                    if event.kind in ("end", "attempt-end"):
                        return
            except httpx.TransportError as error:
                self._knocked = False
                if failures >= len(_RETRY_S):
                    raise self._unreachable(error) from error
            except ServerProblemError as error:
                if error.code is not ExitCode.UNREACHABLE or failures >= len(_RETRY_S):
                    raise
            time.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
            failures += 1

    def once(self, path: str) -> Iterator[ServerEvent]:
        """A stream below /api/v1 that cannot be gone on with: it ends where it breaks."""
        try:
            yield from self._stream(path, {}, "")
        except httpx.TransportError as error:
            self._knocked = False
            raise self._unreachable(error) from error

    def _stream(self, path: str, query: Mapping[str, Any], last: str) -> Iterator[ServerEvent]:
        self._knock()
        headers = {"accept": "text/event-stream", **({"last-event-id": last} if last else {})}
        with self._http.stream("GET", f"{API}{path}", params=query, headers=headers, timeout=_STREAM_TIMEOUT) as answer:
            if answer.status_code != 200:
                answer.read()
                raise _problem(answer)
            yield from read_events(answer.iter_lines(), last)

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _send(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        allow: Sequence[int] = (),
    ) -> httpx.Response:
        try:
            self._knock()
            answer = self._http.request(method, path, json=json, content=content, params=params, headers=headers)
        except httpx.TransportError as error:
            self._knocked = False
            raise self._unreachable(error) from error
        if answer.status_code >= 300 and answer.status_code not in allow:
            raise _problem(answer)
        return answer

    def _knock(self) -> None:
        """Find out whether somebody is behind a unix socket: httpcore leaves its own socket open where nobody is."""
        if self._knocked or self.place.socket is None or self._given:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.settimeout(5.0)
            try:
                door.connect(str(self.place.socket))
            except OSError as error:
                raise httpx.ConnectError(error.strerror or str(error)) from None
        self._knocked = True

    def _json(self, answer: httpx.Response) -> Json:
        try:
            found = answer.json()
        except ValueError:
            raise of_document(answer.status_code, None) from None
        if not isinstance(found, dict):
            raise of_document(answer.status_code, None)
        return found

    def _unreachable(self, error: Exception) -> UserError:
        what = str(error) or type(error).__name__
        step = "Start one with 'tide server'" if self.place.local else "Is it running, and reachable from here?"
        return UserError(f"no server answers at {self.place}: {what}", code=ExitCode.UNREACHABLE, next_step=step)


def _problem(answer: httpx.Response) -> ServerProblemError:
    try:
        return of_document(answer.status_code, json.loads(answer.content))
    except ValueError:
        return of_document(answer.status_code, None)


def _job(name: str) -> str:
    return f"/jobs/{require_name(name, 'job')}"


def part(name: str) -> str:
    """A name as one part of an address. Raises: UserError for what can be none, before anybody is asked."""
    if not matches(_PART, name):
        raise UserError(f"{shown(name)} is no name; it must be letters, digits and any of . _ : ~ -")
    return name


def _trusting(file: str) -> Any:
    import ssl

    try:
        return ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"the certificates cannot be read: {error}", code=ExitCode.USAGE, where=file) from None
