"""A control plane to try things on: the real ledger, queues and API over virtual devices, with timers as jobs.

What `tide server --rehearse` runs on. A pool has the devices that its `count` says; a step of one worker takes a
second. Nothing is trained, and nothing outside is touched.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from orchestrator.ledger.repository import Ledger
from orchestrator.policy.queueing.decisions import Admit, Resize, workers_in
from orchestrator.policy.queueing.from_spec import pool_of
from orchestrator.policy.queueing.orders import Order, Report
from orchestrator.policy.queueing.places import Node, Pool
from orchestrator.service.logs import FileLogArchive
from orchestrator.service.loop import LivePorts
from orchestrator.service.metrics import PlaneMetrics
from orchestrator.service.node_health import HeldCapacity, NodeHealth
from orchestrator.service.schedules import Schedules
from orchestrator.sim.outside import SimClock, SimEndpoints, SimRunner
from orchestrator.spec.cluster_pools import Pool as PoolSpec

_DEVICES_WHERE_NONE_ARE_SAID = 8
_ENDLESS_S = 1e15
"""An endpoint serves until it is cancelled."""


@dataclass(slots=True)
class WallClock:
    """The real time."""

    def now_s(self) -> float:
        """UTC seconds."""
        return time.time()


@dataclass(slots=True)
class RehearsedCapacity:
    """Pools as the applied Cluster says; the same objects until it changes."""

    ledger: Ledger
    _known: tuple[int, tuple[Pool, ...]] = (0, ())

    def observe(self) -> tuple[Pool, ...]:
        """All pools, whole."""
        generation = self.ledger.read.generation()
        if generation != self._known[0]:
            found = self.ledger.read.cluster()
            pools = tuple(pool_of(spec, _nodes(spec)) for spec in found[1].spec.pools) if found else ()
            self._known = (generation, pools)
        return self._known[1]


def _nodes(spec: PoolSpec) -> list[Node]:
    left = _DEVICES_WHERE_NONE_ARE_SAID if spec.count is None else spec.count
    nodes: list[Node] = []
    while left > 0:
        devices = min(left, spec.devices_per_node)
        nodes.append(Node(name=f"{spec.name}-{len(nodes)}", devices=devices))
        left -= devices
    return nodes


@dataclass(slots=True)
class RehearsedRunner:
    """Timers as jobs, in real time; says in their logs what happens to them."""

    ledger: Ledger
    logs: FileLogArchive
    now_s: Callable[[], float] = time.time
    _clock: SimClock = field(default_factory=SimClock)
    _runner: SimRunner = field(init=False)
    _steps: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._runner = SimRunner(self._clock, self._work)

    def _work(self, job: str) -> float:
        """A step is a second of one worker."""
        shape = self.ledger.read.job(job).shape
        self._steps[job] = shape.steps or 1
        return _ENDLESS_S if shape.kind == "Endpoint" else float(self._steps[job])

    def ask(self, order: Order) -> None:
        """See `ports.Runner`."""
        with self._lock:
            self._clock.at_s = self.now_s()
            before = len(self._runner.started)
            self._runner.ask(order)
            if len(self._runner.started) > before and isinstance(order.what, Admit | Resize):
                text = f"attempt {order.attempt} begins with {workers_in(order.what.placement)} workers\n"
                self.logs.append(order.what.job, order.attempt, text.encode())

    def reports(self) -> tuple[Report, ...]:
        """See `ports.Runner`."""
        with self._lock:
            self._clock.at_s = self.now_s()
            return tuple(self._with_steps(report) for report in self._runner.reports())

    def _with_steps(self, report: Report) -> Report:
        if report.work_left_s is None:
            return report
        return replace(report, steps_done=max(0, self._steps[report.job] - math.ceil(report.work_left_s)))

    def acknowledge(self, ended: tuple[Report, ...]) -> None:
        """See `ports.Runner`."""
        with self._lock:
            self._runner.acknowledge(ended)
        for report in ended:
            self.logs.append(report.job, report.attempt, f"attempt {report.attempt} {report.phase}\n".encode())
            self.logs.end(report.job, report.attempt)


def rehearsed_ports(ledger: Ledger, logs: FileLogArchive) -> LivePorts:
    """The ports of a rehearsal."""
    metrics = PlaneMetrics(ledger.read)
    capacity = HeldCapacity(RehearsedCapacity(ledger), lambda: ledger.node_holds)
    return LivePorts(
        clock=WallClock(),
        capacity=capacity,
        endpoints=SimEndpoints(),
        ledger=ledger,
        runner=RehearsedRunner(ledger, logs),
        logs=logs,
        chores=(Schedules(ledger), NodeHealth(ledger, capacity.nodes)),
        observe=metrics.observe,
        metrics=metrics,
    )
