"""Money, energy and emissions: published arithmetic, and what is linear in what."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planner.bill import Rates, bill, hours_of_kwh, kwh, rates_of
from orchestrator.planner.hardware import Device, find_device
from orchestrator.planner.values import Range, as_range
from tests.planner.test_values import NOT_POSITIVE, ranges


def test_gpt3_is_936_mwh_and_1404_at_a_pue_of_1_5() -> None:
    hours = 10_000 * 13 * 24
    assert kwh(hours, 300, 1.0).typical == pytest.approx(936e3)
    assert kwh(hours, 300, 1.5).typical == pytest.approx(1404e3)


def test_200_000_hours_at_three_dollars_are_600_000() -> None:
    found = bill(200_000, Rates(usd_per_device_hour=as_range(3.0)))
    assert found.usd is not None
    assert found.usd.typical == 600_000
    assert (found.kwh, found.kg_co2e) == (None, None)


def test_llama_7b_is_36_mwh_and_14_tonnes() -> None:
    rates = Rates(watts_per_device=as_range(400), pue=as_range(1.1), kg_co2e_per_kwh=as_range(0.385))
    found = bill(82_432, rates)
    assert found.kwh is not None
    assert found.kg_co2e is not None
    assert found.kwh.typical / 1e3 == pytest.approx(36, rel=0.012)
    assert found.kg_co2e.typical / 1e3 == pytest.approx(14, rel=0.024)


@given(ranges(), st.floats(0.01, 100), st.floats(1.1, 10))
def test_cost_is_linear_in_price_and_hours(hours: Range, price: float, factor: float) -> None:
    def usd(hours: Range, price: float) -> float:
        found = bill(hours, Rates(usd_per_device_hour=as_range(price))).usd
        assert found is not None
        return found.typical

    assert math.isclose(usd(hours, price * factor), factor * usd(hours, price), rel_tol=1e-12)
    assert math.isclose(usd(hours * factor, price), factor * usd(hours, price), rel_tol=1e-12)


@given(st.floats(1e-3, 1e9), st.floats(1, 5000), st.floats(1, 3))
def test_energy_to_hours_and_back(energy: float, watts: float, pue: float) -> None:
    hours = hours_of_kwh(energy, as_range(watts), as_range(pue))
    assert math.isclose(kwh(hours, watts, pue).typical, energy, rel_tol=1e-9)


def test_what_is_given_stands_before_the_table_and_has_no_width() -> None:
    usual, given_ = rates_of(find_device("h100")), rates_of(find_device("h100"), usd_per_device_hour=2.0, pue=1.2)
    assert given_.usd_per_device_hour == Range(2.0, 2.0, 2.0)
    assert given_.pue == Range(1.2, 1.2, 1.2)
    assert given_.watts_per_device == usual.watts_per_device
    assert usual.watts_per_device is not None
    assert usual.watts_per_device.low < 700 < usual.watts_per_device.high


def test_a_device_without_power_or_price_has_neither_bill() -> None:
    bare = Device(
        name="bare", bf16_flops_per_s=1e12, fp32_flops_per_s=None, memory_bytes=1e9, memory_bytes_per_s=None, tdp_w=None
    )
    found = bill(10, rates_of(bare))
    assert (found.usd, found.kwh, found.kg_co2e) == (None, None, None)


@pytest.mark.parametrize("bad", NOT_POSITIVE)
def test_rates_and_hours_that_are_not_positive_are_refused(bad: float) -> None:
    for call in (
        lambda: bill(bad, Rates()),
        lambda: kwh(1.0, bad, 1.0),
        lambda: kwh(1.0, 300, bad),
        lambda: rates_of(find_device("h100"), usd_per_device_hour=bad),
        lambda: rates_of(find_device("h100"), kg_co2e_per_kwh=bad),
    ):
        with pytest.raises(ValueError, match="is"):
            call()
