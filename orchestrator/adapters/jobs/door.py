"""The door of a job's process: a socket in its folder, by which the control plane lets people look into a running job.

One JSON object a line. Whoever knocks says what he wants: `{"ask": "stacks", "rank"}` is answered with one line;
`{"ask": "exec", "command", "rank", "node", "terminal"}` with `{"began"}` and then pieces of output and one `{"exit"}`,
while he sends pieces of input, or another size of the terminal. A connection that breaks ends its command. Nothing of
what passes is written anywhere.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator.spec.errors import ExitCode, UserError

if TYPE_CHECKING:
    from orchestrator.adapters.ray_train.inside import Inside, RemoteCommand
    from orchestrator.adapters.ray_train.terminal import Size, Terminal

NAME = "door"
_HEAR_S = 2.0
_TRY_AGAIN_S = 0.05
_BACKLOG = 64


@contextlib.contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """The path of a folder's door that is short whatever the folder's is: a socket's path ends at 107 bytes."""
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{handle}/{NAME}"
    finally:
        os.close(handle)


class Door:
    """Open from `open` to `close`; `inside` is the way into the run while there is one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listener: socket.socket | None = None
        self.inside: Inside | None = None

    def open(self) -> None:
        """Answer from now on. Raises: OSError."""
        (self._folder / NAME).unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with short_path(self._folder) as path:
            self._listener.bind(path)
            os.chmod(path, 0o600)  # before anybody can come in
        self._listener.listen(_BACKLOG)
        threading.Thread(target=self._accept, args=(self._listener,), name="door", daemon=True).start()

    def lead_to(self, inside: Inside | None) -> None:
        """The run begins, or ends (`RunOptions.on_inside`)."""
        self.inside = inside

    def close(self) -> None:
        """Let nobody in any more."""
        if self._listener is not None:
            (self._folder / NAME).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                came, _ = listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(came,), name="visitor", daemon=True).start()

    def _serve(self, came: socket.socket) -> None:
        with came, came.makefile("r", encoding="utf-8") as lines:
            try:
                _say(came, self._answer(came, lines))
            except OSError:
                return  # whoever asked has gone
            except UserError as error:
                _try_to_say(came, {"error": _problem(error)})
            except Exception as error:
                traceback.print_exc()
                what = UserError(f"{type(error).__name__} in the job's process", code=ExitCode.BUG)
                _try_to_say(came, {"error": _problem(what)})

    def _answer(self, came: socket.socket, lines: TextIO) -> dict[str, Any]:
        wanted = json.loads(lines.readline() or "{}")
        inside = self.inside
        if inside is None:
            problem = "the job's process has no workers yet, or none any more"
            raise UserError(problem, code=ExitCode.CONFLICT, next_step="Try again once the job runs")
        match wanted.get("ask"):
            case "stacks":
                dump = inside.stacks(wanted["rank"])
                path = None if dump.taken is None else dump.taken.path
                return {"text": dump.text, "path": path, "silent": list(dump.silent)}
            case "exec":
                terminal = _terminal(wanted.get("terminal"))
                command = inside.begin(wanted["command"], rank=wanted["rank"], node=wanted["node"], terminal=terminal)
                try:
                    return _converse(came, lines, command, at_terminal=terminal is not None)
                finally:
                    command.let_go()
            case other:
                raise UserError(f"nobody here knows what {other!r} is", code=ExitCode.USAGE)


def _terminal(wanted: dict[str, Any] | None) -> Terminal | None:
    from orchestrator.adapters.ray_train.terminal import Terminal

    size = _size(wanted)
    return None if wanted is None or size is None else Terminal(kind=wanted["term"], size=size)


def _size(wanted: dict[str, Any] | None) -> Size | None:
    from orchestrator.adapters.ray_train.terminal import Size

    return None if wanted is None else Size(rows=wanted["rows"], columns=wanted["columns"])


def _converse(came: socket.socket, lines: TextIO, command: RemoteCommand, *, at_terminal: bool) -> dict[str, Any]:
    """Pass output on until the command has ended; its end."""
    seat = command.seat
    _say(came, {"began": {"rank": seat.rank, "node": seat.node_id, "terminal": at_terminal}})
    threading.Thread(target=_pass_input, args=(lines, command), name="input", daemon=True).start()
    taken = 0
    while True:
        heard = command.hear(taken, _HEAR_S)
        for chunk in heard.chunks:
            taken = chunk.number
            _say(came, {"out": chunk.stream, "data": base64.b64encode(chunk.data).decode()})
        if heard.code is not None:
            return {"exit": heard.code, "why": heard.why}


def _pass_input(lines: TextIO, command: RemoteCommand) -> None:
    """Until the connection ends, which ends the command."""
    with contextlib.suppress(OSError, ValueError, UserError):
        for line in lines:
            said = json.loads(line)
            data, end = base64.b64decode(said.get("in", "")), bool(said.get("end"))
            while not command.tell(data, end=end, size=_size(said.get("size"))):
                time.sleep(_TRY_AGAIN_S)
    command.let_go()


def _say(came: socket.socket, message: dict[str, Any]) -> None:
    came.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")


def _try_to_say(came: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        _say(came, message)


def _problem(error: UserError) -> dict[str, Any]:
    return {"problem": error.problem, "code": int(error.code), "next_step": error.next_step}
