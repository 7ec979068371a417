"""An engine without a model, for tests: repeats its prompt for ever. Strict about how it is called."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

from serving.engine.protocol import DecodeRow, PrefillChunk, Sampling

_VOCABULARY = 256


class EchoEngine:
    """Token i of an answer is token i of the prompt, modulo its length. Any misuse of a slot is an assertion.

    `before_step` runs before every prefill and decode: tests block or fail there.
    """

    def __init__(
        self, *, num_slots: int = 4, max_context: int = 512, before_step: Callable[[], None] = lambda: None
    ) -> None:
        self.num_slots = num_slots
        self.max_context = max_context
        self._before_step = before_step
        self._slots: dict[int, list[int]] = {}
        self._prompt_tokens: dict[int, int] = {}

    def prefill(self, slot: int, tokens: Sequence[int], *, start: int, sampling: Sampling | None) -> int | None:
        self._before_step()
        if start == 0:
            self._slots[slot] = []
            self._prompt_tokens.pop(slot, None)
        cached = self._slots[slot]
        assert len(cached) == start
        assert slot not in self._prompt_tokens
        cached.extend(tokens)
        assert len(cached) <= self.max_context
        if sampling is None:
            return None
        self._prompt_tokens[slot] = len(cached)
        return cached[0]

    def embed(self, slot: int, tokens: Sequence[int], *, start: int, version: str = "") -> list[float]:
        """The tokens' one-hot vectors: their mean is the prompt's histogram, however it was cut into chunks."""
        self.prefill(slot, tokens, start=start, sampling=None)
        counts = Counter(tokens)
        return [float(counts[token]) for token in range(_VOCABULARY)]

    def decode(self, rows: Sequence[DecodeRow]) -> list[int]:
        self._before_step()
        assert len({row.slot for row in rows}) == len(rows)
        return [self._next(row) for row in rows]

    def step(self, chunks: Sequence[PrefillChunk], rows: Sequence[DecodeRow]) -> tuple[list[int | None], list[int]]:
        made = [self.prefill(part.slot, part.tokens, start=part.start, sampling=part.sampling) for part in chunks]
        return made, self.decode(rows) if rows else []

    def park(self, slot: int, num_tokens: int) -> tuple[list[int], int | None]:
        cached = self._slots.pop(slot)
        assert len(cached) == num_tokens
        return cached, self._prompt_tokens.pop(slot, None)

    def resume(self, slot: int, parked: tuple[list[int], int | None]) -> None:
        assert slot not in self._slots
        self._slots[slot] = parked[0]
        if parked[1] is not None:
            self._prompt_tokens[slot] = parked[1]

    def free(self, slot: int) -> None:
        self._slots.pop(slot, None)
        self._prompt_tokens.pop(slot, None)

    def _next(self, row: DecodeRow) -> int:
        cached, prompt_tokens = self._slots[row.slot], self._prompt_tokens[row.slot]
        assert len(cached) == row.position
        cached.append(row.token)
        return cached[(len(cached) - prompt_tokens) % prompt_tokens]


class PacedEchoEngine(EchoEngine):
    """Takes `step_s` for each step, whatever is in it, as a device would: the process waits and does not compute."""

    def __init__(self, *, num_slots: int, max_context: int, step_s: float) -> None:
        super().__init__(num_slots=num_slots, max_context=max_context, before_step=self._pass)
        self._step_s = step_s
        self._in_step = False

    def step(self, chunks: Sequence[PrefillChunk], rows: Sequence[DecodeRow]) -> tuple[list[int | None], list[int]]:
        self._pass()
        self._in_step = True
        try:
            return super().step(chunks, rows)
        finally:
            self._in_step = False

    def _pass(self) -> None:
        if self._step_s and not self._in_step:
            time.sleep(self._step_s)
