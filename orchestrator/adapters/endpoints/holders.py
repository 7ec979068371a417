"""The `Endpoints` port over endpoints that hold leases: how many devices each is to have now, as lending decides.

Each cycle is one look: at the leases in the books, and at what the endpoint's process wrote of its replicas. One
whose process says nothing stops nobody: its demand grows stale, and what it lent is called back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from orchestrator.adapters.endpoints.live import Lender, Seen
from orchestrator.adapters.endpoints.memory import read_drains, read_memory, write_memory
from orchestrator.adapters.endpoints.sight import Sight, read_sight
from orchestrator.policy.lending.decide import explain
from orchestrator.policy.lending.from_spec import Measured, terms_of
from orchestrator.policy.lending.values import Decision, Keep, LendingReason, RecallTimes, SlowStop, Terms, p95
from orchestrator.ports import Clock
from orchestrator.spec import Cluster, Endpoint

log = structlog.get_logger(__name__)

SAVE_S = 60.0
# Until they were measured: a drain with a snapshot, and a replica that starts, loads its weights and warms up.
UNMEASURED = RecallTimes(snapshot_s=0.0, drain_s=60.0, cold_start_s=120.0)
_FEW = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """An endpoint that holds devices of one pool. `most`: replicas that its file and its queue's quota allow;
    `observed`: devices that the pool has; `wanted`: replicas' worth of devices that training could use (None = any
    number); `pinned`: its owner holds it at a size, and nothing is lent; `slow`: who trains on the pool and takes
    longest to stop."""

    job: str
    endpoint: Endpoint
    pool: str
    held: int
    most: int
    devices_per_replica: int
    observed: int
    pinned: bool = False
    resource: str = "GPU"
    wanted: int | None = None
    slow: SlowStop | None = None

    @property
    def entitled(self) -> int:
        """Replicas when nothing is lent."""
        return min(self.most, self.observed // self.devices_per_replica)


TermsOf = Callable[[Holding, RecallTimes], Terms | None]


class EndpointHolders:
    """Answers what endpoints need now: all that they may have, less what they lend. `holdings` are those in the books;
    `terms` says under which terms one lends (None = not at all), `sight` what its process wrote last; `memories`: the
    folder of what is remembered (None: nothing is). Used from one thread; `describe` from any."""

    def __init__(
        self,
        holdings: Callable[[], tuple[Holding, ...]],
        *,
        terms: TermsOf,
        sight: Callable[[str], Sight],
        clock: Clock,
        memories: Path | None = None,
        window_s: float = 30.0,
    ) -> None:
        self._holdings = holdings
        self._terms = terms
        self._sight = sight
        self._clock = clock
        self._memories = memories
        self._window_s = window_s
        self._saved_s: dict[str, float] = {}
        self._owed: dict[str, tuple[tuple[str, int], ...]] = {}
        self._urgent: dict[str, int] = {}
        self._passing: dict[str, int] = {}
        self.lenders: dict[str, Lender] = {}
        self.terms: dict[str, Terms] = {}

    def headroom(self) -> Mapping[str, int]:
        """Devices that endpoints were called back and do not hold yet, by pool."""
        missing: dict[str, int] = {}
        urgent: dict[str, int] = {}
        owed: dict[str, list[tuple[str, int]]] = {}
        passing: dict[str, int] = {}
        now_s, alive = self._clock.now_s(), set()
        for one in self._holdings():
            sight = self._sight(one.job)
            lender = self._look(one, sight, now_s)
            if lender is not None:
                alive.add(one.job)
            devices = (one.entitled if lender is None else lender.owed) * one.devices_per_replica
            owed.setdefault(one.pool, []).append((one.job, devices))
            missing[one.pool] = missing.get(one.pool, 0) + max(0, devices - one.held)
            hurried = 0 if lender is None else lender.hurried * one.devices_per_replica
            urgent[one.pool] = urgent.get(one.pool, 0) + min(hurried, max(0, devices - one.held))
            passing[one.pool] = passing.get(one.pool, 0) + sight.extra * one.devices_per_replica
        self.lenders = {job: lender for job, lender in self.lenders.items() if job in alive}
        self.terms = {job: terms for job, terms in self.terms.items() if job in alive}
        self._owed = {pool: tuple(found) for pool, found in owed.items()}
        self._urgent = {pool: devices for pool, devices in urgent.items() if devices}
        self._passing = {pool: devices for pool, devices in passing.items() if devices}
        return missing

    def urgent(self) -> Mapping[str, int]:
        """Of the last `headroom`, devices that were called back at once, by pool."""
        return self._urgent

    def passing(self) -> Mapping[str, int]:
        """Of the last `headroom`, devices of replicas that start before others go, by pool."""
        return self._passing

    def owed(self) -> Mapping[str, tuple[tuple[str, int], ...]]:
        """Devices that each endpoint is to hold, as of the last `headroom`, by pool."""
        return self._owed

    def leads(self) -> Mapping[str, tuple[float, float]]:
        """How long ahead devices are called back, by pool: as it was meant, and as it is. From any thread."""
        found: dict[str, tuple[float, float]] = {}
        for terms in list(self.terms.values()):
            used_s = terms.times.lead_s
            meant_s = used_s if terms.late is None else used_s - (terms.late.took_s - terms.late.allowed_s)
            before = found.get(terms.pool, (0.0, 0.0))
            found[terms.pool] = (max(meant_s, before[0]), max(used_s, before[1]))
        return found

    def describe(self, job: str) -> dict[str, Any] | None:
        """How an endpoint stands, for people; None where nothing was ever heard of it."""
        sight, lender = self._sight(job), self.lenders.get(job)
        if not sight.urls:
            return None
        shown: dict[str, Any] = {
            "urls": dict(sight.urls),
            "model": sight.ref,
            "answering": sight.answering,
            "rollout": sight.rollout,
            "canary": sight.canary,
        }
        if lender is None or lender.decision is None:
            return {**shown, "lending": None}
        standing, demand, terms = lender.standing, lender.demand, self.terms.get(job)
        late = None if terms is None else terms.late
        return {
            **shown,
            "lending": {
                "lent": standing.lent,
                "returning": standing.returning,
                "demand_rps": None if demand is None else demand.rps,
                "reason": lender.decision.reason.value,
                "detail": lender.decision.detail,
                "recall_lead_s": None if terms is None else terms.times.lead_s,
                "recall_lead_detail": "" if late is None else late.detail,
            },
        }

    def _look(self, one: Holding, sight: Sight, now_s: float) -> Lender | None:
        lender = self.lenders.get(one.job)
        drains_s = self._remembered_drains(one.job) if lender is None else lender.drains_s
        terms = self._terms(one, recall_times(drains_s, sight.cold_starts_s))
        if terms is None or not terms.replicas:
            return None
        if lender is None:
            memory = self._remembered(one.job)
            lender = self.lenders[one.job] = Lender(memory, window_s=self._window_s, drains_s=drains_s)
        self.terms[one.job] = terms
        seen = Seen(counters=sight.counters, answering=sight.answering, held=one.held)
        before = lender.decision
        lender.look(terms, seen, now_s=now_s, wanted=one.wanted)
        if lender.decision is not None and _moves(lender.decision) not in (None, _moves(before)):
            log.info("lending", job=one.job, said=explain(lender.decision, now_s=now_s))
        self._keep(one.job, lender, now_s)
        return lender

    def _remembered(self, job: str) -> Any:
        return None if self._memories is None else read_memory(self._file(job))

    def _remembered_drains(self, job: str) -> tuple[float, ...]:
        return () if self._memories is None else read_drains(self._file(job))

    def _keep(self, job: str, lender: Lender, now_s: float) -> None:
        if self._memories is None or now_s - self._saved_s.get(job, float("-inf")) < SAVE_S:
            return
        self._saved_s[job] = now_s
        try:
            write_memory(self._file(job), lender.memory, lender.drains_s)
        except OSError as error:  # a new orchestrator would be careful, that is all
            log.warning("what is known of an endpoint's demand was not kept", job=job, error=str(error))

    def _file(self, job: str) -> Path:
        """Runs of one name know each other's customers."""
        assert self._memories is not None, "asked where there are some"
        return self._memories / f"{job.partition('.')[0]}.json"


