"""The wiring: where Ray is, what a Cluster asks of this version, and orders that wait while there is no Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.adapters.jobs.process import notice_plan
from orchestrator.adapters.ray_cluster.host import RayAddress
from orchestrator.adapters.ray_train.notice_desk import NoticePlan
from orchestrator.cycle import run_cycle
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.schema import upgrade
from orchestrator.ports import UnreachableError
from orchestrator.service import live
from orchestrator.service.live import live_ports
from orchestrator.service.loop import ControlLoop
from orchestrator.spec.errors import UserError
from tests.ledger.world import new, sqlite

CLUSTER = """
apiVersion: tideline/v1
kind: Cluster
metadata: {{name: c}}
spec:
  ray: {{address: "{address}"}}
  pools:
{pools}
  queues:
  - {{name: main, quotas: [{{pool: p, nominal: 8}}]}}
"""
RAY = "{name: p, device: H100, market: spot, price: '1', capacity: {source: ray}}"
TRACE = "{name: p, device: H100, market: spot, price: '1', capacity: {source: trace, trace: s.csv, column: p}}"
OTHER = "{name: q, device: H100, market: spot, price: '1', capacity: {source: trace, trace: s.csv, column: p}}"
KUBE = "{name: p, device: H100, market: spot, price: '1', capacity: {source: kuberay, cluster: c, group: g}}"
KUBE_2 = "{name: q, device: H100, market: spot, price: '1', capacity: {source: kuberay, cluster: d, group: g}}"
SERIES = "time,p\n2025-10-04T00:00:00+00:00,8\n2025-10-04T00:10:00+00:00,8\n"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(sqlite(tmp_path), holder="one", clock=lambda: 1000.0)
    upgrade(made.database)
    yield made
    made.close()


def write(tmp_path: Path, *pools: str, address: str = "127.0.0.1:1") -> Path:
    (tmp_path / "s.csv").write_text(SERIES)
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER.format(address=address, pools="\n".join(f"  - {pool}" for pool in pools)))
    return path


def test_without_ray_pools_are_out_of_sight_and_jobs_wait(ledger: Ledger, tmp_path: Path) -> None:
    ports = live_ports(ledger, cluster=write(tmp_path, RAY), state=tmp_path, clock=lambda: 1000.0)
    loop = ControlLoop(ports)
    loop._round()
    assert loop.health().last_error is None
    ledger.submit(new("a"))
    loop._round()
    assert ledger.read.job("a").state == "queued"
    (pool,) = ports.capacity.observe()
    assert not pool.in_sight
    assert loop.health().cycles == 2


def test_a_recorded_series_is_decided_on_and_nothing_is_started(ledger: Ledger, tmp_path: Path) -> None:
    ports = live_ports(ledger, cluster=write(tmp_path, TRACE), state=tmp_path, clock=lambda: 1000.0)
    ControlLoop(ports)._round()
    ledger.submit(new("a", 4))
    report = run_cycle(ports)
    assert ledger.read.job("a").state == "admitted"
    assert [order.id for order in report.waiting_orders] == ["a-a1"]
    assert not (tmp_path / "jobs").exists()


@pytest.mark.parametrize(
    ("pools", "address", "problem"),
    [
        ((RAY, OTHER), "h:1", "sources ray and trace in one Cluster"),
        ((KUBE, OTHER), "h:1", "sources kuberay and trace in one Cluster"),
        ((KUBE, KUBE_2), "h:1", r"groups of 2 RayClusters \(default/c, default/d\)"),
        ((KUBE,), "local", r"spec\.ray\.address: local starts a Ray on this machine, which has no pods"),
    ],
)
def test_what_cannot_be_observed_or_run_on_is_refused(
    ledger: Ledger, tmp_path: Path, pools: tuple[str, ...], address: str, problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        live_ports(ledger, cluster=write(tmp_path, *pools, address=address), state=tmp_path)


def test_worker_groups_outside_of_kubernetes_are_out_of_sight(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    ports = live_ports(ledger, cluster=write(tmp_path, KUBE), state=tmp_path, clock=lambda: 1000.0)
    ControlLoop(ports)._round()
    assert [pool.in_sight for pool in ports.capacity.observe()] == [False]


def test_a_local_ray_that_does_not_start_is_not_started_twice_a_second(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[float] = []
    now = [1000.0]
    monkeypatch.setattr(live, "start_host", lambda folder, nodes: started.append(now[0]))
    ports = live_ports(ledger, cluster=write(tmp_path, RAY, address="local"), state=tmp_path, clock=lambda: now[0])
    ControlLoop(ports)._round()
    for seconds in (1.0, 2.0, 29.0, 31.0, 32.0):
        now[0] = 1000.0 + seconds
        assert not ports.capacity.observe()[0].in_sight
    assert started == [1000.0, 1031.0]


def test_a_cluster_that_is_applied_later_is_followed(ledger: Ledger, tmp_path: Path) -> None:
    from orchestrator.spec import Cluster, load_one

    ports = live_ports(ledger, cluster=write(tmp_path, RAY), state=tmp_path, clock=lambda: 1000.0)
    ControlLoop(ports)._round()
    ledger.apply(load_one(write(tmp_path, RAY, RAY.replace("name: p", "name: other")), Cluster))
    assert [pool.name for pool in ports.capacity.observe()] == ["p", "other"]


def test_before_any_cluster_there_is_no_ray(ledger: Ledger, tmp_path: Path) -> None:
    around = live.Surroundings(ledger, tmp_path, tmp_path, lambda: 0.0)
    assert around.observe() == ()
    with pytest.raises(UnreachableError, match="no Cluster was applied yet"):
        around.ray()


def test_a_token_goes_by_its_file_and_never_by_value(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret\n")
    address = RayAddress(host_port="h:1", token_file=path)
    assert address.token() == "secret"
    assert "secret" not in str(address.environment())
    assert address.environment()["RAY_AUTH_TOKEN_PATH"] == str(path)
    assert RayAddress(host_port="h:1").environment() == {}


def test_jobs_listen_for_notices_where_the_cluster_says(ledger: Ledger, tmp_path: Path) -> None:
    path = write(tmp_path, RAY)
    text = path.read_text()
    around = live.Surroundings(ledger, tmp_path, tmp_path, lambda: 1000.0)
    assert notice_plan(around.notices()) == NoticePlan()
    for said, plan in (
        ("", NoticePlan(sources=None)),
        ("  notices: {sources: []}\n", NoticePlan(sources=())),
        (
            "  notices: {sources: [aws, file], poll: 2s, file: gone, deadline: 90s}\n",
            NoticePlan(sources=("aws", "file"), file="gone", poll_s=2.0, deadline_s=90.0),
        ),
    ):
        path.write_text(text + said)
        ControlLoop(live_ports(ledger, cluster=path, state=tmp_path, clock=lambda: 1000.0))._round()
        assert notice_plan(json.loads(json.dumps(around.notices()))) == plan
