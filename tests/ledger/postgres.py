"""A PostgreSQL server of its own for a test session: unix socket in a temporary folder, no network, no durability."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from sqlalchemy import create_engine, text


def binaries() -> Path | None:
    """Debian keeps the server's programs out of PATH, in a folder for each version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    named = shutil.which("initdb")
    return Path(named).parent if named else None


class Server:
    """Started on entry, stopped on exit. `initdb` refuses root: as root it runs as the user postgres."""

    def __init__(self, folder: Path) -> None:
        programs = binaries()
        assert programs is not None, "asked only where there are binaries"
        self._programs = programs
        # Socket paths have little room, and pytest's folders are long and root's own.
        self._folder = Path(tempfile.mkdtemp(prefix="tide-pg-"))
        self._log = folder / "postgres.log"
        self._databases = 0

    def __enter__(self) -> Server:
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres", "postgres")
        self._folder.chmod(0o755)
        self._run("initdb", "-D", str(self._data), "-U", "tide", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={self._folder} -c fsync=off -c max_connections=40"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._folder / "log"), "-o", options, "start")
        return self

    def __exit__(self, *_: object) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", "immediate", "stop")
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def fresh(self) -> str:
        """The URL of a new, empty database."""
        self._databases += 1
        name = f"tide{self._databases}"
        engine = create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self._url(name)

    def _url(self, name: str) -> str:
        return f"postgresql+psycopg://tide@/{name}?host={self._folder}"

    def _run(self, program: str, *arguments: str) -> None:
        as_whom = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*as_whom, str(self._programs / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
