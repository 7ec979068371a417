"""What `night_live` plays with: the compressed day and its requests, the endpoint from outside, the job beside it."""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ray
from ray._private.state import available_resources_per_node

from orchestrator.adapters.endpoints.live import Seen
from orchestrator.adapters.ray_serve import Deployed
from orchestrator.adapters.ray_train.lease import FileLease, Lease
from orchestrator.policy.lending.decide import Memory, Sample, decide_lending
from orchestrator.policy.lending.values import RecallTimes, Standing, Terms
from orchestrator.registry import Provenance, Registry
from orchestrator.spec import Endpoint, load_text
from orchestrator.spec.errors import UnreachableError
from tests.benchmarks.elastic_ours import steps_of
from tests.benchmarks.serving_loads import Arrival, Load

BEGIN_H, HOURS = 20.0, 16.0
MIDNIGHT_S = dt.datetime(2026, 6, 3, tzinfo=dt.UTC).timestamp()
SLO_S = 2.0
STEP_S, PROMPT, TOKENS = 0.05, 8, 4  # one prefill and three decodes: 0.2 s of a replica
REPLICA_RPS, PEAK_LOAD, NIGHT = 3.5, 0.85, 0.2
POOL, RUN = "endpoint", "night"
# Real seconds, as seen on this kind of machine; the lead that they add up to is what lending counts on.
SNAPSHOT_S, DRAIN_S, COLD_START_S = 3.0, 6.0, 12.0
ROOT = Path(__file__).resolve().parents[2]

ENDPOINT = """
apiVersion: tideline/v1
kind: Endpoint
metadata: {name: night}
spec:
  model: bench@1
  listen: {port: 0}
  engine: {name: echo, slots: 1, step_time: STEPms}
  replicas: {min: DEVICES, max: DEVICES, drain: 5s, resources: {CPU: 1, custom: {POOL: 1}}}
  tiers: {interactive: {slo: {latency: SLOs}, max_queue: 64}}
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
    """The compressed day: `scale` of its seconds pass in each real one."""

    scale: float
    zero_s: float = 0.0

    def start(self) -> None:
        self.zero_s = time.time()

    def at(self, real_s: float) -> float:
        return MIDNIGHT_S + BEGIN_H * 3600 + (real_s - self.zero_s) * self.scale

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


class Place:
    """The endpoint from outside: one node with the endpoint's devices and one of the job's own."""

    def __init__(self, deployed: Deployed, clock: DayClock, devices: int, node_id: str) -> None:
        self._deployed, self._clock, self._devices, self._node_id = deployed, clock, devices, node_id
        self.leased = devices

    def see(self) -> Seen:
        """Raises: UnreachableError."""
        try:
            counters = tuple(replace(one, at_s=self._clock.at(one.at_s)) for one in self._deployed.arrivals())
            answering = self._deployed.num_answering()
        except (TimeoutError, ray.exceptions.RayError) as error:
            raise UnreachableError(f"endpoint {self._deployed.name}: {error}") from error
        free = available_resources_per_node().get(self._node_id, {})
        holding = round(self._devices - free.get(POOL, 0.0))
        used = round(self._devices + 1 - free.get("CPU", 0.0))
        return Seen(counters=counters, answering=answering, holding=holding, training=max(0, used - holding - 1))

    def lease(self, replicas: int) -> None:
        if replicas != self.leased:
            self._deployed.lease(replicas)
            self.leased = replicas


@contextlib.contextmanager
def training(home: Path, address: str, devices: int, data: Path) -> Iterator[FileLease]:
    """The job in a process of its own, held to its own device at first."""
    home.mkdir()
    (home / "datasets").symlink_to(data.parents[1], target_is_directory=True)
    pace = home / "pace"
    pace.write_text("0.05")
    text = JOB.replace("PACE", str(pace)).replace("RUN", RUN).replace("MOST", str(devices + 1))
    job = home / "job.yaml"
    job.write_text(text.replace("FOLDER", str(ROOT)))
    lease = FileLease(home / "runs" / RUN)
    lease.write(Lease(workers=1))
    command = [sys.executable, "-m", "tests.benchmarks.elastic_ours", str(job), str(home), address, "1"]
    with (home / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                                   env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})  # fmt: skip
    try:
        _wait(lambda: len(steps_of(home, RUN)) > 3, "the job's first steps", process, home / "output.txt")
        yield lease
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(holds: Callable[[], bool], what: str, process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"still not: {what}\n{output.read_text()[-2000:]}")
        time.sleep(0.2)


def endpoint_of(devices: int) -> Endpoint:
    """The endpoint that lends."""
    text = ENDPOINT.replace("STEP", f"{STEP_S * 1000:.0f}").replace("SLO", f"{SLO_S:.0f}")
    (loaded,) = load_text(text.replace("DEVICES", str(devices)).replace("POOL", POOL))
    assert isinstance(loaded, Endpoint)
    return loaded


def registry_in(home: Path) -> Registry:
    """The echo engine needs no weights, but an endpoint names a registered version."""
    from tests.serving.worlds import tiny_model

    registry = Registry(home / "models")
    registry.register("bench", tiny_model(home / "built"), Provenance(run="night"))
    return registry
