"""Endpoints and studies are submitted, described and ended as jobs are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from orchestrator.api import cluster_routes
from orchestrator.service.footprint import Footprint
from tests.api.world import CLUSTER, ApiWorld, api_world, job


def endpoint(name: str, **replicas: Any) -> dict[str, Any]:
    spec = {
        "queue": "main",
        "model": "m@1",
        "engine": {"name": "echo"},
        "replicas": {"min": 1, "max": 3, "resources": {"GPU": 1}} | replicas,
        "tiers": {"interactive": {"slo": {"latency": "2s"}}},
    }
    metadata = {"name": name, "tenant": "red"}
    return {"apiVersion": "tideline/v1", "kind": "Endpoint", "metadata": metadata, "spec": spec}


def study(name: str) -> dict[str, Any]:
    spec = {
        "template": job(name)["spec"],
        "space": {"optimizer.lr": {"type": "loguniform", "min": "1e-4", "max": "1e-1"}},
        "searcher": {"name": "random"},
        "scheduler": {"name": "none"},
        "metric": "loss",
        "mode": "min",
        "concurrency": {"min": 1, "max": 2},
        "budget": {"trials": 3},
    }
    return {
        "apiVersion": "tideline/v1",
        "kind": "Study",
        "metadata": {"name": name, "tenant": "red"},
        "spec": spec,
    }


@pytest.mark.parametrize("as_yaml", [False, True])
def test_an_endpoint_holds_devices_and_says_where_it_answers(
    world: ApiWorld, client: TestClient, as_yaml: bool
) -> None:
    if as_yaml:
        text, headers = yaml.safe_dump(endpoint("talk")), {"content-type": "application/yaml"}
        answer = client.post("/api/v1/jobs", content=text, headers=headers)
    else:
        answer = client.post("/api/v1/jobs", json=endpoint("talk"))
    assert (answer.status_code, answer.json()["id"]) == (201, "talk")
    assert client.get("/api/v1/jobs/talk").json()["serving"] is None
    said = {
        "urls": {"interactive": "http://127.0.0.1:8000/talk"},
        "model": "m@1",
        "answering": 3,
        "rollout": {"state": "done", "detail": "every replica is what the file says"},
        "canary": {"model": "m@2", "weight": 0.1, "taken_back": None},
        "lending": None,
    }
    world.service.describe = lambda name: said
    world.service.footprint = lambda name: Footprint(kwh=1.5, g_co2=None, usd=0.25)
    world.cycle()
    found = client.get("/api/v1/jobs/talk").json()
    assert (found["kind"], found["workers"]["now"], found["workers"]["max"]) == ("Endpoint", 3, 3)
    assert found["serving"] == said
    assert found["footprint"] == {"kwh": 1.5, "g_co2": None, "usd": 0.25}
    (used,) = client.get("/api/v1/usage").json()["running"]
    assert (used["job"], used["kind"], used["kwh"]) == ("talk", "Endpoint", 1.5)
    assert client.post("/api/v1/jobs/talk/cancel").status_code == 200


def test_usage_says_of_how_many_jobs_it_does_not_tell(
    world: ApiWorld, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_routes, "_MOST_RUNNING", 1)
    world.service.footprint = lambda name: Footprint(kwh=1.5, g_co2=None, usd=0.25)
    assert client.get("/api/v1/usage").json()["running_left_off"] == 0
    for name in "abc":
        client.post("/api/v1/jobs", json=job(name, workers={"min": 1, "max": 1, "resources": {"GPU": 1}}))
    world.run(2)
    found = client.get("/api/v1/usage").json()
    assert ([one["job"] for one in found["running"]], found["running_left_off"]) == (["a"], 2)


def test_a_study_holds_as_many_devices_as_its_trials_at_once_may_have(world: ApiWorld, client: TestClient) -> None:
    assert client.post("/api/v1/jobs", json=study("search")).status_code == 201
    world.cycle()
    found = client.get("/api/v1/jobs/search").json()
    assert (found["kind"], found["workers"]["min"], found["workers"]["max"]) == ("Study", 1, 4)
    assert found["workers"]["now"] == 4


def test_what_would_be_decided_is_told_of_endpoints_and_studies_too(world: ApiWorld, client: TestClient) -> None:
    world.cycle()
    for document in (endpoint("talk"), study("search")):
        plan = client.post("/api/v1/plan", json=document).json()
        assert plan["job"]["decision"] == "start"
    assert client.get("/api/v1/jobs").json()["items"] == []


def test_an_endpoint_that_no_pool_could_ever_hold_is_refused(client: TestClient) -> None:
    answer = client.post("/api/v1/jobs", json=endpoint("talk", min=5000, max=5000))
    assert answer.status_code == 422
    assert answer.json()["code"] == "never"
    assert "replicas.min" in answer.text


def test_an_endpoint_that_is_there_follows_another_file(world: ApiWorld, client: TestClient) -> None:
    assert client.post("/api/v1/jobs", json=endpoint("talk")).json()["revised"] is False
    world.cycle()
    other = endpoint("talk", max=2)
    other["spec"]["model"] = "m@2"
    answer = client.post("/api/v1/jobs", json=other, headers={"idempotency-key": "k"})
    assert (answer.status_code, answer.json()) == (200, {"id": "talk", "replayed": False, "revised": True})
    again = client.post("/api/v1/jobs", json=other, headers={"idempotency-key": "k"})
    assert again.json() == {"id": "talk", "replayed": True, "revised": False}
    world.cycle()
    found = client.get("/api/v1/jobs/talk").json()
    assert found["document"] == other
    assert (found["workers"]["max"], found["workers"]["now"]) == (2, 2)
    assert found["state"] in ("running", "starting", "resizing", "admitted")
    kinds = [one["kind"] for one in client.get("/api/v1/events", params={"job": "talk"}).json()["items"]]
    assert kinds.count("submitted") == 1
    assert kinds.count("revised") == 1
    client.post("/api/v1/jobs", json=other)
    assert [one["id"] for one in client.get("/api/v1/jobs").json()["items"]] == ["talk"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"listen": {"port": 9999}}, "spec.listen"),
        ({"placement": "dedicated", "tiers": {"interactive": {"slo": {"latency": "2s"}}, "batch": {}}}, "spec.placem"),
        ({"replicas": {"min": 1, "max": 3, "resources": {"GPU": 2}}}, "spec.replicas.resources"),
    ],
)
def test_what_cannot_change_while_an_endpoint_runs_is_a_conflict_that_names_it(
    world: ApiWorld, client: TestClient, change: dict[str, Any], named: str
) -> None:
    client.post("/api/v1/jobs", json=endpoint("talk"))
    world.cycle()
    other = endpoint("talk")
    other["spec"] |= change
    answer = client.post("/api/v1/jobs", json=other)
    assert (answer.status_code, answer.json()["exit_code"]) == (409, 7)
    assert f"{named}" in answer.json()["detail"]
    assert client.get("/api/v1/jobs/talk").json()["document"] == endpoint("talk")


def test_a_file_whose_replicas_leave_out_the_pinned_number_is_refused(world: ApiWorld, client: TestClient) -> None:
    client.post("/api/v1/jobs", json=endpoint("talk"))
    world.cycle()
    assert client.post("/api/v1/jobs/talk/resize", json={"workers": 3}).status_code == 200
    answer = client.post("/api/v1/jobs", json=endpoint("talk", max=2))
    assert answer.status_code == 409
    assert "tide resize talk auto" in answer.text


def test_an_endpoint_that_is_being_cancelled_takes_no_file_and_no_job_takes_its_name(
    world: ApiWorld, client: TestClient
) -> None:
    client.post("/api/v1/jobs", json=endpoint("talk"))
    world.cycle()
    assert client.post("/api/v1/jobs", json=job("talk")).status_code == 409
    client.post("/api/v1/jobs/talk/cancel")
    answer = client.post("/api/v1/jobs", json=endpoint("talk"))
    assert answer.status_code == 409
    assert "being cancelled" in answer.text


@pytest.mark.parametrize("make", [endpoint, study])
def test_an_endpoint_and_a_study_may_have_told_only_whom_the_cluster_allows(
    tmp_path: Path, make: Callable[[str], dict[str, Any]]
) -> None:
    with api_world(tmp_path, extra=CLUSTER + "  notify: {hosts: [hooks.example.com]}\n") as (world, client):
        world.service.secrets = tmp_path / "secrets"
        document = make("told")
        document["spec"]["notify"] = [{"url": "https://elsewhere.example.com/x"}]
        answer = client.post("/api/v1/jobs", json=document)
        assert (answer.status_code, answer.json()["exit_code"]) == (403, 5)
        assert "host 'elsewhere.example.com' may not be called" in answer.json()["detail"]
        document["spec"]["notify"] = [{"url": "https://hooks.example.com/x", "secret": "none"}]
        assert "secret 'red/none' cannot be read" in client.post("/api/v1/jobs", json=document).json()["detail"]
        document["spec"]["notify"] = [{"url": "https://hooks.example.com/x"}]
        assert client.post("/api/v1/jobs", json=document).status_code == 201


def test_a_secret_that_the_server_does_not_have_is_refused_and_no_other_tenants_is_read(tmp_path: Path) -> None:
    with api_world(tmp_path) as (world, client):
        world.service.secrets = tmp_path / "secrets"
        for tenant, name in (("blue", "s3-key"), ("red", "hub-token")):
            file = tmp_path / "secrets" / tenant / name
            file.parent.mkdir(parents=True)
            file.write_text("of nobody's business\n")
            file.chmod(0o600)
        training, search = job("packed"), study("packed-search")
        for document, holder, place in (
            (training, training["spec"], "spec.runtime"),
            (search, search["spec"]["template"], "spec.template.runtime"),
        ):
            holder["runtime"] = {"secrets": ["hub-token", "s3-key"]}
            answer = client.post("/api/v1/jobs", json=document)
            assert (answer.status_code, answer.json()["where"].partition(": ")[2]) == (404, f"{place}.secrets")
            assert "secret 'red/s3-key' cannot be read" in answer.json()["detail"]
            assert "business" not in answer.text
        assert client.post("/api/v1/jobs/batch", json={"items": [training]}).status_code == 404
        training["spec"]["runtime"] = {"secrets": ["hub-token"]}
        assert client.post("/api/v1/jobs", json=training).status_code == 201
