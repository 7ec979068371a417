"""One node's keeper: the parts put together, started, stopped, and the few things its host tells and asks it.

Free of Ray: a process, an actor or a test hosts it. Every method may be called from any thread.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from jobs.train.keeper.faults import Faults, no_faults
from jobs.train.keeper.flush_policy import FlushRules
from jobs.train.keeper.flushing import CheckpointStorage, Flusher
from jobs.train.keeper.folder import KeeperFolder
from jobs.train.keeper.landing import Landings
from jobs.train.keeper.memory import GRAIN_BYTES
from jobs.train.keeper.mirror import Mirror, Retry
from jobs.train.keeper.peer_service import KeeperPeerService
from jobs.train.keeper.pump import Pump
from jobs.train.keeper.rank_server import RankServer
from jobs.train.keeper.rank_service import RankService
from jobs.train.keeper.recall import Recall
from jobs.train.keeper.reporting import Announcer, PatientCaller, Reporter
from jobs.train.keeper.restore import RestorePlan, plan_restore
from jobs.train.keeper.runs import Lag, Runs
from jobs.train.keeper.store import PartStore
from jobs.train.keeper.transport import PeerTransport, WithOwnNode
from jobs.train.keeper.values import AttemptPlan, Inventory, SnapshotKey
from jobs.train.state.hashing import BLOCK_BYTES

_log = structlog.get_logger(__name__)
# A block or a report under way takes milliseconds; only storage that hangs takes longer.
_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperConfig:
    """How a node's keeper works.

    `folder`: its own place in shared memory. `limit_bytes`: all segments together. `mirror_streams`: blocks in flight
    at most; `mirror_max_bytes_per_s`: 0 is no limit. `retry`: how a peer that fails is tried again. A flush that takes
    longer than `flush_timeout_s` is given up, the next one waits `flush_retry_s`. `block_bytes` and `grain_bytes` are
    smaller in tests only.
    """

    node: str
    folder: Path
    limit_bytes: int
    mirror_streams: int
    mirror_max_bytes_per_s: float
    retry: Retry
    flush_timeout_s: float
    flush_retry_s: float
    block_bytes: int = BLOCK_BYTES
    grain_bytes: int = GRAIN_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """A run as this keeper sees it; `complete`, `safe` and `committed` are steps, -1 for none.

    On the lead they are those of the whole run now, elsewhere as last heard. `flush_error` is known to the lead alone.
    """

    step: int
    complete: int
    safe: int
    committed: int
    lag: Lag
    mirror_error: str
    flush_error: str


class Keeper:
    """Start it before ranks are, stop it when the node is given back; killed instead, the next one takes over."""

    def __init__(
        self,
        config: KeeperConfig,
        transport: PeerTransport,
        open_storage: Callable[[str], CheckpointStorage],
        *,
        clock: Callable[[], float] = time.monotonic,
        faults: Faults = no_faults,
    ) -> None:
        """Raises: UserError if the folder is taken, or not this user's alone."""
        self.config = config
        self._transport = transport = WithOwnNode(config.node, transport)
        self._folder = KeeperFolder(config.folder)
        self._addresses: dict[str, str] = {}
        self._token_path = ""
        self.store = PartStore(
            config.folder,
            config.limit_bytes,
            block_bytes=config.block_bytes,
            grain_bytes=config.grain_bytes,
            faults=faults,
        )
        self.runs = Runs(
            config.node,
            self.store,
            Recall(config.folder),
            rules=self._flush_rules,
            mirror_error=lambda: self.mirror.error,
            clock=clock,
        )
        self.mirror = Mirror(
            config.node,
            self.store,
            transport,
            self.runs.plans,
            retry=config.retry,
            max_bytes_per_s=config.mirror_max_bytes_per_s / config.mirror_streams,
            clock=clock,
            faults=faults,
        )

        def caller() -> PatientCaller:
            return PatientCaller(transport, config.retry, clock)

        self.reporter = Reporter(self.runs, caller(), clock, self.news)
        self.announcer = Announcer(self.runs, caller(), self.news)
        self.flusher = Flusher(
            self.runs, self.store, transport, open_storage, clock=clock, news=self.news, faults=faults
        )
        landings = Landings(self.store, faults)
        self.peer_service = KeeperPeerService(self.store, landings, self.runs, self.reporter, self.news)
        transport.bind(self.peer_service)
        self.rank_service = RankService(
            self.store, self.runs, plan_restore=self._plan_restore, peers=self._peers, news=self.news
        )
        self._pumps = [
            *(Pump(f"keeper-mirror-{n}", self._mirror) for n in range(config.mirror_streams)),
            Pump("keeper-report", self.reporter.pump),
            Pump("keeper-announce", self.announcer.pump),
            Pump("keeper-flush", self.flusher.pump),
        ]
        self._server: RankServer | None = None

    def adopt(self) -> int:
        """Take over what an earlier keeper of this node left; returns how many parts. Call before anything else."""
        adopted = self.store.adopt()
        if adopted:
            _log.info("parts of an earlier keeper taken over", node=self.config.node, parts=adopted)
        return adopted

    def start(self) -> None:
        """Adopt, then serve ranks and work in the background. Raises: UserError."""
        self.adopt()
        self._server = RankServer(self.rank_service, self.config.folder)
        self._server.start()
        for pump in self._pumps:
            pump.start()

    def close(self, *, remove: bool = False, timeout_s: float = _CLOSE_S) -> None:
        """Stop. `remove` also deletes everything held: the node is given back, or the cluster is over.

        Background work that does not end within `timeout_s` is left behind; what it was writing stays invisible.
        """
        deadline_s = time.monotonic() + timeout_s
        for pump in self._pumps:
            pump.stop()
        hanging = [pump for pump in self._pumps if not pump.join(max(0.0, deadline_s - time.monotonic()))]
        if hanging:
            _log.warning("background work left behind", node=self.config.node, threads=len(hanging))
        if self._server:
            self._server.close()
        if remove:
            self._folder.remove()
        else:
            self._folder.close()

    @property
    def socket_path(self) -> str:
        """Where ranks of this node reach this keeper."""
        assert self._server is not None, "not started"
        return str(self._server.path)

    def let_ranks_read_peers(self, addresses: dict[str, str], token: bytes) -> None:
        """Tell restoring ranks of this node how to reach other keepers; the token stays in the private folder."""
        path = self.config.folder / "peer.token"
        draft = path.with_suffix(f".{secrets.token_hex(4)}")
        draft.touch(mode=0o600)
        draft.write_bytes(token)
        draft.replace(path)
        self._addresses, self._token_path = dict(addresses), str(path)

    def begin_attempt(self, plan: AttemptPlan) -> None:
        """An attempt begins, or goes on with other mirrors or leaving nodes. Same plan for all keepers of the run.

        Raises: ValueError for an attempt that is over already.
        """
        self.runs.begin(plan)
        self.mirror.forget(plan.run)
        self.news()

    def end_run(self, run: str) -> None:
        """The run is over: its snapshots go."""
        self.runs.end(run)
        self.mirror.forget(run)

    def note_step(self, run: str, step: int) -> None:
        """How many steps training has completed: what `mirror_lag_steps` is measured against."""
        self.runs.note_step(run, step)

    def inventory(self, run: str) -> Inventory:
        """What this node holds of a run."""
        return self.runs.inventory(run)

    def status(self, run: str) -> RunStatus:
        """How a run stands. Raises: KeyError if it is not known here."""
        with self.runs.changed:
            found = self.runs.get(run)
            if found is None:
                raise KeyError(run)
            verdicts, lead = found.verdicts, found.lead
            return RunStatus(
                step=found.step,
                complete=verdicts.complete[-1].step if verdicts.complete else -1,
                safe=verdicts.safe.step if verdicts.safe else -1,
                committed=lead.committed_step if lead else found.plan.committed_step,
                lag=found.lag,
                mirror_error=self.mirror.error,
                flush_error=lead.flush_error if lead else "",
            )

    def safe_step(self, run: str) -> int:
        """Newest step every part of which is on two nodes; -1 for none (and for a run not known here)."""
        with self.runs.changed:
            found = self.runs.get(run)
            return found.verdicts.safe.step if found and found.verdicts.safe else -1

    def wait_safe(self, run: str, step: int, timeout_s: float) -> bool:
        """Wait until `step` or a newer one is safe; False if it is not by then."""
        with self.runs.changed:
            return self.runs.changed.wait_for(lambda: self.safe_step(run) >= step, timeout_s)

    def flush_now(self, run: str) -> None:
        """Write the newest complete snapshot to storage, now. On the lead only. Raises: KeyError elsewhere."""
        with self.runs.changed:
            found = self.runs.get(run)
            if found is None or found.lead is None:
                raise KeyError(f"{run} is not led by node {self.config.node}")
            found.lead.ask_flush(self.runs.now_s())
        self.news()

    def wait_flushed(self, run: str, step: int, timeout_s: float) -> bool:
        """Wait until `step` or a newer one is in storage; False if it is not by then. On the lead only."""
        with self.runs.changed:
            return self.runs.changed.wait_for(lambda: self.status(run).committed >= step, timeout_s)

    def news(self) -> None:
        """Something has changed: let the background threads look."""
        for pump in self._pumps:
            pump.wake()

    def pump_once(self) -> bool:
        """One turn of all background work in the caller's thread, for tests; False if there was nothing to do."""
        pumps = (self._mirror, self.reporter.pump, self.announcer.pump, self.flusher.pump)
        waits = [pump() for pump in pumps]
        return 0 in waits

    def _mirror(self) -> float | None:
        error = self.mirror.error
        wait_s = self.mirror.pump()
        if self.mirror.error != error:
            self.news()
        return wait_s

    def _flush_rules(self, plan: AttemptPlan) -> FlushRules:
        return FlushRules(
            every_s=plan.checkpoint_every_s, timeout_s=self.config.flush_timeout_s, retry_s=self.config.flush_retry_s
        )

    def _plan_restore(self, run: str, storage_step: int | None, refused: Collection[SnapshotKey]) -> RestorePlan:
        nodes = {node for plan in self.runs.plans() if plan.run == run for node in plan.nodes} or {self.config.node}
        return plan_restore(self._transport, sorted(nodes), run, storage_step=storage_step, refused=refused)

    def _peers(self) -> dict[str, Any]:
        return {"node": self.config.node, "addresses": self._addresses, "token_path": self._token_path}
