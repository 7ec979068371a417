"""Reads never wait behind writes, writes share commits, and readiness says who decides."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from orchestrator.ledger.submission import Submission
from tests.api.world import CLUSTER, ApiWorld, api_world, job


def test_reads_are_answered_while_a_write_is_stuck(world: ApiWorld, client: TestClient) -> None:
    client.post("/api/v1/jobs", json=job("a"))
    stuck, go_on = threading.Event(), threading.Event()
    real = world.world.ledger.submit_all

    def slow(submissions):
        with world.world.ledger.database.writing():  # the one writing connection, inside a transaction
            stuck.set()
            assert go_on.wait(60)
        return real(submissions)

    world.service.writer._ledger.submit_all = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(client.post, "/api/v1/jobs", json=job("b"))
        assert stuck.wait(60)
        for path in ("/jobs", "/jobs/a", "/queues", "/pools", "/leases", "/events", "/usage", "/keys", "/cluster"):
            assert client.get(f"/api/v1{path}").status_code == 200
        assert client.get("/readyz").status_code == 200
        assert not writing.done()
        go_on.set()
        assert writing.result().status_code == 201


def test_submissions_that_wait_share_one_transaction(world: ApiWorld, client: TestClient) -> None:
    groups: list[int] = []
    real, first, go_on = world.world.ledger.submit_all, threading.Event(), threading.Event()

    def counting(submissions: list[Submission]):
        groups.append(len(submissions))
        if not first.is_set():
            first.set()
            assert go_on.wait(60)
        return real(submissions)

    world.service.writer._ledger.submit_all = counting  # type: ignore[method-assign]
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(client.post, "/api/v1/jobs", json=job("a0"))]
        assert first.wait(60)
        answers += [pool.submit(client.post, "/api/v1/jobs", json=job(f"a{at}")) for at in range(1, 7)]
        while len(world.service.writer._waiting) < 6:
            threading.Event().wait(0.001)
        go_on.set()
        assert {one.result().status_code for one in answers} == {201}
    assert groups == [1, 6]


def test_one_bad_submission_does_not_spoil_those_it_shares_a_transaction_with(
    world: ApiWorld, client: TestClient
) -> None:
    client.post("/api/v1/jobs", json=job("a"))
    with ThreadPoolExecutor(8) as pool:
        names = ["a", "b", "a", "c"]
        codes = [one.status_code for one in pool.map(lambda name: client.post("/api/v1/jobs", json=job(name)), names)]
    assert codes == [409, 201, 409, 201]


def test_heads_are_answered_to_whoever_balances_load(client: TestClient) -> None:
    assert client.head("/healthz").status_code == client.head("/readyz").status_code == 200


def test_readiness_is_refused_while_nobody_decides(world: ApiWorld, client: TestClient) -> None:
    assert client.get("/readyz").json()["leader"] == "one"
    world.world.clock.at_s += 60  # nobody has said anything for a minute
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "nobody leads")
    world.world.ledger.lead()
    assert client.get("/readyz").status_code == 200
    world.loop.state = replace(world.loop.state, cycles=0, last_error="capacity: out of sight")
    assert client.get("/readyz").json()["reason"] == "capacity: out of sight"


def test_a_server_that_does_not_lead_reads_and_refuses_to_write(world: ApiWorld, client: TestClient) -> None:
    client.post("/api/v1/jobs", json=job("a"))
    world.world.ledger.resign()
    assert client.get("/api/v1/jobs/a").status_code == 200
    answer = client.post("/api/v1/jobs", json=job("b"))
    assert (answer.status_code, answer.json()["code"], answer.json()["exit_code"]) == (503, "unreachable", 6)
    assert answer.headers["retry-after"]


def test_metrics_count_by_route_and_name_no_job(world: ApiWorld, client: TestClient) -> None:
    client.post("/api/v1/jobs", json=job("secret-name"))
    client.get("/api/v1/jobs/secret-name")
    client.get("/no/such/address")
    text = client.get("/metrics").text
    assert 'tide_http_requests_total{method="GET",route="/api/v1/jobs/{job}",status="200"} 1.0' in text
    assert 'route="other"' in text
    assert "secret-name" not in text


def test_why_and_plan_are_what_the_next_cycle_does(world: ApiWorld, client: TestClient) -> None:
    sixteen = {"workers": {"min": 8, "max": 8, "resources": {"GPU": 1}}}
    client.post("/api/v1/jobs", json=job("a", **sixteen))
    world.run(2)
    asked = client.post("/api/v1/plan", json=job("b", **sixteen)).json()["job"]
    client.post("/api/v1/jobs", json=job("b", **sixteen))
    world.cycle()
    found = client.get("/api/v1/jobs/b").json()
    assert (asked["decision"], asked["reason"]) == ("wait", found["reason"])
    why = client.get("/api/v1/jobs/b/why", params={"what_if": "workers.min=9"}).json()
    assert (why["verdict"]["reason"], why["what_if"]["decision"]) == (found["reason"], "wait")
    assert [one["kind"] for one in why["unblock"]] == ["AddDevices"]
    running = client.get("/api/v1/jobs/a/why").json()
    assert (running["verdict"], running["state"]) == (None, "running")


def test_why_decides_anew_on_what_is_there_now(world: ApiWorld, client: TestClient) -> None:
    client.post("/api/v1/jobs", json=job("a", workers={"min": 8, "max": 8, "resources": {"GPU": 1}}))
    world.run(3)
    wide = {"min": 4, "max": 4, "resources": {"GPU": 1}}
    client.post("/api/v1/jobs", json=job("b", workers=wide, priority=90))
    # No cycle has looked at it yet, and its answer is there.
    assert client.get("/api/v1/jobs/b").json()["reason"] is None
    first = client.get("/api/v1/jobs/b/why").json()
    assert first["verdict"]["decision"] == "wait"
    world.cycle()
    stored = client.get("/api/v1/jobs/b").json()["reason"]
    assert stored is not None
    client.post("/api/v1/jobs/a/cancel")
    world.world.clock.at_s += 1.0
    world.world.runner.advance()
    world.world.ledger.record(world.world.runner.reports(), now_s=world.world.clock.at_s)
    world.world.runner.ended.clear()
    assert client.get("/api/v1/jobs/b").json()["reason"] == stored
    now = client.get("/api/v1/jobs/b/why").json()
    then = client.get("/api/v1/plan").json()
    assert [one for one in then["starts"] if one["job"] == "b"] == (
        [now["verdict"]] if now["verdict"]["decision"] == "start" else []
    )


def test_why_of_a_running_job_is_what_happens_to_it_next(world: ApiWorld, client: TestClient) -> None:
    client.post("/api/v1/jobs", json=job("a", workers={"min": 4, "max": 8, "resources": {"GPU": 1}}, priority=10))
    world.run(3)
    assert client.get("/api/v1/jobs/a/why").json()["effect"] is None
    client.post("/api/v1/jobs", json=job("b", workers={"min": 4, "max": 4, "resources": {"GPU": 1}}, priority=90))
    found = client.get("/api/v1/jobs/a/why").json()
    assert (found["verdict"], found["effect"]["for_job"]) == (None, "b")
    assert found["effect"] == client.get("/api/v1/plan").json()["changes"][0]


STEPS = CLUSTER.replace(
    "{name: red, role: operator}", "{name: red, role: operator, grants: [{sponsor: house, iterations: 200}]}"
)


def test_usage_says_what_of_granted_steps_is_left_set_aside_and_spent(tmp_path: Path) -> None:
    with api_world(tmp_path, extra=STEPS) as (world, client):
        world.world.runner.work_of = lambda of: 100.0

        def red() -> dict[str, Any]:
            (found,) = [one for one in client.get("/api/v1/usage").json()["tenants"] if one["tenant"] == "red"]
            assert isinstance(found, dict)
            return found

        assert (red()["jobs"], red()["granted_left"], red()["granted_steps_usd"]) == (0, {"iterations": 200}, "0")
        client.post("/api/v1/jobs", json=job("a", workers={"min": 1, "max": 1, "resources": {"GPU": 1}}))
        world.run(3)
        assert (red()["granted_left"], red()["granted_set_aside"]) == ({"iterations": 100}, {"iterations": 100})
        aside = {"unit": "iterations", "amount": 100, "worth_usd": None}
        assert client.get("/api/v1/jobs/a").json()["set_aside"] == aside
        world.run(110)
        assert client.get("/api/v1/jobs/a").json()["state"] == "succeeded"
        assert client.get("/api/v1/jobs/a").json()["set_aside"] is None
        found = red()
        assert (found["granted_left"], found["granted_spent"]) == ({"iterations": 100}, {"iterations": 100})
        # Nobody had measured its steps before: they are worth what they have cost.
        assert found["granted_steps_usd"] == found["spent_usd"]
        booked = client.get("/api/v1/jobs/a").json()["booked"]
        assert (booked["granted_spent"], booked["granted_steps_usd"]) == ({"iterations": 100}, found["spent_usd"])
        client.post("/api/v1/jobs", json=job("b", steps=101))
        world.run(1)
        verdict = client.get("/api/v1/jobs/b/why").json()
        assert verdict["verdict"]["reason"] == "BudgetExhausted"
        assert "101 steps; tenant 'red' has 100 steps left" in verdict["detail"]
        assert [one["text"] for one in verdict["unblock"]] == ["grant tenant red 1 steps (iterations)"]
        # The same work again: by now a step is known to take a device-second, at 3.60 dollars an hour.
        client.post("/api/v1/jobs", json=job("a", workers={"min": 1, "max": 1, "resources": {"GPU": 1}}))
        world.run(1)
        assert client.get("/api/v1/jobs/a").json()["set_aside"] == {**aside, "worth_usd": "0.1"}


NIGHTS = CLUSTER + "  lending: {pools: [p], min_slice: 30m}\n"


def test_a_plan_knows_the_shortest_night_that_is_worth_a_start(tmp_path: Path) -> None:
    """A quarter of an hour is left of the window: what is planned is what submitting it brings."""
    with api_world(tmp_path, extra=NIGHTS) as (world, client):
        world.world.clock.at_s = 1_053_900.0
        world.cycle()
        planned = client.post("/api/v1/plan", json=job("a", window="night")).json()["job"]
        client.post("/api/v1/jobs", json=job("a", window="night"))
        world.run(1)
        assert (planned["decision"], planned["reason"]) == ("wait", "WindowTooShort")
        assert world.world.reason("a") == "WindowTooShort"
