"""The step-time model: never negative, monotone, and it learns a machine from its steps."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.policy import StepShape, StepTimeModel, calibrated, exact, untrained

_SHAPES = st.builds(StepShape, st.integers(0, 64), st.integers(0, 512), st.integers(0, 20_000))
_OBSERVED = st.lists(st.tuples(_SHAPES, st.floats(0, 1)), max_size=20)


@given(_OBSERVED, _SHAPES, _SHAPES)
def test_more_work_never_looks_cheaper(seen: list[tuple[StepShape, float]], some: StepShape, more: StepShape) -> None:
    model = calibrated(seen)
    assert 0 <= model.predict_s(some) <= model.predict_s(some + more) + 1e-12


_ANY_S = st.one_of(st.just(0.0), st.floats(0, 1e-300), st.floats(0, 1e6))


@given(st.lists(st.tuples(st.sampled_from([StepShape(1, 0, 9), StepShape(0, 64, 64), StepShape(0, 0, 0)]), _ANY_S)))
def test_no_step_however_short_makes_a_prediction_without_end(seen: list[tuple[StepShape, float]]) -> None:
    model = untrained()
    for shape, elapsed_s in seen:
        model = model.observe(shape, elapsed_s)
        assert math.isfinite(1e6 * model.predict_s(StepShape(64, 512, 20_000)))


def test_a_direction_without_uncertainty_makes_none_either() -> None:
    """What a negative weight stood for is shared out by dividing by its uncertainty."""
    sure, linked = 1e-310, 1e-200
    covariance = [[float(i == j) for j in range(5)] for i in range(5)]
    covariance[1][1], covariance[0][1], covariance[1][0] = sure, linked, linked
    model = StepTimeModel(weights=(1e-3, -1.0, 0.0, 0.0, 0.0), covariance=tuple(map(tuple, covariance)))
    model = model.observe(StepShape(0, 0, 0), 1e-3)
    assert math.isfinite(1e6 * model.predict_s(StepShape(64, 512, 20_000)))


@pytest.mark.parametrize("rows", [1, 4, 8, 16, 32])
def test_it_learns_the_measured_decode_times_within_a_tenth(rows: int) -> None:
    measured_s = {1: 0.0066, 4: 0.0112, 8: 0.0158, 16: 0.0216, 32: 0.0295}
    model = calibrated([(StepShape(n, 0, n * 128), s) for _ in range(20) for n, s in measured_s.items()])
    assert model.predict_s(StepShape(rows, 0, rows * 128)) == pytest.approx(measured_s[rows], rel=0.1)


def test_it_follows_a_machine_that_becomes_slower() -> None:
    draw = random.Random(0)
    shapes = [StepShape(draw.randint(1, 16), draw.choice((0, 0, 64)), draw.randint(0, 2000)) for _ in range(600)]
    fast, slow = exact(base_s=0.005, row_s=0.001), exact(base_s=0.01, row_s=0.002)
    model = calibrated([(shape, fast.predict_s(shape)) for shape in shapes])
    for shape in [*shapes, *shapes]:
        model = model.observe(shape, slow.predict_s(shape))
    probe = StepShape(8, 0, 1000)
    assert model.predict_s(probe) == pytest.approx(slow.predict_s(probe), rel=0.1)


def test_it_follows_a_busy_machine_within_a_second_of_steps_and_back() -> None:
    shape, model = StepShape(4), exact(base_s=0.005, row_s=0.001)
    for slowdown in (3.0, 1.0):
        for _ in range(40):
            model = model.observe(shape, 0.009 * slowdown)
        assert model.predict_s(shape) == pytest.approx(0.009 * slowdown, rel=0.1)
    for _ in range(60):
        model = model.observe(shape, 0.009)
    assert model.tail_s < 0.001  # what slowed it down is forgotten, too


def test_a_stall_during_calibration_or_later_does_not_make_rows_look_dear() -> None:
    true = exact(base_s=0.005, row_s=0.001, prefill_token_s=0.0003)
    shapes = [StepShape(rows, tokens) for rows in (1, 2, 4, 8) for tokens in (0, 16)] * 3
    model = calibrated([(shape, 0.5 if i == 3 else true.predict_s(shape)) for i, shape in enumerate(shapes)])
    probe = StepShape(8, 16)
    assert model.predict_s(probe) == pytest.approx(true.predict_s(probe), rel=0.05)
    model = model.observe(StepShape(1), 2.0)
    for _ in range(60):
        model = model.observe(StepShape(4), true.predict_s(StepShape(4)))
    assert model.predict_s(probe) == pytest.approx(true.predict_s(probe), rel=0.3)


@pytest.mark.parametrize("base_s", [1e-4, 1e-2])
@pytest.mark.parametrize("moment", range(20))
def test_one_hiccup_among_the_first_steps_says_nothing_about_contexts_a_thousand_times_as_long(
    moment: int, base_s: float
) -> None:
    """Within a factor of 4: before, up to 230,000. As the first step of all it is the base that has to be unlearned."""
    for seed in range(5):
        undisturbed, disturbed = (first_steps(base_s, seed, hiccup=hiccup) for hiccup in (None, moment))
        far = StepShape(1, 0, 100_000)
        assert 1 / 4 < disturbed.predict_s(far) / undisturbed.predict_s(far) < 4


def first_steps(base_s: float, seed: int, *, hiccup: int | None) -> StepTimeModel:
    """A prompt of 3 tokens and 19 steps of one to three rows over contexts of up to 100, 10 % noise; one takes 100 ms
    longer."""
    draw, model = random.Random(seed), untrained()
    for step in range(20):
        shape = StepShape(draw.choice((1, 1, 2, 3)), 0, 5 * step) if step else StepShape(0, 3, 0)
        took_s = base_s * (1 + 0.2 * shape.decode_rows) * draw.uniform(1, 1.1)
        model = model.observe(shape, took_s + 0.1 * (step == hiccup))
    return model


def test_long_contexts_are_learned_all_the_same() -> None:
    true, model, draw = exact(base_s=0.005, row_s=0.0005, context_token_s=2e-6), untrained(), random.Random(2)
    for _ in range(100):
        rows = draw.randint(1, 16)
        shape = StepShape(rows, 0, rows * draw.randint(100, 2000))
        model = model.observe(shape, true.predict_s(shape) * draw.uniform(0.95, 1.05))
    for context in (0, 10_000, 100_000):
        shape = StepShape(4, 0, context)
        assert model.predict_s(shape) == pytest.approx(true.predict_s(shape), rel=0.1)


def test_rows_that_cost_more_the_more_there_are_are_told_from_the_base() -> None:
    """The root's weight would be negative; what is left without it is the best line."""
    model, shapes = untrained(), [StepShape(rows) for rows in (1, 2, 4, 8, 12, 16)]
    for _ in range(20):
        for shape in shapes:
            model = model.observe(shape, 0.005 + 0.0001 * shape.decode_rows**2)
    for shape in shapes:  # least squares: 1.2 ms and 1.66 ms a row
        line_s = 0.0012 + 0.00166 * shape.decode_rows
        assert model.predict_s(shape) == pytest.approx(line_s, rel=0.2)
    assert min(model.weights) >= 0


def test_the_tail_settles_near_the_95th_percentile_of_the_error() -> None:
    draw, model = random.Random(1), untrained()
    for _ in range(4000):
        shape = StepShape(draw.randint(1, 16))
        model = model.observe(shape, 0.010 + draw.expovariate(1 / 0.002))
    # Exponential noise of mean 2 ms exceeds its mean by 4 ms at the 95th percentile.
    assert 0.002 <= model.tail_s <= 0.006


def test_no_traffic_pattern_makes_the_filter_explode() -> None:
    model: StepTimeModel = untrained()
    for _ in range(20_000):
        model = model.observe(StepShape(1, 0, 100), 0.01)
    for _ in range(5):
        model = model.observe(StepShape(32, 64, 4000), 0.05)
    assert model.predict_s(StepShape(32, 64, 4000)) == pytest.approx(0.05, rel=0.2)
