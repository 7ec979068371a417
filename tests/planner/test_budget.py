"""What budgets buy: the tightest limit binds, and asking back gives the budget."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planner.bill import rates_of
from orchestrator.planner.budget import Bound, Budget, Means, plan
from orchestrator.planner.hardware import Device, find_device
from orchestrator.planner.values import as_range
from tests.planner.test_values import NOT_POSITIVE

H100 = find_device("h100")
MEANS = Means(
    device=H100,
    rates=rates_of(H100, usd_per_device_hour=2.0, watts_per_device=1000.0, pue=1.25),
    mfu=as_range(0.4),
    goodput=as_range(0.9),
)
BARE = Device(
    name="bare", bf16_flops_per_s=1e12, fp32_flops_per_s=None, memory_bytes=1e9, memory_bytes_per_s=None, tdp_w=None
)


@given(st.floats(1, 1e8))
def test_a_budget_in_any_unit_buys_the_same_and_comes_back(usd: float) -> None:
    hours, kwh = usd / 2.0, usd / 2.0 * 1.25
    by_usd = plan(Budget(usd=usd), MEANS)
    assert by_usd.bill.usd is not None
    assert by_usd.bill.kwh is not None
    assert math.isclose(by_usd.bill.usd.typical, usd, rel_tol=1e-9)
    assert math.isclose(by_usd.bill.device_hours.typical, hours, rel_tol=1e-9)
    assert math.isclose(by_usd.bill.kwh.typical, kwh, rel_tol=1e-9)
    for other in (Budget(device_hours=hours), Budget(kwh=kwh), Budget(flops=by_usd.flops.typical)):
        assert math.isclose(plan(other, MEANS).sizes.num_params, by_usd.sizes.num_params, rel_tol=1e-6)


def test_the_limit_that_allows_least_binds() -> None:
    for limits, bound in (
        (Budget(usd=100.0, device_hours=1000.0), Bound.USD),
        (Budget(usd=1e6, device_hours=1000.0), Bound.DEVICE_HOURS),
        (Budget(usd=1e6, deadline_s=3600.0, max_devices=10), Bound.DEADLINE),
        (Budget(usd=1e6, kwh=1.0), Bound.KWH),
        (Budget(usd=1e6, flops=1e15), Bound.FLOPS),
    ):
        assert plan(limits, MEANS).bound is bound


@given(st.floats(10, 1e7), st.floats(1.1, 10))
def test_more_money_buys_less_loss(usd: float, factor: float) -> None:
    assert plan(Budget(usd=usd * factor), MEANS).loss < plan(Budget(usd=usd), MEANS).loss


def test_as_many_devices_as_the_deadline_needs() -> None:
    found = plan(Budget(device_hours=1000.0, deadline_s=10 * 3600.0), MEANS)
    assert found.devices == 100
    assert plan(Budget(device_hours=1001.0, deadline_s=10 * 3600.0), MEANS).devices == 101
    assert plan(Budget(device_hours=1000.0), MEANS).devices is None
    assert plan(Budget(deadline_s=3600.0, max_devices=64), MEANS).devices == 64


def test_a_model_alone_is_priced_at_20_tokens_a_parameter() -> None:
    found = plan(Budget(), MEANS, num_params=7e9)
    assert found.bound is Bound.MODEL
    assert found.sizes.num_tokens == 140e9
    assert found.flops.typical == pytest.approx(6 * 7e9 * 140e9)
    assert found.ends is None


def test_a_given_model_gets_the_tokens_that_the_budget_holds() -> None:
    found = plan(Budget(flops=1e21), MEANS, num_params=1e9)
    assert found.sizes.num_tokens == pytest.approx(1e21 / 6e9)
    served = plan(Budget(flops=1e21), MEANS, num_params=1e9, served_tokens=1e11)
    assert served.sizes.num_tokens == pytest.approx((1e21 - 2e20) / 6e9)
    with pytest.raises(ValueError, match="takes all of"):
        plan(Budget(flops=1e21), MEANS, num_params=1e9, served_tokens=1e12)


def test_serving_makes_the_model_smaller() -> None:
    budget = Budget(usd=1e5)
    assert plan(budget, MEANS, served_tokens=1e12).sizes.num_params < plan(budget, MEANS).sizes.num_params


def test_guesses_widen_what_a_budget_buys() -> None:
    wide = plan(Budget(usd=5000.0), Means(device=H100, rates=rates_of(H100)))
    assert wide.ends is not None
    assert wide.ends[0].num_params < wide.sizes.num_params < wide.ends[1].num_params
    exact = plan(Budget(usd=5000.0), MEANS)
    assert exact.ends is not None
    assert exact.ends[0].num_params == pytest.approx(exact.ends[1].num_params)


def test_no_limit_and_limits_without_their_rate_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no limit"):
        plan(Budget(), MEANS)
    with pytest.raises(ValueError, match="there is no limit"):
        plan(Budget(deadline_s=3600.0), MEANS)
    bare = Means(device=BARE, rates=rates_of(BARE))
    for budget, what in ((Budget(usd=1.0), "price of bare"), (Budget(kwh=1.0), "power of bare")):
        with pytest.raises(ValueError, match=what):
            plan(budget, bare)


@pytest.mark.parametrize("bad", NOT_POSITIVE)
@pytest.mark.parametrize("name", ["usd", "device_hours", "kwh", "flops", "deadline_s", "max_devices"])
def test_limits_that_are_not_positive_are_refused(name: str, bad: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is"):
        Budget(**{name: bad})  # type: ignore[arg-type]
