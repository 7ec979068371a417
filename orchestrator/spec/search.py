"""How a Study looks for better trials: searchers draw, schedulers stop early, budgets and worth end it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.base import SpecModel, min_above_max
from orchestrator.spec.fields import Count, CountOrZero, Flag, Fraction, Money, real, whole
from orchestrator.spec.job_parts import Budget
from orchestrator.spec.problems import Code, Finding

ReductionFactor = Annotated[int, whole(2, 100)]


class TpeSearcher(SpecModel):
    """Draws where earlier trials did well."""

    name: Literal["tpe"]
    """Tree-structured Parzen estimator."""
    startup_trials: CountOrZero = 10
    """Trials drawn blindly before it starts to learn."""
    multivariate: Flag = True
    """Learns how keys go together."""


class RandomSearcher(SpecModel):
    """Draws blindly."""

    name: Literal["random"]
    """Independent draws."""


class GridSearcher(SpecModel):
    """Tries every combination once; the space must be finite."""

    name: Literal["grid"]
    """Every combination."""


Searcher = Annotated[TpeSearcher | RandomSearcher | GridSearcher, Field(discriminator="name")]


class AshaScheduler(SpecModel):
    """Stops the worse trials at rungs that lie ever further apart, without waiting for the others."""

    name: Literal["asha"]
    """Asynchronous successive halving."""
    grace_steps: Count = 100
    """The first rung, in steps."""
    reduction_factor: ReductionFactor = 3
    """One of so many goes on; also the ratio of the rungs."""


class HyperbandScheduler(SpecModel):
    """Several brackets of halving, from many short trials to few long ones."""

    name: Literal["hyperband"]
    """Synchronous brackets."""
    grace_steps: Count = 100
    """The shortest rung, in steps."""
    reduction_factor: ReductionFactor = 3
    """One of so many goes on."""


class PbtScheduler(SpecModel):
    """Trials copy the state of better ones and change their parameters while they run."""

    name: Literal["pbt"]
    """Population based training."""
    interval_steps: Count = 100
    """From one comparison to the next."""
    quantile: Annotated[float, real(0, 0.5, above=True)] = 0.25
    """The worst part copies from the best part."""
    resample: Fraction = 0.25
    """How often a parameter is drawn anew instead of nudged."""


class MedianScheduler(SpecModel):
    """Stops a trial that is worse than the median of the others at the same step."""

    name: Literal["median"]
    """Median stopping."""
    grace_steps: Count = 100
    """No trial is stopped earlier."""
    min_trials: Annotated[int, whole(2, 10_000)] = 4
    """Trials that must have come so far for a median."""


class NoScheduler(SpecModel):
    """Every trial runs to its end."""

    name: Literal["none"]
    """No early stop."""


Scheduler = Annotated[
    AshaScheduler | HyperbandScheduler | PbtScheduler | MedianScheduler | NoScheduler, Field(discriminator="name")
]


class Concurrency(SpecModel):
    """How many trials run at once; between the two, the capacity at hand decides."""

    min: Count = 1
    """With room for fewer, the study waits."""
    max: Count = 4
    """Never more."""

    def cross_check(self) -> Iterator[Finding]:
        yield from min_above_max(self.min, self.max)


class StudyBudget(Budget):
    """What the search may use up; whichever ends first ends it."""

    trials: Count | None = None
    """Trials started."""


class Stop(SpecModel):
    """Ends the search when another trial is expected to gain less than it costs."""

    worth_usd: Money
    """What it is worth when the metric gets better by one."""
    after_trials: Count = 10
    """Trials before the rule is asked."""


class Repeat(SpecModel):
    """The best trials run again with other seeds, to tell luck from gain."""

    top: Count = 1
    """How many of the best."""
    seeds: Annotated[int, whole(2, 1000)] = 3
    """Runs of each, the first one included."""

    def cross_check(self) -> Iterator[Finding]:
        if self.top > 100:
            yield Finding(("top",), Code.OUT_OF_BOUNDS, f"{self.top} is above 100", "it must be the best few")
