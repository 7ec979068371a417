"""The verbs against a real server process with virtual devices: answers, exit codes, following, and starting one."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.adapters.files import hold_lock
from orchestrator.adapters.ray_cluster import host
from orchestrator.api.serve import read_lock
from orchestrator.cli.control import connect
from orchestrator.cli.control.follow import require_success
from orchestrator.cli.main import main
from orchestrator.spec.errors import ExitCode, UserError
from tests.serving.certificates import write_certificate

CLUSTER = """
apiVersion: tideline/v1
kind: Cluster
metadata: {name: test}
spec:
  pools:
  - {name: p, device: H100, market: spot, price: "3.60", count: 8, devices_per_node: 4, capacity: {source: ray}}
  queues:
  - {name: main, quotas: [{pool: p, nominal: 8}], min_run: 0s}
  - {name: small, quotas: [{pool: p, nominal: 2}], min_run: 0s}
  tenants: [{name: default, role: admin}, {name: stranger}]
"""
# A suite that a shell runs in the background is born with Ctrl-C ignored, and so would be what it starts.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from orchestrator.cli.main import main; main()"
)
FOREVER = 10_000_000


class Server:
    """A server process on a state folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.cluster = home.parent / f"{home.name}.yaml"
        self.cluster.write_text(CLUSTER)

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        arguments = ("server", "--rehearse", "--cluster", str(self.cluster), *more)
        process = spawn(self.home, *arguments)
        until_s = time.monotonic() + 60
        with connect.connected() as client:
            while not (client.answers() and client.readiness()["status"] == "ok"):
                assert process.poll() is None, "the server has ended"
                assert time.monotonic() < until_s, "the server is not ready"
                time.sleep(0.02)
        return process


