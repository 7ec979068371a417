"""What a scraper sees of the control plane. No job's id is a label: their number has no end.

Depths, leases, cost and power are read from the ledger when somebody scrapes; counters fold the ledger's events since
this process began, so that every server counts the same, also one that does not lead.

Names: `tide_queue_jobs{queue,reason}`, `tide_admission_seconds`, `tide_cycle_seconds`, `tide_leading`,
`tide_pool_devices{pool}`, `tide_leased_devices{pool,state}`, `tide_preemptions_total{cause,how}`,
`tide_cost_usd_per_hour{pool}`, `tide_power_watts{pool}`, `tide_badput_device_seconds_total{cause}`,
`tide_stragglers_total`, `tide_worker_deaths_total`, `tide_held_nodes{cause}`, `tide_recall_lead_seconds{pool,kind}`.
"""

from __future__ import annotations

import json
import threading
from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from orchestrator.cycle import CycleReport
from orchestrator.ledger.event_reads import Event
from orchestrator.ledger.reading import Reader
from orchestrator.ledger.rows import AttemptRow
from orchestrator.policy.node_health import HoldCause
from orchestrator.policy.queueing.decisions import ChangeCause
from orchestrator.policy.queueing.orders import NoteKind
from orchestrator.policy.queueing.values import LeaseState

