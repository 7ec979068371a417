"""What lists say of those who wait is what was decided last, however far behind the books are."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from orchestrator.api import render
from orchestrator.ledger import telling
from orchestrator.service.metrics import PlaneMetrics
from tests.api.world import ApiWorld
from tests.ledger.world import new

NAMES = [f"j{at}" for at in range(5)]


@pytest.fixture
def behind(world: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> ApiWorld:
    """Five wait, everybody's reason has just changed, and the books have been told of one."""
    monkeypatch.setattr(telling, "_MOST_REASONS", 1)
    world.world.ledger.submit(new("holder", 8, work_s=None), *(new(name, 8) for name in NAMES))
    world.run(2)
    world.world.ledger.hold_queue("main", True)
    world.run(0)
    written = Counter(world.world.reason(name) for name in NAMES)
    assert written == {"OnHold": 1, "GangIncomplete": 4}
    return world


def listed(client: TestClient) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in client.get("/api/v1/jobs").json()["items"] if one["id"] != "holder"}


def test_everybody_is_listed_with_the_reason_that_was_decided_last(behind: ApiWorld, client: TestClient) -> None:
    found = listed(client)
    assert {one["reason"] for one in found.values()} == {"OnHold"}
    assert {one["detail"] for one in found.values()} == {"queue 'main' is on hold: nothing starts from it"}
    assert client.get("/api/v1/jobs/j4").json()["reason"] == "OnHold"
    decided = behind.watched.decided
    assert decided is not None
    assert {one["reason_at"] for one in found.values()} == {render.instant(decided[0].now_s)}
    (queue,) = [one for one in client.get("/api/v1/queues").json()["items"] if one["name"] == "main"]
    assert (queue["waiting"], queue["reasons"]) == (5, {"OnHold": 5})


def test_depths_are_counted_by_the_reason_that_was_decided_last(behind: ApiWorld) -> None:
    metrics = PlaneMetrics(behind.world.ledger.read)
    metrics.waiting = behind.service.reasons.counts
    registry = CollectorRegistry()
    registry.register(metrics)

    def depth(reason: str) -> float | None:
        return registry.get_sample_value("tide_queue_jobs", {"queue": "main", "reason": reason})

    assert (depth("OnHold"), depth("GangIncomplete")) == (5, None)
    behind.watched.decided = None
    assert (depth("OnHold"), depth("GangIncomplete")) == (1, 4)


def test_who_has_changed_since_the_decision_is_what_he_is_now(behind: ApiWorld, client: TestClient) -> None:
    behind.world.clock.at_s += 0.5
    client.post("/api/v1/jobs/j3/pause")
    found = listed(client)["j3"]
    assert (found["state"], found["reason"], found["reason_at"]) == ("paused", None, None)
    assert found["detail"].startswith("paused by ")


def test_a_server_that_does_not_decide_says_what_is_written_and_claims_no_time(
    behind: ApiWorld, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(behind.world.ledger), "lead", lambda self: False)
    assert not behind.watched.lead()
    found = listed(client)
    assert Counter(one["reason"] for one in found.values()) == {"OnHold": 1, "GangIncomplete": 4}
    assert {one["reason_at"] for one in found.values()} == {None}
