"""The stem and who outlives whom: every process is killed once, by surprise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from jobs.train import forkserver_wire as wire
from jobs.train import messages
from jobs.train.forkserver import ForkServer, ForkServerStarter
from jobs.train.forkserver_client import pid_alive, private_bytes, stem_status
from jobs.train.starters import Exit, StartError
from tests.train.ranks import PATIENCE_S, make_job, started

pytestmark = pytest.mark.cluster
FOREVER = 10**9
MIB = 2**20


def wait_until(gone: int) -> None:
    """Until a process is gone; an event, not a timing: it fails only if it never happens."""
    deadline_s = time.monotonic() + PATIENCE_S
    while pid_alive(gone):
        assert time.monotonic() < deadline_s, f"process {gone} lives on"
        time.sleep(0.01)


@pytest.fixture
def own_stem(short_folder: Path) -> ForkServer:
    """A stem that a test may kill."""
    server = ForkServer(short_folder / "stem")
    server.warm(timeout_s=PATIENCE_S)
    return server


def test_the_stem_holds_one_thread_and_ranks_share_its_memory(stem: ForkServer, tiny_dataset: Path) -> None:
    with started(ForkServerStarter(stem.socket_path), make_job(tiny_dataset, steps=FOREVER), 2) as group:
        group.listen(until=lambda group: len(group.of(messages.Step)) >= 3)
        status = stem_status(stem.socket_path)
        assert status["threads"] == 1
        assert set(status["ranks"]) >= {handle.pid for handle in group.handles}  # type: ignore[call-overload]
        assert all(private_bytes(handle.pid) <= 60 * MIB for handle in group.handles)
        # Signals reach a rank and its children alone, and cores are shared out as niceness says.
        assert {os.getpgid(handle.pid) for handle in group.handles} == {handle.pid for handle in group.handles}
        assert {os.getsid(handle.pid) for handle in group.handles} == {os.getsid(0)}


def test_killing_the_stem_leaves_ranks_running_and_a_new_one_starts_more(
    own_stem: ForkServer, tiny_dataset: Path
) -> None:
    starter = ForkServerStarter(own_stem.socket_path)
    with started(starter, make_job(tiny_dataset, steps=FOREVER), 2) as group:
        group.listen(until=lambda group: len(group.of(messages.Step)) >= 1)
        assert own_stem.pid is not None
        os.kill(own_stem.pid, signal.SIGKILL)
        wait_until(gone=own_stem.pid)
        seen = len(group.of(messages.Step))
        group.listen(until=lambda group: len(group.of(messages.Step)) >= seen + 3)
        # its death is noticed and mended; the orphans can still be stopped, heard and signalled
        assert own_stem.ensure() is True
        assert own_stem.ensure() is False
        own_stem.wait_ready(PATIENCE_S)
        group.handles[0].send(messages.Stop("test"))
        group.listen()
        assert [type(last) for last in group.last_words] == [messages.Stopped, messages.Stopped]
        assert group.exits == [Exit(None, None)] * 2, "only a parent learns the exit status"
        with started(starter, make_job(tiny_dataset, steps=2), 1) as another:
            another.listen()
            assert another.exits == [Exit(0, None)]
    own_stem.close()


def test_killing_the_supervisor_kills_its_ranks_and_their_children(
    own_stem: ForkServer, tiny_dataset: Path, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    (tmp_path / "begetting.py").write_text(
        "import os, subprocess\n"
        "from jobs.models.gpt import GPTTask, task as gpt_task\n"
        "def task() -> GPTTask:\n"
        f"    child = subprocess.Popen(['sleep', '3600'])\n"
        f"    open({str(pids)!r}, 'a').write(f'{{os.getpid()}} {{child.pid}}\\n')\n"
        "    return gpt_task(layers=1, d_model=32, heads=2, seq_len=16)\n"
    )
    script = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from dataclasses import replace
        from jobs.train import messages
        from jobs.train.forkserver import ForkServerStarter
        from tests.train.ranks import make_job, started
        job = make_job(Path({str(tiny_dataset)!r}), steps={FOREVER}, task="begetting:task", args={{}},
                       code_paths=({str(tmp_path)!r},))
        with started(ForkServerStarter({str(own_stem.socket_path)!r}), job, 2) as group:
            group.listen(until=lambda group: len(group.of(messages.Step)) >= 1)
            sys.stdout.write("running\\n"); sys.stdout.flush()
            group.listen()
    """)
    repository = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=repository) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == b"running\n"
        born = [int(pid) for pid in pids.read_text().split()]
        assert len(born) == 4
        assert all(map(pid_alive, born))
        supervisor.kill()
    for pid in born:
        wait_until(gone=pid)
    own_stem.close()


def test_killing_the_supervisor_kills_ranks_even_without_a_stem(own_stem: ForkServer, tiny_dataset: Path) -> None:
    """The rank watches its control pipe itself."""
    with started(ForkServerStarter(own_stem.socket_path), make_job(tiny_dataset, steps=FOREVER), 1) as group:
        group.listen(until=lambda group: len(group.of(messages.Step)) >= 1)
        handle = group.handles[0]
        assert own_stem.pid is not None
        os.kill(own_stem.pid, signal.SIGKILL)
        os.dup2(os.open("/dev/null", os.O_RDWR), handle._control_w)  # type: ignore[attr-defined]
        wait_until(gone=handle.pid)
    own_stem.close()


def test_the_stem_leaves_with_its_launcher_but_not_before_supervised_ranks(
    short_folder: Path, tiny_dataset: Path
) -> None:
    server = ForkServer(short_folder / "stem")
    server.warm(timeout_s=PATIENCE_S)
    pid = server.pid
    assert pid is not None
    with started(ForkServerStarter(server.socket_path), make_job(tiny_dataset, steps=FOREVER), 1) as group:
        group.listen(until=lambda group: len(group.of(messages.Step)) >= 1)
        server._close_fds()  # what the kernel does when the launcher is killed
        group.handles[0].send(messages.Stop("test"))
        group.listen()
        assert group.exits == [Exit(0, None)], "the stem was there to the end"
    assert server._process is not None
    server._process.wait(PATIENCE_S)


def test_a_stem_that_cannot_warm_up_says_why(short_folder: Path) -> None:
    server = ForkServer(short_folder / "stem", preload=("no_such_module_here",))
    with pytest.raises(StartError, match="no_such_module_here"):
        server.warm(timeout_s=PATIENCE_S)
    server.close()


def test_a_preload_that_starts_a_thread_is_refused(short_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "threading_module.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    server = ForkServer(short_folder / "stem", preload=("threading_module",), env={"PYTHONPATH": str(tmp_path)})
    with pytest.raises(StartError, match="1 threads"):
        server.warm(timeout_s=PATIENCE_S)
    server.close()


def test_an_unknown_request_is_answered_and_a_broken_one_is_dropped(stem: ForkServer) -> None:
    with wire.connect(str(stem.socket_path)) as client:
        wire.send(client, {"op": "dance"})
        answer, _ = wire.receive(client)
        assert "unknown request 'dance'" in answer["error"]
        client.send(b"[not an object]")
        with pytest.raises(wire.StemGoneError):
            wire.receive(client)
    assert stem_status(stem.socket_path)["threads"] == 1
