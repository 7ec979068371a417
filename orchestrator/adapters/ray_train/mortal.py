"""Become a command that dies with the process that asked for it: run as `python -I -S mortal.py PID COMMAND...`.

A command beside a rank must not outlive the run's agent on the node, and Linux only tells a process itself to end with
its parent. Exits 127 where there is no such program and 126 where it cannot be run, as shells do.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
import termios

_PR_SET_PDEATHSIG = 1
_DEFAULTS = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGTERM,
    signal.SIGPIPE,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
)


def main(parent: int, command: list[str]) -> int:
    """Returns only if the command could not be started."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1  # it has ended meanwhile, and nothing would end this process
    if os.isatty(0):
        # What is typed there, Ctrl-C among it, is for this session from now on.
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # What Python, or whoever started the server in the background, has chosen for itself is not the command's: a shell
    # that is born with Ctrl-C ignored ignores it for good.
    for number in _DEFAULTS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execvp(command[0], command)  # noqa: S606 - a program by name is what is asked for
    except OSError as error:
        sys.stderr.write(f"tide exec: {command[0]}: {error.strerror}\n")
        return 127 if isinstance(error, FileNotFoundError) else 126


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
