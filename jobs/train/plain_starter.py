"""The plain start: a new interpreter for each rank. Slow (seconds of imports a rank), but it works everywhere."""

from __future__ import annotations

import os
import subprocess
import sys

from jobs.train.config import StartRequest
from jobs.train.rank_handle import PipeHandle, RankPipes
from jobs.train.starters import Exit, StartError


class PlainStarter:
    """Starts ranks as `python -m jobs.train.rank`, children of this process."""

    def __init__(self, python: str = sys.executable) -> None:
        self._python = python

    def start(self, request: StartRequest, *, output_fd: int | None = None) -> PlainHandle:
        """Raises: StartError if the interpreter cannot be started."""
        pipes = RankPipes.open()
        command = [self._python, "-m", "jobs.train.rank", str(pipes.messages_w), str(pipes.control_r)]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output_fd,
                stderr=output_fd,
                env={**os.environ, **request.env},
                pass_fds=(pipes.messages_w, pipes.control_r),
                process_group=0,  # Ctrl-C at the terminal is for the supervisor; why no session: see the fork server
            )
        except OSError as error:
            pipes.close()
            raise StartError(f"cannot start a rank with {self._python}: {error.strerror}") from error
        pidfd = os.pidfd_open(process.pid)
        pipes.close_child_ends()
        return PlainHandle(request, process, pidfd, pipes)


class PlainHandle(PipeHandle):
    """A rank that is this process's own child."""

    def __init__(self, request: StartRequest, process: subprocess.Popen[bytes], pidfd: int, pipes: RankPipes) -> None:
        self._process = process
        super().__init__(request, process.pid, pidfd, pipes)

    def _reap(self) -> Exit:
        code = self._process.wait()
        return Exit(code, None) if code >= 0 else Exit(None, -code)
