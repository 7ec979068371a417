"""The kind Scenario: recorded capacity, one job, one policy, for `tide simulate`.

The keys are a contract with programs that write scenarios: none is renamed, none is added without a default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.base import Document, SpecModel, min_above_max, without_effect
from orchestrator.spec.fields import (
    Duration,
    FilePath,
    Instant,
    Money,
    OneOf,
    Positive,
    PositiveDuration,
    Typed,
    did_you_mean,
    whole,
)
from orchestrator.spec.problems import BadValueError, Code, Finding
from orchestrator.spec.scalars import scalar_text, shown

POLICIES = ("tideline", "on-demand", "greedy", "uniform-progress", "sliced", "foresight", "bound")
POLICY_PATTERN = rf"^({'|'.join(POLICIES)}|gang-[1-9][0-9]{{0,5}}|trailing-min-[1-9][0-9]{{0,3}}(m|h))$"


def parse_policy(value: object) -> str:
    """The name of a policy: ours, or a reference policy; gangs and trailing minima carry their number."""
    want = f"it must be one of {', '.join(POLICIES)}, gang-N such as gang-128, trailing-min-T such as trailing-min-2h"
    text = scalar_text(value, want)
    if re.fullmatch(POLICY_PATTERN, text):
        return text
    near = did_you_mean(text, (*POLICIES, "gang-100", "trailing-min-1h"))
    raise BadValueError(Code.NOT_ONE_OF, f"{shown(text)} is no policy", want, near)


PolicyName = Annotated[str, Typed(parse_policy, lambda: {"type": "string", "pattern": POLICY_PATTERN})]


class Capacity(SpecModel):
    """Where the recorded series stands and how it is read. Paths are relative to the scenario file."""

    trace: FilePath
    """CSV of device counts: time, then one column per pool."""
    prices: FilePath
    """CSV of prices: pool, kind, usd_per_device_hour."""
    loss: Annotated[Literal["drop", "debounced"], OneOf()] = "drop"
    """What a falling count means: devices are gone at once, or only when the next probe is low, too."""
    price_series: FilePath | None = None
    """CSV of prices over time: time, then columns of pools and on_demand; what it leaves out stays as listed."""
    carbon_series: FilePath | None = None
    """CSV of grams of CO2 per kWh over time: time, then one column per pool, and on_demand where it can be had."""
    power_w: Positive | None = None
    """Draw of one device while it is held, in watts; carbon_series needs it."""
    carbon_price: Money | None = None
    """US dollars at which policies count a tonne of CO2, beside the bill; none = it is reported only."""

    def cross_check(self) -> Iterator[Finding]:
        if self.carbon_series is not None and self.power_w is None:
            want = "capacity.carbon_series is set, and grams per kWh say nothing without watts"
            yield Finding(("power_w",), Code.MISSING_KEY, "is missing", want, "Name what one device draws")
        if self.carbon_series is None:
            yield from without_effect(self, ["power_w", "carbon_price"], "there is no capacity.carbon_series")


class OnDemand(SpecModel):
    """Devices that can always be had, at the price list's on_demand price."""

    max_devices: Annotated[int, whole(0, 1_000_000)] = 0
    """0 = none to be had."""


class WorkerRange(SpecModel):
    """How many workers the job can use."""

    min: Annotated[int, whole(1, 1_000_000)]
    """With fewer it stands still."""
    max: Annotated[int, whole(1, 1_000_000)]
    """It never holds more."""

    def cross_check(self) -> Iterator[Finding]:
        yield from min_above_max(self.min, self.max)


class ScenarioJob(SpecModel):
    """One elastic job, as the simulator's physics see it."""

    work: PositiveDuration
    """Worker-hours of useful work (inside: worker-seconds), linear in workers."""
    workers: WorkerRange
    """How many it can use."""
    deadline: PositiveDuration | None = None
    """After the start; none = the duration."""
    stall: Duration = 0.0
    """The whole job stands for so long at every change of membership."""
    unannounced_loss: Duration = 0.0
    """Work that every worker loses when held devices vanish."""


class ScenarioSpec(SpecModel):
    """A stretch of recorded capacity and the job that must get through it."""

    capacity: Capacity
    """What there is."""
    start: Instant | None = None
    """The first tick used; none = the first of the series."""
    duration: PositiveDuration | None = None
    """How long is simulated; none = to the end of the series."""
    on_demand: OnDemand = Field(default_factory=OnDemand)
    """What can be bought beside it."""
    job: ScenarioJob
    """What must be done."""
    policy: PolicyName = "tideline"
    """Who decides; `tide simulate --policy` overrides it."""


class Scenario(Document):
    """A simulated run."""

    kind: Literal["Scenario"] = "Scenario"
    """What the document describes."""
    spec: ScenarioSpec
    """What is simulated."""
