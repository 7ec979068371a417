"""What a job drew, emitted and cost by the hour, from its attempts and the pools' series."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.rows import AttemptRow
from orchestrator.ledger.schema import upgrade
from orchestrator.ledger.states import Cause
from orchestrator.ledger.submission import new_holder
from orchestrator.policy.queueing.decisions import Admit, Decisions, Seats, StartReason
from orchestrator.policy.queueing.places import flat_pool
from orchestrator.service.footprint import Footprints, Stretch, stretches
from orchestrator.spec import Cluster, load_text
from tests.contract.test_live_endpoints import JOB

HOUR_S = 3600.0
BEGIN_S = 1_800_000_000.0  # 2027-01-15T08:00:00Z
CLUSTER = """
apiVersion: tideline/v1
kind: Cluster
metadata: {name: c}
spec:
  pools:
  - {name: pool, device: cpu, resource: CPU, count: 7, market: on_demand, price: "1", power_w: 500, KEYS
     capacity: {source: ray}}
"""


def attempt(number: int, workers: int, ordered_s: float, ended_s: float | None = None) -> AttemptRow:
    return AttemptRow(
        job="j", attempt=number, cause=Cause.START, world_size=workers, placement=json.dumps([["pool", "n", workers]]),
        ordered_ms=round(ordered_s * 1000), ended_ms=None if ended_s is None else round(ended_s * 1000), start_step=0,
    )  # fmt: skip


def test_an_attempt_holds_its_seats_until_the_next_order_and_what_drains_until_it_has_gone() -> None:
    rows = [attempt(1, 4, 0.0, 12.0), attempt(2, 1, 10.0)]
    assert list(stretches(rows, 2, 20_000)) == [
        Stretch("pool", 8, 0, 10_000),
        Stretch("pool", 6, 10_000, 12_000),
        Stretch("pool", 2, 10_000, 20_000),
    ]


def footprints(root: Path, keys: str = "", now_s: float = BEGIN_S) -> tuple[Footprints, list[float]]:
    """A job that has held two devices since the begin."""
    clock = [BEGIN_S]
    ledger = Ledger(f"sqlite:///{root / 'tide.db'}", holder="t", clock=lambda: clock[0], patience_s=1e9)
    upgrade(ledger.database)
    assert ledger.lead()
    (cluster,) = load_text(CLUSTER.replace("KEYS", keys))
    assert isinstance(cluster, Cluster)
    ledger.apply(cluster)
    (job,) = load_text(JOB)
    ledger.submit(new_holder(job, cluster, now_s=BEGIN_S))  # type: ignore[arg-type]
    snapshot = ledger.snapshot((flat_pool("pool", 7, resource="CPU"),), now_s=BEGIN_S)
    admit = Admit(job="train", placement=(Seats("pool", "pool", 2),), reason=StartReason.IN_ORDER, detail="")
    ledger.commit(snapshot, Decisions(starts=(admit,)))
    return Footprints(ledger, root, lambda: clock[0]), clock


def test_energy_carbon_and_cost_follow_the_hours(tmp_path: Path) -> None:
    (tmp_path / "carbon.csv").write_text("time,pool\n2027-01-15T07:00:00Z,100\n2027-01-15T09:00:00Z,300\n")
    (tmp_path / "price.csv").write_text("time,pool\n2027-01-15T08:00:00Z,1\n2027-01-15T09:00:00Z,3\n")
    found, clock = footprints(tmp_path, "price_series: price.csv, carbon_series: carbon.csv,")
    clock[0] += 2 * HOUR_S
    used = found("train")
    assert used is not None
    assert used.kwh == pytest.approx(2.0, rel=1e-6)
    assert used.g_co2 == pytest.approx(1.0 * 100 + 1.0 * 300, rel=1e-6)
    assert used.usd == pytest.approx(2 * (1 + 3), rel=1e-6)


def test_without_series_energy_is_told_and_the_price_is_the_pools(tmp_path: Path) -> None:
    found, clock = footprints(tmp_path)
    clock[0] += HOUR_S
    used = found("train")
    assert used is not None
    assert (used.kwh, used.g_co2) == (pytest.approx(1.0, rel=1e-6), None)
    assert used.usd == pytest.approx(2.0, rel=1e-6)


def test_a_series_that_begins_too_late_tells_nothing_and_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "carbon.csv").write_text("time,pool\n2028-01-01T00:00:00Z,100\n")
    found, clock = footprints(tmp_path, "carbon_series: carbon.csv,")
    clock[0] += HOUR_S
    used = found("train")
    assert used is not None
    assert used.g_co2 is None
    assert used.kwh == pytest.approx(1.0, rel=1e-6)
