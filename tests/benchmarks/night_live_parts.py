"""What `night_live` plays with: the compressed day and its requests, and the control plane over endpoint and job."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.adapters.endpoints.holders import EndpointHolders
from orchestrator.adapters.endpoints.memory import write_memory
from orchestrator.adapters.endpoints.sight import Sight, read_sight
from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.ray_cluster.host import await_host, start_host, stop_host
from orchestrator.ledger.check import check
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.schema import upgrade
from orchestrator.ledger.states import ENDED
from orchestrator.ledger.submission import new_holder
from orchestrator.policy.lending.decide import Memory, Sample, decide_lending
from orchestrator.policy.lending.values import RecallTimes, Standing, Terms
from orchestrator.registry import Provenance, Registry
from orchestrator.service.holdings import Holdings
from orchestrator.service.live import live_ports
from orchestrator.service.local_nodes import nodes_for
from orchestrator.service.loop import ControlLoop
from orchestrator.spec import Cluster, Endpoint, TrainJob, load_text
from tests.benchmarks.elastic_ours import steps_of
from tests.benchmarks.serving_loads import Arrival, Load
from tests.benchmarks.watching import packed_dataset

BEGIN_H, HOURS = 20.0, 16.0
MIDNIGHT_S = dt.datetime(2026, 6, 3, tzinfo=dt.UTC).timestamp()
SLO_S = 2.0
STEP_S, PROMPT, TOKENS = 0.05, 8, 4  # one prefill and three decodes: 0.2 s of a replica
REPLICA_RPS, PEAK_LOAD, NIGHT = 3.5, 0.85, 0.2
POOL, RUN = "cores", "trains"
# Real seconds, as seen on this kind of machine; the lead that they add up to is what lending counts on.
SNAPSHOT_S, DRAIN_S, COLD_START_S = 3.0, 6.0, 12.0
PATIENCE_S = 180.0
ROOT = Path(__file__).resolve().parents[2]

ENDPOINT = """
apiVersion: tideline/v1
kind: Endpoint
metadata: {name: night}
spec:
  model: bench@1
  listen: {port: 0}
  engine: {name: echo, slots: 1, step_time: STEPms}
  replicas: {min: 1, max: DEVICES, drain: 5s, rps: RPS, resources: {CPU: 1}}
  tiers: {interactive: {slo: {latency: SLOs}, max_queue: 64}}
"""
CLUSTER = """
apiVersion: tideline/v1
kind: Cluster
metadata: {name: night}
spec:
  ray: {address: local}
  pools:
  - {name: cores, device: cpu, resource: CPU, devices_per_node: DEVICES, count: DEVICES, market: on_demand,
     price: "0.36", capacity: {source: ray}}
  lending: {pools: [cores]}
"""
JOB = """
apiVersion: tideline/v1
kind: TrainJob
metadata: {name: RUN}
spec:
  workers: {min: 1, max: MOST, resources: {CPU: 1}}
  runtime: {working_dir: FOLDER}
  task: tests.cluster.ray_train_task:task
  args: {pace_file: PACE}
  data: {dataset: python-stdlib@latest, seed: 3}
  batch: {global_batch_size: 24, micro_batch_size: 2}
  steps: 100000
  optimizer: {lr: "1e-3"}
  deepspeed: {zero_stage: 1, precision: fp32}
  checkpoint: {every: 600s, snapshot_every_steps: 5}
"""


@dataclass(slots=True)
class DayClock:
    """The compressed day: `scale` of its seconds pass in each real one, and none before it is started."""

    scale: float
    zero_s: float = float("inf")

    def start(self) -> None:
        self.zero_s = time.time()

    def at(self, real_s: float) -> float:
        return MIDNIGHT_S + BEGIN_H * 3600 + max(0.0, real_s - self.zero_s) * self.scale

    def now_s(self) -> float:
        return self.at(time.time())


def share_of_peak(hour: float) -> float:
    """Demand by the hour of the day, as a part of its peak."""
    hour %= 24
    for begin, end, before, after in ((5.0, 10.0, NIGHT, 1.0), (20.5, 23.5, 1.0, NIGHT)):
        if begin <= hour < end:
            part = (1 - math.cos(math.pi * (hour - begin) / (end - begin))) / 2
            return before + (after - before) * part
    return 1.0 if 10.0 <= hour < 20.5 else NIGHT


def make_load(seconds: float, peak_rps: float, seed: int) -> Load:
    """Requests as dense as demand is, each a little off its even place."""
    rng, at_s, arrivals = random.Random(seed), 0.0, []
    while at_s < seconds:
        rate = peak_rps * share_of_peak(BEGIN_H + at_s / seconds * HOURS)
        arrivals.append(Arrival(at_s=at_s + rng.uniform(0, 0.5) / rate, tier="interactive", prompt_tokens=PROMPT,
                                max_tokens=TOKENS, phase="night"))  # fmt: skip
        at_s += 1 / rate
    return Load(name="night", seconds=seconds, arrivals=tuple(arrivals), batch_outstanding=0)


def terms_of(devices: int, scale: float) -> Terms:
    """In the day's seconds, demand included."""
    times = RecallTimes(snapshot_s=SNAPSHOT_S * scale, drain_s=DRAIN_S * scale, cold_start_s=COLD_START_S * scale)
    return Terms(pool=POOL, devices=devices, replica_rps=REPLICA_RPS / scale, times=times, min_slice_s=20 * scale,
                 settle_s=5 * scale, stale_s=15 * scale, grace_s=10 * scale)  # fmt: skip


