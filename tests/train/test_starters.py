"""One contract for both ways to start a rank."""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

import pytest

from jobs.train import messages
from jobs.train.forkserver import ForkServer, ForkServerStarter
from jobs.train.forkserver_client import pid_alive
from jobs.train.plain_starter import PlainStarter
from jobs.train.starters import Exit, RankStarter, StartError
from tests.train.ranks import make_job, requests, run, started

pytestmark = pytest.mark.cluster
FOREVER = 10**9


@pytest.fixture(params=["forked", "plain"])
def starter(request: pytest.FixtureRequest) -> RankStarter:
    if request.param == "plain":
        return PlainStarter()
    stem: ForkServer = request.getfixturevalue("stem")
    return ForkServerStarter(stem.socket_path)


def test_a_rank_reports_its_life_in_order_and_exits_with_0(starter: RankStarter, tiny_dataset: Path) -> None:
    group = run(starter, make_job(tiny_dataset, steps=2), 1)
    assert [p.part for p in group.of(messages.Phase)] == [
        "process_start",
        "imports",
        "process_groups",
        "engine",
        "state",
        "first_step",
        "snapshot",
    ]
    assert [step.step for step in group.of(messages.Step)] == [1, 2]
    assert isinstance(group.last_words[0], messages.Finished)
    assert group.last_words[0].metrics["train_loss"] == group.losses[-1]


def test_stop_kill_and_close_end_a_rank_as_they_should(starter: RankStarter, tiny_dataset: Path) -> None:
    """Three lives at once, because a plain start takes seconds."""
    job = make_job(tiny_dataset, steps=FOREVER)
    with started(starter, job, 1) as stopped, started(starter, job, 1) as killed, started(starter, job, 1) as closed:
        for group in (stopped, killed, closed):
            group.listen(until=lambda group: len(group.of(messages.Step)) >= 1)
            assert pid_alive(group.handles[0].pid)
        stopped.handles[0].send(messages.Stop("drain"))
        stopped.listen()
        assert stopped.exits == [Exit(0, None)]
        assert isinstance(stopped.last_words[0], messages.Stopped)
        assert stopped.last_words[0].reason == "drain"

        killed.handles[0].signal(signal.SIGKILL)
        killed.listen()
        assert killed.exits == [Exit(None, signal.SIGKILL)]
        killed.handles[0].send(messages.Stop("too late"))
        killed.handles[0].signal(signal.SIGKILL)
        assert select.select([killed.handles[0]], [], [], 0)[0] == [], "an ended rank keeps no selector busy"

        closed.handles[0].close()
        assert not pid_alive(closed.handles[0].pid)
        closed.handles[0].close()


def test_a_bad_task_is_a_message_and_an_exit_code(starter: RankStarter, tiny_dataset: Path) -> None:
    group = run(starter, make_job(tiny_dataset, task="jobs.models.gpt:tusk"), 1, succeed=False)
    failure = group.last_words[0]
    assert isinstance(failure, messages.Failed)
    assert failure.kind == "user_code"
    assert "tusk" in failure.detail
    assert group.exits == [Exit(1, None)]


def test_output_environment_folder_and_code_paths_reach_the_rank(
    starter: RankStarter, tiny_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "shipped.py").write_text(
        "import os, subprocess\n"
        "from jobs.models.gpt import GPTTask, task as gpt_task\n"
        "def task() -> GPTTask:\n"
        "    print(os.environ['COLOUR'], os.getcwd(), flush=True)\n"
        "    return gpt_task(layers=1, d_model=32, heads=2, seq_len=16)\n"
    )
    job = make_job(tiny_dataset, steps=1, task="shipped:task", args={}, code_paths=(str(tmp_path),))
    [request] = requests(job, 1, env={"COLOUR": "teal"})
    log = tmp_path / "log"
    with log.open("wb") as output:
        handle = starter.start(
            type(request)(**{**{k: getattr(request, k) for k in request.__slots__}, "cwd": str(tmp_path)}),
            output_fd=output.fileno(),
        )
    said = list(handle.messages())
    handle.close()
    assert isinstance(said[-1], messages.Finished), said[-1]
    assert f"teal {tmp_path}" in log.read_text()


def test_a_missing_interpreter_is_a_start_error(tiny_dataset: Path) -> None:
    [request] = requests(make_job(tiny_dataset), 1)
    with pytest.raises(StartError, match="no-such-python"):
        PlainStarter("/no-such-python").start(request)


def test_a_missing_stem_is_a_start_error(tiny_dataset: Path, short_folder: Path) -> None:
    [request] = requests(make_job(tiny_dataset), 1)
    open_before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StartError, match="no fork server"):
        ForkServerStarter(short_folder / "stem.sock").start(request)
    assert len(os.listdir("/proc/self/fd")) == open_before, "a failed start leaves nothing open"


@pytest.mark.skipif(sys.platform != "linux", reason="process descriptors are Linux")
def test_a_malformed_line_condemns_the_rank(forked: RankStarter, tiny_dataset: Path, tmp_path: Path) -> None:
    """Half an understanding would corrupt the run's record."""
    (tmp_path / "babbling.py").write_text(
        "import os\n"
        "from jobs.models.gpt import GPTTask, task as gpt_task\n"
        "def task() -> GPTTask:\n"
        "    for fd in map(int, os.listdir('/proc/self/fd')):\n"
        "        try:\n"
        "            if 'pipe' in os.readlink(f'/proc/self/fd/{fd}') and fd > 2:\n"
        "                os.write(fd, b'{\"hello\": 1}\\n')\n"
        "        except OSError:\n"
        "            pass\n"
        "    return gpt_task(layers=1, d_model=32, heads=2, seq_len=16)\n"
    )
    job = make_job(tiny_dataset, steps=FOREVER, task="babbling:task", args={}, code_paths=(str(tmp_path),))
    group = run(forked, job, 1, succeed=False)
    [failure] = group.of(messages.Failed)
    assert failure.kind == "internal"
    assert "not a message" in failure.detail
    assert group.exits == [Exit(None, signal.SIGKILL)]
