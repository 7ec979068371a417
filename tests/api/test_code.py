"""Jobs bring their code along: it is asked for, sent once, named by what it holds, and kept as long as it is needed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from jobs.code.bundle import pack
from jobs.code.listing import code_id, list_code
from orchestrator.api.retention import CODE_EVERY_S, CodeRetention
from tests.api.world import ApiWorld, api_world, job

GZIP = {"content-type": "application/gzip"}


@pytest.fixture
def made(tmp_path: Path):
    with api_world(tmp_path) as found:
        yield found


@pytest.fixture
def code(tmp_path: Path) -> tuple[str, bytes]:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "task.py").write_text("x = 1\n")
    files = list_code(folder)
    return code_id(folder, files), pack(folder, files)


def test_code_is_sent_once_and_a_job_names_it(made: tuple[ApiWorld, TestClient], code: tuple[str, bytes]) -> None:
    world, client = made
    ident, packed = code
    named = job("own", runtime={"working_dir": f"code:{ident}"})
    missing = client.get(f"/api/v1/code/{ident}")
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown")
    refused = client.post("/api/v1/jobs", json=named)
    assert refused.status_code == 404
    assert refused.json()["detail"].startswith(f"there is no code {ident[:12]} here")
    assert refused.json()["where"] == "job own: spec.runtime.working_dir"
    assert client.put(f"/api/v1/code/{ident}", content=packed, headers=GZIP).status_code == 201
    assert client.put(f"/api/v1/code/{ident}", content=packed, headers=GZIP).status_code == 200
    assert client.get(f"/api/v1/code/{ident}").json() == {"id": ident}
    assert client.post("/api/v1/jobs", json=named).status_code == 201
    assert world.world.ledger.read.document("own")["spec"]["runtime"]["working_dir"] == f"code:{ident}"


def test_half_an_id_is_no_folder(made: tuple[ApiWorld, TestClient]) -> None:
    answer = made[1].post("/api/v1/jobs", json=job("half", runtime={"working_dir": "code:abc"}))
    assert answer.status_code == 422
    assert "64 hex digits" in answer.text


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"rubbish", GZIP, 422),
        (b"{}", {"content-type": "application/json"}, 415),
        (b"", GZIP, 422),
        (bytes(64 * 2**20 + 1), GZIP, 413),
    ],
)
def test_what_is_no_code_is_refused(
    made: tuple[ApiWorld, TestClient], content: bytes, headers: dict[str, str], status: int
) -> None:
    answer = made[1].put("/api/v1/code/" + "0" * 64, content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_code_is_kept_while_a_job_that_is_not_over_or_a_schedule_names_it(
    made: tuple[ApiWorld, TestClient], tmp_path: Path
) -> None:
    world, client = made
    store = world.service.code
    assert store is not None
    idents = {}
    for name in ("waits", "by-clock", "over", "nobody"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "task.py").write_text(f"name = {name!r}\n")
        idents[name] = store.keep(folder)
        more = {"schedule": {"cron": "0 22 * * *", "timezone": "Europe/Berlin"}} if name == "by-clock" else {}
        if name != "nobody":
            body = job(name, runtime={"working_dir": f"code:{idents[name]}"}, **more)
            assert client.post("/api/v1/jobs", json=body).status_code == 201
    assert client.post("/api/v1/jobs/over/cancel").status_code < 300
    for ident in idents.values():
        os.utime(store.folder(ident), (0, 0))
    chore = CodeRetention(world.world.ledger, store, 60.0)
    assert chore(1000.0) == 1000.0 + CODE_EVERY_S
    assert {name for name, ident in idents.items() if store.has(ident)} == {"waits", "by-clock"}
    os.utime(store.folder(idents["waits"]), (0, 0))
    assert chore(2000.0) == 1000.0 + CODE_EVERY_S, "once a day"


def test_a_server_that_plays_its_devices_keeps_no_code(tmp_path: Path) -> None:
    with api_world(tmp_path) as (world, client):
        world.service.code = None
        assert client.get("/api/v1/code/" + "0" * 64).status_code == 404
