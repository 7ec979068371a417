"""How estimates are written: three significant figures, ranges in brackets, assumptions in one line."""

from __future__ import annotations

from orchestrator.planner.bill import Rates
from orchestrator.planner.values import Range

_STEPS = ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def figure(value: float) -> str:
    """Three significant figures, whole from a hundred on: 0.0123, 4.56, 78.9, 1,235."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.3g}"


def spread(value: Range | None) -> str:
    """A range: what is usual, and its ends."""
    if value is None:
        return "-"
    if value.low == value.high:
        return figure(value.typical)
    return f"{figure(value.typical)} ({figure(value.low)}-{figure(value.high)})"


def ends(value: Range) -> str:
    """A range of assumptions: its ends alone."""
    return figure(value.typical) if value.low == value.high else f"{figure(value.low)}-{figure(value.high)}"


def counted(value: float) -> str:
    """A count with its suffix: 6.66B, 300B, 1.4T."""
    for size, suffix in _STEPS:
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def elapsed(seconds: float) -> str:
    """A time in its own unit: 45.0 ms, 3.2 s, 15.0 min, 7.5 h, 12.3 d."""
    size, unit = _unit(seconds)
    return f"{figure(seconds / size)} {unit}"


def elapsed_spread(value: Range) -> str:
    """A range of times in the unit of what is usual: 9.71 (8.61-16.6) min."""
    size, unit = _unit(value.typical)
    return f"{spread(value / size)} {unit}"


def _unit(seconds: float) -> tuple[float, str]:
    if seconds < 1:
        return 1e-3, "ms"
    if seconds < 120:
        return 1.0, "s"
    if seconds < 2 * 3600:
        return 60.0, "min"
    return (3600.0, "h") if seconds < 3 * 86_400 else (86_400.0, "d")


def gib(num_bytes: float) -> str:
    """Memory, in GiB, or MiB below one."""
    return f"{num_bytes / 2**30:.3g} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.3g} MiB"


def rates_line(rates: Rates, *, carbon: bool = False) -> str:
    """What a device-hour is taken to cost and draw, and with `carbon` to emit."""
    price = "no price known" if rates.usd_per_device_hour is None else f"${ends(rates.usd_per_device_hour)}/h"
    power = "no power known" if rates.watts_per_device is None else f"{ends(rates.watts_per_device)} W"
    grid = f", {ends(rates.kg_co2e_per_kwh)} kg/kWh" if carbon else ""
    return f"{price}, {power}, PUE {ends(rates.pue)}{grid}"


def as_json(value: Range | None) -> dict[str, float] | None:
    """A range for programs."""
    return None if value is None else value.as_dict()
