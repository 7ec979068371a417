"""A local Ray cluster in a process of its own, which outlives whoever asked for it.

`LocalCluster` ties its nodes to the process that started them, as a test or one command wants it. Where jobs must
outlive the server, this process holds the nodes instead: its folder tells where they are and by which token, and the
lock on that folder tells whether it lives. Run as `python -m orchestrator.adapters.ray_cluster.host FOLDER`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.adapters.detached import reap, spawn
from orchestrator.adapters.files import hold_lock, is_held, read_json, write_json
from orchestrator.spec.errors import ExitCode, UnreachableError, UserError

START_S = 60.0
STOP_S = 30.0
_WHERE, _TOKEN, _SIZES, _LOCK, _LOG = "ray.json", "token", "nodes.json", "lock", "host.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class RayAddress:
    """How to reach a Ray cluster: `host_port` of its control store, and the file with its token (None: it has none)."""

    host_port: str
    token_file: Path | None = None

    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to be let in."""
        if self.token_file is None:
            return {}
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)}

    def token(self) -> str | None:
        """The token. Raises: UnreachableError when its file cannot be read."""
        if self.token_file is None:
            return None
        try:
            return self.token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UnreachableError(f"the token of Ray at {self.host_port} cannot be read: {error}") from error


def find_host(folder: Path) -> RayAddress:
    """Where the cluster of this folder is. Raises: UnreachableError while there is none."""
    where = read_json(folder / _WHERE)
    if where is None or not is_held(folder / _LOCK):
        raise UnreachableError(f"no local Ray cluster runs for {folder}")
    return RayAddress(host_port=str(where["address"]), token_file=folder / _TOKEN if where["token"] else None)


def is_hosted(folder: Path) -> bool:
    """Whether a cluster of this folder runs, or is just starting."""
    return is_held(folder / _LOCK)


def start_host(folder: Path, nodes: list[dict[str, Any]]) -> None:
    """Begin to start a cluster with nodes of these sizes (`NodeSize`), unless one runs; returns at once."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if is_held(folder / _LOCK):
        return
    write_json(folder / _SIZES, nodes)
    spawn((sys.executable, "-m", "orchestrator.adapters.ray_cluster.host", str(folder)), folder / _LOG, os.environ)


def await_host(folder: Path, *, timeout_s: float = START_S, sleep: Callable[[float], None] = time.sleep) -> RayAddress:
    """The cluster's address once it has started. Raises: UserError (unreachable) when it does not."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            return find_host(folder)
        except UnreachableError:
            if time.monotonic() > deadline_s:
                raise UserError(
                    f"Ray did not start within {timeout_s:g} s",
                    code=ExitCode.UNREACHABLE,
                    where=str(folder),
                    next_step=f"Its output is in {folder / _LOG}",
                ) from None
        sleep(0.1)


def stop_host(folder: Path, *, timeout_s: float = STOP_S, sleep: Callable[[float], None] = time.sleep) -> None:
    """End the cluster and everything that runs on it; nothing is left. Raises: UserError when it does not end."""
    deadline_s = time.monotonic() + timeout_s
    pid = None
    while is_held(folder / _LOCK):
        where = read_json(folder / _WHERE)
        if where is not None:
            pid = int(where["pid"])
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if time.monotonic() > deadline_s:
            raise UserError(f"Ray did not end within {timeout_s:g} s", code=ExitCode.UNREACHABLE, where=str(folder))
        sleep(0.1)
    if pid is not None:
        reap(pid)


def main(folder: Path) -> int:
    """Hold a cluster until SIGTERM. Returns at once if another process holds it."""
    from orchestrator.adapters.ray_cluster.local import LocalCluster, NodeSize

    with contextlib.ExitStack() as stack:
        if not hold_lock(folder / _LOCK, stack):
            return 0
        (folder / _WHERE).unlink(missing_ok=True)
        sizes = tuple(NodeSize(**one) for one in read_json(folder / _SIZES) or [asdict(NodeSize())])
        cluster = stack.enter_context(LocalCluster(sizes))
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):  # Ray has put a handler of its own there
            signal.signal(number, lambda *_: ended.set())
        token = os.environ.get("RAY_AUTH_TOKEN")
        if token:
            _write_token(folder / _TOKEN, token)
            stack.callback((folder / _TOKEN).unlink, missing_ok=True)
        nodes = [node.node_id for node in cluster.nodes]
        stack.callback((folder / _WHERE).unlink, missing_ok=True)
        write_json(
            folder / _WHERE,
            {
                "address": str(cluster.nodes[0].handle.gcs_address),
                "pid": os.getpid(),
                "token": bool(token),
                "nodes": nodes,
            },
        )
        ended.wait()
    return 0


def _write_token(path: Path, token: str) -> None:
    """For its owner alone, from the first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(token)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
