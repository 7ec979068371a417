"""A job at every world size: what it costs to be faster, and which sizes a deadline makes cheapest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planner.bill import Rates
from orchestrator.planner.job import Job, cheapest, estimate, estimates, pass_time
from orchestrator.planner.memory import Fit, Sharding
from orchestrator.planner.model import gpt
from orchestrator.planner.network import Link
from orchestrator.planner.values import Range, as_range
from orchestrator.policy.batch_plan import BatchPlan

MODEL = gpt(12, 768, 512)
JOB = Job(
    batch=BatchPlan(8192, 8),
    steps=2000,
    one_pass_s=as_range(0.1),
    goodput=as_range(1.0),
    rates=Rates(usd_per_device_hour=as_range(2.0)),
)


def test_a_run_is_its_steps_over_its_goodput() -> None:
    found = estimate(replace(JOB, goodput=as_range(0.8)), 128)
    assert found.step_s.typical == pytest.approx(0.8)
    assert found.run_s.typical == pytest.approx(0.8 * 2000 / 0.8)
    assert found.bill.device_hours.typical == pytest.approx(128 * found.run_s.typical / 3600)
    assert found.bill.usd is not None
    assert found.bill.usd.typical == pytest.approx(2.0 * found.bill.device_hours.typical)


def test_sizes_between_two_steps_of_the_staircase_only_cost_more() -> None:
    sizes = {size.workers: size for size in estimates(JOB, 100, 200)}
    assert sizes[128].step_s == sizes[146].step_s
    assert sizes[146].bill.device_hours.typical > sizes[128].bill.device_hours.typical
    assert [workers for workers, size in sizes.items() if size.useful] == [100, 103, 114, 128, 147, 171]


def test_the_cheapest_size_is_the_best_balanced_one_and_a_deadline_may_forbid_it() -> None:
    sizes = estimates(JOB, 100, 200)
    free = cheapest(sizes)
    assert free is not None
    assert free.workers == 128  # 1024 micro-batches, 8 each: nobody idles
    assert (free.min_workers, free.max_workers) == (103, 171)
    quick = cheapest(sizes, deadline_s=0.7 * 2000)
    assert quick is not None
    assert quick.workers == 171
    assert cheapest(sizes, deadline_s=0.5 * 2000) is None


def test_over_slow_links_twice_the_workers_are_not_twice_as_fast_and_the_smallest_size_is_cheapest() -> None:
    # Once a step the same bytes go over the same link, however few passes there are to hide them behind.
    once = Sharding(zero_stage=1)
    slow = replace(JOB, model=MODEL, link=Link(bytes_per_s=1e9), sharding=once, batch=BatchPlan(1600, 8))
    found = cheapest(estimates(slow, 100, 200))
    assert found is not None
    assert found.workers == 100
    assert estimate(slow, 100).step_s.typical < 1.7 * estimate(slow, 200).step_s.typical
    quick = replace(slow, link=Link(bytes_per_s=1e13))
    assert estimate(quick, 100).step_s.typical == pytest.approx(2 * estimate(quick, 200).step_s.typical, rel=1e-3)


def test_what_does_not_fit_is_never_the_cheapest() -> None:
    model = gpt(24, 2048, 2048)
    job = replace(JOB, model=model, sharding=Sharding(zero_stage=3), memory_bytes=10e9, batch=BatchPlan(256, 1))
    sizes = estimates(job, 1, 8)
    assert {size.fits for size in sizes} == set(Fit)
    least = next(size.workers for size in sizes if size.fits is Fit.YES)
    found = cheapest(sizes)
    assert found is not None
    assert found.workers >= least
    tight = cheapest([size for size in sizes if size.fits is not Fit.YES])
    assert tight is not None
    assert tight.workers < least
    assert cheapest([size for size in sizes if size.fits is Fit.NO]) is None


def test_memory_is_not_known_without_a_model_or_a_device() -> None:
    assert estimate(JOB, 4).memory is None
    assert estimate(JOB, 4).fits is None
    assert estimate(replace(JOB, model=MODEL), 4).fits is None


def test_a_wide_pass_widens_time_and_money() -> None:
    wide = replace(JOB, model=MODEL, one_pass_s=Range(0.05, 0.1, 0.3), goodput=Range(0.5, 0.9, 1.0))
    found = estimate(wide, 128)
    assert found.step_s.low < found.step_s.typical < found.step_s.high
    assert found.run_s.high / found.run_s.low > found.step_s.high / found.step_s.low


@given(st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_higher_utilisation_makes_a_shorter_pass(one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = pass_time(MODEL, 8, 312e12, mfu=Range(low, low, high))
    assert found.low <= found.typical == found.high
    assert pass_time(MODEL, 8, 312e12, mfu=as_range(high), recompute=True).typical > found.low


@given(st.integers(1, 400), st.integers(1, 3000), st.integers(1, 16))
def test_more_workers_never_take_longer_where_communication_hides(workers: int, batch: int, micro: int) -> None:
    job = replace(JOB, batch=BatchPlan(batch, micro))
    assert estimate(job, workers + 1).run_s.typical <= estimate(job, workers).run_s.typical


def test_jobs_that_make_no_sense_are_refused() -> None:
    for bad in ({"steps": 0}, {"overlap": 1.5}, {"overlap": float("nan")}, {"goodput": Range(0.5, 0.9, 1.2)}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            replace(JOB, **bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 <= min <= max"):
        estimates(JOB, 5, 4)
    with pytest.raises(ValueError, match="deadline_s"):
        cheapest(estimates(JOB, 1, 2), deadline_s=0.0)
