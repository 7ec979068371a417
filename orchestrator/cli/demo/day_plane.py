"""The control plane of the demo's day: ledger, loop and lending over the demo's own Ray, in a folder that goes with it.

An endpoint that lends and a training job hold leases in it. The endpoint has a process of its own, as always; the job
runs in this one (`day_job`), so that its folder is held before the control plane would start a process for it. Lending
decides by the clock of the played day; everything else lives in real time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.adapters.endpoints.holders import EndpointHolders
from orchestrator.adapters.endpoints.live import Lender
from orchestrator.adapters.endpoints.memory import write_memory
from orchestrator.adapters.endpoints.sight import Sight, read_sight
from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.ray_cluster import LocalCluster
from orchestrator.cli.demo.day_series import BEGIN_H, HISTORY_H, DaySeries
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.schema import upgrade
from orchestrator.ledger.submission import new_holder
from orchestrator.policy.lending.decide import Memory, Sample, decide_lending
from orchestrator.policy.lending.values import RecallTimes, Standing, Terms
from orchestrator.service.folders import JOBS_FOLDER
from orchestrator.service.holdings import Holdings
from orchestrator.service.live import live_ports
from orchestrator.service.loop import ControlLoop
from orchestrator.spec import Cluster, Endpoint, TrainJob, load_text

POOL, ENDPOINT, JOB = "devices", "day", "night"
LABELS = {"tideline.io/demo": POOL}
REPLICAS, REPLICA_RPS, PEAK_LOAD = 3, 3.0, 0.6
# Real seconds on a machine of two busy cores; what they add up to is the lead that lending counts on.
TIMES = RecallTimes(snapshot_s=1.0, drain_s=2.0, cold_start_s=5.0)
CYCLE_S = 0.5
WINDOW_S = 4.0  # over how many real seconds demand is measured
SETTLED_S = 0.5
EVENING_S = dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp() + BEGIN_H * 3600

_CLUSTER = """
apiVersion: tideline/v1
kind: Cluster
metadata: {{name: demo-day}}
spec:
  ray: {{address: "{address}"{token}}}
  pools:
  - {{name: {pool}, device: CPU core, resource: CPU, devices_per_node: {devices}, count: {most}, market: on_demand,
     price: "0", capacity: {{source: ray, labels: {labels}}}}}
  lending: {{pools: [{pool}]}}
"""


@dataclass(slots=True)
class DayClock:
    """The played day: `scale` of its seconds pass in each real one, and none before it begins."""

    scale: float
    zero_s: float = float("inf")

    def begin(self) -> None:
        """From now on it passes."""
        self.zero_s = time.time()

    def at(self, real_s: float) -> float:
        """What time of the day an instant is (UTC seconds)."""
        return EVENING_S + max(0.0, real_s - self.zero_s) * self.scale

    def now_s(self) -> float:
        """What time of the day it is now."""
        return self.at(time.time())

    @property
    def hours(self) -> float:
        """Hours since the day's begin."""
        return (self.now_s() - EVENING_S) / 3600


@dataclass(slots=True)
class DayPlane:
    """The control plane, from outside."""

    state: Path
    ledger: Ledger
    endpoints: EndpointHolders
    cluster: Cluster

    def submit(self, spec: Endpoint | TrainJob) -> None:
        """Hand something in."""
        self.ledger.submit(new_holder(spec, self.cluster, now_s=time.time()))

    def folder(self, job: str) -> JobFolder:
        """Where a holder's orders and reports are."""
        return JobFolder(self.state / JOBS_FOLDER / "jobs" / job)

    def sight(self) -> Sight:
        """What the endpoint's process wrote last."""
        return read_sight(self.folder(ENDPOINT).path)

    @property
    def lender(self) -> Lender | None:
        """How the endpoint stands; None before it was looked at."""
        return self.endpoints.lenders.get(ENDPOINT)


