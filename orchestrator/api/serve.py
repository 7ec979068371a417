"""The server's process: one per state folder. Opens the ledger, leads if nobody does, answers until it is told to stop.

In order, so that nothing half started is left: lock, database, Cluster, sockets, control loop, HTTP; and back.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import getpass
import hashlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import structlog
import uvicorn
from prometheus_client import CollectorRegistry

from jobs.code.store import CodeStore
from orchestrator.adapters.secret_files import SECRETS_FOLDER
from orchestrator.api.app import create_app
from orchestrator.api.audit import AuditLog
from orchestrator.api.differences import must_drain
from orchestrator.api.guard import Guard
from orchestrator.api.listening import Listener, tcp_listener, unix_listener
from orchestrator.api.rehearsal import rehearsed_ports
from orchestrator.api.retention import CodeRetention, Retention
from orchestrator.api.service import Service
from orchestrator.api.watch import WatchedLedger
from orchestrator.ledger.errors import ConflictError
from orchestrator.ledger.job_reads import JobFilter
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.schema import check_schema, upgrade, version_of
from orchestrator.ledger.states import ENDED, JobState
from orchestrator.ports import UnreachableError
from orchestrator.service.folders import JOBS_FOLDER
from orchestrator.service.herald import Herald
from orchestrator.service.local_nodes import default_cluster
from orchestrator.service.logs import FileLogArchive
from orchestrator.service.loop import ControlLoop, LivePorts
from orchestrator.service.visits import Visits
from orchestrator.spec import Cluster, load_one
from orchestrator.spec.errors import ExitCode, UserError

SOCKET_NAME, LOCK_NAME, LOGS_NAME, AUDIT_NAME = "tide.sock", "server.lock", "logs/jobs", "logs/audit.jsonl"
_GRACE_S = 3
# The writing thread holds transactions open while it waits for its turn: the usual 5 ms would make each commit late.
_SWITCH_S = 0.0005
# Jobs are kept in memory by the ten thousand: looking through them for cycles often would cost more than it frees.
COLLECT = (20_000, 20, 50)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What `tide server` was told. `rehearse`: virtual devices, timers as jobs."""

    home: Path
    database: str
    listen: str | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    plain_http: bool = False
    cluster: Path | None = None
    rehearse: bool = False
    every_s: float = 1.0
    keep_events_s: float = 90 * 86_400.0
    keep_logs_s: float = 30 * 86_400.0


def run_server(options: ServerOptions, *, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C. Must run in the main thread. `say` tells a person what goes on."""
    sys.setswitchinterval(_SWITCH_S)
    gc.set_threshold(*COLLECT)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(_only_one(options.home))
        ledger = _open_ledger(options.database, options.home)
        stack.callback(_close, ledger)
        _prepare_cluster(ledger, options.cluster)
        listeners = _listeners(options, ledger, stack)
        stack.callback((options.home / SOCKET_NAME).unlink, missing_ok=True)
        ports = _ports(options, ledger)
        watched = WatchedLedger(ledger)
        retention = Retention(ledger, ports.logs, options.keep_events_s, options.keep_logs_s)
        of_code = CodeRetention(ledger, CodeStore(options.home), options.keep_logs_s)
        of_loop = replace(ports, ledger=watched, chores=(*ports.chores, retention, of_code))
        loop = ControlLoop(of_loop, every_s=options.every_s)
        service = _service(options, ledger, watched, loop, ports)
        stack.callback(service.close)
        loop.start()
        stack.callback(loop.stop)
        herald = Herald(ledger, options.home / SECRETS_FOLDER, time.time, service.hook_hosts)
        herald.start()
        stack.callback(herald.stop)
        _write_lock(lock, listeners)
        say(f"listening on {', '.join(one.address for one in listeners)}; Ctrl-C stops it")
        with asyncio.Runner(loop_factory=uvicorn.Config("", loop="auto", log_config=None).get_loop_factory()) as runner:
            runner.run(_serve(service, listeners))
        say("stopping; jobs that run go on")


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[IO[str]]:
    """The lock of a state folder, held while the process lives, however it ends."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(home / LOCK_NAME, "a+", encoding="utf-8", opener=_private) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            problem = "a server runs on this state folder already"
            step = "Stop it with 'tide server stop', or set TIDE_HOME to another folder"
            raise UserError(problem, code=ExitCode.CONFLICT, where=str(home), next_step=step) from None
        yield lock
        lock.truncate(0)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_lock(lock: IO[str], listeners: Sequence[Listener]) -> None:
    lock.seek(0)
    lock.truncate(0)
    json.dump({"pid": os.getpid(), "addresses": [one.address for one in listeners], "since_s": time.time()}, lock)
    lock.flush()


def _open_ledger(url: str, home: Path) -> Ledger:
    """The ledger, set up if it is new. Raises: UserError for one of another version, or that does not answer."""
    # The name is the state folder's, which one process holds at a time: one that was killed must not keep the next
    # one waiting for its lead to run out.
    folder = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:12]
    holder = f"{socket.gethostname()[:100]}:{folder}"
    ledger = Ledger(url, holder=holder, clock=time.time)
    try:
        with ledger.database.reading() as connection:
            is_new = version_of(connection) is None
        if is_new:
            upgrade(ledger.database)
        with ledger.database.reading() as connection:
            check_schema(connection)
    except UnreachableError as error:
        ledger.database.close()
        problem = f"the database does not answer: {error}"
        raise UserError(problem, code=ExitCode.UNREACHABLE, next_step="Is it running?") from error
    except BaseException:
        ledger.database.close()
        raise
    return ledger


