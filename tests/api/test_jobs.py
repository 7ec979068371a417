"""Submitting, looking, paging and the verbs."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestrator.ledger.keys import Role
from orchestrator.policy.queueing.orders import Note, NoteKind, Phase, Report
from tests.api.world import ApiWorld, bearer, job


def test_a_submitted_job_is_in_the_books_and_is_described(world: ApiWorld, client: TestClient) -> None:
    answer = client.post("/api/v1/jobs", json=job("a"))
    assert (answer.status_code, answer.json()) == (201, {"id": "a", "replayed": False, "revised": False})
    assert answer.headers["location"] == "/api/v1/jobs/a"
    assert world.loop.woken == 1
    found = client.get("/api/v1/jobs/a").json()
    assert (found["state"], found["submitted_by"], found["tenant"]) == ("submitted", "local:tester", "red")
    assert found["document"]["spec"]["steps"] == 100
    world.run(3)
    running = client.get("/api/v1/jobs/a").json()
    assert (running["state"], running["workers"]["now"]) == ("running", 2)
    assert running["attempts"][0]["placement"] == [{"pool": "p", "node": "p0", "workers": 2}]


def test_what_a_job_was_booked_for_is_told_in_named_units(world: ApiWorld, client: TestClient) -> None:
    world.world.runner.work_of = lambda of: 20.0
    client.post("/api/v1/jobs", json=job("a"))
    world.run(60)
    found = client.get("/api/v1/jobs/a").json()
    (attempt,), booked = found["attempts"], found["booked"]
    assert (found["state"], booked["useful_device_s"] > 0) == ("succeeded", True)
    for kind in ("useful", "stalled", "lost", "draining"):
        assert booked[f"{kind}_device_s"] == attempt[f"{kind}_s"]
    assert booked["held_device_s"] == sum(attempt[f"{kind}_s"] for kind in ("useful", "stalled", "lost"))
    assert (booked["cost_usd"], booked["granted_spent"]) == (found["spent_usd"], {})
    # As it was told before, in the smallest units of each kind: some read it still.
    assert found["usage"]["useful"] == booked["useful_device_s"] * 1000
    assert found["usage"]["cost"] == float(booked["cost_usd"]) * 1e6


def test_json_and_yaml_mean_the_same(client: TestClient) -> None:
    import yaml

    assert client.post("/api/v1/jobs", json=job("a", checkpoint={"every": "5m"}, strict=False)).status_code == 201
    text = yaml.safe_dump(job("b", checkpoint={"every": "5m"}, strict=False))
    answer = client.post("/api/v1/jobs", content=text, headers={"content-type": "application/yaml"})
    assert answer.status_code == 201
    one, other = (client.get(f"/api/v1/jobs/{name}").json()["document"] for name in ("a", "b"))
    assert one["spec"] == other["spec"]


def test_a_key_with_the_same_body_is_answered_as_before_and_with_another_is_a_conflict(client: TestClient) -> None:
    headers = {"Idempotency-Key": "once"}
    first = client.post("/api/v1/jobs", json=job("a"), headers=headers)
    again = client.post("/api/v1/jobs", json=job("a"), headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == {"id": "a", "replayed": True, "revised": False}
    other = client.post("/api/v1/jobs", json=job("b"), headers=headers)
    assert (other.status_code, other.json()["code"], other.json()["exit_code"]) == (409, "conflict", 7)
    assert [one["id"] for one in client.get("/api/v1/jobs").json()["items"]] == ["a"]


def test_keys_of_other_callers_are_other_keys(world: ApiWorld, client: TestClient) -> None:
    red, blue = world.key("red", Role.OPERATOR), world.key("blue", Role.OPERATOR)
    headers = {"Idempotency-Key": "once"}
    assert client.post("/api/v1/jobs", json=job("a"), headers=headers | bearer(red)).status_code == 201
    answer = client.post("/api/v1/jobs", json=job("b", tenant="blue"), headers=headers | bearer(blue))
    assert answer.status_code == 201


def test_pages_skip_and_repeat_nothing_while_jobs_come(client: TestClient) -> None:
    for name in ("a", "c", "e"):
        client.post("/api/v1/jobs", json=job(name))
    page = client.get("/api/v1/jobs", params={"limit": 2}).json()
    assert [one["id"] for one in page["items"]] == ["a", "c"]
    client.post("/api/v1/jobs", json=job("b"))
    client.post("/api/v1/jobs", json=job("d"))
    rest = client.get("/api/v1/jobs", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert [one["id"] for one in rest["items"]] == ["d", "e"]
    assert rest["next_cursor"] is None


def test_jobs_are_found_by_state_queue_and_name(world: ApiWorld, client: TestClient) -> None:
    client.post("/api/v1/jobs", json=job("a"))
    client.post("/api/v1/jobs", json=job("b", queue="red-only"))
    client.post("/api/v1/jobs/b/cancel")
    for params, wanted in (
        ({"state": ["cancelled"]}, ["b"]),
        ({"state": ["submitted", "cancelled"]}, ["a", "b"]),
        ({"queue": "main"}, ["a"]),
        ({"name": "b"}, ["b"]),
        ({"prefix": "b"}, ["b"]),
        ({"prefix": "b."}, []),
        ({"tenant": "blue"}, []),
    ):
        assert [one["id"] for one in client.get("/api/v1/jobs", params=params).json()["items"]] == wanted


def test_a_name_means_its_latest_run(client: TestClient) -> None:
    client.post("/api/v1/jobs", json=job("a"))
    client.post("/api/v1/jobs/a/cancel")
    assert client.post("/api/v1/jobs", json=job("a")).json()["id"] == "a.2"
    assert client.get("/api/v1/jobs/a").json()["id"] == "a.2"
    assert client.get("/api/v1/jobs/a.1").json()["state"] == "cancelled"
    assert client.get("/api/v1/jobs/a.3").status_code == 404


def test_a_batch_is_accepted_whole_or_not_at_all(client: TestClient) -> None:
    good = client.post("/api/v1/jobs/batch", json={"items": [job("a"), job("b")]}, headers={"Idempotency-Key": "k"})
    assert (good.status_code, good.json()) == (201, {"ids": ["a", "b"], "replayed": False})
    bad = client.post("/api/v1/jobs/batch", json={"items": [job("c"), job("a")]})
    assert bad.status_code == 409
    worse = client.post("/api/v1/jobs/batch", json={"items": [job("d"), job("e", steps=0), job("f", queue="-")]})
    assert worse.status_code == 422
    assert [one["where"].split(":")[0] for one in worse.json()["problems"]] == ["body.items[1]", "body.items[2]"]
    assert len(client.get("/api/v1/jobs").json()["items"]) == 2


def test_verbs_move_a_job_and_say_so_again_without_harm(world: ApiWorld, client: TestClient) -> None:
    client.post("/api/v1/jobs", json=job("a"))
    assert client.post("/api/v1/jobs/a/pause").json()["state"] == "paused"
    assert client.post("/api/v1/jobs/a/resume").json()["state"] == "queued"
    assert client.post("/api/v1/jobs/a/resize", json={"workers": 1}).json()["workers"]["pinned"] == 1
    assert client.post("/api/v1/jobs/a/resize", json={"workers": None}).json()["workers"]["pinned"] is None
    outside = client.post("/api/v1/jobs/a/resize", json={"workers": 3})
    assert (outside.status_code, outside.json()["code"]) == (422, "invalid")
    assert client.post("/api/v1/jobs/a/cancel").json()["state"] == "cancelled"
    assert client.post("/api/v1/jobs/a/cancel").json()["state"] == "cancelled"
    assert client.post("/api/v1/jobs/a/pause").json()["exit_code"] == 7


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
def test_verbs_on_a_job_that_is_not_there_are_404(client: TestClient, verb: str) -> None:
    answer = client.post(f"/api/v1/jobs/nobody/{verb}")
    assert (answer.status_code, answer.json()["code"], answer.json()["exit_code"]) == (404, "unknown", 4)
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_job_that_is_held_up_by_a_rank_says_so_until_it_is_not(world: ApiWorld, client: TestClient) -> None:
    client.post("/api/v1/jobs", json=job("a"))
    world.cycle()

    def tell(*notes: Note) -> list[dict[str, Any]]:
        report = Report(job="a", attempt=1, phase=Phase.RUNNING, notes=notes)
        world.world.ledger.record((report,), now_s=world.world.clock.now_s())
        found: list[dict[str, Any]] = client.get("/api/v1/jobs/a").json()["stragglers"]
        return found

    slow = Note(
        id="s-1", at_s=1_000_000.0, kind=NoteKind.STRAGGLER, node="n", rank=5, data=(("ratio", 1.8), ("steps", 30))
    )
    assert tell() == []
    (found,) = tell(slow)
    assert found == {"rank": 5, "node": "n", "ratio": 1.8, "steps": 30, "since": "1970-01-12T13:46:40.000Z"}
    over = replace(slow, id="s-2", kind=NoteKind.STRAGGLER_OVER)
    assert tell(slow, over) == []


def test_a_running_job_says_how_far_it_is_how_fast_and_until_when(world: ApiWorld, client: TestClient) -> None:
    client.post("/api/v1/jobs", json=job("a"))
    world.run(3)
    clock = world.world.clock
    # 40 of 100 steps; what is left takes 2 workers 30 s.
    said = Report(job="a", attempt=1, phase=Phase.RUNNING, steps_done=40, work_left_s=60.0)
    world.world.ledger.record((said,), now_s=clock.at_s)
    clock.at_s += 7.0  # nothing was heard since
    (listed,) = client.get("/api/v1/jobs").json()["items"]
    found = client.get("/api/v1/jobs/a").json()
    assert listed["progress"] == found["progress"]
    assert (found["steps_done"], found["progress"]["steps_per_s"]) == (40, 2.0)
    heard, ends = (datetime.fromisoformat(found["progress"][key]) for key in ("heard_at", "finish_at"))
    assert (ends - heard).total_seconds() == 30.0
    assert heard.timestamp() == clock.at_s - 7.0
    world.world.ledger.pause("a")
    world.run(5)
    assert client.get("/api/v1/jobs/a").json()["progress"] is None


def test_before_anything_was_measured_nothing_is_promised(world: ApiWorld, client: TestClient) -> None:
    client.post("/api/v1/jobs", json=job("a"))
    assert client.get("/api/v1/jobs/a").json()["progress"] is None
    world.run(3)
    said = Report(job="a", attempt=1, phase=Phase.RUNNING, steps_done=1)
    world.world.ledger.record((said,), now_s=world.world.clock.at_s)
    found = client.get("/api/v1/jobs/a").json()["progress"]
    assert (found["steps_per_s"], found["finish_at"]) == (None, None)
