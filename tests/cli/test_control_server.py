"""Servers that are started, killed, refused and followed by others; and how one is entered over TLS."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from pathlib import Path

import pytest

from orchestrator.adapters.files import hold_lock
from orchestrator.adapters.ray_cluster import host
from orchestrator.api.serve import read_lock
from orchestrator.cli.control import connect
from orchestrator.spec.errors import ExitCode
from tests.cli.control_server import Server, answer, job_file, refused, tide, until
from tests.serving.certificates import write_certificate


def test_one_server_per_state_folder(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert b"runs on this state folder already" in refused(server.home, 7, "--rehearse")
    assert answer(capsys, "server", "status")["leading"] is True
    checks = {one["name"]: one for one in answer(capsys, "doctor")["checks"]}
    assert checks["server"]["state"] == checks["database"]["state"] == "ok"


def test_nobody_waits_long_for_a_server_that_does_not_answer(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert connect.job_names("a") == []
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(other / "tide.sock"))
        silent.listen()
        monkeypatch.setattr(connect, "COMPLETE_S", 0.05)
        assert connect.job_names("a") == []


def test_a_verb_that_changes_state_starts_a_server_and_says_so(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connect, "SERVER", ("server", "--rehearse", "--cluster", str(Server(other).cluster)))
    for only_asks in (
        ("ps",),
        ("submit", job_file(tmp_path, "a"), "--dry-run"),
        ("plan", job_file(tmp_path, "a"), "--decide"),
    ):
        assert tide(*only_asks) == ExitCode.UNREACHABLE
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
