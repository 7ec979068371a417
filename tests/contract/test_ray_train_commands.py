"""Commands beside ranks, and where ranks stand: real processes, no Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.adapters.ray_train import stacks as stacks_module
from orchestrator.adapters.ray_train.commands import MOST_BYTES, MOST_COMMANDS, STDERR, STDOUT, Command, Commands
from orchestrator.adapters.ray_train.roster import Roster
from orchestrator.adapters.ray_train.stacks import RankProcess, read_stacks
from orchestrator.adapters.ray_train.terminal import Size, Terminal
from orchestrator.spec.errors import ExitCode, UserError

RANK = """
import faulthandler, signal, sys, time
faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)
open("/proc/self/comm", "w").write("tide-rank-3")
def waits_for_others():
    print("ready", file=sys.stderr, flush=True)
    time.sleep(600)
waits_for_others()
"""
LOOKS = 1000


def until(holds: Callable[[], bool]) -> None:
    for _ in range(LOOKS):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come to that")


@pytest.fixture
def rank(tmp_path: Path) -> Iterator[RankProcess]:
    """Rank 3 in a folder of its own; of its environment, only the begin is seen from outside."""
    log, folder = tmp_path / "rank-3.log", tmp_path / "work"
    folder.mkdir()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", RANK], stderr=output, cwd=folder, env={**os.environ, "BEGAN_WITH": "1"}
        )
    until(lambda: b"ready" in log.read_bytes())
    yield RankProcess(rank=3, pid=process.pid, log=str(log), env={"RANK": "3", "SECRET": "s3cret"})
    process.kill()
    process.wait()


@pytest.fixture
def commands(rank: RankProcess) -> Iterator[Commands]:
    roster = Roster()
    roster.came(1, 0, {3: rank})
    commands = Commands(roster)
    yield commands
    commands.close()


def listen(command: Command) -> tuple[bytes, bytes, int]:
    """All that it says, and its exit code."""
    said, taken = {STDOUT: b"", STDERR: b""}, 0
    while True:
        heard = command.hear(taken, 10.0)
        for chunk in heard.chunks:
            assert chunk.number == taken + 1
            taken = chunk.number
            said[chunk.stream] += chunk.data
        if heard.code is not None:
            return said[STDOUT], said[STDERR], heard.code


def run(commands: Commands, *command: str, data: bytes = b"") -> tuple[bytes, bytes, int]:
    name = commands.begin(3, command)
    commands.find(name).tell(data, end=True)
    return listen(commands.find(name))


def test_a_command_finds_the_ranks_environment_and_folder(commands: Commands, tmp_path: Path) -> None:
    out, err, code = run(commands, "sh", "-c", "pwd; echo $BEGAN_WITH $RANK $SECRET; echo oops >&2; exit 7")
    assert out.decode().split() == [str(tmp_path / "work"), "1", "3", "s3cret"]
    assert (err, code) == (b"oops\n", 7)


def test_what_the_environment_holds_is_in_no_argument(commands: Commands) -> None:
    """Anybody on the node can read arguments; an environment only its owner can."""
    name = commands.begin(3, ("sleep", "600"))
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    lines = [Path(f"/proc/{pid}/cmdline") for pid in pids]
    for line in lines:
        if line.exists():
            assert b"s3cret" not in line.read_bytes()
    commands.let_go(name)


def test_input_goes_in_and_its_end_too(commands: Commands) -> None:
    data = os.urandom(300_000)
    out, _, code = run(commands, "cat", data=data)
    assert (out, code) == (data, 0)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("no-such-program",), 127, b"no-such-program: No such file or directory"),
        (("/",), 126, b"/: Permission denied"),
        (("sh", "-c", "kill -TERM $$"), 128 + signal.SIGTERM, b""),
    ],
)
def test_exit_codes_are_those_of_a_shell(commands: Commands, command: tuple[str, ...], code: int, said: bytes) -> None:
    _, err, found = run(commands, *command)
    assert found == code
    assert said in err


def test_output_that_nobody_takes_makes_the_command_wait_and_is_not_lost(commands: Commands) -> None:
    size = 3 * MOST_BYTES
    name = commands.begin(3, ("head", "-c", str(size), "/dev/zero"))
    command = commands.find(name)
    until(lambda: sum(len(one.data) for one in command.hear(0, 0.0).chunks) >= MOST_BYTES)
    assert command.hear(0, 0.0).code is None
    out, _, code = listen(command)
    assert (len(out), code) == (size, 0)


def test_a_command_that_reads_nothing_is_told_later(commands: Commands) -> None:
    command = commands.find(commands.begin(3, ("sleep", "600")))
    accepted = 0
    while command.tell(bytes(1 << 16), end=False):
        accepted += 1 << 16
    assert MOST_BYTES <= accepted <= 2 * MOST_BYTES


def test_a_command_goes_with_its_rank_and_says_so(commands: Commands) -> None:
    command = commands.find(commands.begin(3, ("sleep", "600")))
    commands.rank_left(2)
    assert command.hear(0, 0.0).code is None
    commands.rank_left(3)
    heard = command.hear(0, 10.0)
    assert (heard.code, heard.why) == (128 + signal.SIGKILL, "rank 3 has left this node")


def test_a_command_goes_with_its_rank_also_if_nobody_says_so(commands: Commands, rank: RankProcess) -> None:
    name = commands.begin(3, ("sleep", "600"))
    os.kill(rank.pid, signal.SIGKILL)
    until(lambda: not stacks_module.is_rank(rank))
    heard = commands.find(name).hear(0, 10.0)
    assert (heard.code, heard.why) == (128 + signal.SIGKILL, "rank 3 has ended")
    with pytest.raises(UserError, match="is not a rank"):
        commands.begin(3, ("true",))


def test_what_a_command_leaves_running_ends_with_it(commands: Commands) -> None:
    out, _, code = run(commands, "sh", "-c", "sleep 600 & echo $!")
    assert code == 0
    until(lambda: not Path(f"/proc/{int(out)}").exists() or "\tZ" in Path(f"/proc/{int(out)}/status").read_text())


AT = Terminal(kind="vt100", size=Size(rows=24, columns=80))


def at_terminal(commands: Commands, script: str) -> Command:
    return commands.find(commands.begin(3, ("sh", "-c", script), AT))


def shows(command: Command, text: bytes) -> None:
    """Wait until it has said that; nothing is taken."""
    until(lambda: text in b"".join(one.data for one in command.hear(0, 10.0).chunks))


def test_at_a_terminal_a_command_has_a_size_a_kind_and_one_screen(commands: Commands) -> None:
    command = at_terminal(commands, "test -t 0 && test -t 2 && stty size && echo $TERM $SECRET; echo oops >&2; exit 7")
    assert listen(command) == (b"24 80\r\nvt100 s3cret\r\noops\r\n", b"", 7)


def test_at_a_terminal_sizes_follow(commands: Commands) -> None:
    command = at_terminal(commands, "trap 'stty size' WINCH; echo up; while :; do sleep 0.05; done")
    shows(command, b"up")
    command.tell(b"", end=False, size=Size(rows=50, columns=120))
    shows(command, b"50 120")


@pytest.fixture
def in_the_background() -> Iterator[None]:
    """What a shell starts in the background is born with Ctrl-C ignored, and so is what that starts."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("in_the_background")
