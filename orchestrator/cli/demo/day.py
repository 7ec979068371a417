"""A short day on the demo's own Ray: spot nodes come and go, an endpoint lends devices by night, a job follows both.

Everything is real (requests over HTTP, replicas, the control loop's leases, Ray Train, node starts and kills), but a
device is one CPU of Ray's bookkeeping, of which this machine has fewer; the endpoint's promise is what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
from orchestrator.adapters.ray_train.events import AttemptOpened, Event, StepDone
from orchestrator.adapters.ray_train.signals import StopSignals
from orchestrator.cli.demo.customers import MAX_TOKENS, Customers
from orchestrator.cli.demo.day_job import held, train
from orchestrator.cli.demo.day_plane import (
    ENDPOINT,
    JOB,
    LABELS,
    REPLICA_RPS,
    REPLICAS,
    DayClock,
    DayPlane,
    day_plane,
    demand_rps,
)
from orchestrator.cli.demo.day_series import BEGIN_H, HOURS, DaySeries
from orchestrator.policy.lending.values import Decision, Keep
from orchestrator.report import Day, DayLine
from orchestrator.spec import Endpoint, TrainJob
from orchestrator.spec.errors import ExitCode, UserError

SECONDS = 36.0
SHORT_SECONDS = 16.0  # for a demo of few steps: too short for a device to be lent
NOTICE_S = 5.0
PATIENCE_S = 150.0
_LOOK_S = 0.25
_SPOT = NodeSize(num_cpus=1, labels=LABELS)
_OWN = 1  # devices that are no endpoint's and stay


@dataclass(slots=True)
class Spot:
    """Spot nodes, started and ended as the day offers them; used in the main thread."""

    cluster: LocalCluster
    series: DaySeries
    scale: float
    say: Callable[[str], None]
    nodes: list[str] = field(default_factory=list)
    leaving: list[tuple[float, str]] = field(default_factory=list)
    moved: int = 0

    def follow(self, hours: float) -> None:
        """Bring them to what is offered: one that leaves is announced first, and killed when it is due."""
        for due_s, node in [one for one in self.leaving if one[0] <= time.monotonic()]:
            self.leaving.remove((due_s, node))
            self.cluster.kill_node(node)
        ahead = self.series.nodes_at(hours + NOTICE_S * self.scale / 3600)
        while len(self.nodes) > ahead:
            node = self.nodes.pop()
            self.say(f"the cloud announces that a spot node goes away in {NOTICE_S:.0f} s")
            self.cluster.drain_node(node, deadline_s=NOTICE_S)
            self.leaving.append((time.monotonic() + NOTICE_S, node))
            self.moved += 1
        while len(self.nodes) < min(ahead, self.series.nodes_at(hours)):
            self.nodes.append(self.cluster.add_node(_SPOT).node_id)
            self.say("a spot node joins")
            self.moved += 1

    @property
    def there(self) -> int:
        """Nodes that are not announced to leave, and those that are."""
        return len(self.nodes) + len(self.leaving)


@dataclass(slots=True)
class Director:
    """Asked a few times a second by the run whether to stop; plays and watches the day in between."""

    plane: DayPlane
    clock: DayClock
    spot: Spot
    signals: Callable[[], int]
    customers: Callable[[], Customers]
    say: Callable[[str], None]
    began_s: float
    came: Customers | None = None
    workers: int = 0
    stepped_s: float | None = None
    answered_s: float | None = None
    lines: list[DayLine] = field(default_factory=list)
    last: Decision | None = None
    looked_s: float = 0.0

    def on_event(self, event: Event) -> None:
        """Take in one event of the run."""
        match event:
            case AttemptOpened():
                self.workers = 0
                size = "1 worker" if event.world_size == 1 else f"{event.world_size} workers"
                self.say(f"the job goes on with {size} from step {event.start_step} ({event.cause})")
            case StepDone():
                self.workers = event.world_size
                self.stepped_s = time.monotonic() if self.stepped_s is None else self.stepped_s
            case _:
                pass

    def __call__(self) -> int:
        now_s, wanted = time.monotonic(), max(self.signals(), int(self.clock.hours >= HOURS))
        if wanted or now_s - self.looked_s < _LOOK_S:
            return wanted
        self.looked_s = now_s
        if self.came is None:
            self._begin_if_ready(now_s)
            return 0
        self.spot.follow(self.clock.hours)
        self._look()
        return 0

    def _begin_if_ready(self, now_s: float) -> None:
        if self.answered_s is None and self.plane.sight().answering == REPLICAS:
            self.answered_s = now_s
        if self.stepped_s is not None and self.answered_s is not None:
            answer, steps = self.answered_s - self.began_s, self.stepped_s - self.began_s
            self.say(f"{REPLICAS} replicas answer after {answer:.0f} s, the job makes steps after {steps:.0f} s")
            self.came = self.customers()
            self.clock.begin()
            self.came.start()
        elif now_s > self.began_s + PATIENCE_S:
            raise UserError(
                f"after {PATIENCE_S:.0f} s not all of {REPLICAS} replicas answer while the job trains",
                where="the demo's day",
                code=ExitCode.UNREACHABLE,
                next_step="Try again when this machine has less to do.",
            )

    def _look(self) -> None:
        lender = self.plane.lender
        if lender is None:
            return
        if lender.decision is not self.last and lender.decision is not None and not isinstance(lender.decision, Keep):
            what, count = type(lender.decision).__name__.lower(), lender.decision.replicas
            self.say(f"{what} {count} of {REPLICAS} replicas' devices ({lender.decision.reason})")
        self.last = lender.decision
        demand = demand_rps(self.spot.series, self.clock.hours)
        self.lines.append(
            DayLine(
                at_s=time.time() - self.clock.zero_s,
                demand_replicas=demand / REPLICA_RPS,
                serving=lender.standing.serving,
                lent=lender.standing.lent,
                returning=lender.standing.returning,
                spot_nodes=self.spot.there,
                workers=self.workers,
            )
        )


def play_day(
    home: Path,
    ray: LocalCluster,
    series: DaySeries,
    job: TrainJob,
    endpoint: Endpoint,
    *,
    say: Callable[[str], None],
    signals: StopSignals,
    seconds: float,
) -> Day:
    """Play the day; `ray` must run. Raises: UserError where it cannot begin or its job fails; KeyboardInterrupt."""
    began_s, clock = time.monotonic(), DayClock(HOURS * 3600 / seconds)
    most = REPLICAS + _OWN + max(series.nodes)
    spot = Spot(cluster=ray, series=series, scale=clock.scale, say=_stamped(say, clock))
    ray.add_node(NodeSize(num_cpus=REPLICAS + _OWN, labels=LABELS))
    with day_plane(home, ray, series, clock, most) as plane, held(plane.folder(JOB)):
        plane.submit(_endpoint(endpoint))
        _until("the endpoint has its devices", lambda: plane.folder(ENDPOINT).read_order() is not None, signals)
        # Only now, so that its replicas begin on the node that stays.
        spot.nodes = [ray.add_node(_SPOT).node_id for _ in range(series.nodes_at(0.0))]
        night = _job(job, most)
        plane.submit(night)
        _until("the job has devices", lambda: plane.folder(JOB).read_order() is not None, signals)
        director = Director(
            plane=plane, clock=clock, spot=spot, signals=signals, say=_stamped(say, clock), began_s=began_s,
            customers=lambda: Customers(
                plane.sight().urls["interactive"], endpoint.spec.model.partition("@")[0],
                lambda: demand_rps(series, clock.hours),
            ),
        )  # fmt: skip
        try:
            train(night, plane.state, plane.folder(JOB), wants_stop=director, on_event=director.on_event)
        finally:
            if director.came is not None:
                director.came.stop()
        if signals():
            raise KeyboardInterrupt
    return _told(director, series, endpoint, seconds)


def _told(director: Director, series: DaySeries, endpoint: Endpoint, seconds: float) -> Day:
    online = endpoint.spec.tiers.interactive
    assert online is not None, "its customers have asked for it"
    return Day(
        source=series.source,
        begin_h=BEGIN_H,
        hours=HOURS,
        seconds=seconds,
        lines=tuple(director.lines),
        requests=tuple(sorted(director.came.asked, key=lambda one: one.at_s)) if director.came else (),
        promised_s=online.slo.latency + online.slo.per_token * MAX_TOKENS,
        nodes_moved=director.spot.moved,
        replicas=REPLICAS,
    )


def _stamped(say: Callable[[str], None], clock: DayClock) -> Callable[[str], None]:
    """Before every sentence, what time of the day it is."""

    def tell(line: str) -> None:
        minutes = round((BEGIN_H + clock.hours) * 60) % 1440
        say(f"{minutes // 60:02d}:{minutes % 60:02d} {line}")

    return tell


def _until(what: str, holds: Callable[[], bool], signals: Callable[[], int]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        if signals():
            raise KeyboardInterrupt
        if time.monotonic() > deadline_s:
            raise UserError(f"still not: {what}", where="the demo's day", code=ExitCode.UNREACHABLE)
        time.sleep(0.1)


def _endpoint(endpoint: Endpoint) -> Endpoint:
    """The demo's endpoint under another name, with replicas that lend."""
    resources = endpoint.spec.replicas.resources.model_copy(update={"CPU": 1.0})
    changes = {"min": 1, "max": REPLICAS, "rps": REPLICA_RPS, "drain": 2.0, "resources": resources}
    replicas = endpoint.spec.replicas.model_copy(update=changes)
    spec = endpoint.spec.model_copy(update={"replicas": replicas})
    metadata = endpoint.metadata.model_copy(update={"name": ENDPOINT})
    return endpoint.model_copy(update={"spec": spec, "metadata": metadata})


def _job(job: TrainJob, most: int) -> TrainJob:
    """The demo's job again, as long as the day lasts; it registers nothing."""
    workers = job.spec.workers.model_copy(update={"min": 1, "max": most})
    saving = job.spec.checkpoint.model_copy(update={"every": 600.0})
    changes = {"workers": workers, "steps": 100_000, "register": None, "checkpoint": saving}
    metadata = job.metadata.model_copy(update={"name": JOB})
    return job.model_copy(update={"spec": job.spec.model_copy(update=changes), "metadata": metadata})
