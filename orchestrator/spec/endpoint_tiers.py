"""The tiers of an Endpoint: who must be answered how fast, and how long a queue may grow for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from orchestrator.spec.base import SpecModel, min_above_max
from orchestrator.spec.fields import Count, Duration, Flag, Fraction, OneOf, PositiveDuration, real
from orchestrator.spec.problems import Code, Finding
from orchestrator.spec.quantities import render_duration


class Slo(SpecModel):
    """A promise: this percentile of this measure stays below the threshold over the window."""

    metric: Annotated[Literal["ttft", "tpot", "e2e"], OneOf()]
    """Time to the first token, time per further token, or time to the last one."""
    percentile: Annotated[float, real(0, 99.999, above=True)] = 99.0
    """Share of requests, in percent, that must keep it."""
    threshold: PositiveDuration
    """The time they must keep."""
    window: PositiveDuration = 3600.0
    """The time over which the share is counted."""


class OnlineTier(SpecModel):
    """A tier in which somebody waits for the answer."""

    slo: Slo
    """What is promised."""
    max_queue: Count = 256
    """Requests that may wait in one replica; more are refused with a time to come back."""
    max_tokens: Count = 256
    """The longest answer one request may ask for."""
    timeout: PositiveDuration = 60.0
    """A request that is older is ended with what it has."""


class KeystrokeTier(OnlineTier):
    """Completions while somebody types."""

    supersede: Flag = True
    """A newer request of the same session ends the older one."""


class BatchTier(SpecModel):
    """Work that is collected, soaks up idle slots and is done within its window."""

    min_window: PositiveDuration = 60.0
    """The shortest completion window a batch may ask for."""
    max_window: PositiveDuration = 86_400.0
    """The longest one."""
    min_share: Fraction = 0.05
    """Part of the step time that batch keeps, however busy the other tiers are."""
    collect: Duration = 0.0
    """How long rows are collected before they start when nothing else runs; 0 = at once."""
    max_rows: Count = 100_000
    """Rows of one batch."""
    max_tokens: Count = 4096
    """The longest answer one row may ask for."""

    def cross_check(self) -> Iterator[Finding]:
        yield from min_above_max(
            self.min_window, self.max_window, names=("min_window", "max_window"), render=render_duration
        )


class Tiers(SpecModel):
    """The tiers that the endpoint offers; one that is left out is not offered."""

    keystroke: KeystrokeTier | None = None
    """Milliseconds; `service_tier: priority`."""
    interactive: OnlineTier | None = None
    """Seconds; `service_tier: default`."""
    batch: BatchTier | None = None
    """Minutes to hours; `service_tier: flex` and /v1/batches."""

    def cross_check(self) -> Iterator[Finding]:
        if not self.present():
            yield Finding((), Code.EMPTY, "offers nothing", "it must have keystroke, interactive or batch")

    def present(self) -> tuple[str, ...]:
        """The names of the tiers that are offered, fastest first."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)
