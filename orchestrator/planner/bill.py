"""Money, energy and emissions of device-hours. Figures are ranges; what is given by hand is a range of no width.

Published energies of one and the same run (GPT-3) are 190, 1287 and 1404 MWh: the differences are power per device,
PUE and hours, so each of them is an input here and is shown with the result.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.planner.hardware import Device
from orchestrator.planner.values import Range, as_range

PUE = Range(1.08, 1.10, 1.5)
"""Energy of the site over that of its machines: PaLM's site, LaMDA's (and LLaMA's assumption), a usual site of 2020."""
KG_CO2E_PER_KWH = Range(0.05, 0.385, 0.43)
"""LaMDA's and BLOOM's grids, the US average that LLaMA counts with, GPT-3's in Patterson et al. (2104.10350)."""
WATTS_OF_TDP = Range(0.8, 1.1, 1.8)
"""A system's draw for one device over the device's TDP: below it where memory or network binds; Patterson's 330 W of
300; a DGX H100's 10.2 kW for eight devices of 700 W."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What an hour of one device costs and draws; None where nobody knows, and then that figure is not given."""

    usd_per_device_hour: Range | None = None
    watts_per_device: Range | None = None
    pue: Range = PUE
    kg_co2e_per_kwh: Range = KG_CO2E_PER_KWH


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What so many device-hours come to."""

    device_hours: Range
    usd: Range | None
    kwh: Range | None
    kg_co2e: Range | None


def rates_of(
    device: Device,
    *,
    usd_per_device_hour: float | None = None,
    watts_per_device: float | None = None,
    pue: float | None = None,
    kg_co2e_per_kwh: float | None = None,
) -> Rates:
    """What is given stands before the table's figures. Raises: ValueError for a figure that is not positive."""
    tdp = None if device.tdp_w is None else WATTS_OF_TDP * device.tdp_w
    return Rates(
        usd_per_device_hour=device.price if usd_per_device_hour is None else as_range(usd_per_device_hour),
        watts_per_device=tdp if watts_per_device is None else as_range(watts_per_device),
        pue=PUE if pue is None else as_range(pue),
        kg_co2e_per_kwh=KG_CO2E_PER_KWH if kg_co2e_per_kwh is None else as_range(kg_co2e_per_kwh),
    )


def bill(device_hours: Range | float, rates: Rates) -> Bill:
    """Money and energy of so many device-hours.

    Source: Patterson et al. (2104.10350), section 2: hours x watts x PUE, x kg/kWh.
    """
    hours = as_range(device_hours)
    energy = None if rates.watts_per_device is None else kwh(hours, rates.watts_per_device, rates.pue)
    return Bill(
        device_hours=hours,
        usd=None if rates.usd_per_device_hour is None else hours * rates.usd_per_device_hour,
        kwh=energy,
        kg_co2e=None if energy is None else energy * rates.kg_co2e_per_kwh,
    )


def kwh(device_hours: Range | float, watts_per_device: Range | float, pue: Range | float) -> Range:
    """Energy at the site's meter."""
    return as_range(device_hours) * watts_per_device * pue / 1000.0


def hours_of_kwh(energy_kwh: float, watts_per_device: Range, pue: Range) -> Range:
    """The inverse of `kwh`: device-hours that so much energy feeds."""
    return as_range(energy_kwh) * 1000.0 / (watts_per_device * pue)
