"""Where the server is: TIDE_SERVER, else the context file, else the socket in the state folder. Entry points only."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.spec.errors import ExitCode, UserError

SERVER, KEY = "TIDE_SERVER", "TIDE_API_KEY"
_WANT = "write unix:///path/of/socket, http://HOST:PORT or https://HOST:PORT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A server. `socket` or `url` is set; `local`: it is this user's own, and may be started where it does not run.

    `ca`: a file with certificates to trust beside the system's.
    """

    url: str
    socket: Path | None = None
    key: str | None = None
    ca: Path | None = None
    local: bool = False

    def __str__(self) -> str:
        return self.url if self.socket is None else f"unix://{self.socket}"


def find_place(home: Path) -> Place:
    """The server that this process talks to. Raises: UserError for a name or context file that is none."""
    named = os.environ.get(SERVER)
    if named:
        return _parsed(named, SERVER, key=os.environ.get(KEY), ca=None)
    file = home / "context.json"
    if file.is_file():
        return _from_file(file)
    return Place(url="http://localhost", socket=home / "tide.sock", key=os.environ.get(KEY), local=True)


def _from_file(file: Path) -> Place:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        server, ca = str(data["server"]), data.get("ca_file")
        key_file = data.get("key_file")
        key = Path(key_file).expanduser().read_text(encoding="utf-8").strip() if key_file else os.environ.get(KEY)
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"the context file cannot be read: {type(error).__name__}: {error}"
        step = 'It holds {"server": URL, "key_file": PATH, "ca_file": PATH}; mend or remove it'
        raise UserError(problem, code=ExitCode.USAGE, where=str(file), next_step=step) from None
    return _parsed(server, str(file), key=key, ca=Path(ca).expanduser() if ca else None)


def _parsed(text: str, where: str, *, key: str | None, ca: Path | None) -> Place:
    parts = urlsplit(text)
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return Place(url="http://localhost", socket=Path(parts.path), key=key)
    if parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/"):
        if parts.scheme == "http" and key and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            problem = f"{text!r} would send the API key in plain text"
            raise UserError(problem, code=ExitCode.USAGE, where=where, next_step="Use https://")
        return Place(url=f"{parts.scheme}://{parts.netloc}", key=key, ca=ca)
    raise UserError(f"{text!r} is no address of a server", code=ExitCode.USAGE, where=where, next_step=_WANT)
