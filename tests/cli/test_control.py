"""The verbs against a real server process with virtual devices: answers, exit codes, and following."""

from __future__ import annotations

import datetime as dt
import http.server
import json
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.control import connect
from orchestrator.cli.control.follow import require_success
from orchestrator.cli.control.jobs import _old_reasons, _set_aside
from orchestrator.spec.errors import ExitCode, UserError
from tests.cli.control_server import CLUSTER, PROGRAM, Server, answer, job_file, spawn, tide, until


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


def test_a_job_takes_its_code_along_as_it_is_at_that_moment(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "own.py").write_text("x = 1\n")
    assert tide("submit", job_file(tmp_path, "code-a", runtime={"working_dir": "project"})) == 0
    said = capsys.readouterr().err
    assert re.search(r"the code in .*/project goes with it as code:[0-9a-f]{12} \(1 file, 0\.0 MiB\)", said), said
    (folder / "own.py").write_text("x = 2\n")
    assert tide("submit", job_file(tmp_path, "code-b", runtime={"working_dir": "project"})) == 0
    kept = [path for path in sorted((server.home / "code").glob("*")) if path.is_dir()]
    assert sorted((path / "own.py").read_text() for path in kept) == ["x = 1\n", "x = 2\n"]
    assert tide("submit", "--dry-run", job_file(tmp_path, "code-c", runtime={"working_dir": "project"})) == 0
    missing = job_file(tmp_path, "code-d", runtime={"working_dir": "nowhere"})
    assert tide("submit", missing) == ExitCode.INVALID
    assert "/nowhere: there is no such folder" in capsys.readouterr().err
    for name in ("code-a", "code-b"):
        answer(capsys, "cancel", name)


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


@pytest.mark.parametrize("name", ["", "Two Words", "../jobs", "a/b", "\x1b[31m", "a" * 300])
def test_what_can_be_no_name_is_refused_before_anybody_is_asked(
    server: Server, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in (["describe"], ["why"], ["logs"], ["dump"], ["cancel"], ["queue", "hold"]):
        assert tide(*verb, name) == 3
        err = capsys.readouterr().err
        assert "cannot name a job" in err or "is no name" in err
        assert "\x1b" not in err
    assert tide("keys", "revoke", name) == 3
    assert capsys.readouterr().err == "error: that is no id of a key. 'tide keys ls' shows the ids\n"
    assert tide("resize", "a", "0") == 3


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
        threading.Thread(target=receiver.serve_forever, args=(0.01,), daemon=True).start()
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


@pytest.mark.parametrize(
    ("reason_at", "said"),
    [
        (dt.datetime.now(dt.UTC) + dt.timedelta(hours=1), ""),
        (dt.datetime.now(dt.UTC) - dt.timedelta(hours=2), "reasons are as of 2h ago"),
        (None, "reasons are those written last"),
    ],
)
def test_reasons_to_wait_that_are_not_of_now_are_said_to_be_old(reason_at: dt.datetime | None, said: str) -> None:
    waits = {"reason": "GangIncomplete", "reason_at": None if reason_at is None else reason_at.isoformat()}
    runs = {"reason": None, "reason_at": None}
    assert said in _old_reasons([waits, runs])
    assert bool(_old_reasons([waits, runs])) is bool(said)
    assert _old_reasons([runs]) == ""


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (None, None),
        (
            {"unit": "iterations", "amount": 60, "worth_usd": "0.1234"},
            "60 steps of what its tenant was granted, worth 0.12 dollars",
        ),
        ({"unit": "iterations", "amount": 60, "worth_usd": None}, "60 steps of what its tenant was granted"),
        ({"unit": "micro_usd", "amount": 1_500_000, "worth_usd": None}, "1.50 dollars of what its tenant was granted"),
        (
            {"unit": "device_ms", "amount": 1_800_000, "worth_usd": None},
            "0.50 device-hours of what its tenant was granted",
        ),
    ],
)
def test_what_is_set_aside_is_said_in_its_own_unit(one: dict[str, Any] | None, said: str | None) -> None:
    assert _set_aside(one) == said
