"""A PostgreSQL server of its own for a test or a benchmark: a fresh cluster, a Unix socket, no network."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


class Postgres:
    """`kill` is a kill -9 of the whole server; `start` recovers it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        # initdb refuses to run as root; Debian's package brings a user for it.
        self._user = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
        self._process: subprocess.Popen[bytes] | None = None
        if self._user:
            shutil.chown(folder, "postgres", "postgres")
        self._run("initdb", "-D", str(self._data), "-U", "tide", "-A", "trust", "--no-instructions")

    @property
    def url(self) -> str:
        return f"postgresql://tide@/postgres?host={self._folder}"

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        lock = self._data / "postmaster.pid"
        lock.unlink(missing_ok=True)  # left by a kill
        options = ["-D", str(self._data), "-k", str(self._folder), "-c", "listen_addresses="]
        self._process = subprocess.Popen(
            [_program("postgres"), *options], cwd=self._folder, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._user,
        )  # fmt: skip
        while not self._is_ready():
            assert self._process.poll() is None, "PostgreSQL did not start"

    def kill(self) -> None:
        """SIGKILL to every process of the server."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _is_ready(self) -> bool:
        command = [_program("pg_isready"), "-h", str(self._folder), "-t", "1"]
        return subprocess.run(command, cwd=self._folder, capture_output=True, check=False).returncode == 0

    def _run(self, *command: str) -> None:
        subprocess.run(
            [_program(command[0]), *command[1:]], cwd=self._folder, check=True, capture_output=True, **self._user
        )


def is_installed() -> bool:
    return shutil.which("pg_ctl") is not None


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    # Short, because a socket's path may have 107 characters; and reachable for another user, unlike pytest's folders.
    with tempfile.TemporaryDirectory(prefix="tide-pg-") as folder:
        server = Postgres(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()


def _program(name: str) -> str:
    """Beside the real pg_ctl: not every program is linked into PATH."""
    found = shutil.which("pg_ctl")
    assert found is not None
    return str(Path(found).resolve().with_name(name))
