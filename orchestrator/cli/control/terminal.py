"""The terminal that somebody sits at while a command at the other end has it: raw, and as it was afterwards."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from orchestrator.spec.errors import ExitCode, UserError

_KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_ENDINGS = (signal.SIGTERM, signal.SIGHUP)
Json = dict[str, Any]


def own_terminal() -> Json:
    """Kind and size of the terminal that this process sits at. Raises: UserError (usage) where there is none."""
    if not (os.isatty(0) and os.isatty(1)):
        problem = "-t needs a terminal, and input or output is none"
        raise UserError(problem, code=ExitCode.USAGE, next_step="Leave -t away to pass a file or a pipe through")
    kind = os.environ.get("TERM", "")
    return {"term": kind if _KIND.fullmatch(kind) else "xterm", **own_size()}


def own_size() -> Json:
    """Rows and columns; one that says 0 has not been told yet."""
    size = os.get_terminal_size(1)
    return {"rows": size.lines or 24, "columns": size.columns or 80}


@contextlib.contextmanager
def raw(resized: Callable[[Json], None]) -> Iterator[None]:
    """Every key goes to the command, Ctrl-C too, until this ends, however it does. `resized` is told of every other
    size, on a thread of its own. Main thread only."""
    before = termios.tcgetattr(0)
    sizes: queue.SimpleQueue[Json | None] = queue.SimpleQueue()
    handlers = {number: signal.signal(number, _leave) for number in _ENDINGS}
    handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda *_: sizes.put(own_size()))
    threading.Thread(target=_tell, args=(sizes, resized), daemon=True).start()
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sizes.put(None)


def _tell(sizes: queue.SimpleQueue[Json | None], resized: Callable[[Json], None]) -> None:
    while (size := sizes.get()) is not None:
        resized(size)


def _leave(number: int, _: FrameType | None) -> None:
    """As the signal would, but with the terminal put right first."""
    sys.exit(128 + number)