def _close(ledger: Ledger) -> None:
    try:
        ledger.close()
    except UnreachableError as error:
        _log.warning("the lead was not given up: the next server waits for it to run out", error=str(error))


def _prepare_cluster(ledger: Ledger, file: Path | None) -> None:
    """Apply the Cluster that was named, or this machine where there is none yet; who does not lead applies nothing."""
    wanted = None if file is None else load_one(file, Cluster)
    if not ledger.lead():
        return
    found = ledger.read.cluster()
    if wanted is None:
        if found is None:
            ledger.apply(default_cluster())
        return
    live = tuple(state for state in JobState if state not in ENDED)
    jobs = ledger.read.jobs(JobFilter(states=live, limit=1_000_000))
    drains = must_drain(found[1] if found else None, wanted, jobs, ledger.read.leases())
    if drains:
        step = "Start with the Cluster that holds (without --cluster), and 'tide apply' this one once they are gone"
        raise ConflictError("in use: " + "; ".join(drains), where=str(file), next_step=step)
    ledger.apply(wanted)


def _listeners(options: ServerOptions, ledger: Ledger, stack: contextlib.ExitStack) -> list[Listener]:
    found = [unix_listener(options.home / SOCKET_NAME)]
    stack.callback(found[0].socket.close)
    if options.listen is not None:
        now_ms = time.time() * 1000
        any_key = any(
            row.revoked_ms is None and (row.expires_ms is None or row.expires_ms > now_ms)
            for row in ledger.read.api_keys()
        )
        beyond = tcp_listener(
            options.listen,
            certificate=options.certificate,
            private_key=options.private_key,
            plain=options.plain_http,
            any_key=any_key,
        )
        stack.callback(beyond.socket.close)
        found.append(beyond)
    elif options.certificate is not None or options.private_key is not None:
        raise UserError("TLS is of no use on a unix socket", code=ExitCode.USAGE, next_step="Add --listen HOST:PORT")
    return found


def _ports(options: ServerOptions, ledger: Ledger) -> LivePorts:
    if options.rehearse:
        return rehearsed_ports(ledger, FileLogArchive(options.home / LOGS_NAME))
    from orchestrator.service.live import live_ports  # Ray takes seconds to import

    return live_ports(ledger, cluster=options.cluster, state=options.home)


def _service(
    options: ServerOptions, ledger: Ledger, watched: WatchedLedger, loop: ControlLoop, ports: LivePorts
) -> Service:
    registry = CollectorRegistry()
    service = Service(
        ledger,
        watched,
        loop,
        ports.logs,
        audit=AuditLog(options.home / AUDIT_NAME),
        registry=registry,
        visits=Visits(None if options.rehearse else options.home / JOBS_FOLDER / "jobs"),
        check_cluster=_anything if options.rehearse else _runnable,
        secrets=options.home / SECRETS_FOLDER,
        code=CodeStore(options.home),
        describe=ports.describe,
        footprint=ports.footprint,
    )
    if ports.metrics is not None:
        ports.metrics.leading = lambda: loop.health().leading
        ports.metrics.waiting = service.reasons.counts
        registry.register(ports.metrics)
    return service


def _anything(cluster: Cluster) -> None:
    """Virtual devices can be anything."""


def _runnable(cluster: Cluster) -> None:
    """Raises: UserError for a Cluster that this version can neither observe nor run on."""
    from orchestrator.service.live import require_adapters

    require_adapters(cluster, "cluster")


async def _serve(service: Service, listeners: Sequence[Listener]) -> None:
    """All listeners over one application, in one event loop, until a signal."""
    app, owner = create_app(service), getpass.getuser()
    servers = []
    for at, listener in enumerate(listeners):
        config = uvicorn.Config(
            Guard(app, service, listener.entrance, owner=owner),
            # The application begins and ends once, whatever it listens on.
            lifespan="on" if at == 0 else "off",
            ssl_certfile=listener.certificate,
            ssl_keyfile=listener.private_key,
            log_config=None,
            access_log=False,
            # Who asks is who connects; a proxy in front passes keys on, and no addresses.
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
            timeout_keep_alive=75,
        )
        servers.append((_Server(config), listener.socket))

    def stop() -> None:
        # Streams end first: a server waits for its connections.
        service.hub.stop_streams()
        service.visits.close()
        for server, _ in servers:
            server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    async with asyncio.TaskGroup() as group:
        for server, bound in servers:
            group.create_task(server.serve(sockets=[bound]))


class _Server(uvicorn.Server):
    """Signals are for all servers of the process, not for each."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def read_lock(home: Path) -> dict[str, Any] | None:
    """What the running server wrote of itself; None where none runs."""
    try:
        with open(home / LOCK_NAME, "r+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found: dict[str, Any] = json.loads(lock.read() or "{}")
                return found
    except (FileNotFoundError, ValueError):
        pass
    return None
