"""The one object `tide simulate -o json` prints: a run's bill, what it bought, and how it compares with on-demand.

All ratios are fractions; hours are device- or worker-hours. Keys and their order are a contract (DESIGN.md §7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from orchestrator.sim.engine import Run
from orchestrator.sim.world import (
    CARBON_UNITS_PER_KG,
    COST_UNITS_PER_USD,
    US_PER_HOUR,
    US_PER_S,
    OnDemandRun,
    on_demand_run,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Figures of one run. `savings` and `on_demand_cost_usd` are None when on-demand has no price.

    `extras`: figures of what only some scenarios have, prices or carbon by the hour; printed after the others.
    """

    scenario: str
    policy: str
    cost_usd: float
    on_demand_cost_usd: float | None
    savings: float | None
    deadline_met: bool
    finished_at_s: float | None
    spot_device_hours: float
    on_demand_device_hours: float
    useful_worker_hours: float
    stall_worker_hours: float
    lost_worker_hours: float
    idle_device_hours: float
    training_goodput: float
    resizes: int
    preempted_devices: int
    extras: Mapping[str, float | None] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """The object to print as JSON."""
        figures = asdict(self)
        del figures["extras"]
        return {**figures, **self.extras}


def summarize(run: Run) -> Result:
    """Turn a run's books into figures. Raises: UserError (exit 8) when even on-demand cannot keep the deadline."""
    world, books = run.world, run.books
    baseline = on_demand_run(world)
    on_demand_cost = None if world.on_demand_nano is None else baseline.amount(world.prices)
    paid_us = books.spot_us + books.on_demand_us
    return Result(
        scenario=world.name,
        policy=run.policy,
        cost_usd=books.cost / COST_UNITS_PER_USD,
        on_demand_cost_usd=None if on_demand_cost is None else on_demand_cost / COST_UNITS_PER_USD,
        savings=1 - books.cost / on_demand_cost if on_demand_cost else None,
        deadline_met=run.finished_us is not None and run.finished_us <= world.deadline_us,
        finished_at_s=None if run.finished_us is None else run.finished_us / US_PER_S,
        spot_device_hours=books.spot_us / US_PER_HOUR,
        on_demand_device_hours=books.on_demand_us / US_PER_HOUR,
        useful_worker_hours=books.useful_us / US_PER_HOUR,
        stall_worker_hours=books.stall_us / US_PER_HOUR,
        lost_worker_hours=books.lost_us / US_PER_HOUR,
        idle_device_hours=books.idle_us / US_PER_HOUR,
        training_goodput=books.useful_us / paid_us if paid_us else 0.0,
        resizes=books.resizes,
        preempted_devices=books.preempted,
        extras=_extras(run, baseline),
    )


def _extras(run: Run, baseline: OnDemandRun) -> dict[str, float | None]:
    """Prices paid on average where they move, and kilograms of CO2 where intensity is known."""
    world, books, extras = run.world, run.books, dict[str, float | None]()
    paid_us = books.spot_us + books.on_demand_us
    if world.price_course is not None:
        mean = books.cost / COST_UNITS_PER_USD / (paid_us / US_PER_HOUR) if paid_us else None
        extras["mean_usd_per_device_hour"] = mean
    if world.carbon is not None:
        # `bound` is a figure, not a run: which pool its hours come from is open among equals.
        extras["carbon_kg"] = books.carbon / CARBON_UNITS_PER_KG if run.ticks else None
        extras["on_demand_carbon_kg"] = baseline.amount(world.carbon.course) / CARBON_UNITS_PER_KG
    return extras
