"""MFU, HFU and device-hours: published arithmetic, and inverses that are inverse."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planner.utilisation import device_hours, flops_of, tokens_per_s, training_flops, utilisation
from orchestrator.planner.values import Range
from tests.planner.test_values import NOT_POSITIVE

_shares = st.floats(0.01, 1.0)


def test_gpt3_takes_13_days_on_ten_thousand_v100_at_28_teraflops() -> None:
    flops = training_flops(174.6e9, 300e9)
    assert flops == pytest.approx(3.14e23, rel=0.002)
    days = device_hours(3.14e23, 125e12, 28 / 125).typical / 10_000 / 24
    assert days == pytest.approx(13.0, rel=0.002)


def test_mt_nlg_at_126_teraflops_is_hfu_040_and_mfu_030() -> None:
    token = 6 * 529.6e9 + 12 * 105 * 20480 * 2048
    rate = 1920 * 2048 / 60.1
    assert utilisation(token, rate, 2240, 312e12) == pytest.approx(0.302, abs=0.001)
    assert utilisation(token, rate, 2240, 312e12, recomputed=4 / 3) == pytest.approx(0.404, abs=0.002)


def test_goodput_is_a_factor_of_its_own() -> None:
    # PaLM: 0.462 within steps, 8.40 M chip-hours in all.
    in_step = device_hours(2.5272e24, 275e12, 0.462).typical
    whole = device_hours(2.5272e24, 275e12, 0.462, 0.304 / 0.462).typical
    assert whole == pytest.approx(8_404_992, rel=0.005)
    assert in_step == pytest.approx(0.66 * whole, rel=0.01)


@given(st.floats(1e6, 1e13), st.floats(1e9, 1e13))
def test_flops_rise_with_parameters_and_tokens(params: float, tokens: float) -> None:
    assert training_flops(2 * params, tokens) == training_flops(params, 2 * tokens) > training_flops(params, tokens)


@given(st.floats(1e18, 1e26), _shares, _shares)
def test_hours_to_flops_and_back(flops: float, mfu: float, goodput: float) -> None:
    back = flops_of(device_hours(flops, 312e12, mfu, goodput).typical, 312e12, mfu, goodput)
    assert math.isclose(back.typical, flops, rel_tol=1e-9)


@given(st.floats(1e6, 1e13), _shares, st.integers(1, 10_000))
def test_utilisation_to_tokens_and_back(flops_per_token: float, mfu: float, devices: int) -> None:
    rate = tokens_per_s(flops_per_token, mfu, devices, 989e12)
    assert math.isclose(utilisation(flops_per_token, rate, devices, 989e12), mfu, rel_tol=1e-9)


def test_a_wide_guess_gives_a_wide_answer() -> None:
    hours = device_hours(1e21, 312e12, Range(0.2, 0.4, 0.5))
    assert hours.low == pytest.approx(1e21 / 312e12 / 0.5 / 3600)
    assert hours.high == pytest.approx(1e21 / 312e12 / 0.2 / 3600)


@pytest.mark.parametrize("bad", NOT_POSITIVE)
def test_what_is_not_positive_is_refused(bad: float) -> None:
    for call in (
        lambda: training_flops(bad, 1.0),
        lambda: training_flops(1.0, bad),
        lambda: device_hours(1e20, 312e12, bad),
        lambda: device_hours(1e20, bad, 0.4),
        lambda: utilisation(1e9, bad, 1, 1e12),
        lambda: tokens_per_s(1e9, bad, 1, 1e12),
    ):
        with pytest.raises(ValueError, match="is"):
            call()
    with pytest.raises(ValueError, match="at most 1"):
        device_hours(1e20, 312e12, 1.01)
