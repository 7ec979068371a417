"""What the routes work with: reads on threads of their own, writes through one, and decisions on a snapshot."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from prometheus_client import CollectorRegistry

from jobs.code.store import CodeStore
from orchestrator.api.admission import Admission
from orchestrator.api.audit import AuditLog
from orchestrator.api.callers import KeyRing
from orchestrator.api.counts import HttpCounts
from orchestrator.api.hub import Hub
from orchestrator.api.problems import unreachable
from orchestrator.api.reasons import Reasons
from orchestrator.api.watch import WatchedLedger
from orchestrator.api.writer import Writer
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.facts import facts_of
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.rows import JobRow
from orchestrator.policy.queueing.places import Pool
from orchestrator.policy.queueing.values import Snapshot
from orchestrator.service.footprint import Footprint
from orchestrator.service.logs import LogArchive
from orchestrator.service.loop import LoopHealth
from orchestrator.service.visits import Visits
from orchestrator.spec import Cluster
from orchestrator.spec.errors import ExitCode

T = TypeVar("T")
_READERS = 8
_CLUSTER_LOOK_S = 1.0
# Who comes first is decided about at once; what comes fast after it, together: the loop wakes by itself every second.
_WAKE_EVERY_S = 1.0


class Loop(Protocol):
    """The control loop, as far as the API knows it."""

    def wake(self) -> None:
        """Run the next cycle now."""
        ...

    def health(self) -> LoopHealth:
        """How it is."""
        ...


@dataclass(frozen=True, slots=True)
class Applied:
    """The Cluster that holds, and what submissions are checked against."""

    generation: int
    cluster: Cluster
    admission: Admission


class Service:
    """One per process. `check_cluster` raises UserError for a Cluster that this server could not run on;
    `secrets` is the folder of what hooks are signed with, `code` where jobs' own code is kept."""

    def __init__(
        self,
        ledger: Ledger,
        watched: WatchedLedger,
        loop: Loop,
        logs: LogArchive,
        *,
        clock: Callable[[], float] = time.time,
        audit: AuditLog | None = None,
        registry: CollectorRegistry | None = None,
        visits: Visits | None = None,
        check_cluster: Callable[[Cluster], None] = lambda cluster: None,
        secrets: Path | None = None,
        code: CodeStore | None = None,
        describe: Callable[[str], dict[str, Any] | None] = lambda job: None,
        footprint: Callable[[str], Footprint | None] = lambda job: None,
    ) -> None:
        self.ledger, self.read, self.watched, self.loop, self.logs = ledger, ledger.read, watched, loop, logs
        self.reasons = Reasons(watched)
        self.clock = clock
        self.check_cluster = check_cluster
        self.secrets = secrets
        self.code = code
        self.describe = describe
        self.footprint = footprint
        self.audit = audit or AuditLog(None)
        self.visits = visits or Visits(None)
        self.counts = HttpCounts(registry or CollectorRegistry())
        self.keys = KeyRing(ledger.read, clock, lambda: self._applied.cluster if self._applied else None)
        self.writer = Writer(ledger, self._committed)
        self.hub = Hub(lambda: self.reading(self.read.last_event))
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="reads")
        self._deciders = ThreadPoolExecutor(1, thread_name_prefix="decides")
        self._applied: Applied | None = None
        self._compared: tuple[Pool, ...] | None = None
        self._compared_same = False
        self._looked_s = float("-inf")
        self._woken_s = float("-inf")
        self._lock = threading.Lock()

    def close(self) -> None:
        """End all threads; what waits to be written is written first."""
        self.writer.close()
        self._readers.shutdown()
        self._deciders.shutdown()
        self.audit.close()

    def now(self) -> dt.datetime:
        """The time, aware."""
        return dt.datetime.fromtimestamp(self.clock(), dt.UTC)

    async def reading(self, work: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Run a read on a thread and a connection of its own."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, lambda: work(*arguments, **named))

    async def deciding(self, work: Callable[[], T]) -> T:
        """Run something that takes long, one at a time, so that it does not keep readers waiting."""
        return await asyncio.get_running_loop().run_in_executor(self._deciders, work)

    async def job(self, name: str) -> JobRow:
        """NAME = its latest run, NAME.N = that run. Raises: UnknownJobError."""
        return await self.reading(self.find_job, name)

    def find_job(self, name: str) -> JobRow:
        """As `job`, on the caller's thread."""
        base, dot, run = name.partition(".")
        if not dot:
            return self.read.latest(base)
        return self.read.job(base if run == "1" else name)

    async def applied(self) -> Applied:
        """The Cluster that holds. Raises: LedgerError (409) when none was applied yet."""
        found = self.applied_now()
        return await self.reading(self.look_up_cluster) if found is None else found

    def applied_now(self) -> Applied | None:
        """The Cluster that holds if it was looked up lately; None: `look_up_cluster` must be asked."""
        fresh = 0 <= time.monotonic() - self._looked_s < _CLUSTER_LOOK_S
        return self._applied if fresh and self._same_pools() else None

    def look_up_cluster(self) -> Applied:
        """Read it, if it has changed. Raises: LedgerError (409) when there is none."""
        with self._lock:
            generation, applied = self.read.generation(), self._applied
            if applied is None or applied.generation != generation or not self._same_pools():
                found = self.read.cluster()
                if found is None:
                    raise LedgerError(
                        "no Cluster was applied yet", code=ExitCode.CONFLICT, next_step="Run 'tide apply CLUSTER.yaml'"
                    )
                pools = self.watched.pools or ()
                admission = Admission(cluster=found[1], facts=facts_of(found[1], found[0]), seen=pools)
                applied = Applied(found[0], found[1], admission)
                self._applied, self._compared = applied, None
            self._looked_s = time.monotonic()
            return applied

    def hook_hosts(self) -> tuple[str, ...]:
        """The hosts that jobs may have called now; none = any. On any thread."""
        return (self.applied_now() or self.look_up_cluster()).cluster.spec.notify.hosts

    def _same_pools(self) -> bool:
        """Whether as many devices are seen as when the checks were made."""
        if self._applied is None:
            return False
        now = self.watched.pools or ()
        if now is not self._compared:
            seen = self._applied.admission.seen
            self._compared_same = _counts(seen) == _counts(now)
            self._compared = now
        return self._compared_same

    def forget_cluster(self) -> None:
        """Another one was applied."""
        self._looked_s = float("-inf")
        self.keys.forget()

    def snapshot(self) -> Snapshot:
        """Everything that decides, now. Raises: NotLeadingError; ApiError (503) before the first cycle."""
        pools = self.watched.pools
        if pools is None:
            raise unreachable("this server has not looked at its capacity yet")
        return self.ledger.snapshot(pools, now_s=self.clock())

    def _committed(self) -> None:
        now_s = time.monotonic()
        if now_s - self._woken_s >= _WAKE_EVERY_S:
            self._woken_s = now_s
            self.loop.wake()
        self.hub.wake()


def _counts(pools: tuple[Pool, ...]) -> list[tuple[str, int]]:
    return [(pool.name, pool.observed) for pool in pools]
