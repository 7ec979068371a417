"""What a token engine is: cached sequences in numbered slots, advanced one step at a time.

The caller decides which slot does what in a step and keeps each row's tokens; an engine keeps only caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a row's tokens are drawn. Temperature 0 takes the most likely one; the draw for position p of a row depends
    on (seed, p) alone, so neighbours, parking and chunking change nothing."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRow:
    """One row of a decode step: the newest token of the sequence in `slot`, and its position counted from 0."""

    slot: int
    token: int
    position: int
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillChunk:
    """Prompt tokens from position `start` of the sequence in `slot`; with `sampling` they are the prompt's last.

    `version` names the weights that a sequence starts with (at `start` 0) and keeps; "" = those served by default.
    """

    slot: int
    tokens: tuple[int, ...]
    start: int
    sampling: Sampling | None
    version: str = ""


BROKEN = -1
"""In the place of a token: the model gave no finite scores for this row."""


class TokenEngine(Protocol):
    """Cached sequences in slots 0..num_slots-1. Called from one thread; slots are used as the caller says."""

    num_slots: int
    max_context: int

    def prefill(self, slot: int, tokens: Sequence[int], *, start: int, sampling: Sampling | None) -> int | None:
        """Cache prompt tokens [start, start + len(tokens)) of a sequence; start 0 begins a new one in the slot.

        With `sampling` these are the prompt's last tokens, and the token that follows is returned.
        """
        ...

    def embed(self, slot: int, tokens: Sequence[int], *, start: int, version: str = "") -> list[float]:
        """As `prefill`, but returns the sum of the last hidden states of these tokens, one number per dimension.

        `version` as in `PrefillChunk`.
        """
        ...

    def decode(self, rows: Sequence[DecodeRow]) -> list[int]:
        """Cache one token per row and return the next of each; a row's answer does not depend on the other rows."""
        ...

    def step(self, chunks: Sequence[PrefillChunk], rows: Sequence[DecodeRow]) -> tuple[list[int | None], list[int]]:
        """All of one engine step, in one pass where the model can: the next token of each chunk (None for one that is
        not the prompt's last) and of each row, or BROKEN. Slots are distinct."""
        ...

    def park(self, slot: int, num_tokens: int) -> Any:
        """Take the cache of a sequence of `num_tokens` out of its slot; the slot may be used for another one."""
        ...

    def resume(self, slot: int, parked: Any) -> None:
        """Put a parked cache into any slot; the sequence goes on as if it had never left."""
        ...

    def free(self, slot: int) -> None:
        """The sequence in the slot has ended."""
        ...
