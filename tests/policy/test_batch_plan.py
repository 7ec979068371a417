"""The batch plan: every size takes the same samples and gives the same gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.batch_plan import BatchPlan, Pass

plans = st.builds(BatchPlan, st.integers(1, 9000), st.integers(1, 64))


@pytest.mark.parametrize(
    ("batch", "micro", "useful"),
    [
        (1200, 1, (100, 110, 120, 134, 150, 172, 200)),
        (9600, 8, (100, 110, 120, 134, 150, 172, 200)),
        (9593, 8, (100, 110, 120, 134, 150, 172, 200)),  # the last micro-batch is short, the staircase is the same
        (64, 1, (100,)),  # fewer micro-batches than workers: more never help
        (200, 1, (100, 200)),
    ],
)
def test_useful_sizes_are_the_steps_of_the_staircase(batch, micro, useful):
    assert BatchPlan(batch, micro).useful_sizes(100, 200) == useful


@pytest.mark.parametrize(
    ("micro_batches", "mean", "lowest"),
    [(600, 0.886, 0.754), (1024, 0.931, None), (1200, 0.941, 0.861), (2400, 0.970, 0.928), (4800, 0.985, 0.965)],
)
def test_balance_over_100_to_200_workers_is_as_documented(micro_batches, mean, lowest):
    balance = [BatchPlan(micro_batches, 1).balance(size) for size in range(100, 201)]
    assert round(float(np.mean(balance)), 3) == mean
    if lowest is not None:
        assert round(min(balance), 3) == pytest.approx(lowest, abs=0.0011)


@settings(deadline=None, max_examples=25)
@given(plan=plans)
def test_shares_sum_to_the_batch_at_every_size_from_100_to_200(plan):
    for world_size in range(100, 201):
        counted = sorted(m for rank in range(world_size) for m in plan.rank_micro_batches(world_size, rank))
        assert counted == list(range(plan.num_micro_batches))
    positions = [p for m in range(plan.num_micro_batches) for p in plan.micro_batch_range(m)]
    assert positions == list(range(plan.global_batch_size))


@settings(deadline=None)
@given(plan=plans, world_size=st.integers(1, 300))
def test_every_rank_runs_equally_many_passes_and_only_real_micro_batches(plan, world_size):
    ranks = range(world_size)
    passes = [plan.rank_passes(world_size, rank) for rank in ranks]
    assert {len(p) for p in passes} == {plan.passes(world_size)}
    assert all(0 <= one.micro_batch < plan.num_micro_batches for p in passes for one in p)
    assert sum(one.counted for p in passes for one in p) == plan.num_micro_batches
    assert sum(plan.rank_samples(world_size, rank) for rank in ranks) == plan.global_batch_size


@settings(deadline=None, max_examples=50)
@given(plan=plans, data=st.data())
def test_weights_sum_to_exactly_one_and_follow_the_tokens(plan, data):
    assert math.fsum(plan.weights()) == 1.0
    seed = data.draw(st.integers(0, 2**32 - 1))
    tokens = np.random.default_rng(seed).integers(0, 4096, plan.global_batch_size).astype(float)
    tokens[0] += 1
    weights = plan.weights(tokens)
    assert math.fsum(weights) == 1.0
    for m in range(plan.num_micro_batches):
        expected = tokens[list(plan.micro_batch_range(m))].sum() / tokens.sum()
        assert weights[m] == pytest.approx(expected, abs=1e-12)
        assert expected or weights[m] == 0.0


@settings(deadline=None)
@given(plan=plans, bounds=st.tuples(st.integers(1, 300), st.integers(0, 300)))
def test_useful_sizes_are_all_and_only_the_faster_ones(plan, bounds):
    smallest, largest = bounds[0], bounds[0] + bounds[1]
    faster = [w for w in range(smallest + 1, largest + 1) if plan.passes(w) < plan.passes(w - 1)]
    assert plan.useful_sizes(smallest, largest) == (smallest, *faster)


@settings(deadline=None)
@given(plan=plans, world_size=st.integers(1, 300))
def test_throughput_never_falls_when_workers_join(plan, world_size):
    assert plan.throughput(world_size + 1) >= plan.throughput(world_size)
    assert 0 < plan.balance(world_size) <= 1


def _gradient(theta_D, x_BD, y_B, weight_B):
    """Gradient of the weighted mean of log-cosh residuals: a loss that is nonlinear in theta."""
    residual_B = np.tanh(x_BD @ theta_D - y_B)
    return (weight_B[:, None] * residual_B[:, None] * x_BD).sum(axis=0) / weight_B.sum()


def _elastic_gradient(plan, world_size, theta_D, x_BD, y_B, weight_B):
    """What DeepSpeed computes: each rank sums its scaled micro-gradients, the all-reduce divides by world_size."""
    weight_M = plan.weights(weight_B)
    total_D = np.zeros_like(theta_D)
    for rank in range(world_size):
        for one in plan.rank_passes(world_size, rank):
            rows = slice(plan.micro_batch_range(one.micro_batch).start, plan.micro_batch_range(one.micro_batch).stop)
            scale = world_size * weight_M[one.micro_batch] if one.counted else 0.0
            if weight_B[rows].any():
                total_D += scale * _gradient(theta_D, x_BD[rows], y_B[rows], weight_B[rows])
    return total_D / world_size


@pytest.mark.parametrize("token_weighted", [False, True])
def test_gradient_of_every_size_from_100_to_200_equals_the_single_process_one(token_weighted):
    rng = np.random.default_rng(20)
    for world_size in range(100, 201):
        plan = BatchPlan(int(rng.integers(1, 1200)), int(rng.integers(1, 9)))
        x_BD, y_B, theta_D = (rng.normal(size=s) for s in ((plan.global_batch_size, 5), plan.global_batch_size, 5))
        weight_B = rng.integers(1, 512, plan.global_batch_size) if token_weighted else np.ones(plan.global_batch_size)
        whole_D = _gradient(theta_D, x_BD, y_B, weight_B)
        elastic_D = _elastic_gradient(plan, world_size, theta_D, x_BD, y_B, weight_B.astype(float))
        np.testing.assert_allclose(elastic_D, whole_D, rtol=1e-12, atol=1e-12 * np.abs(whole_D).max())


def test_a_dropped_micro_batch_changes_the_gradient():
    """The check above must be able to fail: leave one micro-batch out and it does."""
    rng = np.random.default_rng(3)
    plan = BatchPlan(97, 4)
    x_BD, y_B, theta_D, weight_B = rng.normal(size=(97, 5)), rng.normal(size=97), rng.normal(size=5), np.ones(97)
    whole_D = _gradient(theta_D, x_BD, y_B, weight_B)
    broken = weight_B.copy()
    broken[4:8] = 0
    elastic_D = _elastic_gradient(plan, 7, theta_D, x_BD, y_B, broken)
    assert np.abs(elastic_D - whole_D).max() > 1e-6


def test_a_rank_without_work_pads_with_a_real_micro_batch_of_weight_zero():
    plan = BatchPlan(3, 1)
    assert plan.rank_passes(5, 4) == (Pass(1, counted=False),)
    assert plan.rank_micro_batches(5, 4) == range(4, 3, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: BatchPlan(0, 1),
        lambda: BatchPlan(1, 0),
        lambda: BatchPlan(4, 1).rank_micro_batches(2, 2),
        lambda: BatchPlan(4, 1).micro_batch_range(4),
        lambda: BatchPlan(4, 1).passes(0),
        lambda: BatchPlan(4, 1).useful_sizes(3, 2),
        lambda: BatchPlan(4, 1).weights([1.0, 2.0]),
        lambda: BatchPlan(2, 1).weights([0.0, 0.0]),
        lambda: BatchPlan(2, 1).weights([1.0, -1.0]),
        lambda: BatchPlan(2, 1).weights([1.0, math.nan]),
    ],
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be|need|are all 0"):
        wrong()