def spawn(home: Path, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TIDE_HOME": str(home)}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], env=environment, **more)


def refused(home: Path, code: int, *arguments: str) -> bytes:
    """What a server says that does not start."""
    process = spawn(home, "server", *arguments, stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    return said


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("TIDE_HOME", str(folder))
        for name in ("TIDE_SERVER", "TIDE_API_KEY", "TIDE_DATABASE"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    made = Server(home)
    process = made.start()
    yield made
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def tide(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    """What a verb prints as JSON."""
    capsys.readouterr()
    assert tide(*arguments, "-o", "json") == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["apiVersion"] == "tideline/v1"
    return found


def job_file(folder: Path, name: str, **spec: Any) -> str:
    body = {
        "queue": "main",
        "workers": {"min": 1, "max": 2, "resources": {"GPU": 1}},
        "task": "jobs.models.gpt:task",
        "data": {"dataset": "text@1"},
        "batch": {"global_batch_size": 8, "micro_batch_size": 1},
        "steps": FOREVER,
    }
    document = {"apiVersion": "tideline/v1", "kind": "TrainJob", "metadata": {"name": name}, "spec": body | spec}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def until(capsys: pytest.CaptureFixture[str], name: str, state: str) -> dict[str, Any]:
    """A job once it is in a state."""
    until_s = time.monotonic() + 60
    while True:
        found = answer(capsys, "describe", name)
        if found["state"] == state:
            return found
        assert time.monotonic() < until_s, found
        time.sleep(0.05)


def test_a_job_from_submission_to_its_end(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "submit", job_file(tmp_path, "a"))["id"] == "a"
    found = until(capsys, "a", "running")
    assert (found["kind"], found["workers"]["now"]) == ("Job", 2)
    assert "a" in [one["id"] for one in answer(capsys, "ps", "--state", "running")["items"]]
    assert answer(capsys, "resize", "a", "1")["workers"]["pinned"] == 1
    assert answer(capsys, "resize", "a", "auto")["workers"]["pinned"] is None
    assert "attempt 1 begins" in answer(capsys, "logs", "a", "--attempt", "1")["text"]
    kinds = [one["kind"] for one in answer(capsys, "events", "a")["items"]]
    assert kinds[:4] == ["submitted", "admitted", "starting", "running"]
    answer(capsys, "pause", "a")
    until(capsys, "a", "paused")
    answer(capsys, "resume", "a")
    until(capsys, "a", "running")
    answer(capsys, "cancel", "a")
    assert until(capsys, "a", "cancelled")["ended_at"]
    assert [one["tenant"] for one in answer(capsys, "usage")["tenants"]] == ["default"]
    assert [one["name"] for one in answer(capsys, "queue", "ls")["items"]] == ["main", "small"]
    assert answer(capsys, "queue", "pools")["items"][0]["observed"] == 8
    for verb in (("ps", "-a"), ("describe", "a"), ("why", "a"), ("events", "a"), ("usage",), ("queue", "leases")):
        assert tide(*verb) == 0
        assert capsys.readouterr().out


def test_a_node_is_held_and_released_by_the_begin_of_its_name(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two nodes of four devices: what needs more than one waits for the other, and says so."""
    held = answer(capsys, "node", "hold", "p-1", "--for", "2h", "--reason", "fan")["items"]
    assert [(one["name"], one["state"], one["hold"]["cause"], one["hold"]["detail"]) for one in held] == [
        ("p-1", "held", "person", "fan")
    ]
    assert tide("node", "hold", "p-") == 4
    assert "2 nodes have a name" in capsys.readouterr().err
    assert tide("node", "release", "p-0") == 4
    assert "is not held back; held back are: p-1" in capsys.readouterr().err
    assert tide("node", "ls") == 0
    assert "fan, until" in capsys.readouterr().out
    file = job_file(tmp_path, "wide", workers={"min": 6, "max": 6, "resources": {"GPU": 1}})
    answer(capsys, "submit", file)
    until_s = time.monotonic() + 60
    while (found := answer(capsys, "why", "wide"))["verdict"]["reason"] != "NodeHealthHold":
        assert time.monotonic() < until_s, found
        time.sleep(0.05)
    answer(capsys, "node", "release", "p-1")
    until(capsys, "wide", "running")
    answer(capsys, "cancel", "wide")
    until(capsys, "wide", "cancelled")


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"steps": 0}, 3),
        ({"deadline": "2001-01-01T00:00:00Z"}, 3),
        ({"queue": "nobody"}, 4),
        ({"queue": "small", "workers": {"min": 3, "max": 3, "resources": {"GPU": 1}}}, 8),
        ({"workers": {"min": 9, "max": 9, "resources": {"GPU": 1}}, "batch": {"global_batch_size": 64,
          "micro_batch_size": 1}}, 8),
        ({"deadline": "1h"}, 8),
        ({"workers": {"min": 2, "max": 2, "resources": {"GPU": 1}}, "budget": {"usd": "0.000001"}}, 8),
    ],
)  # fmt: skip
def test_submissions_that_are_refused_have_their_exit_code(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], spec: dict[str, Any], code: int
) -> None:
    file = job_file(tmp_path, "refused", **spec)
    assert tide("submit", file) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    for asked in (("submit", "--dry-run"), ("plan", "--decide")):
        assert tide(asked[0], file, asked[1]) == code
        assert _timeless(capsys.readouterr().err) == _timeless(error)
    assert tide("describe", "refused") == 4


def _timeless(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+", "TIME", text)


def test_files_that_are_refused_before_anybody_is_asked(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = Path(job_file(tmp_path, "good")).read_text()
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
    )
    quota = CLUSTER.replace("nominal: 2", "nominal: -2")
    for verb, text in (("submit", good.replace("name: good", "name: go/od")), ("submit", bomb), ("apply", quota)):
        (tmp_path / "bad.yaml").write_text(text)
        assert tide(verb, str(tmp_path / "bad.yaml")) == 3
        assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'bad.yaml'}:")


def test_names_that_are_not_there(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path(job_file(tmp_path, "stranger")).read_text().replace("metadata:\n", "metadata:\n  tenant: nobody\n")
    (tmp_path / "stranger.yaml").write_text(text)
    assert tide("submit", str(tmp_path / "stranger.yaml")) == 4
    assert "there is no tenant 'nobody'; there are default, stranger" in capsys.readouterr().err
    assert tide("queue", "leases", "--pool", "nothing") == 4
    assert tide("ps", "--queue", "nothing") == 4
    assert tide("queue", "hold", "nothing") == 4
    assert tide("why", "nothing") == 4


def test_a_name_in_use_is_a_conflict_and_an_idempotency_key_is_none(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = job_file(tmp_path, "twice")
    assert answer(capsys, "submit", file, "--idempotency-key", "k")["replayed"] is False
    assert answer(capsys, "submit", file, "--idempotency-key", "k")["replayed"] is True
    assert tide("submit", file) == 7
    assert tide("submit", job_file(tmp_path, "another"), "--idempotency-key", "k") == 7
    assert tide("cancel", "twice") == 0


def test_a_dry_run_says_what_submit_would_get_and_submits_nothing(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = job_file(tmp_path, "dry", queue="small")
    found = answer(capsys, "submit", file, "--dry-run")
    assert (found["kind"], found["job"]["decision"], found["job"]["workers"]) == ("Plan", "start", 2)
    assert answer(capsys, "plan", file, "--decide")["decision"]["job"] == found["job"]
    assert tide("describe", "dry") == 4


def test_why_names_the_change_that_would_start_a_job(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = {"min": 2, "max": 2, "resources": {"GPU": 1}}
    answer(capsys, "submit", job_file(tmp_path, "first", queue="small", workers=two))
    until(capsys, "first", "running")
    answer(capsys, "submit", job_file(tmp_path, "second", queue="small", workers=two))
    until(capsys, "second", "queued")
    found = answer(capsys, "why", "second", "--what-if", "queue=main")
    assert found["verdict"]["reason"] == "WaitingForQuota"
    assert found["unblock"]
    assert found["what_if"]["decision"] == "start"
    assert tide("why", "second") == 0
    assert "WaitingForQuota" in capsys.readouterr().out
    assert [tide("cancel", name) for name in ("first", "second")] == [0, 0]


def test_a_followed_job_ends_with_its_exit_code(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tide("submit", job_file(tmp_path, "short", steps=1), "--wait") == 0
    answer(capsys, "submit", job_file(tmp_path, "long"))
    until(capsys, "long", "running")
    timer = threading.Timer(0.5, lambda: subprocess.run([sys.executable, "-c", PROGRAM, "cancel", "long"], check=True))
    timer.start()
    assert tide("logs", "-f", "long") == ExitCode.CANCELLED
    timer.join()
    assert tide("events", "-f", "long") == ExitCode.CANCELLED


def test_the_end_of_a_job_is_told_and_what_came_of_it_is_described(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Nobody reads it."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        hook = {"url": f"http://127.0.0.1:{receiver.server_port}/x", "events": ["cancelled"]}
        assert tide("submit", job_file(tmp_path, "unsigned", notify=[{**hook, "secret": "none"}])) == 4
        assert "secret 'default/none' cannot be read" in capsys.readouterr().err
        answer(capsys, "submit", job_file(tmp_path, "told", notify=[hook]))
        answer(capsys, "cancel", "told")
        until_s = time.monotonic() + 60
        while not (notices := answer(capsys, "describe", "told")["notices"]) or notices[0]["state"] == "waiting":
            assert time.monotonic() < until_s, notices
            time.sleep(0.05)
        receiver.shutdown()
    assert (notices[0]["state"], notices[0]["said"]) == ("delivered", "answered 204")
    assert [(one["type"], one["data"]["job"]) for one in told] == [("job.cancelled", "told")]
    assert tide("describe", "told") == 0
    assert "answered 204" in capsys.readouterr().out


def test_a_job_that_has_failed_is_100() -> None:
    class Fake:
        def job(self, name: str) -> dict[str, Any]:
            return {"state": "failed", "detail": f"{name} broke"}

    with pytest.raises(UserError, match="a has failed: a broke") as error:
        require_success(Fake(), "a", ExitCode.JOB_FAILED)  # type: ignore[arg-type]
    assert error.value.code == 100


def test_ctrl_c_on_a_follow_detaches_and_the_job_goes_on(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    follower = spawn(server.home, "submit", job_file(tmp_path, "followed"), "--wait", stderr=subprocess.PIPE)
    assert follower.stderr is not None
    while b"running" not in follower.stderr.readline():
        pass
    follower.send_signal(signal.SIGINT)
    assert follower.wait(30) == ExitCode.DETACHED
    assert b"detached; job followed goes on" in follower.stderr.read()
    follower.stderr.close()
    assert answer(capsys, "cancel", "followed")["state"] in ("draining", "cancelled")


def test_applying_a_cluster_says_what_changes_and_refuses_what_is_in_use(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(capsys, "submit", job_file(tmp_path, "user", queue="small"))
    without = tmp_path / "without.yaml"
    without.write_text("\n".join(line for line in CLUSTER.splitlines() if "small" not in line))
    found = answer(capsys, "apply", str(without), "--dry-run")
    assert (found["applied"], found["drains"]) == (False, ["queue small is removed and user uses it"])
    assert tide("apply", str(without)) == 7
    assert tide("cancel", "user") == 0
    until(capsys, "user", "cancelled")
    assert answer(capsys, "apply", str(without))["live"] == ["queue small: removed"]
    assert answer(capsys, "apply", str(server.cluster))["live"] == ["queue small: added"]


def test_holding_a_queue_starts_nothing_until_it_is_released(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(capsys, "queue", "hold", "small")["items"][0]["on_hold"] is True
    answer(capsys, "submit", job_file(tmp_path, "held", queue="small"))
    assert until(capsys, "held", "queued")["reason"] == "OnHold"
    assert answer(capsys, "queue", "release", "small")["items"][0]["on_hold"] is False
    until(capsys, "held", "running")
    assert tide("cancel", "held") == 0


def test_keys_of_the_control_plane_are_made_listed_and_revoked(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    made = answer(capsys, "keys", "create", "--tenant", "default", "--role", "viewer", "--expires", "1h")
    assert made["key"].startswith(f"tide_{made['id']}_")
    listed = answer(capsys, "keys", "ls")["items"]
    assert [one["role"] for one in listed if one["id"] == made["id"]] == ["viewer"]
    assert answer(capsys, "keys", "revoke", made["id"])["revoked_at"]
    assert tide("keys", "revoke", "000000000000") == 4
    assert tide("keys", "create", "--tenant", "default", "--tier", "batch") == 2


def test_one_server_per_state_folder(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert b"runs on this state folder already" in refused(server.home, 7, "--rehearse")
    assert answer(capsys, "server", "status")["leading"] is True
    checks = {one["name"]: one for one in answer(capsys, "doctor")["checks"]}
    assert checks["server"]["state"] == checks["database"]["state"] == "ok"


def test_names_of_jobs_complete_in_the_shell(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tide("submit", job_file(tmp_path, "complete-me")) == 0
    assert connect.job_names("complete-") == ["complete-me"]
    assert connect.job_names("complete-no") == connect.job_names("%") == []
    capsys.readouterr()
    assert tide("completion", "bash") == 0
    script = capsys.readouterr().out
    # As bash calls it when TAB is pressed behind "tide describe comp".
    typed = f"{script}\ntide() {{ {sys.executable} -c '{PROGRAM}' \"$@\"; }}\nCOMP_WORDS=(tide describe comp)\n"
    typed += 'COMP_CWORD=2\n_tide_complete\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    done = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["complete-me"]
    assert tide("cancel", "complete-me") == 0


def test_nobody_waits_long_for_a_server_that_does_not_answer(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert connect.job_names("a") == []
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(other / "tide.sock"))
        silent.listen()
        monkeypatch.setattr(connect, "COMPLETE_S", 0.05)
        assert connect.job_names("a") == []


@pytest.fixture
def other(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("other")
    for name in ("TIDE_SERVER", "TIDE_API_KEY", "TIDE_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TIDE_HOME", str(folder))
    return folder


def test_a_verb_that_changes_state_starts_a_server_and_says_so(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connect, "SERVER", ("server", "--rehearse", "--cluster", str(Server(other).cluster)))
    assert tide("ps") == ExitCode.UNREACHABLE
    assert "Start one with 'tide server'" in capsys.readouterr().err
    assert tide("submit", job_file(tmp_path, "a")) == 0
    assert "no server answers: starting one" in capsys.readouterr().err
    until(capsys, "a", "running")
    assert tide("server", "stop") == 0
    assert read_lock(other) is None
    assert tide("server", "stop") == ExitCode.UNREACHABLE


def test_a_local_ray_is_ended_when_asked_and_no_job_runs(
    other: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[Path] = []
    monkeypatch.setattr(host, "is_hosted", lambda folder: folder not in ended)
    monkeypatch.setattr(host, "stop_host", ended.append)
    job = other / "jobs" / "jobs" / "a"
    job.mkdir(parents=True)
    with contextlib.ExitStack() as lives:
        assert hold_lock(job / "lock", lives)
        assert tide("server", "stop", "--ray") == ExitCode.CONFLICT
        assert "a would lose its Ray" in capsys.readouterr().err
        assert ended == []
    assert tide("server", "stop", "--ray") == 0  # where no server runs any more
    assert ended == [other / "ray"]
    assert capsys.readouterr().out == "its local Ray has ended\n"


def test_a_server_that_cannot_start_says_why(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connect, "SERVER", ("server", "--database", "mysql://x"))
    assert tide("submit", job_file(tmp_path, "a")) == ExitCode.UNREACHABLE
    assert "no SQLite file and no PostgreSQL" in capsys.readouterr().err


def test_a_killed_server_is_followed_by_one_that_knows_everything(
    other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Server(other)
    first = made.start()
    assert tide("submit", job_file(tmp_path, "a")) == 0
    until(capsys, "a", "running")
    first.kill()
    first.wait()
    second = made.start()
    assert until(capsys, "a", "running")["attempt"] == 1
    second.send_signal(signal.SIGTERM)
    assert second.wait(30) == 0


def test_over_tls_nobody_enters_without_a_key(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, key_file = write_certificate(tmp_path)
    made = Server(other)
    tls = ("--tls-cert", str(certificate), "--tls-key", str(key_file))
    assert b"no API key was issued yet" in refused(other, 5, "--rehearse", "--listen", "0.0.0.0:0", *tls)
    assert b"belong together" in refused(
        other, 3, "--rehearse", "--listen", "127.0.0.1:0", "--tls-cert", str(key_file), "--tls-key", str(key_file)
    )
    process = made.start("--listen", "127.0.0.1:0", *tls)
    key = answer(capsys, "keys", "create", "--tenant", "default", "--role", "operator")["key"]
    (address,) = [one for one in (read_lock(other) or {})["addresses"] if one.startswith("https://")]
    context = {"server": address, "ca_file": str(certificate), "key_file": str(tmp_path / "key")}
    (tmp_path / "key").write_text(key)
    (other / "context.json").write_text(json.dumps(context))
    assert answer(capsys, "ps")["items"] == []
    assert tide("submit", job_file(tmp_path, "a")) == 0
    assert tide("keys", "ls") == ExitCode.FORBIDDEN
    (other / "context.json").unlink()
    strange = answer(capsys, "keys", "create", "--tenant", "stranger", "--role", "operator")["key"]
    (other / "context.json").write_text(json.dumps(context))
    (tmp_path / "key").write_text(strange)
    assert tide("describe", "a") == tide("cancel", "a") == tide("why", "a") == ExitCode.FORBIDDEN
    theirs = Path(job_file(tmp_path, "b")).read_text().replace("metadata:\n", "metadata:\n  tenant: default\n")
    (tmp_path / "b.yaml").write_text(theirs)
    assert tide("submit", str(tmp_path / "b.yaml")) == ExitCode.FORBIDDEN
    (tmp_path / "key").write_text("tide_000000000000_wrong")
    assert tide("ps") == ExitCode.FORBIDDEN
    audit = (other / "logs" / "audit.jsonl").read_text()
    assert '"status":401' in audit
    assert "wrong" not in audit
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
