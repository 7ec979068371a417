"""What a job asks to be promised is refused where the best that could happen would not keep it, and only there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.testclient import TestClient

from orchestrator.ledger.states import JobState
from orchestrator.policy.queueing.orders import Phase, Report
from tests.api.test_bad_input import refused
from tests.api.world import CLUSTER, ApiWorld, job
from tests.ledger.world import START_S, cluster

STEPS = {"steps": 10_000_000}  # ten thousand seconds, at the very least


def iso(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat()


def never(world: ApiWorld, client: TestClient, document: dict[str, Any]) -> dict[str, Any]:
    """What all three ways in say, if they say the same."""
    said = [client.post(path, json=document) for path in ("/api/v1/jobs", "/api/v1/plan")]
    said.append(client.post("/api/v1/jobs/batch", json={"items": [document]}))
    found = [one.json() for one in said]
    assert [(one.status_code, one.json()["exit_code"]) for one in said] == [(422, 8)] * 3
    assert found[0] == found[1] == found[2]
    return found[0]


def test_a_deadline_before_the_shortest_steps_are_over_is_refused_with_the_earliest_that_is_not(
    world: ApiWorld, client: TestClient
) -> None:
    document = job("a", deadline="2h", **STEPS)
    found = refused(world, client.post("/api/v1/jobs", json=document), 422, "never", 8)
    assert never(world, client, document) == found
    assert "10,000,000 steps take 10000s at the very least with 2 workers" in found["detail"]
    earliest = iso(START_S + 10_000).replace("+00:00", ".000Z")
    assert f"The earliest finish that could be kept is {earliest} (10000s after submission)" in found["next_step"]
    assert client.post("/api/v1/jobs", json=job("a", deadline="10000s", **STEPS)).status_code == 201
    assert client.post("/api/v1/jobs", json=job("b", deadline=iso(START_S + 10_000), **STEPS)).status_code == 201


def test_time_counts_only_while_the_window_is_open(world: ApiWorld, client: TestClient) -> None:
    # It is 14:46 in Berlin; the night begins at 22:00.
    opens_s = START_S + 26_000
    short = never(world, client, job("a", window="night", deadline="7h", steps=1000))
    assert iso(opens_s + 1).replace("+00:00", ".000Z") in short["next_step"]
    assert client.post("/api/v1/jobs", json=job("a", window="night", deadline="26001s", steps=1000)).status_code == 201
    # Ten hours of running do not fit into one night of eight.
    long = never(world, client, job("b", window="night", deadline="26h", steps=36_000_000))
    assert iso(opens_s + 86_400 + 7200).replace("+00:00", ".000Z") in long["next_step"]


def test_a_schedule_needs_a_deadline_that_one_run_could_keep(world: ApiWorld, client: TestClient) -> None:
    at_night = {"cron": "0 22 * * *", "timezone": "Europe/Berlin"}
    found = never(world, client, job("a", schedule=at_night, window="night", deadline="2h", **STEPS))
    assert "is 10000s after each start" in found["next_step"]
    fine = job("a", schedule=at_night, window="night", deadline="3h", **STEPS)
    assert client.post("/api/v1/jobs", json=fine).status_code == 201


def run_once(world: ApiWorld, client: TestClient, seconds: float, run: str = "a") -> None:
    """Job a: a hundred steps in so many seconds on two workers."""
    assert client.post("/api/v1/jobs", json=job("a")).json()["id"] == run
    world.run(2)
    assert world.world.state(run) == JobState.RUNNING
    world.world.clock.at_s += seconds
    row = world.service.read.attempts(run)[0]
    stalled_s = 2 * (world.world.clock.at_s - row.ordered_ms / 1000 - seconds)
    end = Report(job=run, attempt=1, phase=Phase.SUCCEEDED, steps_done=100, stalled_worker_s=(("start", stalled_s),))
    world.world.ledger.record((end,), now_s=world.world.clock.at_s)
    world.world.runner.jobs.clear()
    assert world.world.state(run) == JobState.SUCCEEDED


def test_an_earlier_run_of_the_same_work_tells_what_steps_take(world: ApiWorld, client: TestClient) -> None:
    run_once(world, client, 200.0)
    found = never(world, client, job("a", deadline="3m"))
    assert "100 steps take 200s as measured on a with 2 workers" in found["detail"]
    assert "(200s after submission)" in found["next_step"]
    # Half the workers make twice the passes; other work, another tenant's and another name's are not known.
    alone = never(world, client, job("a", deadline="399s", workers={"min": 1, "max": 1, "resources": {"GPU": 1}}))
    assert "100 steps take 400s as measured on a with 1 workers" in alone["detail"]
    known_to_nobody: list[dict[str, Any]] = [
        job("a", deadline="3m", args={"layers": 1}),
        job("a", deadline="3m", tenant="blue"),
        job("b", deadline="3m"),
    ]
    for document in known_to_nobody:
        assert client.post("/api/v1/plan", json=document).status_code == 200
    assert client.post("/api/v1/jobs", json=job("a", deadline="4m")).json()["id"] == "a.2"
    row = world.service.read.job("a.2")
    assert row.shape.work_s == row.work_left_s == 400.0


def test_a_budget_is_held_to_what_a_step_was_booked_for_in_all_ways_in(world: ApiWorld, client: TestClient) -> None:
    run_once(world, client, 200.0)
    found = never(world, client, job("a", budget={"usd": "0.003"}))
    assert "is less than one step costs" in found["detail"]
    assert "as measured on a" in found["detail"]
    assert client.post("/api/v1/jobs", json=job("a", budget={"usd": "0.005"})).status_code == 201


def test_another_kind_of_device_may_be_faster_than_what_was_measured(world: ApiWorld, client: TestClient) -> None:
    run_once(world, client, 200.0)
    document = cluster(CLUSTER).to_document()
    fast = {"name": "q", "device": "B200", "market": "spot", "price": "9", "capacity": {"source": "ray"}}
    document["spec"]["pools"].append(fast)
    assert client.put("/api/v1/cluster", json=document).status_code == 200
    assert client.post("/api/v1/jobs", json=job("a", deadline="3m")).status_code == 201


def test_a_key_that_comes_again_is_answered_as_before_when_its_deadline_has_passed(
    world: ApiWorld, client: TestClient
) -> None:
    key, both = {"Idempotency-Key": "once"}, {"Idempotency-Key": "both"}
    document = job("a", deadline=iso(START_S + 3600), steps=1000)
    batch = {"items": [job("b", deadline=iso(START_S + 3600), steps=1000)]}
    assert client.post("/api/v1/jobs", json=document, headers=key).status_code == 201
    assert client.post("/api/v1/jobs/batch", json=batch, headers=both).status_code == 201
    # Nothing could keep it any more; an hour later, it has passed.
    for later_s in (3599.5, 3600.0):
        world.world.clock.at_s = START_S + later_s
        assert (
            client.post("/api/v1/jobs", json=document | {"metadata": {"name": "c", "tenant": "red"}}).status_code == 422
        )
        again = client.post("/api/v1/jobs", json=document, headers=key)
        assert (again.status_code, again.json()) == (200, {"id": "a", "replayed": True, "revised": False})
        again = client.post("/api/v1/jobs/batch", json=batch, headers=both)
        assert (again.status_code, again.json()) == (200, {"ids": ["b"], "replayed": True})
    other = client.post("/api/v1/jobs", json=document | {"metadata": {"name": "c", "tenant": "red"}}, headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    fresh = client.post("/api/v1/jobs", json=document, headers={"Idempotency-Key": "new"})
    assert fresh.status_code == 422
    assert client.post("/api/v1/jobs", json={"kind": "TrainJob"}, headers=key).status_code == 422


def test_a_key_that_comes_again_is_answered_as_before_when_its_budget_pays_for_nothing_any_more(
    world: ApiWorld, client: TestClient
) -> None:
    key, document = {"Idempotency-Key": "once"}, job("a", budget={"usd": "0.003"})
    assert client.post("/api/v1/jobs", json=document, headers=key).status_code == 201
    client.post("/api/v1/jobs/a/cancel")
    run_once(world, client, 200.0, run="a.2")
    never(world, client, document)
    again = client.post("/api/v1/jobs", json=document, headers=key)
    assert (again.status_code, again.json()) == (200, {"id": "a", "replayed": True, "revised": False})