def _moves(decision: Decision | None) -> tuple[type[Decision], LendingReason, int] | None:
    """What is worth a line in the log, once: a decision that moves devices, whatever numbers its sentence has."""
    if decision is None or isinstance(decision, Keep):
        return None
    return type(decision), decision.reason, decision.replicas


def recall_times(drains_s: tuple[float, ...], cold_starts_s: tuple[float, ...]) -> RecallTimes:
    """As measured; as long as there were few recalls, at least what is taken for unmeasured ones."""
    return RecallTimes(
        snapshot_s=UNMEASURED.snapshot_s,
        drain_s=_measured("drain", drains_s, UNMEASURED.drain_s),
        cold_start_s=_measured("cold start", cold_starts_s, UNMEASURED.cold_start_s),
        left_s=p95("drain", drains_s) if len(drains_s) >= _FEW else 0.0,
    )


def _measured(part: str, seconds: tuple[float, ...], otherwise_s: float) -> float:
    return p95(part, seconds) if len(seconds) >= _FEW else max([otherwise_s, *seconds])


def live_terms(cluster: Cluster, one: Holding, times: RecallTimes) -> Terms | None:
    """The terms of a Cluster's `lending`; None where nothing of the endpoint's pool is lent, where nobody says what a
    replica can serve, and where its owner has pinned it."""
    rps = one.endpoint.spec.replicas.rps
    if rps is None or one.pinned:
        return None
    return terms_of(
        cluster,
        Measured(
            pool=one.pool,
            devices=one.entitled * one.devices_per_replica,
            devices_per_replica=one.devices_per_replica,
            min_replicas=max(1, one.endpoint.spec.replicas.min),
            replica_rps=rps,
            times=times,
            timezone=_timezone(cluster),
            slow=one.slow,
        ),
    )


def _timezone(cluster: Cluster) -> str:
    """Whose days customers keep: that of the first window in which is lent."""
    lending = cluster.spec.lending
    named = () if lending is None else lending.windows
    return next((one.timezone for one in cluster.spec.windows if one.name in named), "UTC")


def sights_in(folder: Path) -> Callable[[str], Sight]:
    """What endpoints' processes wrote, by job; `folder` holds one folder a job."""
    return lambda job: read_sight(folder / job)