@contextlib.contextmanager
def day_plane(home: Path, ray: LocalCluster, series: DaySeries, clock: DayClock, most: int) -> Iterator[DayPlane]:
    """Run the control plane on `ray`, with `most` devices at most; models and data sets are those of `home`."""
    with contextlib.ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="tide-day-", ignore_cleanup_errors=True)
        state = Path(stack.enter_context(folder))
        for shared in ("models", "datasets"):
            (state / shared).symlink_to((home / shared).resolve(), target_is_directory=True)
        cluster_file, cluster = _cluster(state, ray, most)
        ledger = Ledger(f"sqlite:///{state / 'tide.db'}", holder="demo", clock=time.time)
        stack.callback(ledger.close)
        upgrade(ledger.database)
        ledger.lead()
        ledger.apply(cluster)
        endpoints = _holders(state, ledger, series, clock)
        ports = dataclasses.replace(live_ports(ledger, cluster=cluster_file, state=state), endpoints=endpoints)
        plane = DayPlane(state=state, ledger=ledger, endpoints=endpoints, cluster=cluster)
        # Its replicas are in a Ray that ends with the demo; nobody needs to take them down one by one.
        stack.callback(lambda: plane.folder(ENDPOINT).kill())
        loop = ControlLoop(ports, every_s=CYCLE_S)
        loop.start()
        stack.callback(loop.stop)
        yield plane


def terms_of(scale: float) -> Terms:
    """In the day's seconds, demand included."""
    times = RecallTimes(
        snapshot_s=TIMES.snapshot_s * scale, drain_s=TIMES.drain_s * scale, cold_start_s=TIMES.cold_start_s * scale
    )
    return Terms(
        pool=POOL,
        devices=REPLICAS,
        replica_rps=REPLICA_RPS / scale,
        times=times,
        min_slice_s=3 * scale,
        settle_s=3 * scale,
        stale_s=15 * scale,
        grace_s=10 * scale,
    )


def demand_rps(series: DaySeries, hours: float) -> float:
    """Requests in a real second at a time of the day: at its peak, six tenths of what all replicas are to serve."""
    return PEAK_LOAD * REPLICAS * REPLICA_RPS * series.demand_at(hours)


def earlier(series: DaySeries, scale: float) -> Memory:
    """What lending knows by the evening: it has looked at the days before once a real second, too."""
    terms, memory, standing = terms_of(scale), Memory(), Standing(serving=REPLICAS)
    for tick in range(-int(HISTORY_H * 3600 / scale), 0):
        at_s = EVENING_S + tick * scale
        rps = demand_rps(series, tick * scale / 3600) / scale
        _, memory = decide_lending(terms, standing, memory, Sample(at_s=at_s, rps=rps), now_s=at_s)
    return memory


def _holders(state: Path, ledger: Ledger, series: DaySeries, clock: DayClock) -> EndpointHolders:
    """The live port, in the seconds of the played day."""
    terms = terms_of(clock.scale)
    write_memory(state / "endpoints" / f"{ENDPOINT}.json", earlier(series, clock.scale))

    def sight(job: str) -> Sight:
        seen = read_sight(state / JOBS_FOLDER / "jobs" / job)
        # Before the day begins nobody comes: a rate that was measured across its begin would be a jump.
        counters = tuple(
            dataclasses.replace(one, at_s=clock.at(one.at_s))
            for one in seen.counters
            if one.at_s >= clock.zero_s + SETTLED_S
        )
        return dataclasses.replace(seen, counters=counters)

    return EndpointHolders(
        Holdings(ledger),
        terms=lambda one, times: terms,
        sight=sight,
        clock=clock,
        memories=state / "endpoints",
        window_s=WINDOW_S * clock.scale,
    )


def _cluster(state: Path, ray: LocalCluster, most: int) -> tuple[Path, Cluster]:
    token = ""
    if found := _token():
        (state / "token").touch(mode=0o600)
        (state / "token").write_text(found, encoding="utf-8")
        token = f", token_file: {state / 'token'}"
    address = str(ray.nodes[0].handle.gcs_address)
    labels = "{" + ", ".join(f"{key}: {value}" for key, value in LABELS.items()) + "}"
    text = _CLUSTER.format(address=address, token=token, pool=POOL, devices=REPLICAS + 1, most=most, labels=labels)
    file = state / "cluster.yaml"
    file.write_text(text, encoding="utf-8")
    (cluster,) = load_text(text, where="the demo's day")
    assert isinstance(cluster, Cluster), "the text holds one"
    return file, cluster


def _token() -> str | None:
    """The token that clusters of this process ask for."""
    return os.environ.get("RAY_AUTH_TOKEN")
