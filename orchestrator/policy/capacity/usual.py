"""What a device-hour usually costs: the mean of the prices seen so far, the last days counting most.

Where prices move by the hour, progress is worth what it usually costs, not what it costs now: so an hour that is dear
for its day is waited through, and a cheap one is used. Prices that stand still are their own mean, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.policy.capacity.view import CapacityView

HALF_LIFE_S = 2 * 86_400.0  # a weekend's prices are forgotten within the week


@dataclass(frozen=True, slots=True)
class Usual:
    """Mean prices in dollars per device-hour; `on_demand` is None where there is none to be had."""

    spot: tuple[float, ...] = ()
    on_demand: float | None = None
    ticks: int = 0


def observe_usual(usual: Usual, view: CapacityView) -> Usual:
    """Take in the prices of this tick."""
    if usual.ticks == 0:
        return Usual(view.prices, view.on_demand_price, 1)
    ticks = usual.ticks + 1
    if usual.spot == view.prices and usual.on_demand == view.on_demand_price:
        return Usual(usual.spot, usual.on_demand, ticks)
    weight = max(1.0 / ticks, 1.0 - 0.5 ** (view.terms.tick_s / HALF_LIFE_S))
    on_demand = usual.on_demand
    if on_demand is not None and view.on_demand_price is not None:
        on_demand += (view.on_demand_price - on_demand) * weight
    return Usual(_moved(usual.spot, view.prices, weight), on_demand, ticks)


def _moved(means: Sequence[float], prices: Sequence[float], weight: float) -> tuple[float, ...]:
    return tuple(mean + (price - mean) * weight for mean, price in zip(means, prices, strict=True))
