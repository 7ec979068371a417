"""A trial's rank: a job's rank that runs `run_trial`. Forked by `jobs.study.stem`, or started as a new interpreter."""

from __future__ import annotations

import os
import sys

from jobs.train import rank
from jobs.train.channel import Channel
from jobs.train.config import StartRequest


def main(messages_fd: int, control_fd: int) -> int:
    """Run one rank of a trial; returns its exit code."""
    return rank.main(messages_fd, control_fd, _run)


def _run(request: StartRequest, channel: Channel) -> None:
    from jobs.study.session import run_trial

    run_trial(request, channel)


if __name__ == "__main__":
    exit_code = main(int(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # as a job's rank ends: torch's own threads may still run
