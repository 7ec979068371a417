"""The client against a real uvicorn on a unix socket: answers, errors with their exit codes, streams that break."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.api.app import create_app
from orchestrator.api.guard import Entrance, Guard
from orchestrator.client.client import Client
from orchestrator.client.errors import ServerProblemError, of_document
from orchestrator.client.places import Place, find_place
from orchestrator.client.sse import read_events
from orchestrator.spec.errors import ExitCode, UserError
from tests.api.serving import served
from tests.api.world import ApiWorld, job


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    made = ApiWorld(tmp_path)
    yield made
    made.close()


def place(path: Path) -> Place:
    return Place(url="http://localhost", socket=path)


def test_a_job_goes_its_way_through_the_client(world: ApiWorld, tmp_path: Path) -> None:
    with served(world.door, tmp_path / "s") as path, Client(place(path)) as client:
        assert client.answers()
        assert client.submit(job("a"), key="k") == {"id": "a", "replayed": False, "revised": False}
        assert client.submit(job("a"), key="k") == {"id": "a", "replayed": True, "revised": False}
        assert client.submit_batch([job("b"), job("c")])["ids"] == ["b", "c"]
        assert [one["id"] for one in client.jobs(limit=1)] == ["a", "b", "c"]
        world.run(2)
        assert client.job("a")["state"] == "running"
        assert client.plan()["starts"] == []
        assert client.verb("a", "cancel")["state"] == "draining"
        world.run(3)
        kinds = [one.kind for one in client.follow("/events", job="a")]
        assert (kinds[0], kinds[-2:]) == ("submitted", ["cancelled", "end"])


def test_all_pages_of_a_list_are_followed(world: ApiWorld, tmp_path: Path) -> None:
    with served(world.door, tmp_path / "s") as path, Client(place(path)) as client:
        client.submit_batch([job(name, workers={"min": 1, "max": 1, "resources": {"GPU": 1}}) for name in "abc"])
        world.run(2)
        ids = sorted(client.post("/keys", {"tenant": "red", "role": "viewer"})["id"] for _ in range(3))
        for limit in (1, 2, 3):
            assert [one["holder"] for one in client.every("/leases", limit=limit, pool="p")] == ["a", "b", "c"]
            assert [one["id"] for one in client.every("/keys", limit=limit)] == ids
        assert [one["name"] for one in client.every("/nodes", limit=1)] == ["p0"]
        assert list(client.every("/schedules", limit=1)) == []


@pytest.mark.parametrize("name", ["no/body", "No Body", "", "..", "a\x1bb"])
def test_what_can_be_no_name_is_refused_before_anybody_is_asked(tmp_path: Path, name: str) -> None:
    with Client(place(tmp_path / "nobody")) as client, pytest.raises(UserError, match="cannot name a job") as refused:
        client.job(name)
    assert refused.value.code is ExitCode.INVALID


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (lambda client: client.job("nobody"), ExitCode.UNKNOWN),
        (lambda client: client.submit(job("a", steps=0)), ExitCode.INVALID),
        (lambda client: client.submit(job("a", queue="none")), ExitCode.UNKNOWN),
        (lambda client: client.submit(job("a", queue="red-only", tenant="blue")), ExitCode.FORBIDDEN),
        (
            lambda client: client.submit(
                job("a", workers={"min": 8, "max": 8, "resources": {"GPU": 1}}, queue="red-only")
            ),
            ExitCode.NEVER,
        ),
        (lambda client: client.submit_batch([job("a"), job("a")]), ExitCode.CONFLICT),
    ],
)
def test_problems_come_back_as_the_exit_codes_they_were(world: ApiWorld, tmp_path: Path, ask, code: ExitCode) -> None:
    with served(world.door, tmp_path / "s") as path, Client(place(path)) as client:
        with pytest.raises(ServerProblemError) as error:
            ask(client)
        assert error.value.code is code
        again = pickle.loads(pickle.dumps(error.value))
        assert (str(again), again.status) == (str(error.value), error.value.status)


def test_a_stream_that_breaks_is_gone_on_with_where_it_was(world: ApiWorld, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Client(place(path)) as client:
        with served(world.door, path):
            client.submit(job("a"))
            stream = client.follow("/events", job="a")
            assert next(stream).kind == "submitted"
        # Streams of the first server have ended, and nobody said that the job has.
        world.run(2)
        world.world.ledger.cancel("a", actor="test")
        world.run(3)
        with served(Guard(create_app(world.service), world.service, Entrance.SOCKET), path):
            rest = [one.kind for one in stream]
    assert rest == ["admitted", "starting", "running", "draining", "cancelled", "end"]


def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    with Client(place(tmp_path / "nobody")) as client:
        assert not client.answers()
        with pytest.raises(UserError) as error:
            client.job("a")
        assert error.value.code is ExitCode.UNREACHABLE


@pytest.mark.parametrize(("status", "code"), [(502, ExitCode.UNREACHABLE), (500, ExitCode.BUG), (418, ExitCode.BUG)])
def test_answers_that_are_no_problem_documents_are_told_by_their_status(status: int, code: ExitCode) -> None:
    assert of_document(status, "<html>").code is code


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("unix:///run/tide.sock", "unix:///run/tide.sock"),
        ("http://127.0.0.1:8642", "http://127.0.0.1:8642"),
        ("https://tide.example:443/", "https://tide.example:443"),
    ],
)
def test_the_server_is_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, want: str
) -> None:
    monkeypatch.setenv("TIDE_SERVER", text)
    found = find_place(tmp_path)
    assert (str(found), found.local) == (want, False)


def test_a_context_file_names_the_server_and_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDE_SERVER", raising=False)
    (tmp_path / "key").write_text("tide_x_y\n")
    (tmp_path / "context.json").write_text(f'{{"server": "https://t:1", "key_file": "{tmp_path / "key"}"}}')
    assert find_place(tmp_path) == Place(url="https://t:1", key="tide_x_y")
    (tmp_path / "context.json").write_text("{}")
    with pytest.raises(UserError, match="context file"):
        find_place(tmp_path)


@pytest.mark.parametrize("text", ["ftp://x", "localhost:80", "unix://relative", "http://", "http://h/path"])
def test_names_of_servers_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TIDE_SERVER", text)
    with pytest.raises(UserError) as error:
        find_place(tmp_path)
    assert error.value.code is ExitCode.USAGE


def test_a_key_is_not_sent_in_plain_text_to_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDE_SERVER", "http://tide.example:80")
    monkeypatch.setenv("TIDE_API_KEY", "tide_x_y")
    with pytest.raises(UserError) as error:
        find_place(tmp_path)
    assert "tide_x_y" not in str(error.value)


def test_server_sent_events_are_read_as_the_standard_says() -> None:
    lines = [": open", "", "id: 1", "event: a", "data: x", "data:y", "", "data: z", "", "event: none", "", "data: cut"]
    assert [(one.kind, one.data, one.id) for one in read_events(lines)] == [("a", "x\ny", "1"), ("message", "z", "1")]
