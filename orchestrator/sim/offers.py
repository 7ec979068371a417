"""The prices a policy is shown: what a device-hour costs now, with carbon at the price that the scenario gives it.

The bill is in dollars alone; only the choice is made with both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.sim.course import Course
from orchestrator.sim.prices import NANO
from orchestrator.sim.world import KG_PER_TONNE, Carbon, World

NANO_G_PER_TONNE = NANO * 1000 * KG_PER_TONNE


class Priced(NamedTuple):
    """Dollars per device-hour at one moment."""

    spot: tuple[float, ...]
    on_demand: float | None


@dataclass(slots=True)
class Offers:
    """Prices over one run; what stands still is worked out once."""

    prices: Course
    carbon: Carbon | None
    has_on_demand: bool
    steady: Priced | None = None

    @classmethod
    def of(cls, world: World) -> Offers:
        """The offers of a world."""
        carbon = world.carbon if world.carbon is not None and world.carbon.usd_per_tonne else None
        offers = cls(world.prices, carbon, world.on_demand_nano is not None)
        if len(offers.prices.rates) == 1 and (carbon is None or len(carbon.course.rates) == 1):
            offers.steady = offers._priced(0)
        return offers

    def at(self, moment_us: int) -> Priced:
        """What holds at a moment of the run."""
        return self.steady or self._priced(moment_us)

    def _priced(self, moment_us: int) -> Priced:
        usd = [nano / NANO for nano in self.prices.at(moment_us)]
        if self.carbon is not None:
            grams = self.carbon.course.at(moment_us)
            usd = [u + g * self.carbon.usd_per_tonne / NANO_G_PER_TONNE for u, g in zip(usd, grams, strict=True)]
        return Priced(tuple(usd[:-1]), usd[-1] if self.has_on_demand else None)