def earlier_days(terms: Terms, peak_rps: float, scale: float) -> Memory:
    """What lending knows after two days of this demand, measured as often as it will be."""
    memory, standing = Memory(), Standing(serving=terms.replicas)
    begin_s, end_s = MIDNIGHT_S - 2 * 86_400, MIDNIGHT_S + BEGIN_H * 3600
    for tick in range(int((end_s - begin_s) / scale)):
        at_s = begin_s + tick * scale
        rps = peak_rps / scale * share_of_peak((at_s - MIDNIGHT_S) / 3600)
        _, memory = decide_lending(terms, standing, memory, Sample(at_s=at_s, rps=rps), now_s=at_s)
    return memory


@contextlib.contextmanager
def plane(home: Path, devices: int, clock: DayClock, scale: float, *, lends: bool) -> Iterator[Plane]:
    """Ray, an endpoint and a job under a control loop: all of them up, the endpoint with all of its devices."""
    text = CLUSTER.replace("DEVICES", str(devices + 1))
    cluster_file = home / "cluster.yaml"
    cluster_file.write_text(text)
    (cluster,) = load_text(text)
    assert isinstance(cluster, Cluster)
    with contextlib.ExitStack() as stack:
        start_host(home / "ray", nodes_for(cluster))
        stack.callback(stop_host, home / "ray")
        await_host(home / "ray", timeout_s=PATIENCE_S)
        ledger = Ledger(f"sqlite:///{home / 'tide.db'}", holder="night", clock=time.time)
        stack.callback(ledger.close)
        upgrade(ledger.database)
        assert ledger.lead()
        ledger.apply(cluster)
        stack.callback(_kill_processes, home)
        found = Plane(home=home, ledger=ledger, endpoints=_holders(home, ledger, devices, clock, scale, lends=lends))
        ports = dataclasses.replace(live_ports(ledger, cluster=cluster_file, state=home), endpoints=found.endpoints)
        loop = ControlLoop(ports)
        loop.start()
        stack.callback(loop.stop)
        found.submit(endpoint_of(devices), cluster)
        found.until("all replicas answer", lambda: found.sight().answering == devices)
        found.submit(_job(home, devices), cluster)
        found.until("the job makes steps", lambda: len(steps_of(home, RUN)) > 3)
        yield found
        found.end()


def _holders(
    home: Path, ledger: Ledger, devices: int, clock: DayClock, scale: float, *, lends: bool
) -> EndpointHolders:
    """The live port, in the seconds of the compressed day."""
    terms = terms_of(devices, scale)
    write_memory(home / "endpoints" / "night.json", earlier_days(terms, PEAK_LOAD * devices * REPLICA_RPS, scale))

    def sight(job: str) -> Sight:
        seen = read_sight(home / "jobs" / "jobs" / job)
        return replace(seen, counters=tuple(replace(one, at_s=clock.at(one.at_s)) for one in seen.counters))

    return EndpointHolders(
        Holdings(ledger),
        terms=lambda one, times: terms if lends else None,
        sight=sight,
        clock=clock,
        memories=home / "endpoints",
        window_s=4 * scale,
    )


@dataclass(slots=True)
class Plane:
    """The control plane of the night, from outside."""

    home: Path
    ledger: Ledger
    endpoints: EndpointHolders

    def submit(self, spec: Endpoint | TrainJob, cluster: Cluster) -> None:
        self.ledger.submit(new_holder(spec, cluster, now_s=time.time()))

    def sight(self) -> Sight:
        return read_sight(self.home / "jobs" / "jobs" / "night")

    def held(self) -> dict[str, int]:
        """Devices by holder, draining ones included."""
        held: dict[str, int] = {}
        for lease in self.ledger.read.leases():
            held[lease.holder] = held.get(lease.holder, 0) + lease.devices
        return held

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > deadline_s:
                said = [path.read_text()[-2000:] for path in sorted(self.home.glob("jobs/jobs/*/output"))]
                rows = [(row.id, row.state.value, row.reason, row.detail) for row in self.ledger.read.jobs()]
                raise RuntimeError(f"still not: {what}\n{rows}\n{said}")
            time.sleep(0.2)

    def end(self) -> None:
        """Cancel both; everything that they had is given back in order, and the books are checked."""
        for job in ("night", RUN):
            self.ledger.cancel(job)
        self.until("both have gone", lambda: all(row.state in ENDED for row in self.ledger.read.jobs()))
        with self.ledger.database.reading() as connection:
            wrong = check(connection)
        if wrong:
            raise RuntimeError(f"the books do not balance: {wrong}")


def _kill_processes(home: Path) -> None:
    for folder in (home / "jobs" / "jobs").glob("*"):
        JobFolder(folder).kill()


def _job(home: Path, devices: int) -> TrainJob:
    pace = home / "pace"
    pace.write_text("0.05")
    (home / "datasets").symlink_to(packed_dataset().parents[1], target_is_directory=True)
    text = JOB.replace("PACE", str(pace)).replace("RUN", RUN).replace("MOST", str(devices + 1))
    (job,) = load_text(text.replace("FOLDER", str(ROOT)))
    assert isinstance(job, TrainJob)
    return job


def endpoint_of(devices: int) -> Endpoint:
    """The endpoint that lends."""
    text = ENDPOINT.replace("STEP", f"{STEP_S * 1000:.0f}").replace("SLO", f"{SLO_S:.0f}")
    (loaded,) = load_text(text.replace("DEVICES", str(devices)).replace("RPS", str(REPLICA_RPS)))
    assert isinstance(loaded, Endpoint)
    return loaded


def registry_in(home: Path) -> Registry:
    """The echo engine needs no weights, but an endpoint names a registered version."""
    from tests.serving.worlds import tiny_model

    registry = Registry(home / "models")
    registry.register("bench", tiny_model(home / "built"), Provenance(run="night"))
    return registry
