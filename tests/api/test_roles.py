"""Who may do what: every route for every role, other tenants' things, wrong keys, and what the audit log holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from orchestrator.api.guard import Entrance
from orchestrator.ledger.keys import Role
from orchestrator.spec import Cluster
from tests.api.world import CLUSTER, ApiWorld, api_world, bearer, job
from tests.ledger.world import cluster

V, O, A = Role.VIEWER, Role.OPERATOR, Role.ADMIN  # noqa: E741
JOB = {"workers": 1}
VISIT = "a" * 22
CODE = "0" * 64
# (method, path as in the document, path to ask, body): the least role that is let through.
MATRIX: dict[tuple[str, str], tuple[Role | None, str, Any]] = {
    ("GET", "/healthz"): (None, "/healthz", None),
    ("GET", "/readyz"): (None, "/readyz", None),
    ("GET", "/metrics"): (V, "/metrics", None),
    ("GET", "/api/v1/jobs"): (V, "/api/v1/jobs", None),
    ("POST", "/api/v1/jobs"): (O, "/api/v1/jobs", job("new")),
    ("POST", "/api/v1/jobs/batch"): (O, "/api/v1/jobs/batch", {"items": [job("newer")]}),
    ("GET", "/api/v1/jobs/{job}"): (V, "/api/v1/jobs/mine", None),
    ("GET", "/api/v1/jobs/{job}/logs"): (V, "/api/v1/jobs/mine/logs", None),
    ("GET", "/api/v1/jobs/{job}/why"): (V, "/api/v1/jobs/mine/why", None),
    ("POST", "/api/v1/jobs/{job}/pause"): (O, "/api/v1/jobs/mine/pause", None),
    ("POST", "/api/v1/jobs/{job}/resume"): (O, "/api/v1/jobs/mine/resume", None),
    ("POST", "/api/v1/jobs/{job}/resize"): (O, "/api/v1/jobs/mine/resize", JOB),
    ("POST", "/api/v1/jobs/{job}/cancel"): (O, "/api/v1/jobs/mine/cancel", None),
    ("POST", "/api/v1/jobs/{job}/stacks"): (O, "/api/v1/jobs/mine/stacks", {}),
    ("POST", "/api/v1/jobs/{job}/exec"): (O, "/api/v1/jobs/mine/exec", {"command": ["true"]}),
    ("GET", "/api/v1/jobs/{job}/exec/{visit}/output"): (O, f"/api/v1/jobs/mine/exec/{VISIT}/output", None),
    ("POST", "/api/v1/jobs/{job}/exec/{visit}/input"): (O, f"/api/v1/jobs/mine/exec/{VISIT}/input", {"end": True}),
    ("DELETE", "/api/v1/jobs/{job}/exec/{visit}"): (O, f"/api/v1/jobs/mine/exec/{VISIT}", None),
    ("GET", "/api/v1/code/{code}"): (O, f"/api/v1/code/{CODE}", None),
    ("PUT", "/api/v1/code/{code}"): (O, f"/api/v1/code/{CODE}", {}),
    ("GET", "/api/v1/schedules"): (V, "/api/v1/schedules", None),
    ("DELETE", "/api/v1/schedules/{name}"): (O, "/api/v1/schedules/nightly", None),
    ("GET", "/api/v1/plan"): (V, "/api/v1/plan", None),
    ("POST", "/api/v1/plan"): (O, "/api/v1/plan", job("planned")),
    ("GET", "/api/v1/events"): (V, "/api/v1/events", None),
    ("GET", "/api/v1/queues"): (V, "/api/v1/queues", None),
    ("POST", "/api/v1/queues/{queue}/hold"): (A, "/api/v1/queues/main/hold", None),
    ("POST", "/api/v1/queues/{queue}/release"): (A, "/api/v1/queues/main/release", None),
    ("GET", "/api/v1/nodes"): (V, "/api/v1/nodes", None),
    ("POST", "/api/v1/nodes/{node}/hold"): (A, "/api/v1/nodes/p0/hold", {}),
    ("POST", "/api/v1/nodes/{node}/release"): (A, "/api/v1/nodes/p0/release", None),
    ("GET", "/api/v1/pools"): (V, "/api/v1/pools", None),
    ("GET", "/api/v1/leases"): (V, "/api/v1/leases", None),
    ("GET", "/api/v1/usage"): (V, "/api/v1/usage", None),
    ("GET", "/api/v1/cluster"): (A, "/api/v1/cluster", None),
    ("PUT", "/api/v1/cluster"): (A, "/api/v1/cluster?dry_run=true", "cluster"),
    ("GET", "/api/v1/keys"): (A, "/api/v1/keys", None),
    ("POST", "/api/v1/keys"): (A, "/api/v1/keys", {"tenant": "red", "role": "viewer"}),
    ("DELETE", "/api/v1/keys/{key}"): (A, "/api/v1/keys/KEY", None),
}


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[ApiWorld, TestClient]]:
    with api_world(tmp_path, entrance=Entrance.NETWORK) as found:
        found[0].world.ledger.submit(*_jobs())
        found[0].cycle()
        for name, tenant in (("nightly", "red"), ("theirs-nightly", "blue")):
            answer = found[1].post(
                "/api/v1/jobs",
                json=job(name, tenant=tenant, schedule={"cron": "0 22 * * *", "timezone": "Europe/Berlin"}),
                headers=bearer(found[0].key("house", Role.ADMIN)),
            )
            assert answer.status_code == 201, answer.text
        found[0].audit_path.write_text("")
        yield found


def _jobs():
    from tests.ledger.world import new

    return (new("mine", (1, 2)), new("theirs", (1, 2), tenant="blue"))


def _body(body: Any) -> Any:
    spec: Cluster = cluster(CLUSTER)
    return spec.to_document() if body == "cluster" else body


def test_every_route_is_in_the_matrix(world: ApiWorld) -> None:
    found = {
        (method, path) for path, methods in world.app.openapi()["paths"].items() for method in map(str.upper, methods)
    }
    assert found == set(MATRIX)
    assert all(route.responses for route in world.app.routes if isinstance(route, APIRoute) and "/api/" in route.path)


@pytest.mark.parametrize(("method", "path"), MATRIX)
def test_each_role_is_let_through_where_the_matrix_says_and_nowhere_else(
    world: ApiWorld, client: TestClient, method: str, path: str
) -> None:
    least, url, body = MATRIX[method, path]
    ranks = [None, Role.VIEWER, Role.OPERATOR, Role.ADMIN]
    for role in ranks:
        tenant = "house" if role is Role.ADMIN else "red"
        text = None if role is None else world.key(tenant, role)
        other = world.key("red", Role.VIEWER).split("_")[1]
        headers = {} if text is None else bearer(text)
        answer = client.request(method, url.replace("KEY", other), json=_body(body), headers=headers)
        allowed = ranks.index(role) >= ranks.index(least)
        if allowed:
            # 503: no job has a process here that could be looked into.
            assert answer.status_code < 500 or (answer.status_code == 503 and path.endswith(("stacks", "exec")))
            assert answer.status_code not in (401, 403), answer.text
        else:
            assert answer.status_code == (401 if role is None else 403)
            assert answer.json()["exit_code"] == 5


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/jobs/theirs", None),
        ("GET", "/jobs/theirs/logs", None),
        ("GET", "/jobs/theirs/why", None),
        ("POST", "/jobs/theirs/cancel", None),
        ("POST", "/jobs/theirs/resize", {"workers": 1}),
        ("POST", "/jobs/theirs/stacks", {}),
        ("POST", "/jobs/theirs/exec", {"command": ["true"]}),
        ("POST", "/jobs", job("x", tenant="blue")),
        ("POST", "/plan", job("x", tenant="blue")),
        ("POST", "/jobs/batch", {"items": [job("y"), job("x", tenant="blue")]}),
        ("GET", "/jobs?tenant=blue", None),
        ("GET", "/events?tenant=blue", None),
        ("GET", "/events?job=theirs", None),
        ("GET", "/leases?tenant=blue", None),
        ("DELETE", "/schedules/theirs-nightly", None),
    ],
)
def test_a_key_of_another_tenant_is_refused_and_changes_nothing(
    world: ApiWorld, client: TestClient, method: str, path: str, body: Any
) -> None:
    before = world.service.read.last_event()
    key = world.key("red", Role.OPERATOR)
    answer = client.request(method, f"/api/v1{path}", json=body, headers=bearer(key))
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    kinds = {one.kind for one in world.service.read.events(after=before)}
    assert kinds <= {"key-issued"}


def test_a_tenant_sees_only_what_is_its_own(world: ApiWorld, client: TestClient) -> None:
    headers = bearer(world.key("red", Role.VIEWER))
    assert [one["id"] for one in client.get("/api/v1/jobs", headers=headers).json()["items"]] == ["mine"]
    assert {one["tenant"] for one in client.get("/api/v1/leases", headers=headers).json()["items"]} == {"red"}
    assert {one["job"] for one in client.get("/api/v1/events", headers=headers).json()["items"]} <= {"mine", None}
    schedules = client.get("/api/v1/schedules", headers=headers).json()["items"]
    assert [(one["name"], one["cron"]) for one in schedules] == [("nightly", "0 22 * * *")]
    assert [one["tenant"] for one in client.get("/api/v1/usage", headers=headers).json()["tenants"]] == ["red"]
    plan = client.get("/api/v1/plan", headers=headers).json()
    assert "theirs" not in str(plan)


def test_a_job_without_a_tenant_is_the_callers(world: ApiWorld, client: TestClient) -> None:
    document = job("new")
    del document["metadata"]["tenant"]
    client.post("/api/v1/jobs", json=document, headers=bearer(world.key("blue", Role.OPERATOR)))
    assert world.service.read.job("new").tenant == "blue"


def test_a_key_may_do_no_more_than_its_tenant(world: ApiWorld, client: TestClient) -> None:
    admin = bearer(world.key("house", Role.ADMIN))
    answer = client.post("/api/v1/keys", json={"tenant": "red", "role": "admin"}, headers=admin)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    forged = world.key("red", Role.ADMIN)  # written when the tenant might still do more
    world.service.look_up_cluster()
    assert client.get("/api/v1/keys", headers=bearer(forged)).status_code == 403


def test_a_revoked_key_is_refused_at_once_and_an_expired_one_in_time(world: ApiWorld, client: TestClient) -> None:
    admin = bearer(world.key("house", Role.ADMIN))
    body = {"tenant": "red", "role": "viewer", "expires_in_s": 60}
    made = client.post("/api/v1/keys", json=body, headers=admin).json()
    mine = bearer(made["key"])
    assert client.get("/api/v1/jobs", headers=mine).status_code == 200
    world.world.clock.at_s += 61
    assert client.get("/api/v1/jobs", headers=mine).status_code == 401
    other = client.post("/api/v1/keys", json={"tenant": "red", "role": "viewer"}, headers=admin).json()
    assert client.get("/api/v1/jobs", headers=bearer(other["key"])).status_code == 200
    assert client.delete(f"/api/v1/keys/{other['id']}", headers=admin).json()["revoked_at"]
    assert client.get("/api/v1/jobs", headers=bearer(other["key"])).status_code == 401


@pytest.mark.parametrize("text", ["", "x", "tide_abc_def", "tide_000000000000_" + "A" * 43, "ü" * 20])
def test_a_wrong_key_is_refused_and_logged_without_the_key(world: ApiWorld, client: TestClient, text: str) -> None:
    answer = client.get("/api/v1/jobs", headers={b"authorization": f"Bearer {text}".encode("latin-1")})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert len(text) < 4 or text not in answer.text
    (line,) = world.audit()
    assert (line["status"], line["actor"], line["path"]) == (401, None, "/api/v1/jobs")
    assert len(text) < 4 or text not in world.audit_path.read_text()


def test_the_audit_log_says_who_did_what_and_never_the_key(world: ApiWorld, client: TestClient) -> None:
    key = world.key("red", Role.OPERATOR)
    client.post("/api/v1/jobs", json=job("new"), headers=bearer(key))
    client.post("/api/v1/queues/main/hold", headers=bearer(key))
    client.get("/api/v1/jobs", headers=bearer(key))
    done = [(one["actor"], one["tenant"], one["method"], one["path"], one["status"]) for one in world.audit()]
    actor = f"key:{key.split('_')[1]}"
    assert done == [
        (actor, "red", "POST", "/api/v1/jobs", 201),
        (actor, "red", "POST", "/api/v1/queues/main/hold", 403),
    ]
    assert key.split("_", 2)[2] not in world.audit_path.read_text()
    assert world.service.read.job("new").submitted_by == actor
    everything = "".join(str(one) for one in world.service.read.events(limit=1000))
    assert key.split("_", 2)[2] not in everything


def test_a_made_key_is_in_one_answer_and_nowhere_else(world: ApiWorld, client: TestClient) -> None:
    admin = bearer(world.key("house", Role.ADMIN))
    made = client.post("/api/v1/keys", json={"tenant": "red", "role": "viewer"}, headers=admin).json()
    secret = made["key"].split("_", 2)[2]
    assert secret not in client.get("/api/v1/keys", headers=admin).text
    assert secret not in client.get("/api/v1/events", headers=admin).text
    assert secret not in world.audit_path.read_text()
    with world.world.ledger.database.reading() as connection:
        rows = connection.connection.driver_connection.iterdump()  # type: ignore[union-attr]
        assert secret not in "\n".join(rows)


def test_this_machine_needs_no_key_until_one_was_issued(tmp_path: Path) -> None:
    with api_world(tmp_path, entrance=Entrance.LOOPBACK) as (_, client):
        assert client.get("/api/v1/keys").status_code == 200
        key = client.post("/api/v1/keys", json={"tenant": "house", "role": "admin"}).json()["key"]
        assert client.get("/api/v1/keys").status_code == 401
        assert client.get("/api/v1/keys", headers=bearer(key)).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:80"])
def test_without_keys_a_web_page_under_another_name_gets_nothing(tmp_path: Path, host: str) -> None:
    with api_world(tmp_path, entrance=Entrance.LOOPBACK) as (_, client):
        for good in ("localhost", "127.0.0.1:8642", "[::1]:8642"):
            assert client.get("/api/v1/jobs", headers={"host": good}).status_code == 200
        assert client.get("/api/v1/jobs", headers={"host": host}).status_code == 403
