"""Requests as the scheduler sees them, and the progress of each: counts of tokens, never their content."""

from __future__ import annotations

import math
from dataclasses import dataclass

from serving.policy.tiers import Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One completion to make. `session` joins requests of which only the newest matters (keystroke tier); tenants
    take turns inside a tier.

    `retry_key` is the same for a request that was refused and comes again; None = it cannot be told from others.
    """

    id: str
    tier: Tier
    arrival_s: float
    deadline_s: float
    prompt_tokens: int
    max_tokens: int
    session: str | None = None
    tenant: str = ""
    retry_key: str | None = None

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.max_tokens < 1:
            raise ValueError(f"request {self.id} needs a prompt and room for an answer")


@dataclass(slots=True, kw_only=True)
class Row:
    """A live request: how much of its prompt is cached, how many tokens it has made, and where its cache is.

    `slot` is None for a row that waits or is parked; `parked` means that its cache is kept outside the slots.
    """

    request: Request
    prefilled: int = 0
    generated: int = 0
    slot: int | None = None
    parked: bool = False

    @property
    def needs_prefill(self) -> bool:
        """Part of the prompt is not cached yet; the last chunk also makes the first token."""
        return self.prefilled < self.request.prompt_tokens

    @property
    def context_tokens(self) -> int:
        """Tokens the next decode attends to."""
        return self.prefilled + self.generated

    @property
    def cached_tokens(self) -> int:
        """Tokens in the cache: the newest one is cached by the decode that reads it."""
        return self.prefilled + max(0, self.generated - 1)

    @property
    def is_done(self) -> bool:
        """Every allowed token is made."""
        return self.generated >= self.request.max_tokens

    def remaining_steps(self, chunk_tokens: int) -> int:
        """Engine steps until the last token when the row is in every step."""
        prefill = math.ceil((self.request.prompt_tokens - self.prefilled) / chunk_tokens)
        # The last prefill step makes a token, too.
        return prefill + self.request.max_tokens - self.generated - (1 if prefill else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One row's part of a step: a prompt chunk, or (0 prefill tokens) one decoded token."""

    row: Row
    prefill_tokens: int = 0


def urgency(row: Row) -> tuple[float, str]:
    """Earliest deadline first; ties end on the id."""
    return (row.request.deadline_s, row.request.id)
