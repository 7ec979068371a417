"""The three latency tiers, what each promises, and how OpenAI's `service_tier` names them."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass


class Tier(enum.StrEnum):
    """Requests that share one promise; milliseconds, seconds, minutes to hours."""

    KEYSTROKE = "keystroke"
    INTERACTIVE = "interactive"
    BATCH = "batch"

    @property
    def is_online(self) -> bool:
        """Someone is waiting for the answer now."""
        return self is not Tier.BATCH


SERVICE_TIERS: Mapping[str, Tier] = {
    "auto": Tier.INTERACTIVE,
    "default": Tier.INTERACTIVE,
    "priority": Tier.KEYSTROKE,
    "flex": Tier.BATCH,
}
# What an answer's `service_tier` says: the tier really used, never "auto".
SERVICE_TIER_OF: Mapping[Tier, str] = {
    Tier.INTERACTIVE: "default",
    Tier.KEYSTROKE: "priority",
    Tier.BATCH: "flex",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TierTarget:
    """What a tier promises and how long one engine step may be while its rows are live.

    A request is due `latency_s + token_s * max_tokens` after its arrival. `step_cap_s` keeps steps short for the
    requests that have not arrived yet; None = as long as the deadlines allow. With `max_waiting` requests without a
    slot, further ones are refused.
    """

    latency_s: float
    token_s: float = 0.0
    step_cap_s: float | None = None
    max_waiting: int = 256

    def __post_init__(self) -> None:
        if self.latency_s <= 0 or self.token_s < 0 or (self.step_cap_s is not None and self.step_cap_s <= 0):
            raise ValueError(f"a tier's target needs positive times, not {self}")

    def deadline_s(self, arrival_s: float, max_tokens: int) -> float:
        """When the last token is due."""
        return arrival_s + self.latency_s + self.token_s * max_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """Everything the tier scheduler is told from outside; a tier without a target is not offered.

    `supersede`: a newer keystroke request of a session ends the older one.
    `batch_share`: fraction of step time that batch rows get while there are any, whatever else is due.
    `batch_step_cap_s`: longest step while nobody waits; it bounds what the next online request finds in its way.
    `collect_s`: how long unstarted batch rows wait for company when nothing else runs.
    `promote_laxity`: a batch row counts as online once its spare time is below this multiple of its own work.
    """

    targets: Mapping[Tier, TierTarget]
    prefill_chunk_tokens: int = 64
    min_chunk_tokens: int = 16
    supersede: bool = True
    batch_share: float = 0.05
    batch_step_cap_s: float = 0.05
    collect_s: float = 0.0
    promote_laxity: float = 2.0

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("there must be a tier")
        if not 0 <= self.batch_share < 1:
            raise ValueError(f"batch_share is {self.batch_share}; 0..1 without 1 is right")
        if not 1 <= self.min_chunk_tokens <= self.prefill_chunk_tokens:
            raise ValueError("min_chunk_tokens must be 1..prefill_chunk_tokens")

    def step_cap_s(self, tier: Tier) -> float:
        """The longest step that may hold slower tiers' work while this one's rows are live; infinite without a cap."""
        target = self.targets.get(tier)
        return math.inf if target is None or target.step_cap_s is None or not tier.is_online else target.step_cap_s
