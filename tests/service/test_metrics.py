"""What a scraper sees of the control plane, and that no job's name is among it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from orchestrator.policy.queueing.orders import Phase
from orchestrator.service.metrics import PlaneMetrics
from tests.ledger.world import World, new


def scraped(metrics: PlaneMetrics) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(metrics)
    lines = generate_latest(registry).decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


def test_depth_leases_and_cost_are_as_the_books_have_them(world: World) -> None:
    metrics = PlaneMetrics(world.ledger.read)
    world.ledger.submit(new("a", 6), new("b", 4), new("c", 20))
    world.ledger.submit(new("d", 1))
    world.ledger.pause("d")
    world.cycle()
    found = scraped(metrics)
    reasons = {world.reason("b"), world.reason("c")}
    for reason in reasons:
        assert found[f'tide_queue_jobs{{queue="main",reason="{reason}"}}'] >= 1
    assert found['tide_queue_jobs{queue="main",reason="Deactivated"}'] == 1
    assert found['tide_pool_devices{pool="p"}'] == 8
    assert found['tide_leased_devices{pool="p",state="held"}'] == 6
    assert found['tide_leased_devices{pool="p",state="draining"}'] == 0
    assert found['tide_cost_usd_per_hour{pool="p"}'] == 6 * 3.6
    assert found['tide_power_watts{pool="p"}'] == 0


def test_admissions_preemptions_and_badput_are_counted_once(world: World) -> None:
    metrics = PlaneMetrics(world.ledger.read)
    scraped(metrics)
    world.ledger.submit(new("low", (4, 8), priority=10, work_s=1e6))
    world.run(20.0)
    world.ledger.submit(new("high", 8, priority=90, work_s=1e6))
    world.run(60.0)
    assert world.state("high") == "running"
    found = scraped(metrics)
    assert scraped(metrics) == found
    assert found["tide_admission_seconds_count"] == 2
    taken = {name: value for name, value in found.items() if name.startswith("tide_preemptions_total")}
    assert sum(taken.values()) == world.kinds("low").count("preempted") + world.kinds("low").count("resizing") > 0
    assert all('cause="priority"' in name for name in taken)
    booked = sum(value for name, value in found.items() if name.startswith("tide_badput_device_seconds_total"))
    ended = [row for row in world.ledger.read.attempts("low") if row.ended_ms is not None]
    assert ended
    assert booked == sum(row.stalled_ms + row.lost_ms + row.draining_ms for row in ended) / 1000


def test_how_long_ahead_devices_are_called_back_is_told_as_meant_and_as_it_is(world: World) -> None:
    metrics = PlaneMetrics(world.ledger.read)
    assert not any(name.startswith("tide_recall_lead_seconds") for name in scraped(metrics))
    metrics.leads = lambda: {"p": (240.0, 420.0)}
    found = {name: value for name, value in scraped(metrics).items() if name.startswith("tide_recall_lead_seconds")}
    assert sorted(found.values()) == [240.0, 420.0]
    assert all('pool="p"' in name for name in found)


def test_no_job_is_a_label(world: World) -> None:
    metrics = PlaneMetrics(world.ledger.read, leading=lambda: True)
    world.ledger.submit(new("nameless", 1, work_s=5.0), new("unseen", 99))
    scraped(metrics)
    world.run(30.0)
    found = scraped(metrics)
    assert world.state("nameless") == Phase.SUCCEEDED
    assert found["tide_leading"] == 1
    assert not any("nameless" in name or "unseen" in name for name in found)


def test_a_cycle_is_timed(world: World) -> None:
    metrics = PlaneMetrics(world.ledger.read)
    metrics.observe(world.cycle(), 0.02)
    assert scraped(metrics)["tide_cycle_seconds_count"] == 1
