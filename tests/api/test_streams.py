"""Events and logs: pages, streams that are gone on with, and what was removed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from orchestrator.client.sse import ServerEvent, read_events
from tests.api.world import ApiWorld, job


def stream(client: TestClient, path: str, last: str = "", **params: Any) -> list[ServerEvent]:
    """All events of a stream that ends by itself."""
    headers = {"last-event-id": last} if last else {}
    with client.stream("GET", f"/api/v1{path}", params={"follow": "true", **params}, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(read_events(answer.iter_lines(), last))


def ended(world: ApiWorld, client: TestClient) -> list[int]:
    """A job that has run and ended; the numbers of its events."""
    client.post("/api/v1/jobs", json=job("a"))
    world.run(3)
    client.post("/api/v1/jobs/a/cancel")
    world.run(3)
    return [one["seq"] for one in client.get("/api/v1/events", params={"job": "a"}).json()["items"]]


def test_a_stream_of_a_job_ends_with_its_state(world: ApiWorld, client: TestClient) -> None:
    numbers = ended(world, client)
    found = stream(client, "/events", job="a")
    assert [int(one.id) for one in found[:-1]] == numbers
    assert (found[-1].kind, json.loads(found[-1].data)["state"]) == ("end", "cancelled")


def test_a_stream_goes_on_after_the_last_event_that_was_seen(world: ApiWorld, client: TestClient) -> None:
    numbers = ended(world, client)
    rest = stream(client, "/events", last=str(numbers[1]), job="a")
    assert [int(one.id) for one in rest[:-1]] == numbers[2:]


def test_pages_of_events_meet_without_a_gap(world: ApiWorld, client: TestClient) -> None:
    numbers = ended(world, client)
    first = client.get("/api/v1/events", params={"job": "a", "limit": 2}).json()
    rest = client.get("/api/v1/events", params={"job": "a", "after": first["next_after"]}).json()
    assert [one["seq"] for one in first["items"] + rest["items"]] == numbers


def test_a_page_goes_on_behind_events_that_were_not_asked_for(world: ApiWorld, client: TestClient) -> None:
    """Else who asks for the few of one tenant keeps a place that is removed one day, and looks through all again."""
    ended(world, client)
    last = client.get("/api/v1/events", params={"limit": 1000}).json()["items"][-1]["seq"]
    quiet = client.get("/api/v1/events", params={"tenant": "blue"}).json()
    assert (quiet["items"], quiet["next_after"]) == ([], last)
    client.post("/api/v1/jobs", json=job("theirs", tenant="blue"))
    found = client.get("/api/v1/events", params={"tenant": "blue", "after": last}).json()["items"]
    assert [(one["kind"], one["job"]) for one in found] == [("submitted", "theirs")]


def test_events_that_were_removed_are_gone_and_the_first_that_is_kept_is_named(
    world: ApiWorld, client: TestClient
) -> None:
    numbers = ended(world, client)
    with world.world.ledger.database.writing() as connection:
        connection.execute(text("DELETE FROM events WHERE seq < :first"), {"first": numbers[2]})
    answer = client.get("/api/v1/events", params={"after": numbers[0]})
    assert (answer.status_code, answer.json()["code"]) == (410, "gone")
    assert answer.json()["first_kept"] == numbers[2]
    assert client.get("/api/v1/events", params={"after": numbers[2] - 1}).status_code == 200
    assert client.get("/api/v1/events").status_code == 200


@pytest.mark.parametrize("follow", [{}, {"follow": "true"}])
def test_an_event_that_these_books_never_had_is_no_place_to_go_on_from(
    world: ApiWorld, client: TestClient, follow: dict[str, str]
) -> None:
    """After an older copy was restored its numbers are given again: whoever went on from there would miss those."""
    ended(world, client)
    kept = [one["seq"] for one in client.get("/api/v1/events", params={"limit": 1000}).json()["items"]]
    answer = client.get("/api/v1/events", params={"after": kept[-1] + 1, **follow})
    assert (answer.status_code, answer.json()["code"]) == (410, "gone")
    assert answer.json()["first_kept"] == kept[0]
    assert f"the last one is {kept[-1]}" in answer.json()["detail"]
    assert client.get("/api/v1/events", params={"after": kept[-1]}).json()["items"] == []


def test_logs_are_read_by_offset_and_cut_between_characters(world: ApiWorld, client: TestClient) -> None:
    client.post("/api/v1/jobs", json=job("a"))
    world.cycle()
    world.logs.append("a", 1, "hé\n".encode())
    first = client.get("/api/v1/jobs/a/logs", params={"limit": 4}).json()
    assert (first["text"], first["next_offset"], first["ended"]) == ("hé\n", 4, False)
    world.logs.append("a", 1, "äöü".encode())
    second = client.get("/api/v1/jobs/a/logs", params={"offset": 4, "limit": 5}).json()
    assert (second["text"], second["next_offset"]) == ("äö", 8)


def test_a_stream_of_logs_goes_from_attempt_to_attempt_and_resumes_by_offset(
    world: ApiWorld, client: TestClient
) -> None:
    ended(world, client)
    world.logs.append("a", 1, b"one\ntwo\n")
    world.logs.end("a", 1)
    found = stream(client, "/jobs/a/logs")
    assert [one.kind for one in found] == ["log", "end"]
    assert json.loads(found[0].data)["text"] == "one\ntwo\n"
    assert found[0].id == "1:8"
    rest = stream(client, "/jobs/a/logs", last="1:4")
    assert json.loads(rest[0].data)["text"] == "two\n"


def test_a_log_that_was_removed_is_gone(world: ApiWorld, client: TestClient) -> None:
    ended(world, client)
    world.logs.append("a", 1, b"one\n")
    world.logs.end("a", 1)
    assert world.logs.purge(before_s=2e10) == 1
    for params in ({}, {"follow": "true"}, {"attempt": 1, "offset": 2}):
        answer = client.get("/api/v1/jobs/a/logs", params=params)
        assert (answer.status_code, answer.json()["code"]) == (410, "gone")


def test_logs_of_an_attempt_that_never_was_are_not_found(client: TestClient) -> None:
    client.post("/api/v1/jobs", json=job("a"))
    assert client.get("/api/v1/jobs/a/logs", params={"attempt": 1}).status_code == 404