_PAGE = 1000
CYCLE_BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
ADMISSION_BUCKETS_S = (0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
_TAKEN = frozenset(
    {ChangeCause.PRIORITY, ChangeCause.FAIR_SHARE, ChangeCause.RECLAIM, ChangeCause.RECALL, ChangeCause.EMERGENCY}
)
"""Causes for which a job that shrinks gives devices to somebody else."""


class PlaneMetrics(Collector):
    """A collector for any registry. `leading` says whether this process leads; `waiting` how many wait by queue and
    reason, where somebody knows better than the books, which follow some cycles behind in a full queue; `leads`: how
    long ahead endpoints call their devices back, by pool, as it was meant and as it is."""

    def __init__(self, read: Reader, leading: Callable[[], bool] = lambda: False) -> None:
        self._read = read
        self.leading = leading
        self.waiting: Callable[[], Mapping[tuple[str, str], int] | None] = lambda: None
        self.leads: Callable[[], Mapping[str, tuple[float, float]]] = dict
        self._own = CollectorRegistry()
        self._lock = threading.Lock()
        self._seen: int | None = None
        self._cycle_s = Histogram(
            "tide_cycle_seconds", "Time of one control cycle.", registry=self._own, buckets=CYCLE_BUCKETS_S
        )
        self._admission_s = Histogram(
            "tide_admission_seconds", "From submission to the first start.", registry=self._own,
            buckets=ADMISSION_BUCKETS_S,
        )  # fmt: skip
        self._preemptions = Counter(
            "tide_preemptions", "Jobs that had to give devices up.", ["cause", "how"], registry=self._own
        )
        self._badput = Counter(
            "tide_badput_device_seconds", "Held device-time without useful work, of attempts that have ended.",
            ["cause"], registry=self._own,
        )  # fmt: skip
        self._stragglers = Counter(
            "tide_stragglers", "Ranks that were named as slower than the others of their job.", registry=self._own
        )
        self._worker_deaths = Counter(
            "tide_worker_deaths", "Workers that ended by themselves on nodes that go on.", registry=self._own
        )

    def observe(self, report: CycleReport, seconds: float) -> None:
        """A cycle was run (`LivePorts.observe`)."""
        self._cycle_s.observe(seconds)

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the ledger."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Everything as it is now. Raises: UnreachableError."""
        with self._lock:
            self._fold()
        yield from self._own.collect()
        yield GaugeMetricFamily("tide_leading", "1 where this process decides.", value=float(self.leading()))
        yield self._depths()
        yield self._held_nodes()
        yield self._recall_leads()
        yield from self._pools()

    # --- Gauges ------------------------------------------------------------------------------------------------------

    def _depths(self) -> Metric:
        family = GaugeMetricFamily("tide_queue_jobs", "Jobs that wait, by reason.", labels=["queue", "reason"])
        waiting = self.waiting()
        for (queue, reason), number in sorted((self._read.waiting() if waiting is None else waiting).items()):
            family.add_metric([queue, reason], number)
        return family

    def _held_nodes(self) -> Metric:
        family = GaugeMetricFamily("tide_held_nodes", "Nodes that are held back from work.", labels=["cause"])
        held = Count(hold.cause for hold in self._read.node_holds().values())
        for cause in HoldCause:
            family.add_metric([cause.value], held[cause])
        return family

    def _recall_leads(self) -> Metric:
        family = GaugeMetricFamily(
            "tide_recall_lead_seconds",
            "How long ahead lent devices are called back: as meant, and as used because training stops more slowly.",
            labels=["pool", "kind"],
        )
        for pool, (meant_s, used_s) in sorted(self.leads().items()):
            family.add_metric([pool, "meant"], meant_s)
            family.add_metric([pool, "used"], used_s)
        return family

    def _pools(self) -> Iterator[Metric]:
        found = self._read.cluster()
        watts = {} if found is None else {pool.name: pool.power_w or 0.0 for pool in found[1].spec.pools}
        meters = self._read.meters()
        leased: Count[tuple[str, str]] = Count()
        for lease in self._read.leases():
            leased[lease.pool, lease.state.value] += lease.devices
        devices = GaugeMetricFamily("tide_pool_devices", "Devices that were observed.", labels=["pool"])
        held = GaugeMetricFamily("tide_leased_devices", "Devices in somebody's hands.", labels=["pool", "state"])
        cost = GaugeMetricFamily("tide_cost_usd_per_hour", "Price of leased devices.", labels=["pool"])
        power = GaugeMetricFamily("tide_power_watts", "Power of leased devices by the pool's figure.", labels=["pool"])
        for meter in meters:
            devices.add_metric([meter.pool], meter.observed)
            cost.add_metric([meter.pool], meter.leased * meter.micro_usd_per_device_hour / 1e6)
            power.add_metric([meter.pool], meter.leased * watts.get(meter.pool, 0.0))
            for state in LeaseState:
                held.add_metric([meter.pool, state.value], leased[meter.pool, state.value])
        yield from (devices, held, cost, power)

    # --- Counters ----------------------------------------------------------------------------------------------------

    def _fold(self) -> None:
        """Count what has happened since; the first time, from the newest event on."""
        if self._seen is None:
            self._seen = self._read.last_event()
        while events := self._read.events(after=self._seen, limit=_PAGE):
            self._count(events)
            self._seen = events[-1].seq

    def _count(self, events: Sequence[Event]) -> None:
        started = {event.job: event for event in events if event.kind == "admitted" and event.attempt == 1}
        for job, submitted_ms in self._read.submitted([job for job in started if job]).items():
            self._admission_s.observe(max(0, started[job].at_ms - submitted_ms) / 1000)
        for event in events:
            cause = event.data.get("cause")
            if event.kind == NoteKind.STRAGGLER:
                self._stragglers.inc()
            elif event.kind == NoteKind.WORKER_DIED:
                self._worker_deaths.inc()
            if event.kind == "preempted":
                self._preemptions.labels(cause, "evicted").inc()
            elif event.kind == "resizing" and cause in _TAKEN:
                self._preemptions.labels(cause, "shrunk").inc()
        # Whatever ends an attempt says so in the change in which it ends.
        changes = {(event.job, event.at_ms) for event in events if event.job}
        for row in self._read.ended_attempts({job for job, _ in changes if job}):
            if (row.job, row.ended_ms) in changes:
                self._book(row)

    def _book(self, row: AttemptRow) -> None:
        """A part of a stall is as large in device-time as it is in worker-time."""
        parts = json.loads(row.stall_parts)
        whole = sum(parts.values())
        for cause, seconds in (parts or {"waiting": 1.0}).items():
            self._badput.labels(cause).inc(row.stalled_ms / 1000 * (seconds / whole if whole else 1.0))
        self._badput.labels("lost").inc(row.lost_ms / 1000)
        self._badput.labels("draining").inc(row.draining_ms / 1000)
