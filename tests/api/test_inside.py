"""Looking into a running job: command line, API and the door of a job's process, with ranks that are made up."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.adapters.jobs.door import Door
from orchestrator.adapters.ray_train.commands import Command
from orchestrator.adapters.ray_train.events import StacksTaken
from orchestrator.adapters.ray_train.inside import Dump, Seated, seat_of
from orchestrator.adapters.ray_train.terminal import Size, Terminal, set_size
from orchestrator.client.client import Client
from orchestrator.client.errors import ServerProblemError
from orchestrator.client.places import Place
from orchestrator.ledger.keys import Role
from orchestrator.service.visits import Visits
from orchestrator.spec.errors import ExitCode, UserError
from tests.api.serving import served
from tests.api.world import ApiWorld
from tests.contract.ray_train_fakes import plan
from tests.ledger.world import new

PROGRAM = "from orchestrator.cli.main import main; main()"
SECRET = "s3cret-in-the-environment"


class LocalCommand(Command):
    """A command beside a rank of this machine."""

    def __init__(self, command: Sequence[str], seat: Seated, folder: Path, terminal: Terminal | None) -> None:
        super().__init__(command, {"PATH": os.environ["PATH"], "TOKEN": SECRET}, str(folder), terminal)
        self.seat = seat

    def let_go(self) -> None:
        self.end("let go")


class MadeUp:
    """The inside of a run of 3 ranks on two nodes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun: list[LocalCommand] = []

    def begin(
        self, command: Sequence[str], *, rank: int | None, node: str | None, terminal: Terminal | None = None
    ) -> LocalCommand:
        seat = seat_of(replace(plan(1, 3, 2), nodes=("aaaa", "bbbb")), rank, node)
        self.begun.append(LocalCommand(command, seat, self.folder, terminal))
        return self.begun[-1]

    def stacks(self, rank: int | None) -> Dump:
        taken = StacksTaken(at_s=0.0, attempt=1, step=6, num_ranks=1, path=str(self.folder / "stacks.txt"))
        return Dump(text=f"=== rank {rank} [main]\n", taken=taken, silent=("bbbb",))


class Inner:
    """A server with a job that runs, reached through a socket by whoever has the folder."""

    def __init__(self, folder: Path, world: ApiWorld) -> None:
        self.folder, self.world = folder, world
        process = folder / "jobs" / "jobs" / "mine"
        process.mkdir(parents=True)
        self.made_up = MadeUp(folder)
        self.door = Door(process)
        self.door.open()
        self.door.lead_to(self.made_up)  # type: ignore[arg-type]

    def client(self, key: str = "") -> Client:
        return Client(Place(url="http://localhost", socket=self.folder / "tide.sock", key=key or None))

    def tide(self, *arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-c", PROGRAM, *arguments]
        return subprocess.run(command, env=self.environment(), input=data, capture_output=True, timeout=60, check=False)

    def environment(self) -> dict[str, str]:
        found = {**os.environ, "TIDE_HOME": str(self.folder), "TERM": "vt100"}
        for name in ("TIDE_SERVER", "TIDE_API_KEY"):
            found.pop(name, None)
        return found

    def run(self, *command: str, **where: Any) -> tuple[bytes, int, str]:
        """What a command says on stdout, its exit code, and why it was ended."""
        out = b""
        with self.client() as client:
            began = client.begin_exec("mine", command, rank=where.get("rank"), node=where.get("node"))
            for event in client.once(f"/jobs/mine/exec/{began['id']}/output"):
                said = json.loads(event.data)
                if event.kind == "exit":
                    return out, said["code"], said["why"]
                out += base64.b64decode(said["data"])
        raise AssertionError("the stream ended first")


@pytest.fixture
def inner(tmp_path: Path) -> Iterator[Inner]:
    with contextlib.ExitStack() as stack:
        world = ApiWorld(tmp_path / "w")
        stack.callback(world.close)
        world.world.ledger.submit(new("mine", (1, 2)), new("waits", (1, 2)), new("theirs", (1, 2), tenant="blue"))
        world.cycle()
        world.service.visits = Visits(tmp_path / "jobs" / "jobs")
        inner = Inner(tmp_path, world)
        stack.callback(inner.door.close)
        stack.enter_context(served(world.door, tmp_path / "tide.sock"))
        yield inner


def test_a_command_passes_everything_through_and_returns_its_code(inner: Inner) -> None:
    done = inner.tide("exec", "mine", "--rank", "2", "--", "sh", "-c", "cat; echo oops >&2; exit 7", data=b"in\0put")
    assert (done.stdout, done.stderr, done.returncode) == (b"in\0put", b"oops\n", 7)
    (command,) = inner.made_up.begun
    assert command.seat == Seated(rank=2, node_id="bbbb")


def test_a_shell_sits_at_the_terminal_of_whoever_asked_for_it(inner: Inner) -> None:
    """Keys, Ctrl-C and sizes go there, its output comes back, and the terminal is afterwards what it was."""
    ours, theirs = os.openpty()
    set_size(ours, Size(rows=33, columns=99))
    before = termios.tcgetattr(theirs)
    tide = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "exec", "-t", "mine", "--", "env", "PS1=ready% ", "sh"],
        env=inner.environment(), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    screen = Screen(ours)
    # What is typed before it has the terminal is dropped, as with ssh.
    screen.types(b"", until=b"ready% ")
    screen.types(b"stty size; echo $TERM\n", until=b"33 99\r\nvt100")
    assert not termios.tcgetattr(theirs)[3] & termios.ICANON
    screen.types(b"sh -c 'echo be''gun; exec sleep 600'\n", until=b"begun")
    screen.types(b"\x03", until=b"ready% ")
    set_size(ours, Size(rows=44, columns=111))
    os.kill(tide.pid, signal.SIGWINCH)
    screen.types(b"until stty size | grep '44 111'; do sleep 0.1; done\n", until=b"44 111\r\n")
    screen.types(b"exit 5\n", until=b"exit 5")
    assert tide.wait(60) == 5
    assert termios.tcgetattr(theirs) == before
    for end in (ours, theirs):
        os.close(end)
    # One line for the begin, none for what was typed.
    assert [one["path"] for one in inner.world.audit()] == ["/api/v1/jobs/mine/exec"]


