"""The launcher of a node's stem: start it early, know when it is warm, start it again when it dies.

Plain class without threads; whoever hosts it (the node's agent) calls `ensure` now and then. Ranks that were forked
before a restart go on: they do not need the stem.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.train.forkserver_client import ForkServerStarter
from jobs.train.starters import StartError

__all__ = ["ForkServer", "ForkServerStarter", "StemReady"]

_MAX_SOCKET_PATH = 107  # sun_path of a unix socket, less its final zero
_CLOSE_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StemReady:
    """A warm stem: its pid, the device its ranks will use, and how long it took.

    `rehearsed` False means that the first group reads the libraries' code from disk (always so with CUDA).
    """

    pid: int
    accelerator: str
    seconds: float
    rehearsed: bool


class ForkServer:
    """One stem and its socket, in a folder that only this user may enter.

    `preload` names further modules to import before the fork, such as the task's. `env` is added to the environment;
    `log_fd` takes the stem's own output (None: this process's stderr). `stem_module` is run instead of the stem whose
    children are ranks of a job.
    """

    def __init__(
        self,
        folder: Path,
        *,
        preload: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        log_fd: int | None = None,
        python: str = sys.executable,
        stem_module: str = "jobs.train.forkserver_stem",
    ) -> None:
        self._stem_module = stem_module
        self._folder = folder
        self._preload = preload
        self._env = dict(env or {})
        self._log_fd = log_fd
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline_w = self._ready_r = -1
        self._ready: StemReady | None = None

    @property
    def socket_path(self) -> Path:
        """Where ranks are asked for; give it to `ForkServerStarter`."""
        return self._folder / "stem.sock"

    @property
    def pid(self) -> int | None:
        """The stem's pid, None if none was started."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Begin importing in a new process; returns at once.

        Raises: StartError if the folder is not private or its path too long.
        """
        if self._process is not None:
            raise ValueError("already started; use restart()")
        self._prepare_folder()
        lifeline_r, self._lifeline_w = os.pipe()
        self._ready_r, ready_w = os.pipe()
        command = [self._python, "-m", self._stem_module, "--socket", str(self.socket_path)]
        command += ["--lifeline-fd", str(lifeline_r), "--ready-fd", str(ready_w)]
        command += [word for module in self._preload for word in ("--preload", module)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._log_fd if self._log_fd is not None else 2,
                stderr=self._log_fd,
                env={**os.environ, **self._env},
                pass_fds=(lifeline_r, ready_w),
                process_group=0,  # no session of its own: see where it forks
            )
        except OSError as error:
            self._close_fds()
            raise StartError(f"cannot start the fork server with {self._python}: {error.strerror}") from error
        finally:
            os.close(lifeline_r)
            os.close(ready_w)

    def wait_ready(self, timeout_s: float) -> StemReady:
        """The warm stem.

        Raises: StartError if it is not warm after `timeout_s`, or says why it never will be.
        """
        if self._process is None:
            raise ValueError("start() first")
        if self._ready is None:
            line = self._read_ready_line(timeout_s)
            answer: dict[str, Any] = (
                json.loads(line) if line else {"error": f"it ended with code {self._process.wait()}"}
            )
            if "error" in answer:
                raise StartError(f"the fork server could not warm up: {answer['error']}")
            self._ready = StemReady(
                pid=self._process.pid,
                accelerator=answer["accelerator"],
                seconds=answer["seconds"],
                rehearsed=answer["rehearsed"],
            )
        return self._ready

    def warm(self, timeout_s: float = 300.0) -> StemReady:
        """`start` if needed, then `wait_ready`."""
        if self._process is None:
            self.start()
        return self.wait_ready(timeout_s)

    def is_alive(self) -> bool:
        """Whether the stem's process runs; it may still be importing."""
        return self._process is not None and self._process.poll() is None

    def ensure(self) -> bool:
        """Start the stem again if it has died; True if it had. Running ranks are not affected."""
        if self.is_alive():
            return False
        self.restart()
        return True

    def restart(self) -> None:
        """End the stem, let its ranks go on, and start a new one; returns at once."""
        self._kill()
        self.start()

    def close(self) -> None:
        """End the stem. Ranks without a supervisor go with it; supervised ones live as long as their supervisors."""
        if self._process is None:
            return
        self._close_fds()  # the lifeline: it leaves by itself, unless ranks hold it
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_PATIENCE_S)
        self._kill()
        self.socket_path.unlink(missing_ok=True)

    def _kill(self) -> None:
        self._close_fds()
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self._process, self._ready = None, None

    def _close_fds(self) -> None:
        for fd in (self._lifeline_w, self._ready_r):
            if fd >= 0:
                os.close(fd)
        self._lifeline_w = self._ready_r = -1

    def _prepare_folder(self) -> None:
        if len(os.fsencode(self.socket_path)) > _MAX_SOCKET_PATH:
            raise StartError(
                f"{self.socket_path}: a socket's path has at most {_MAX_SOCKET_PATH} bytes; use a shorter one"
            )
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = self._folder.stat()
        if about.st_uid != os.getuid() or stat.S_IMODE(about.st_mode) & 0o077:
            raise StartError(f"{self._folder}: must belong to this user alone (mode 0700), or others could start ranks")
        self.socket_path.unlink(missing_ok=True)

    def _read_ready_line(self, timeout_s: float) -> bytes:
        deadline_s = time.monotonic() + timeout_s
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._ready_r, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline_s - time.monotonic())):
                    raise StartError(f"the fork server is not warm after {timeout_s:.0f} s")
                data = os.read(self._ready_r, 4096)
                if not data:
                    return b""
                line += data
        return line
