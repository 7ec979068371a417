"""No budget is exceeded by more than one rung's cost, whatever the study, its trials' speed and its unit."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.policy.study.budget import Limits, may_run, reached
from orchestrator.policy.study.rungs import largest_rung, report_steps
from orchestrator.policy.study.values import Rates, Spent, spent
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.study.check import require_runnable
from orchestrator.study.record import StudyRecord
from tests.study.worlds import World, drive, make_study

RATES = Rates(usd_per_device_hour=36.0, watts_per_device=1000.0)  # a cent and 0.278 Wh for a device-second

SCHEDULERS = st.sampled_from(
    [
        "{name: asha, grace_steps: 10, reduction_factor: 3}",
        "{name: hyperband, grace_steps: 10, reduction_factor: 3}",
        "{name: median, grace_steps: 20, min_trials: 2}",
        "{name: pbt, interval_steps: 20}",
        "{name: none}",
    ]
)


def _budget(unit: str, device_s: float) -> str:
    cost = spent(device_s, RATES)
    amount = {"device_hours": cost.device_hours, "usd": cost.usd, "kwh": cost.kwh}[unit]
    return f'{{usd: "{amount:.6f}"}}' if unit == "usd" else f"{{{unit}: {amount:.9f}}}"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    unit=st.sampled_from(["device_hours", "usd", "kwh"]),
    device_s=st.floats(5.0, 120.0),
    scheduler=SCHEDULERS,
    concurrency=st.integers(1, 5),
    most_workers=st.integers(1, 3),
    seed=st.integers(0, 1000),
    startup_s=st.floats(0.0, 3.0),
    capacity=st.integers(1, 8),
    losses=st.lists(st.floats(1.0, 60.0), max_size=3),
)
def test_no_budget_is_exceeded_by_more_than_one_rung(
    unit: str,
    device_s: float,
    scheduler: str,
    concurrency: int,
    most_workers: int,
    seed: int,
    startup_s: float,
    capacity: int,
    losses: list[float],
) -> None:
    study = make_study(
        scheduler=scheduler,
        concurrency_max=concurrency,
        workers_max=most_workers,
        seed=seed,
        budget=_budget(unit, device_s),
    )
    generator = random.Random(seed)
    world = World(
        workers_at=lambda now_s: capacity,
        startup_s=startup_s,
        step_s=0.02,
        noise=lambda: generator.uniform(0.5, 2.0),
        lose_at=tuple(losses),
    )
    with tempfile.TemporaryDirectory() as folder:
        record = drive(study, Path(folder) / "s", world, RATES)
    slowest_pass_s = world.step_s * 2.0 * 8  # 32 samples in passes of 4, at the slowest that the noise allows
    rung_s = largest_rung(report_steps(study.spec)) * slowest_pass_s + startup_s
    assert record.device_s <= device_s + rung_s
    if scheduler != "{name: pbt, interval_steps: 20}":  # a population may be done before its budget is
        assert record.close_reason is not None
        assert record.close_reason.value == unit


@given(trials=st.integers(1, 30), concurrency=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_no_more_trials_are_started_than_the_budget_has(trials: int, concurrency: int, seed: int) -> None:
    study = make_study(budget=f"{{trials: {trials}}}", concurrency_max=concurrency, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        record = drive(study, Path(folder) / "s", World())
    assert len(record.searched) == trials


def test_whichever_limit_ends_first_ends_the_study(tmp_path: Path) -> None:
    record = drive(make_study(budget='{trials: 100, device_hours: 1, usd: "0.20"}'), tmp_path / "s", World(), RATES)
    assert record.close_reason is not None
    assert record.close_reason.value == "usd"


def test_a_unit_nobody_can_measure_is_refused_before_anything_starts() -> None:
    with pytest.raises(UserError, match="usd-per-device-hour") as refused:
        require_runnable(make_study(budget='{usd: "5"}'), Rates())
    assert refused.value.code is ExitCode.INVALID
    with pytest.raises(UserError, match="watts-per-device"):
        require_runnable(make_study(budget="{kwh: 5}"), Rates(usd_per_device_hour=1.0))


def test_a_rung_begins_only_when_it_fits_beside_those_that_run() -> None:
    limits = Limits(device_hours=1.0)
    half, bit = spent(1800, Rates()), spent(600, Rates())
    assert may_run(limits, half, bit, bit)
    assert not may_run(limits, half, half, bit)
    assert may_run(limits, half, Spent(), spent(7200, Rates()))  # the last one may go over by itself
    assert not may_run(limits, spent(3600, Rates()), Spent(), bit)


def test_the_first_limit_that_is_reached_is_named() -> None:
    assert reached(Limits(usd=1.0, kwh=1.0), Spent(device_s=1, usd=0.5, kwh=1.0)) is not None
    assert reached(Limits(usd=1.0), Spent(device_s=1, usd=0.999)) is None


def test_the_record_sums_what_its_trials_used(tmp_path: Path) -> None:
    record: StudyRecord = drive(make_study(), tmp_path / "s", World())
    assert record.device_s == pytest.approx(sum(trial.device_s for trial in record.trials.values()))
