"""The tiers of an Endpoint: who must be answered how fast, and how long a queue may grow for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from orchestrator.spec.base import SpecModel, min_above_max
from orchestrator.spec.fields import Count, CountOrZero, Duration, Flag, Positive, PositiveDuration, Text, real
from orchestrator.spec.problems import Code, Finding
from orchestrator.spec.quantities import render_duration


class Slo(SpecModel):
    """A promise: the last token of an answer comes within `latency` + `per_token` x tokens of its request."""

    latency: PositiveDuration
    """Time for any answer."""
    per_token: Duration = 0.0
    """Time more for each token of the answer."""
    percentile: Annotated[float, real(0, 99.999, above=True)] = 99.0
    """Share of requests, in percent, for which it is kept."""
    window: PositiveDuration = 3600.0
    """The time over which the share is counted."""


class OnlineTier(SpecModel):
    """A tier in which somebody waits for the answer."""

    slo: Slo
    """What is promised."""
    step_cap: PositiveDuration | None = None
    """The longest step of the engine while a request of this tier is in it; none = as long as deadlines allow."""
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
    min_share: Annotated[float, real(0, 0.95)] = 0.05
    """Part of the step time that batch keeps, however busy the other tiers are."""
    step_cap: PositiveDuration = 0.05
    """The longest step of the engine while nobody waits: the next online request finds at most this in its way."""
    promote_laxity: Positive = 2.0
    """A row counts as online once its spare time is below so many times its own work."""
    collect: Duration = 0.0
    """How long rows are collected before they start when nothing else runs; 0 = at once."""
    store: Text | None = None
    """Database URL of batches; none = SQLite in the state folder."""
    retries: CountOrZero = 3
    """How often a row is tried again after a replica died with it."""
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
