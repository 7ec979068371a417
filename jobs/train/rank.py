"""A rank's process from its first instruction to its exit code.

Reached in two ways: the stem calls `main` in a forked child, and `python -m jobs.train.rank` runs in a new
interpreter. Imports nothing heavy at the top, so that the plain start can say how long the imports took.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

from jobs.train.channel import Channel
from jobs.train.config import StartRequest
from jobs.train.failures import classify
from jobs.train.messages import Failed, Phase

EXIT_FAILED = 1
# Ray's workers are at 15. A rank computes without end, and where cores are short those who start, keep and stop ranks
# must come first: fifty ranks on two cores kept a new worker from starting for more than a minute.
NICENESS = 19


def main(messages_fd: int, control_fd: int, run: Callable[[StartRequest, Channel], None] | None = None) -> int:
    """Run one rank; returns its exit code. Every failure is reported before it ends. `run` replaces the training of a
    job as what the rank does once its process is prepared.
    """
    born_s = _process_birth_s()
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)  # first of all: other ranks of this node are still to be forked
    channel = Channel(messages_fd, control_fd)
    try:
        request = channel.read_request()
    except EOFError:
        return EXIT_FAILED
    channel.watch()
    # Whoever wants to know where this rank stands, and may not read another process's memory, asks it.
    faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)
    channel.send(Phase("process_start", max(0.0, time.time() - born_s)))
    try:
        _take_place(request)
        _run(request, channel, run)
    except BaseException as error:
        channel.send(Failed(classify(error), f"{type(error).__name__}: {error}", traceback.format_exc()))
        traceback.print_exc()
        return EXIT_FAILED
    return 0


def _run(request: StartRequest, channel: Channel, run: Callable[[StartRequest, Channel], None] | None) -> None:
    started_s = time.monotonic()
    from jobs.train.preload import prepare_process

    prepare_process()
    from jobs.train.session import run_rank

    channel.send(Phase("imports", time.monotonic() - started_s))
    (run or run_rank)(request, channel)


def _take_place(request: StartRequest) -> None:
    """Environment, folder and import path of the request; what the stem's imports froze is set again."""
    os.environ.update(request.env)
    if request.cwd:
        os.chdir(request.cwd)
    sys.path[:0] = [path for path in request.job.code_paths if path not in sys.path]
    with open("/proc/self/comm", "w") as name:
        name.write(f"tide-rank-{request.rank}")
    if torch := sys.modules.get("torch"):
        # The thread pool read its variable when torch was imported.
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def _process_birth_s() -> float:
    """When the kernel made this process, in seconds since the epoch (to a hundredth)."""
    with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
        ticks = int(stat.read().rpartition(")")[2].split()[19])
        age_s = float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age_s


if __name__ == "__main__":
    exit_code = main(int(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    # As a forked rank ends: torch's own threads may still run, and the interpreter's way out can abort on them.
    os._exit(exit_code)