def test_at_a_terminal_ctrl_c_is_for_the_command(commands: Commands) -> None:
    command = at_terminal(commands, "trap 'echo caught; exit 9' INT; echo up; while :; do read -r line; done")
    shows(command, b"up")
    command.tell(b"\x03", end=False)
    out, _, code = listen(command)
    assert (b"caught" in out, code) == (True, 9)


def test_at_a_terminal_the_end_of_input_is_one(commands: Commands) -> None:
    command = at_terminal(commands, "stty -echo; echo up; cat; echo over")
    shows(command, b"up")
    command.tell(b"line\n", end=True)
    assert listen(command)[0] == b"up\r\nline\r\nover\r\n"


@pytest.mark.parametrize("how", ["ends", "is let go"])
def test_what_a_shell_has_put_into_the_background_ends_with_it(commands: Commands, how: str) -> None:
    """Job control gives it a group of its own; the devices may be somebody else's all the same."""
    last = "" if how == "ends" else "; sleep 600"
    name = commands.begin(3, ("bash", "-c", f"set -m; sleep 600 & echo pid $! .{last}"), AT)
    command = commands.find(name)
    shows(command, b" .")
    said = b"".join(one.data for one in command.hear(0, 0.0).chunks)
    pid = int(said.split(b"pid ")[1].split(b" .")[0])
    if how == "is let go":
        assert os.getpgid(pid) == pid
        commands.let_go(name)
    until(lambda: not Path(f"/proc/{pid}").exists() or "\tZ" in Path(f"/proc/{pid}/status").read_text())
    assert command.hear(1000, 10.0).code == (0 if how == "ends" else 128 + signal.SIGKILL)


