"""An endpoint under the control plane on real Ray Serve: replicas sit where the lease is, and outlive whoever dies."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch

from jobs.models.load import load_model, save_model
from orchestrator.adapters.endpoints.life import read_begun
from orchestrator.adapters.endpoints.sight import Sight, read_sight
from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.ray_cluster.host import await_host, start_host, stop_host
from orchestrator.ledger.check import check
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.schema import upgrade
from orchestrator.ledger.states import JobState
from orchestrator.ledger.submission import new_holder
from orchestrator.policy.queueing.orders import Phase, Report
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


ON_TRIAL = """
apiVersion: tideline/v1
kind: Endpoint
metadata: {name: trial}
spec:
  model: tiny-gpt@live
  listen: {port: 0}
  engine: {slots: 4}
  replicas: {drain: 2s, resources: {CPU: 1}}
  tiers: {interactive: {slo: {latency: 60s}}}
  canary: {model: tiny-gpt@2, weight: 0.5, rollback: {error_rate: 0.02}}
"""


class Plane:
    """A state folder with a control loop over it, and the endpoint `name` in it."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.name = "talk"
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
        return JobFolder(self.state / "jobs" / "jobs" / self.name)

    def sight(self) -> Sight:
        return read_sight(self.folder.path)

    def asked_to_stop(self) -> bool:
        order = self.folder.read_order()
        return order is not None and order.stop

    def submit(self, file: str) -> tuple[str, ...]:
        """Submit an endpoint; those that were there and follow their file from now on."""
        (spec,) = load_text(file)
        assert isinstance(spec, Endpoint)
        self.name = spec.metadata.name
        return self.ledger.submit(new_holder(spec, self.cluster, now_s=time.time())).revised

    def has_rolled_out(self) -> bool:
        """Whether every replica is what the file in the books says."""
        begun, wanted = read_begun(self.folder.path, {}), self.ledger.read.document(self.name)
        is_wanted = begun is not None and begun.before is None and begun.now.document == wanted
        return is_wanted and self.rollout() == "done"

    def is_seated(self) -> bool:
        """Whether replicas are exactly where the lease is."""
        leased: Counter[str] = Counter()
        for one in self.ledger.read.leases():
            leased.update(dict(one.nodes))
        return self.sight().nodes == dict(leased)

    def sight_stamp(self) -> int:
        """Changes when its process says how it is."""
        return (self.folder.path / "serving.json").stat().st_mtime_ns

    def kill_its_process(self) -> None:
        birth = self.folder.read_birth()
        assert birth is not None
        birth.kill()
        self.until("its process is dead", lambda: not birth.is_alive)

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


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """Two nodes, and three versions of a model of which the second has no finite scores."""
    home = tmp_path_factory.mktemp("home")
    registry = Registry(home / "models")
    for seed in (0, 1, 2):
        folder = tiny_model(home / f"built{seed}", seed)
        if seed == 1:
            model, config = load_model(folder)
            with torch.no_grad():
                model.norm.weight.fill_(float("nan"))
            folder = save_model(model, config, home / "bad")
        registry.register("tiny-gpt", folder, Provenance(run="r"))
    (cluster,) = load_text(CLUSTER)
    assert isinstance(cluster, Cluster)
    start_host(home / "ray", nodes_for(cluster))
    await_host(home / "ray", timeout_s=PATIENCE_S)
    plane = Plane(home)
    try:
        yield plane
    finally:
        plane.loop.stop()
        plane.folder.kill()
        plane.ledger.close()
        stop_host(home / "ray")


def test_replicas_follow_the_lease_and_answer_whoever_is_killed(plane: Plane) -> None:
    assert plane.submit(ENDPOINT) == ()
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
        plane.until("it sits where its lease is", plane.is_seated)
        assert plane.submit(ENDPOINT.replace("name: echo", "name: echo, slots: 2")) == ("talk",)
        plane.until("its process replaces the replica", lambda: plane.rollout() == "rolling")
        plane.loop.stop()
        birth = plane.folder.read_birth()
        plane.kill_its_process()
        plane.loop = plane.begin()
        plane.until("another process has it", lambda: plane.folder.read_birth() != birth and plane.folder.is_alive)
        plane.until("it is found to answer", lambda: plane.ledger.read.job("talk").state is JobState.RUNNING)
        plane.until("the next process has finished that", plane.has_rolled_out)
        plane.until("the new replica has come to the lease", plane.is_seated)
        plane.ledger.pin("talk", None)
        plane.until("it has its second replica again", lambda: plane.sight().answering == 2)
        # No device is free now: of two replicas one after the other goes first.
        plane.submit(ENDPOINT.replace("name: echo", "name: echo, slots: 3"))
        plane.until("both follow the file", lambda: plane.has_rolled_out() and plane.sight().answering == 2)
        plane.submit(ENDPOINT.replace("tiny-gpt@1", "tiny-gpt@9"))
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


def test_a_bad_canary_is_taken_back_the_alias_is_followed_and_nothing_is_left_between_attempts(plane: Plane) -> None:
    registry = Registry(plane.state / "models")
    registry.set_alias("tiny-gpt@1", "live")
    plane.submit(ON_TRIAL)
    plane.until("it answers", lambda: plane.sight().answering == 1)
    url = plane.sight().urls["interactive"]

    def ask(_: int) -> int:
        body = {"model": "tiny-gpt", "prompt": "def f(", "max_tokens": 2}
        return httpx.post(f"{url}/v1/completions", json=body, timeout=60.0).status_code

    def taken_back() -> bool:
        return bool((plane.sight().canary or {}).get("taken_back"))

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(ask, range(120)))
        assert set(statuses) == {200, 503}
        assert statuses.count(503) < 60  # a part of the trial's requests, and none of the others
        plane.until("the canary is taken back", taken_back)
        assert set(pool.map(ask, range(40))) == {200}
    scraped = httpx.get(f"{url}/metrics").text
    assert re.search(r'tide_serving_canary_rollbacks_total{.*reason="errors",version="tiny-gpt@2"} 1.0', scraped)
    registry.set_alias("tiny-gpt@3", "live")
    plane.until("it follows the alias", lambda: plane.sight().ref == "tiny-gpt@3")
    assert httpx.get(f"{url}/v1/models/tiny-gpt").json()["version"] == "tiny-gpt@3"
    plane.kill_its_process()
    stamp = plane.sight_stamp()
    plane.until("the next process says so, too", lambda: plane.sight_stamp() != stamp and plane.sight().answering == 1)
    assert taken_back()
    assert plane.sight().ref == "tiny-gpt@3"
    # Killed once more, and cancelled before anybody has ordered it again: what answers is taken down all the same.
    plane.loop.stop()
    plane.kill_its_process()
    died = Report(job="trial", attempt=plane.ledger.read.job("trial").attempt, phase=Phase.FAILED)
    plane.ledger.record((died,), now_s=time.time())
    plane.ledger.cancel("trial")
    assert ask(0) == 200
    plane.loop = plane.begin()
    plane.until("it has gone", lambda: plane.ledger.read.job("trial").state is JobState.CANCELLED)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/healthz", timeout=5.0)
