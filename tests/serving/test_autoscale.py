"""What Serve's controller is told, without a controller."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.adapters.ray_serve import autoscale
from serving.engine.load_meter import LoadMeter
from serving.policy.scaling import ReplicaLoad


def context(metrics: dict[str, dict[str, float]], **changed: Any) -> SimpleNamespace:
    usual = {"app_name": "e", "aggregated_metrics": metrics, "target_num_replicas": 1, "policy_state": {}}
    usual |= {"capacity_adjusted_max_replicas": 4, "current_time": 100.0}
    return SimpleNamespace(**{**usual, **changed})


def reports(*loads: ReplicaLoad) -> dict[str, dict[str, float]]:
    return {
        name: {f"r{i}": getattr(load, name) for i, load in enumerate(loads)}
        for name in ("online_busy", "slack", "shed")
    }


@pytest.fixture
def lease(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    leases: dict[str, int | None] = {"e": None}
    # Where the policy looks it up: Serve, deploying in this process before, may have made the class anew.
    monkeypatch.setitem(autoscale.SloPolicy.__call__.__globals__, "read_lease", leases.__getitem__)
    return leases


def test_a_replica_that_runs_out_of_slack_gets_company_within_the_lease(lease: dict[str, int | None]) -> None:
    late = reports(ReplicaLoad(online_busy=0.9, slack=-0.1))
    assert autoscale.SloPolicy(1)(context(late))[0] == 2
    lease["e"] = 1
    assert autoscale.SloPolicy(1)(context(late))[0] == 1


def test_a_lease_below_the_files_minimum_wins(lease: dict[str, int | None]) -> None:
    lease["e"] = 1
    busy = reports(ReplicaLoad(online_busy=0.9))
    policy = autoscale.SloPolicy(min_replicas=3)
    assert policy(context(busy, target_num_replicas=3))[0] == 1
    lease["e"] = None
    assert policy(context(busy, target_num_replicas=1))[0] == 3


def test_patience_is_remembered_between_calls_and_half_a_report_is_none(lease: dict[str, int | None]) -> None:
    idle = reports(ReplicaLoad(), ReplicaLoad())
    count, state = autoscale.SloPolicy(1)(context(idle, target_num_replicas=2))
    assert (count, state) == (2, {"spare_since_s": 100.0})
    assert autoscale.SloPolicy(1)(context(idle, target_num_replicas=2, policy_state=state, current_time=161.0))[0] == 1
    assert autoscale.SloPolicy(1)(context({"slack": {"r0": 0.0}}, target_num_replicas=2))[0] == 2


def test_the_meter_sees_the_last_seconds_and_forgets_when_idle() -> None:
    meter = LoadMeter(0.0)
    for tenth in range(100):
        meter.stepped(0.05, now_s=tenth / 10)
    meter.asked(shed=False, now_s=9.9)
    meter.asked(shed=True, now_s=9.9)
    meter.finished(-0.2, now_s=9.9)
    load = meter.load(now_s=10.0)
    assert load.online_busy == pytest.approx(0.5, abs=0.05)
    assert (load.shed, load.slack) == (0.5, -0.2)
    assert meter.load(now_s=25.0) == ReplicaLoad()
