"""A step's time: the staircase, ZeRO's traffic, and why twice the workers are not twice as fast."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planner.memory import ZeroStage
from orchestrator.planner.model import gpt
from orchestrator.planner.network import Link, Traffic, ring_s, zero_traffic
from orchestrator.planner.step_time import StepTime, pass_s, step_time
from orchestrator.policy.batch_plan import BatchPlan

FAST, SLOW = Link(bytes_per_s=200e9), Link(bytes_per_s=16e9, latency_s=1e-5)
BATCH = BatchPlan(1536, 2)


def _step(world_size: int, stage: ZeroStage = 3, *, link: Link = SLOW, overlap: float = 1.0, size: int = 2) -> StepTime:
    """A 175B model, 2 x `size` samples of 2048 tokens a pass on an A100 at 144 TFLOP/s, recomputed."""
    one = 8 * 174.6e9 * 2048 * size / 144e12
    traffic = zero_traffic(174.6e9, 2, stage)
    return step_time(
        BatchPlan(1536, size), world_size, pass_s=one, traffic=traffic, link=link, overlap=overlap, recompute=True
    )


def test_passes_set_the_pace_where_communication_hides() -> None:
    for workers in (100, 150, 384, 767, 768):
        found = step_time(BATCH, workers, pass_s=0.5, traffic=Traffic(), link=FAST)
        assert found.total_s == 0.5 * BATCH.passes(workers)


def test_twice_the_devices_gain_a_fifth_over_slow_links() -> None:
    # Narayanan et al. (2104.04473), table 2: 175B, ZeRO 3, fixed batch, 384 -> 768 A100: 90 -> 74 days.
    gain = _step(384, size=4).total_s / _step(768).total_s
    assert gain == pytest.approx(90 / 74, rel=0.02)
    assert _step(384, size=4, link=FAST).total_s / _step(768, link=FAST).total_s == pytest.approx(2.0)


def test_traffic_of_the_stages_is_that_of_the_paper() -> None:
    # 2N, 2N, 2N, 3N values at one pass (ZeRO, section 7); at four passes stages 2 and 3 pay again.
    for stage, once, at_four in ((0, 2, 2), (1, 2, 2), (2, 2, 5), (3, 3, 12)):
        moved = zero_traffic(1e9, 2, stage)  # type: ignore[arg-type]
        for passes, expected in ((1, once), (4, at_four)):
            total = passes * moved.per_pass_bytes + moved.at_end_bytes + moved.after_bytes
            assert total == expected * 2e9


def test_a_ring_of_one_moves_nothing_and_latency_grows_with_the_ring() -> None:
    assert ring_s(1e9, 3, SLOW, 1) == 0.0
    assert ring_s(0.0, 2, SLOW, 101) == pytest.approx(2 * 100 * 1e-5)
    assert ring_s(1e9, 0, SLOW, 2) == pytest.approx(0.5e9 / 16e9)


@given(st.integers(1, 1000), st.sampled_from([0, 1, 2, 3]), st.floats(1e8, 1e12), st.floats(0, 1))
def test_a_slower_link_or_less_overlap_never_makes_a_step_faster(workers, stage, rate, overlap) -> None:
    here = _step(workers, stage, link=Link(bytes_per_s=rate), overlap=overlap)
    slack = 1 + 1e-12
    assert here.total_s <= _step(workers, stage, link=Link(bytes_per_s=rate / 2), overlap=overlap).total_s * slack
    assert here.total_s <= _step(workers, stage, link=Link(bytes_per_s=rate), overlap=overlap / 2).total_s * slack
    assert here.compute_s <= here.total_s <= (here.compute_s + here.comm_s) * slack
    assert here.exposed_s >= -1e-9 * here.comm_s


def test_what_follows_the_optimizer_never_hides() -> None:
    traffic = Traffic(after_bytes=16e9, after_calls=1)
    found = step_time(BATCH, 768, pass_s=100.0, traffic=traffic, link=Link(bytes_per_s=16e9))
    assert found.exposed_s == pytest.approx(767 / 768)


def test_recomputation_adds_a_third() -> None:
    model = gpt(12, 768, 512)
    bare = pass_s(model, 8, 0.4, 312e12)
    assert pass_s(model, 8, 0.4, 312e12, recompute=True) == pytest.approx(4 / 3 * bare)
    assert bare == pytest.approx(model.flops_per_token * 512 * 8 / (0.4 * 312e12))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_times_and_links_that_are_not_positive_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="pass_s"):
        step_time(BATCH, 4, pass_s=bad, traffic=Traffic(), link=FAST)
    with pytest.raises(ValueError, match="bytes_per_s"):
        Link(bytes_per_s=bad)
    with pytest.raises(ValueError, match="mfu"):
        pass_s(gpt(2, 64, 64), 1, bad, 1e12)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_an_overlap_outside_0_and_1_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="overlap"):
        step_time(BATCH, 4, pass_s=1.0, traffic=Traffic(), link=FAST, overlap=bad)
