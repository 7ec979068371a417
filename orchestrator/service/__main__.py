"""The control loop alone: `python -m orchestrator.service STATE [CLUSTER]`, until SIGTERM. No API, no people.

`tide server` is this with an API; here it is for rehearsals and for tests that kill it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from orchestrator.adapters.files import hold_lock
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.schema import upgrade
from orchestrator.service.live import live_ports
from orchestrator.service.loop import ControlLoop
from orchestrator.spec.errors import ExitCode


def main(state: Path, cluster: Path | None, *, every_s: float = 0.5) -> int:
    """Lead and decide over the SQLite ledger in `state`."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if not hold_lock(state / "server.lock", stack):
            sys.stderr.write(f"{state}: another process decides here; it must end first\n")
            return ExitCode.CONFLICT
        return _decide(state, cluster, every_s)


def _decide(state: Path, cluster: Path | None, every_s: float) -> int:
    # The holder is this machine's folder, not this process: one that was killed must not keep the next one waiting.
    ledger = Ledger(f"sqlite:///{state / 'tide.db'}", holder=f"{socket.gethostname()}:{state}"[:128], clock=time.time)
    upgrade(ledger.database)
    loop = ControlLoop(live_ports(ledger, cluster=cluster, state=state), every_s=every_s)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    loop.start()
    sys.stderr.write(f"pid {os.getpid()} decides for {state}\n")
    ended.wait()
    loop.stop()
    ledger.close()
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
