"""Whoever asked for it is told that a job has ended, by a real server's account: at least once, signed, and no more."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import http.server
import ipaddress
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.adapters.hooks import calling
from orchestrator.adapters.hooks.signing import read_secret
from orchestrator.adapters.secret_files import SecretError
from orchestrator.ledger.notices import Tried
from orchestrator.ledger.submission import NewJob
from orchestrator.service.herald import RETRY_S, Herald
from tests.ledger.world import World, cluster, new, sqlite

SECRET = "a-secret-of-some-length-3f1c"


class Receiver:
    """A server that keeps what it is sent and answers as it is told: the next of `answers`, else 200."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.holds: threading.Event | None = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.heard.append((self.path, {key.lower(): value for key, value in self.headers.items()}, body))
                if outer.holds is not None:
                    outer.holds.wait(30)
                status = outer.answers.pop(0) if outer.answers else 200
                self.send_response(status)
                if status == 302:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                """Nobody reads it."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(sqlite(tmp_path))
    (tmp_path / "secrets" / "red").mkdir(parents=True)
    secret = tmp_path / "secrets" / "red" / "key"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    yield made
    made.ledger.database.close()


def herald(world: World, tmp_path: Path, **more: Any) -> Herald:
    return Herald(world.ledger, tmp_path / "secrets", world.clock.now_s, **more)


def asking(name: str, *hooks: dict[str, Any], **more: Any) -> NewJob:
    return new(name, document=json.dumps({"spec": {"notify": list(hooks)}}), **more)


def ended(world: World, *jobs: NewJob) -> None:
    """These jobs run to their end."""
    world.ledger.submit(*jobs)
    world.run(5)
    assert {world.state(one.name) for one in jobs} == {"succeeded"}


def tell(one: Herald) -> int:
    return asyncio.run(one.round())


def test_the_end_of_a_job_is_told_once_with_a_signature_that_its_owner_can_check(
    world: World, tmp_path: Path, receiver: Receiver
) -> None:
    ended(world, asking("a", {"url": f"{receiver.url}/hook?x=1", "secret": "key"}, work_s=1.0), new("b", work_s=1.0))
    speaks = herald(world, tmp_path)
    assert tell(speaks) == 1
    ((path, headers, body),) = receiver.heard
    assert path == "/hook?x=1"
    said = json.loads(body)
    assert (said["type"], said["data"]["job"], said["data"]["state"]) == ("job.succeeded", "a", "succeeded")
    assert headers["webhook-timestamp"] == str(int(world.clock.now_s()))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert tell(speaks) == 0
    (row,) = world.ledger.read.notices("a")
    assert (row.tries, row.next_ms, row.delivered_ms, row.said) == (1, None, 1_000_005_000, "answered 200")
    assert world.kinds("a")[-2:] == ["succeeded", "notified"]
    assert world.ledger.read.notices("b") == []


@pytest.mark.parametrize("kind", ["Study", "Endpoint"])
def test_the_end_of_a_study_and_of_an_endpoint_is_told_in_the_same_way(
    world: World, tmp_path: Path, receiver: Receiver, kind: str
) -> None:
    asked = asking("a", {"url": f"{receiver.url}/hook", "secret": "key"})
    world.ledger.submit(replace(asked, shape=replace(asked.shape, kind=kind)))
    world.run(2)
    world.ledger.cancel("a")
    world.run(5)
    assert world.state("a") == "cancelled"
    assert tell(herald(world, tmp_path)) == 1
    ((_, headers, body),) = receiver.heard
    said = json.loads(body)
    assert (said["type"], said["data"]["job"], said["data"]["kind"]) == ("job.cancelled", "a", kind)
    assert headers["webhook-signature"].startswith("v1,")


def test_only_the_ends_that_were_asked_for_are_told_and_clusters_hear_of_all(
    tmp_path: Path, receiver: Receiver
) -> None:
    extra = f"  notify: {{hooks: [{{url: '{receiver.url}/all', events: [cancelled]}}]}}\n"
    world = World(sqlite(tmp_path), spec=cluster(extra))
    hook = {"url": f"{receiver.url}/mine", "events": ["failed"]}
    ended(world, asking("a", hook, work_s=1.0))
    world.ledger.submit(asking("b", hook), new("c"))
    world.ledger.cancel("b")
    world.ledger.cancel("c")
    assert tell(herald(world, tmp_path)) == 2
    assert sorted(json.loads(body)["data"]["job"] for _, _, body in receiver.heard) == ["b", "c"]
    assert {path for path, _, _ in receiver.heard} == {"/all"}
    assert not any("webhook-signature" in headers for _, headers, _ in receiver.heard)
    world.ledger.database.close()


def test_who_does_not_take_it_is_told_again_ever_later_and_a_redirect_is_not_followed(
    world: World, tmp_path: Path, receiver: Receiver
) -> None:
    receiver.answers = [500, 302, 404]
    ended(world, asking("a", {"url": f"{receiver.url}/x", "secret": "key"}, work_s=1.0))
    speaks = herald(world, tmp_path)
    assert tell(speaks) == 1
    for pause_s in RETRY_S[:3]:
        world.clock.at_s += pause_s - 1
        assert tell(speaks) == 0
        world.clock.at_s += 1
        assert tell(speaks) == 1
    assert [path for path, _, _ in receiver.heard] == ["/x"] * 4
    assert len({headers["webhook-id"] for _, headers, _ in receiver.heard}) == 1
    assert len({body for _, _, body in receiver.heard}) == 1
    assert len({headers["webhook-signature"] for _, headers, _ in receiver.heard}) == 4
    assert world.ledger.read.notices("a")[0].delivered_ms is not None


def test_after_two_days_or_where_nobody_wants_it_it_is_given_up(
    world: World, tmp_path: Path, receiver: Receiver
) -> None:
    ended(
        world,
        asking("a", {"url": "http://127.0.0.1:1/nobody"}, work_s=1.0),
        asking("b", {"url": f"{receiver.url}/gone"}, work_s=1.0),
    )
    receiver.answers = [410]
    speaks = herald(world, tmp_path)
    assert tell(speaks) == 2
    for pause_s in RETRY_S:
        world.clock.at_s += pause_s
        assert tell(speaks) == 1
    world.clock.at_s += 10 * 86_400
    assert tell(speaks) == 0
    (a,), (b,) = world.ledger.read.notices("a"), world.ledger.read.notices("b")
    assert (a.tries, a.next_ms, a.delivered_ms, a.said) == (11, None, None, "not reached: Connection refused")
    assert (b.tries, b.next_ms, b.delivered_ms, b.said) == (1, None, None, "answered 410")
    assert world.kinds("a")[-1] == world.kinds("b")[-1] == "notify-failed"


def test_whoever_dies_before_it_is_entered_says_it_again_under_the_same_id(
    world: World, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(world, asking("a", {"url": f"{receiver.url}/x"}, work_s=1.0))
    first = herald(world, tmp_path)

    def dies(outcomes: list[Tried]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(world.ledger, "notices_tried", dies)
    with pytest.raises(KeyboardInterrupt):
        tell(first)
    world.restart()
    assert tell(herald(world, tmp_path)) == 1
    assert tell(herald(world, tmp_path)) == 0
    assert len(receiver.heard) == 2
    assert receiver.heard[0][1]["webhook-id"] == receiver.heard[1][1]["webhook-id"]


def test_an_end_that_nobody_had_read_when_the_process_died_is_told_by_the_next(
    world: World, tmp_path: Path, receiver: Receiver
) -> None:
    ended(world, asking("a", {"url": f"{receiver.url}/x"}, work_s=1.0))
    world.restart()
    assert tell(herald(world, tmp_path)) == 1
    world.restart()
    assert tell(herald(world, tmp_path)) == 0


def test_a_server_that_never_answers_holds_up_neither_cycles_nor_others(
    world: World, tmp_path: Path, receiver: Receiver
) -> None:
    slow = Receiver()
    slow.holds = threading.Event()
    hooks = [{"url": f"{slow.url}/{at}"} for at in range(6)]
    ended(world, asking("a", *hooks, {"url": f"{receiver.url}/x"}, work_s=1.0))
    speaks = herald(world, tmp_path, every_s=0.01)
    speaks.start()
    ready = threading.Event()
    for _ in range(1000):
        if receiver.heard and len(slow.heard) == 2:
            break
        ready.wait(0.01)
    world.cycle()
    assert (len(receiver.heard), len(slow.heard)) == (1, 2)  # two at a time at one host
    told: list[bool] = []
    for _ in range(1000):
        told = [row.delivered_ms is not None for row in world.ledger.read.notices("a")]
        if any(told):
            break
        ready.wait(0.01)  # it is entered after the receiver has answered
    speaks.stop()
    slow.holds.set()
    slow.close()
    assert told.count(True) == 1


def test_no_secret_is_in_the_ledger_or_in_the_log(
    world: World, tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    ended(world, asking("a", {"url": f"{receiver.url}/path-that-is-a-secret", "secret": "key"}, work_s=1.0))
    assert tell(herald(world, tmp_path)) == 1
    world.ledger.database.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("tide.db*"))
    assert b"secret" in stored
    assert SECRET.encode() not in stored
    printed = capfd.readouterr()
    assert "path-that-is-a-secret" not in caplog.text + printed.out + printed.err
    assert SECRET not in caplog.text + printed.out + printed.err


@pytest.mark.parametrize(
    ("name", "mode", "text", "said"),
    [
        ("red/none", 0o600, None, "cannot be read"),
        ("red/open", 0o644, SECRET, "only its owner may read"),
        ("red/short", 0o600, "x", "16 to 4096 bytes"),
        ("red/odd", 0o600, "whsec_" + "?" * 20, "is no base64"),
    ],
)
def test_a_secret_that_is_none_is_said_without_what_it_holds(
    tmp_path: Path, name: str, mode: int, text: str | None, said: str
) -> None:
    (tmp_path / "red").mkdir()
    if text is not None:
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    with pytest.raises(SecretError, match=said) as error:
        read_secret(tmp_path, name)
    assert text is None or len(text) < 2 or text not in str(error.value)


def test_a_secret_may_be_a_key_in_base64(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("whsec_" + base64.b64encode(b"0123456789abcdef").decode())
    (tmp_path / "key").chmod(0o600)
    assert read_secret(tmp_path, "key") == b"0123456789abcdef"


def answered(url: str, **more: Any) -> calling.Answer:
    return asyncio.run(calling.call(url, b"{}", {}, **more))


@pytest.mark.parametrize(
    ("address", "plain", "refused"),
    [
        ("169.254.169.254", False, True),
        ("fe80::1", False, True),
        ("0.0.0.0", False, True),
        ("::ffff:169.254.169.254", False, True),
        ("224.0.0.1", False, True),
        ("10.0.0.1", True, True),
        ("10.0.0.1", False, False),
        ("192.0.2.1", False, False),
        ("127.0.0.1", True, False),
        ("::1", True, False),
    ],
)
def test_addresses_that_are_nobodys_server_are_not_called(
    monkeypatch: pytest.MonkeyPatch, address: str, plain: bool, refused: bool
) -> None:
    what = ipaddress.ip_address(address)
    try:
        calling.refuse(what, "hooks.example.com", plain=plain)
        was_refused = False
    except Exception:
        was_refused = True
    assert was_refused is refused


def test_a_name_is_looked_up_once_and_what_it_stands_for_is_called(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    asked: list[str] = []
    answers = ["127.0.0.1", "169.254.169.254"]

    async def look_up(self: Any, host: str, port: int, **more: Any) -> list[Any]:
        asked.append(host)
        return [(2, 1, 6, "", (answers[len(asked) - 1], port))]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", look_up)
    url = f"http://localhost:{receiver.server.server_port}/x"
    assert answered(url).status == 200
    assert receiver.heard[0][1]["host"] == f"localhost:{receiver.server.server_port}"
    assert asked[0] == "localhost"
    assert answered(url).said == "host 'localhost' stands for 169.254.169.254, which is not called"
    assert len(receiver.heard) == 1


def test_only_hosts_that_the_cluster_names_are_called(receiver: Receiver) -> None:
    assert answered(f"{receiver.url}/x", hosts=("127.0.0.1",)).status == 200
    said = answered(f"{receiver.url}/x", hosts=("*.example.com",)).said
    assert said == "host '127.0.0.1' is none that the Cluster lets jobs name"
    assert calling.may_call("a.example.com", ("*.example.com",))
    assert not calling.may_call("example.com.evil.net", ("*.example.com", "example.com"))
    assert not calling.may_call("notexample.com", ("*.example.com",))