def test_who_leaves_a_terminal_by_a_signal_leaves_it_as_it_was(inner: Inner) -> None:
    ours, theirs = os.openpty()
    before = termios.tcgetattr(theirs)
    tide = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "exec", "-t", "mine", "--", "sh", "-c", "echo up; sleep 600"],
        env=inner.environment(), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    Screen(ours).types(b"", until=b"up")
    tide.terminate()
    assert tide.wait(60) == 128 + signal.SIGTERM
    assert termios.tcgetattr(theirs) == before
    for end in (ours, theirs):
        os.close(end)
    assert inner.made_up.begun[0].hear(1000, 60.0).code == 137


def test_a_pipe_is_no_terminal(inner: Inner) -> None:
    done = inner.tide("exec", "-t", "mine", "--", "true")
    assert (done.returncode, inner.made_up.begun) == (2, [])
    assert b"-t needs a terminal" in done.stderr


class Screen:
    """What a terminal shows to whoever sits at it."""

    def __init__(self, end: int) -> None:
        self.end, self.shown = end, b""

    def types(self, keys: bytes, *, until: bytes) -> None:
        """Type, and look on until that is shown after all that was shown before."""
        self.shown = b""
        os.write(self.end, keys)
        while until not in self.shown:
            ready, _, _ = select.select([self.end], [], [], 60)
            assert ready, f"{until!r} is not shown: {self.shown!r}"
            self.shown += os.read(self.end, 65_536)


def test_nothing_of_a_command_is_logged_but_who_and_which_job(inner: Inner) -> None:
    out, code, _ = inner.run("sh", "-c", "echo $TOKEN")
    assert (out.strip().decode(), code) == (SECRET, 0)
    log = inner.world.audit_path.read_text()
    assert SECRET not in log
    assert "echo" not in log
    (entry,) = [one for one in inner.world.audit() if one["path"] == "/api/v1/jobs/mine/exec"]
    assert (entry["actor"], entry["method"], entry["status"]) == ("local:tester", "POST", 201)


def test_a_command_that_nobody_watches_any_more_ends(inner: Inner) -> None:
    with inner.client() as client:
        began = client.begin_exec("mine", ["sh", "-c", "echo up; sleep 600"], rank=None, node=None)
        stream = client.once(f"/jobs/mine/exec/{began['id']}/output")
        assert json.loads(next(stream).data)["stream"] == "stdout"
    # Whatever it has said counts as taken, so that only its end is waited for.
    assert inner.made_up.begun[0].hear(1000, 60.0).code == 137


def test_a_command_can_be_ended_by_whoever_began_it_alone(inner: Inner) -> None:
    key = inner.world.key("red", Role.OPERATOR)
    with inner.client() as owner, inner.client(key) as other:
        began = owner.begin_exec("mine", ["sleep", "600"], rank=None, node=None)
        with pytest.raises(ServerProblemError) as refused:
            other.delete(f"/jobs/mine/exec/{began['id']}")
        assert refused.value.code is ExitCode.UNKNOWN
        owner.delete(f"/jobs/mine/exec/{began['id']}")
    assert inner.made_up.begun[0].hear(0, 60.0).code == 137


