"""Lists page by page: nothing is skipped, repeated or told to others, and a cursor is good for its own list only."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestrator.ledger.keys import Role
from orchestrator.policy.node_health import HoldCause, NodeHold
from orchestrator.sim.outside import SimCapacity
from tests.api.world import ApiWorld, bearer, job
from tests.ledger.world import pool

ONE = {"min": 1, "max": 1, "resources": {"GPU": 1}}
LISTS = ("/jobs", "/leases", "/nodes", "/keys", "/schedules")


def pages(client: TestClient, path: str, limit: int, **more: Any) -> list[list[dict[str, Any]]]:
    """All pages of a list, each as long as it may be but for the last one."""
    found, cursor = [], None
    while True:
        params = {"limit": limit, **({} if cursor is None else {"cursor": cursor})}
        page = client.get(f"/api/v1{path}", params=params, **more).json()
        found.append(page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            return found
        assert len(page["items"]) == limit


def fill(world: ApiWorld, client: TestClient) -> None:
    """Five jobs of two tenants with a lease each, five nodes of which one is gone, five keys, five schedules."""
    world.world.capacity = SimCapacity((pool(2, nodes=3), pool(2, nodes=1, name="a")))
    for at in range(5):
        tenant = "red" if at % 2 else "blue"
        assert client.post("/api/v1/jobs", json=job(f"j{at}", tenant=tenant, workers=ONE)).status_code == 201
        by_clock = job(f"s{at}", tenant=tenant, schedule={"cron": "0 22 * * *", "timezone": "Europe/Berlin"})
        assert client.post("/api/v1/jobs", json=by_clock).status_code == 201
        world.key(tenant, Role.VIEWER)
    hold = NodeHold(node="0-gone", cause=HoldCause.PERSON, since_s=world.world.clock.at_s, until_s=None, detail="")
    world.world.ledger.hold_node(hold, actor="test")
    world.run(2)


def test_pages_of_every_list_hold_each_item_once_and_in_order(world: ApiWorld, client: TestClient) -> None:
    fill(world, client)
    for path in LISTS:
        every = client.get(f"/api/v1{path}").json()
        assert (len(every["items"]), every["next_cursor"]) == (5, None), path
        for limit in (1, 2, 5):
            assert [one for page in pages(client, path, limit) for one in page] == every["items"], path
    nodes = [(one["pool"], one["name"], one["state"]) for page in pages(client, "/nodes", 2) for one in page]
    assert nodes == [("a", "a0", "ok"), *(("p", f"p{at}", "ok") for at in range(3)), (None, "0-gone", "gone")]


def test_what_comes_and_goes_between_two_pages_skips_and_repeats_nothing(world: ApiWorld, client: TestClient) -> None:
    fill(world, client)
    first = client.get("/api/v1/leases", params={"limit": 2}).json()
    gone, *_ = (one["holder"] for one in first["items"])
    client.post(f"/api/v1/jobs/{gone}/cancel")
    world.run(3)
    rest = client.get("/api/v1/leases", params={"limit": 10, "cursor": first["next_cursor"]}).json()["items"]
    held = {one["holder"] for one in first["items"]} | {one["holder"] for one in rest}
    assert (held, len(rest)) == ({f"j{at}" for at in range(5)}, 3)


def test_a_tenants_pages_are_as_full_as_any_and_hold_no_others(world: ApiWorld, client: TestClient) -> None:
    fill(world, client)
    red = bearer(world.key("red", Role.VIEWER))
    for path in ("/leases", "/schedules"):
        found = pages(client, path, 1, headers=red)
        assert [[one["tenant"] for one in page] for page in found] == [["red"], ["red"]], path


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=nonsense", "cursor=%FF"])
def test_a_page_that_there_is_not_is_refused(client: TestClient, query: str) -> None:
    answers = [client.get(f"/api/v1{path}?{query}") for path in LISTS]
    assert {(answer.status_code, answer.json()["exit_code"]) for answer in answers} == {(422, 3)}


def test_a_cursor_of_another_list_is_refused_where_it_names_nothing(world: ApiWorld, client: TestClient) -> None:
    fill(world, client)
    cursor = client.get("/api/v1/jobs", params={"limit": 1}).json()["next_cursor"]
    answer = client.get("/api/v1/leases", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["where"]) == (422, "query cursor")