def test_a_command_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    """The agent of a node may be killed at any moment; a command must not go on on devices that are given back."""
    program = (
        "import sys, time\n"
        "from orchestrator.adapters.ray_train.commands import Command\n"
        "command = Command(('sh', '-c', 'echo $$; exec sleep 600'), {'PATH': '/usr/bin:/bin'}, '/')\n"
        "print(command.hear(0, 10.0).chunks[0].data.decode(), flush=True)\n"
        "time.sleep(600)\n"
    )
    agent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert agent.stdout is not None
    pid = int(agent.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    agent.kill()
    agent.wait()
    agent.stdout.close()
    until(lambda: not Path(f"/proc/{pid}").exists() or "\tZ" in Path(f"/proc/{pid}/status").read_text())


def test_a_command_that_is_too_long_for_the_system_is_refused(commands: Commands) -> None:
    with pytest.raises(UserError, match="cannot be started: Argument list too long") as refused:
        commands.begin(3, ("true", "x" * (1 << 20)))
    assert refused.value.code is ExitCode.INVALID


def test_too_many_commands_and_ranks_that_are_not_here_are_refused(commands: Commands) -> None:
    with pytest.raises(UserError) as refused:
        commands.begin(4, ("true",))
    assert refused.value.code is ExitCode.CONFLICT
    for _ in range(MOST_COMMANDS):
        commands.begin(3, ("sleep", "600"))
    with pytest.raises(UserError, match="8 commands run"):
        commands.begin(3, ("true",))


def test_ranks_of_a_later_attempt_take_the_place_of_earlier_ones(rank: RankProcess) -> None:
    roster = Roster()
    roster.came(1, 0, {3: rank})
    roster.came(2, 1, {0: rank})
    assert set(roster.ranks()) == {0}
    assert roster.gone(1, 1) == ()
    assert roster.gone(1, 0) == ()
    assert roster.gone(2, 1) == (0,)
    assert roster.ranks() == {}


@pytest.mark.parametrize("how", ["py-spy", "faulthandler"])
def test_a_stack_names_where_a_rank_waits(rank: RankProcess, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """py-spy is not permitted everywhere; the rank's own handler always is."""
    if how == "faulthandler":
        monkeypatch.setattr(stacks_module, "find_py_spy", lambda: None)
    (stack,) = read_stacks({3: rank})
    assert (stack.rank, stack.how) == (3, how)
    assert "waits_for_others" in stack.text
    assert "s3cret" not in stack.text
    assert Path(f"/proc/{rank.pid}").exists()


def test_a_rank_that_was_stopped_is_read_all_the_same(rank: RankProcess) -> None:
    os.kill(rank.pid, signal.SIGSTOP)
    (stack,) = read_stacks({3: rank})
    assert stack.how == "py-spy", stack.text
    assert "waits_for_others" in stack.text


def test_stacks_are_bounded_in_time_and_never_another_process(rank: RankProcess) -> None:
    other = RankProcess(rank=4, pid=os.getpid(), log=rank.log, env={})
    (late,) = read_stacks({3: rank}, within_s=0.0)
    (stranger,) = read_stacks({4: other})
    assert (late.how, late.text) == ("none", "the time for all stacks was over")
    assert stranger.how == "none"
    assert "is not a rank yet" in stranger.text
