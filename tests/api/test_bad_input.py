"""Bad input: status, code and exit code as promised, a sentence that helps, and no change of state."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from orchestrator.api.admission import Admission
from orchestrator.api.documents import MAX_BATCH, MAX_BATCH_BYTES, MAX_DOCUMENT_BYTES
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.facts import facts_of
from orchestrator.spec import Cluster, load_text
from orchestrator.spec.errors import ExitCode
from tests.api.world import ApiWorld, job
from tests.ledger.world import cluster, new, pool

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
)


def refused(world: ApiWorld, answer: Any, status: int, code: str, exit_code: int) -> dict[str, Any]:
    """The problem document, if it is as it must be and nothing was written."""
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert (answer.status_code, found["status"]) == (status, status), found
    assert (found["code"], found["exit_code"]) == (code, exit_code), found
    assert found["type"] == f"urn:tideline:problem:{code}"
    assert world.service.read.jobs() == []
    assert [one.kind for one in world.service.read.events()] == ["cluster-applied"]
    return found


@pytest.mark.parametrize(
    ("spec", "status", "code", "exit_code", "said"),
    [
        ({"queue": "nightyl"}, 404, "unknown", 4, "there is no queue 'nightyl'"),
        ({"tenant": "green"}, 404, "unknown", 4, "there is no tenant 'green'"),
        ({"window": "nigth"}, 404, "unknown", 4, "there is no window 'nigth'"),
        ({"queue": "red-only", "tenant": "blue"}, 403, "forbidden", 5, "may not submit to queue 'red-only'"),
        ({"workers": {"min": 2000, "max": 2000, "resources": {"GPU": 1}}, "batch": {"global_batch_size": 4000,
          "micro_batch_size": 1}}, 422, "never", 8, "needs 2000 devices"),
        ({"workers": {"min": 1, "max": 1, "resources": {"TPU": 1}}}, 422, "invalid", 3, ""),
        ({"workers": {"min": 1, "max": 1, "resources": {"custom": {"tpu": 1}}}}, 422, "never", 8, "has"),
        ({"deadline": "1970-01-01T00:00:00Z"}, 422, "invalid", 3, "has passed"),
        ({"workers": {"min": 2, "max": 2, "resources": {"GPU": 1}}, "budget": {"usd": "0.000001"}},
         422, "never", 8, "less than one step"),
        ({"workers": {"min": 0, "max": 1}}, 422, "invalid", 3, ""),
        ({"steps": -1}, 422, "invalid", 3, ""),
        ({"steps": True}, 422, "invalid", 3, ""),
        ({"nonsense": 1}, 422, "invalid", 3, ""),
    ],
)  # fmt: skip
def test_a_job_that_cannot_be_accepted(
    world: ApiWorld, client: TestClient, spec: dict[str, Any], status: int, code: str, exit_code: int, said: str
) -> None:
    for path, body in (("/api/v1/jobs", job("a", **spec)), ("/api/v1/plan", job("a", **spec))):
        assert said in refused(world, client.post(path, json=body), status, code, exit_code)["detail"]
    batch = client.post("/api/v1/jobs/batch", json={"items": [job("b"), job("a", **spec)]})
    refused(world, batch, status, code, exit_code)


def test_a_gang_that_is_too_large_is_told_the_largest_that_could_start(world: ApiWorld, client: TestClient) -> None:
    spec = {
        "queue": "red-only",
        "workers": {"min": 6, "max": 8, "resources": {"GPU": 1}},
        "batch": {"global_batch_size": 64, "micro_batch_size": 1},
    }
    found = refused(world, client.post("/api/v1/jobs", json=job("a", **spec)), 422, "never", 8)
    assert found["next_step"] == "The largest that could is 4: set workers.min to 4 or less"


@pytest.mark.parametrize("name", ["a/b", "../etc", "A", "", "a.2", "a" * 64, "ä"])
def test_a_name_that_is_none(world: ApiWorld, client: TestClient, name: str) -> None:
    found = refused(world, client.post("/api/v1/jobs", json=job(name)), 422, "invalid", 3)
    assert found["problems"][0]["path"] == "metadata.name"
    answer = client.get(f"/api/v1/jobs/{name.replace('/', '%2F')}") if name else client.get("/api/v1/jobs/%20")
    assert answer.status_code in (404, 422)


def test_100_000_jobs_in_one_request_are_refused_with_the_number_that_may_be_sent(
    world: ApiWorld, client: TestClient
) -> None:
    small = json.dumps({"items": [{"a": 1}] * 100_000})
    answer = client.post("/api/v1/jobs/batch", content=small, headers={"content-type": "application/json"})
    found = refused(world, answer, 422, "invalid", 3)
    assert found["detail"] == f"100,000 jobs in one request; it must be 1..{MAX_BATCH:,}"
    assert "requests of 2,000 or fewer" in found["next_step"]


def test_a_body_that_is_too_large_is_not_read_to_its_end(world: ApiWorld, client: TestClient) -> None:
    def endless():
        for _ in range(1 + 2 * MAX_DOCUMENT_BYTES // 65_536):
            yield b" " * 65_536

    headers = {"content-type": "application/json"}
    refused(world, client.post("/api/v1/jobs", content=endless(), headers=headers), 413, "too_large", 3)
    announced = headers | {"content-length": str(MAX_BATCH_BYTES + 1)}
    found = client.post("/api/v1/jobs/batch", content=b"{}", headers=announced)
    assert "at most 2,000 jobs" in refused(world, found, 413, "too_large", 3)["next_step"]


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (BOMB, "application/yaml", 422, "invalid"),
        ("a: [", "application/yaml", 422, "invalid"),
        ("", "application/yaml", 422, "invalid"),
        ("a: !!python/object:os.system x", "application/yaml", 422, "invalid"),
        ("{", "application/json", 400, "usage"),
        ("[]", "application/json", 422, "invalid"),
        ('{"a": 1, "a": 2}', "application/json", 400, "usage"),
        ('{"a": NaN}', "application/json", 400, "usage"),
        ("[" * 100_000, "application/json", 400, "usage"),
        ('{"a":' * 200 + "1" + "}" * 200, "application/json", 422, "invalid"),
        ("\xff", "application/json", 400, "usage"),
        ("{}", "text/plain", 415, "media_type"),
        ("a=1", "application/x-www-form-urlencoded", 415, "media_type"),
    ],
)
def test_bodies_that_are_no_documents(
    world: ApiWorld, client: TestClient, body: str, kind: str, status: int, code: str
) -> None:
    answer = client.post("/api/v1/jobs", content=body.encode("latin-1"), headers={"content-type": kind})
    refused(world, answer, status, code, 2 if status in (400, 415) else 3)


def test_problems_of_yaml_have_their_place(world: ApiWorld, client: TestClient) -> None:
    text = yaml.safe_dump(job("a", steps=0), sort_keys=False)
    line = 1 + next(at for at, one in enumerate(text.splitlines()) if "steps" in one)
    answer = client.post("/api/v1/jobs", content=text, headers={"content-type": "application/yaml"})
    found = refused(world, answer, 422, "invalid", 3)["problems"]
    assert [(one["where"].split(":")[:2], one["path"]) for one in found] == [(["body", str(line)], "steps")]


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 129, "\u00e9"])
def test_an_idempotency_key_that_is_none(world: ApiWorld, client: TestClient, key: str) -> None:
    headers = {b"idempotency-key": key.encode("latin-1")}
    refused(world, client.post("/api/v1/jobs", json=job("a"), headers=headers), 422, "invalid", 3)


@pytest.mark.parametrize(
    "path",
    [
        "/jobs?cursor=!!!",
        "/jobs?cursor=WzFd",
        "/jobs?limit=0",
        "/jobs?limit=1000000",
        "/jobs?state=lost",
        "/jobs?tenant=A/B",
        "/events?after=-1",
        "/events?after=99999999999999999999",
        "/leases?pool=-",
    ],
)
def test_parameters_that_are_none(world: ApiWorld, client: TestClient, path: str) -> None:
    refused(world, client.get(f"/api/v1{path}"), 422, "invalid", 3)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/jobs?limit=0", "'0' is none; it must be greater than or equal to 1"),
        ("/jobs?tenant=A/B", "'A/B' is none; it must be 1 to 63 lower-case letters, digits and '-'"),
        ("/jobs/A_B", "'A_B' is none; it must be 1 to 63 lower-case letters, digits and '-', and may end in '.' and"
                      " the number of a run"),
    ],
)  # fmt: skip
def test_a_parameter_that_is_none_is_named_with_its_value_and_what_would_be_right(
    world: ApiWorld, client: TestClient, path: str, said: str
) -> None:
    assert refused(world, client.get(f"/api/v1{path}"), 422, "invalid", 3)["detail"] == said


def test_what_stands_where_a_keys_id_should_is_not_repeated(client: TestClient) -> None:
    answer = client.delete("/api/v1/keys/tide_0123456789ab_secret")
    assert answer.status_code == 422
    assert "secret" not in answer.text


@pytest.mark.parametrize("change", ["", "workers.min", "workers.min=0", "workers.min=x", "color=red", "priority=-1"])
def test_changes_that_cannot_be_tried(client: TestClient, change: str) -> None:
    client.post("/api/v1/jobs", json=job("a"))
    answer = client.get("/api/v1/jobs/a/why", params={"what_if": change})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


def test_a_quota_below_zero_and_a_cluster_that_contradicts_itself(world: ApiWorld, client: TestClient) -> None:
    document = cluster().to_document()
    document["spec"]["queues"][0]["quotas"][0]["nominal"] = -1
    found = refused(world, client.put("/api/v1/cluster", json=document), 422, "invalid", 3)
    assert found["problems"][0]["path"] == "queues[0].quotas[0].nominal"


def test_a_queue_that_is_not_there_and_addresses_that_are_none(world: ApiWorld, client: TestClient) -> None:
    refused(world, client.post("/api/v1/queues/nobody/hold"), 404, "unknown", 4)
    refused(world, client.get("/api/v1/nothing"), 404, "unknown", 4)
    refused(world, client.put("/api/v1/jobs"), 405, "method", 2)


def test_a_cluster_that_takes_away_what_is_in_use_says_who_uses_it(world: ApiWorld, client: TestClient) -> None:
    client.post("/api/v1/jobs", json=job("a"))
    world.run(2)
    document = cluster().to_document()
    document["spec"]["pools"][0]["name"] = "q"
    document["spec"]["queues"][0] = {"name": "other", "quotas": [{"pool": "q", "nominal": 1}]}
    dry = client.put("/api/v1/cluster?dry_run=true", json=document).json()
    assert (dry["applied"], dry["generation"]) == (False, 1)
    assert "pool p is removed and 2 devices are leased by a" in dry["drains"]
    assert "queue main is removed and a uses it" in dry["drains"]
    answer = client.put("/api/v1/cluster", json=document)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert world.service.read.generation() == 1
    good = cluster().to_document()
    good["spec"]["queues"][0]["quotas"][0]["nominal"] = 7
    done = client.put("/api/v1/cluster", json=good).json()
    assert (done["applied"], done["generation"]) == (True, 2)


@pytest.mark.parametrize(
    ("devices", "in_sight", "refused"), [(1, True, True), (2, True, False), (0, True, False), (1, False, False)]
)
def test_a_machine_is_as_large_as_it_is_seen_and_unseen_says_nothing(
    devices: int, in_sight: bool, refused: bool
) -> None:
    document = cluster().to_document()
    document["spec"]["ray"] = {"address": "local"}
    (here,) = load_text(json.dumps(document))
    assert isinstance(here, Cluster)
    seen = replace(pool(devices), in_sight=in_sight)
    admission = Admission(cluster=here, facts=facts_of(here, 1), seen=(seen,))
    if refused:
        with pytest.raises(LedgerError) as error:
            admission.check(new("a", 2), now_s=0.0)
        assert error.value.code is ExitCode.NEVER
    else:
        admission.check(new("a", 2), now_s=0.0)
