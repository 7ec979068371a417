"""Keys and errors over a real uvicorn, what breaks off, what nobody knows, and readers whose key is revoked."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from starlette.testclient import TestClient

from orchestrator.api import streams
from orchestrator.api.documents import MAX_DOCUMENT_BYTES
from orchestrator.api.guard import Entrance
from orchestrator.api.streams import streaming
from orchestrator.ledger.keys import Role
from tests.api.serving import served
from tests.api.world import ApiWorld, bearer, job

JOBS, CLUSTER = "/api/v1/jobs", "/api/v1/cluster"


@pytest.fixture
def beyond(tmp_path: Path) -> Iterator[tuple[ApiWorld, httpx.Client]]:
    """A server that nobody enters without a key, and somebody without one."""
    made = ApiWorld(tmp_path, entrance=Entrance.NETWORK)
    try:
        with (
            served(made.door, tmp_path / "s") as path,
            httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://tide") as client,
        ):
            yield made, client
    finally:
        made.close()


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document, if it is one and says that."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    found: dict[str, Any] = answer.json()
    assert (answer.status_code, found["status"], found["code"]) == (status, status, code), found
    assert answer.headers["x-request-id"]
    return found


def test_each_role_does_over_the_wire_what_it_may(beyond: tuple[ApiWorld, httpx.Client]) -> None:
    world, client = beyond
    keys = {role: bearer(world.key("house" if role is Role.ADMIN else "red", role)) for role in Role}
    problem(client.get(JOBS), 401, "unauthenticated")
    problem(client.get(JOBS, headers=bearer("tide_000000000000_" + "A" * 43)), 401, "unauthenticated")
    for role, submits, applies in ((Role.VIEWER, 403, 403), (Role.OPERATOR, 201, 403), (Role.ADMIN, 201, 200)):
        assert client.get(JOBS, headers=keys[role]).status_code == 200
        answer = client.post(JOBS, json=job(f"of-{role}"), headers=keys[role])
        assert answer.status_code == submits, answer.text
        answer = client.put(
            CLUSTER, params={"dry_run": "true"}, json=world.world.spec.to_document(), headers=keys[role]
        )
        assert answer.status_code == applies, answer.text


def test_every_error_over_the_wire_is_a_problem_document(beyond: tuple[ApiWorld, httpx.Client]) -> None:
    world, client = beyond
    key = bearer(world.key("red", Role.OPERATOR))
    problem(client.get("/nowhere", headers=key), 404, "unknown")
    problem(client.get("/api/v1/jobs/nobody", headers=key), 404, "unknown")
    found = client.put(JOBS, headers=key)
    problem(found, 405, "method")
    assert set(found.headers["allow"].split(", ")) <= {"GET", "POST"}
    assert problem(client.get(JOBS, params={"limit": "0"}, headers=key), 422, "invalid")["where"] == "query limit"
    both = problem(client.get(JOBS, params={"limit": "0", "state": "gone"}, headers=key), 422, "invalid")
    assert "greater than or equal to 1" in both["detail"] + both["where"]
    assert {"limit", "state.0"} <= set((both["where"] + " " + both["detail"]).replace(":", " ").split())
    problem(client.post(f"{JOBS}/a/resize", json={"workers": "x"}, headers=key), 422, "invalid")
    broken = client.post(f"{JOBS}/a/resize", content=b"{", headers=key | {"content-type": "application/json"})
    problem(broken, 400, "usage")
    problem(client.post(JOBS, content=b"a=1", headers=key), 415, "media_type")


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(
    beyond: tuple[ApiWorld, httpx.Client], tmp_path: Path
) -> None:
    key = bearer(beyond[0].key("red", Role.OPERATOR))["authorization"]
    head = f"POST {JOBS} HTTP/1.1\r\nhost: tide\r\nauthorization: {key}\r\ncontent-type: application/json\r\n"
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(tmp_path / "s"))
        line.sendall(f"{head}content-length: {MAX_DOCUMENT_BYTES + 1}\r\n\r\n".encode())
        answer = http.client.HTTPResponse(line)
        answer.begin()
        assert (answer.status, answer.getheader("content-type")) == (413, "application/problem+json")
        assert json.loads(answer.read())["code"] == "too_large"


def test_nobody_is_sent_on_to_another_address(beyond: tuple[ApiWorld, httpx.Client]) -> None:
    """Who follows would send his key again, behind a proxy that does TLS in plain text."""
    world, client = beyond
    key = bearer(world.key("red", Role.OPERATOR))
    for method in ("GET", "POST"):
        problem(client.request(method, f"{JOBS}/", headers=key), 404, "unknown")


def test_the_begin_of_a_document_is_none(world: ApiWorld) -> None:
    """Whose line breaks before the end of a document may have sent another one that is right as far as it goes."""
    body = yaml.safe_dump(job("a"), sort_keys=False).encode()
    said: list[dict[str, Any]] = [
        {"type": "http.request", "body": body, "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return said.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/yaml"), (b"content-length", str(len(body) + 20).encode())]
    scope = {"type": "http", "method": "POST", "path": JOBS, "query_string": b"", "headers": headers}
    asyncio.run(world.door(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 400
    assert b"ended before it was whole" in sent[1]["body"]
    assert world.service.read.jobs() == []


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("GET", "/jobs?states=running", "Did you mean state?"),
        ("POST", "/jobs?dry_run=true", "GET /openapi.json describes every parameter"),
        ("POST", "/jobs/batch?dry_run=true", "GET /openapi.json describes every parameter"),
        ("GET", "/leases?queue=main", "GET /openapi.json describes every parameter"),
    ],
)
def test_a_parameter_that_nobody_reads_is_refused(
    world: ApiWorld, client: TestClient, method: str, path: str, said: str
) -> None:
    body = {"items": [job("a")]} if "batch" in path else job("a")
    answer = client.request(method, f"/api/v1{path}", json=None if method == "GET" else body)
    assert (answer.status_code, answer.json()["where"], answer.json()["next_step"]) == (422, "query", said)
    assert world.service.read.jobs() == []


def test_a_stream_ends_once_its_readers_key_is_revoked(world: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ASK_EVERY_S", 0.0)
    caller = world.service.keys.find(world.key("red", Role.VIEWER))
    assert caller is not None
    left = []

    async def frames() -> AsyncGenerator[str, None]:
        try:
            yield "one"
            world.world.ledger.revoke_key(caller.scope, actor="test")
            yield "two"
            yield "three"
        finally:
            left.append(True)

    async def read() -> list[Any]:
        return [text async for text in streaming(world.service, "events", frames(), caller).body_iterator]

    assert asyncio.run(read()) == [": open\n\n", "one"]
    assert left == [True]
