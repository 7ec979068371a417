"""An endpoint under the control plane on real Ray Serve: replicas sit where the lease is, and outlive whoever dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from orchestrator.adapters.endpoints.sight import Sight, read_sight
from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.ray_cluster.host import await_host, start_host, stop_host
from orchestrator.ledger.check import check
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.schema import upgrade
from orchestrator.ledger.states import JobState
from orchestrator.ledger.submission import new_holder
from orchestrator.registry import Provenance, Registry
from orchestrator.service.live import live_ports
from orchestrator.service.local_nodes import nodes_for
from orchestrator.service.loop import ControlLoop
from orchestrator.spec import Cluster, Endpoint, load_text
from tests.serving.worlds import tiny_model

pytestmark = pytest.mark.cluster
PATIENCE_S, LOOK_S = 180.0, 0.1

CLUSTER = """
apiVersion: tideline/v1
kind: Cluster
metadata: {name: two-nodes}
spec:
  ray: {address: local}
  pools:
  - {name: cores, device: cpu, resource: CPU, devices_per_node: 1, count: 2, market: on_demand, price: "0.36",
     capacity: {source: ray}}
"""
ENDPOINT = """
apiVersion: tideline/v1
kind: Endpoint
metadata: {name: talk}
spec:
  model: tiny-gpt@1
  listen: {port: 0}
  engine: {name: echo}
  replicas: {min: 1, max: 2, drain: 2s, resources: {CPU: 1}}
  tiers: {interactive: {slo: {latency: 5s}}}
"""


class Plane:
    """A state folder with a control loop over it."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.file = state / "cluster.yaml"
        self.file.write_text(CLUSTER)
        (self.cluster,) = load_text(CLUSTER)
        assert isinstance(self.cluster, Cluster)
        self.ledger = Ledger(f"sqlite:///{state / 'tide.db'}", holder="test", clock=time.time)
        upgrade(self.ledger.database)
        assert self.ledger.lead()
        self.ledger.apply(self.cluster)
        self.loop = self.begin()

    def begin(self) -> ControlLoop:
        """A control loop that knows nothing yet."""
        loop = ControlLoop(live_ports(self.ledger, cluster=self.file, state=self.state), every_s=0.3)
        loop.start()
        return loop

    @property
    def folder(self) -> JobFolder:
        return JobFolder(self.state / "jobs" / "jobs" / "talk")

    def sight(self) -> Sight:
        return read_sight(self.folder.path)

    def asked_to_stop(self) -> bool:
        order = self.folder.read_order()
        return order is not None and order.stop

    def follows(self, file: str) -> None:
        """Let another file hold."""
        (spec,) = load_text(file)
        assert isinstance(spec, Endpoint)
        assert self.ledger.submit(new_holder(spec, self.cluster, now_s=time.time())).revised == ("talk",)

    def rollout(self) -> str:
        """How far the last change has come."""
        return (self.sight().rollout or {}).get("state", "")

    def held(self) -> int:
        return sum(one.devices for one in self.ledger.read.leases())

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        for _ in range(round(PATIENCE_S / LOOK_S)):  # looks, not seconds: a machine may stand still meanwhile
            if holds():
                return
            time.sleep(LOOK_S)
        rows = [(row.id, row.state.value, row.reason, row.detail) for row in self.ledger.read.jobs()]
        said = self.folder.output.read_text()[-3000:] if self.folder.output.exists() else ""
        raise AssertionError(f"{what}: not so after {PATIENCE_S:g} s; {rows}; {self.loop.health()}\n{said}")


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    Registry(tmp_path / "models").register("tiny-gpt", tiny_model(tmp_path / "built"), Provenance(run="r"))
    (cluster,) = load_text(CLUSTER)
    assert isinstance(cluster, Cluster)
    start_host(tmp_path / "ray", nodes_for(cluster))
    await_host(tmp_path / "ray", timeout_s=PATIENCE_S)
    plane = Plane(tmp_path)
    try:
        yield plane
    finally:
        plane.loop.stop()
        plane.folder.kill()
        plane.ledger.close()
        stop_host(tmp_path / "ray")


def test_replicas_follow_the_lease_and_answer_whoever_is_killed(plane: Plane) -> None:
    (spec,) = load_text(ENDPOINT)
    assert isinstance(spec, Endpoint)
    plane.ledger.submit(new_holder(spec, plane.cluster, now_s=time.time()))
    plane.until("it has a replica on each device", lambda: plane.sight().answering == 2)
    assert plane.held() == 2
    url = plane.sight().urls["interactive"]
    assert url.endswith("/talk")
    statuses, done = [], threading.Event()

    def keep_asking() -> None:
        while not done.wait(0.05):
            body = {"model": "tiny-gpt", "prompt": "x", "max_tokens": 2}
            statuses.append(httpx.post(f"{url}/v1/completions", json=body, timeout=30.0).status_code)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        plane.ledger.pin("talk", 1)
        plane.until("its second replica has left", lambda: plane.sight().answering == 1 and plane.held() == 1)
        (lease,) = plane.ledger.read.leases()
        plane.until("it sits where its lease is", lambda: plane.sight().nodes == dict(lease.nodes))
        plane.follows(ENDPOINT.replace("name: echo", "name: echo, slots: 2"))
        plane.until("its process replaces the replica", lambda: plane.rollout() == "rolling")
        plane.loop.stop()
        birth = plane.folder.read_birth()
        assert birth is not None
        birth.kill()
        plane.until("its process is dead", lambda: not plane.folder.is_alive)
        plane.loop = plane.begin()
        plane.until("another process has it", lambda: plane.folder.read_birth() != birth and plane.folder.is_alive)
        plane.until("it is found to answer", lambda: plane.ledger.read.job("talk").state is JobState.RUNNING)
        plane.until("the next process has finished that", lambda: plane.rollout() == "done")
        plane.until("the new replica has come to the lease", lambda: plane.sight().nodes == dict(lease.nodes))
        plane.ledger.pin("talk", None)
        plane.until("it has its second replica again", lambda: plane.sight().answering == 2)
        # No device is free now: of two replicas one after the other goes first.
        plane.follows(ENDPOINT.replace("name: echo", "name: echo, slots: 3"))
        plane.until("both follow the file", lambda: plane.rollout() == "done" and plane.sight().answering == 2)
        plane.follows(ENDPOINT.replace("tiny-gpt@1", "tiny-gpt@9"))
        plane.until("a version that is not there is refused", lambda: plane.rollout() == "refused")
    finally:
        done.set()
        asking.join()
    assert set(statuses) == {200}
    plane.ledger.cancel("talk")
    plane.until("it is asked to stop", plane.asked_to_stop)
    plane.folder.kill()  # in the middle of it: what it leaves is taken down all the same
    plane.until("it has gone", lambda: plane.ledger.read.job("talk").state is JobState.CANCELLED)
    assert plane.held() == 0
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/healthz", timeout=5.0)
    with plane.ledger.database.reading() as connection:
        assert check(connection) == []