def test_the_end_of_the_jobs_process_is_said(inner: Inner) -> None:
    inner.made_up.stacks = lambda rank: (_ for _ in ()).throw(RuntimeError("a bug"))  # type: ignore[method-assign]
    with inner.client() as client, pytest.raises(ServerProblemError) as refused:
        client.stacks("mine", None)
    assert refused.value.code is ExitCode.BUG


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("exec", "mine", "--rank", "3", "--", "true"), 4, b"there is no rank 3; the job runs on ranks 0 to 2"),
        (("exec", "mine", "--node", "cc", "--", "true"), 4, b"begins with 'cc'. Its nodes: aaaa, bbbb"),
        (("exec", "mine", "--node", "b", "--rank", "0", "--", "true"), 4, b"rank 0 is not on node bbbb"),
        (("exec", "waits", "--", "true"), 6, b"this server has no process of it"),
        (("exec", "nobody", "--", "true"), 4, b"nobody"),
        (("dump", "mine", "--rank", "-1"), 2, b"Invalid value"),
    ],
)
def test_what_cannot_be_done_has_its_own_exit_code(
    inner: Inner, arguments: tuple[str, ...], code: int, said: bytes
) -> None:
    done = inner.tide(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr


def test_a_job_without_workers_says_so(inner: Inner) -> None:
    inner.world.world.ledger.submit(new("late", (1, 2)))
    inner.world.world.ledger.cancel("late", actor="t")
    done = inner.tide("dump", "late")
    assert done.returncode == 7
    assert b"job 'late' has ended (cancelled): it has no workers" in done.stderr
    inner.door.lead_to(None)
    between = inner.tide("exec", "mine", "--", "true")
    assert between.returncode == 7
    assert b"no workers yet" in between.stderr


@pytest.mark.parametrize(("kind", "parts"), [("Study", "trials"), ("Endpoint", "replicas")])
def test_a_study_and_an_endpoint_say_what_to_do_instead(inner: Inner, kind: str, parts: str) -> None:
    other = new("other", (1, 2))
    inner.world.world.ledger.submit(replace(other, shape=replace(other.shape, kind=kind)))
    for asked in (["exec", "other", "--", "true"], ["dump", "other"]):
        done = inner.tide(*asked)
        assert done.returncode == ExitCode.CONFLICT
        assert f"it has {parts}" in done.stderr.decode()
        assert "tide logs other" in done.stderr.decode()


def test_a_server_that_comes_later_finds_the_same_door(inner: Inner, tmp_path: Path) -> None:
    inner.world.world.ledger.resign()
    later = ApiWorld(tmp_path / "w")
    later.service.visits = Visits(tmp_path / "jobs" / "jobs")
    try:
        with served(later.door, tmp_path / "later.sock"):
            place = Place(url="http://localhost", socket=tmp_path / "later.sock", key=None)
            with Client(place) as client:
                assert client.stacks("mine", 1)["text"] == "=== rank 1 [main]\n"
                began = client.begin_exec("mine", ("sh", "-c", "exit 3"), rank=None, node=None)
                *_, last = client.once(f"/jobs/mine/exec/{began['id']}/output")
                assert json.loads(last.data)["code"] == 3
    finally:
        later.close()


def test_stacks_are_printed_as_they_are_and_say_where_they_were_kept(inner: Inner) -> None:
    done = inner.tide("dump", "mine", "--rank", "1")
    assert (done.stdout, done.returncode) == (b"=== rank 1 [main]\n", 0)
    assert b"kept as " in done.stderr
    assert b"no answer from bbbb" in done.stderr
    with inner.client() as client:
        assert client.stacks("mine", None)["silent"] == ["bbbb"]


def test_viewers_and_other_tenants_may_not_look_in(inner: Inner) -> None:
    for key in (inner.world.key("red", Role.VIEWER), inner.world.key("blue", Role.OPERATOR)):
        with inner.client(key) as client:
            for ask in (
                lambda: client.begin_exec("mine", ["true"], rank=None, node=None),
                lambda: client.stacks("mine", None),
            ):
                with pytest.raises(ServerProblemError) as refused:
                    ask()
                assert refused.value.code is ExitCode.FORBIDDEN
    assert inner.made_up.begun == []


def test_a_door_is_reached_whatever_the_length_of_its_path(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40) / "job"
    folder.mkdir(parents=True)
    door = Door(folder)
    door.open()
    assert (folder / "door").stat().st_mode & 0o777 == 0o600
    door.close()
    assert not (folder / "door").exists()


def test_a_rank_is_found_by_its_node() -> None:
    two = replace(plan(1, 5, 2), nodes=("aaaa", "bbbb", "aabb"))
    assert seat_of(two, None, None) == Seated(rank=0, node_id="aaaa")
    assert seat_of(two, None, "bb") == Seated(rank=2, node_id="bbbb")
    assert seat_of(two, 4, "aab") == Seated(rank=4, node_id="aabb")
    with pytest.raises(UserError, match="2 nodes of the job"):
        seat_of(two, None, "aa")


def test_a_stuck_door_is_unreachable_and_not_for_ever(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.service.visits.ANSWER_S", 0.2)
    real = inner.made_up.stacks
    monkeypatch.setattr(inner.made_up, "stacks", lambda rank: time.sleep(1.0) or real(rank))
    with inner.client() as client, pytest.raises(ServerProblemError) as refused:
        client.stacks("mine", None)
    assert refused.value.code is ExitCode.UNREACHABLE
