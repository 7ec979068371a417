"""Measure an engine's step times before the first request, so that admission does not begin blind."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from serving.engine.protocol import DecodeRow, PrefillChunk, Sampling, TokenEngine
from serving.policy import StepShape, StepTimeModel, calibrated

_GREEDY = Sampling(temperature=0.0)
_TOKEN = 32
_MIN_ROUNDS = 2
_MAX_ROUNDS = 8


def calibrate(engine: TokenEngine, *, chunk_tokens: int, budget_s: float) -> StepTimeModel:
    """Time prefill chunks and decode steps of several widths; every slot is free again afterwards.

    Takes two rounds at least (the first warms caches and is thrown away), and more while the budget lasts.
    """
    bench, rounds = _Bench(engine, chunk_tokens), []
    deadline_s = time.perf_counter() + budget_s
    for round_number in range(_MAX_ROUNDS):
        measured = bench.round()
        if round_number:
            rounds.append(measured)
        if round_number + 1 >= _MIN_ROUNDS and time.perf_counter() >= deadline_s:
            break
    for slot in range(engine.num_slots):
        engine.free(slot)
    # The fastest of each kind: the others were disturbed.
    return calibrated([min(alike, key=lambda sample: sample[1]) for alike in zip(*rounds, strict=True)])


class _Bench:
    """Sequences in every slot, advanced as measurements need them."""

    def __init__(self, engine: TokenEngine, chunk_tokens: int) -> None:
        self._engine = engine
        self._chunk = max(1, min(chunk_tokens, engine.max_context // 2))
        self._lengths = [0] * engine.num_slots
        for slot in range(engine.num_slots):
            self._fill(slot, self._chunk)

    def round(self) -> list[tuple[StepShape, float]]:
        """One prefill of two sizes and one decode of each width, alone and together, timed."""
        sizes = sorted({max(1, self._chunk // 4), self._chunk})
        prefills = [(StepShape(0, size, 0), _timed(partial(self._fill, 0, size))) for size in sizes]
        widths = _widths(self._engine.num_slots)
        mixed = [self._decode(width, beside=sizes[0]) for width in widths if width < self._engine.num_slots]
        return prefills + [self._decode(width) for width in widths] + mixed

    def _fill(self, slot: int, size: int) -> None:
        self._engine.prefill(slot, [_TOKEN] * size, start=0, sampling=_GREEDY)
        self._lengths[slot] = size

    def _decode(self, width: int, *, beside: int = 0) -> tuple[StepShape, float]:
        """One token for each of the first `width` slots, and so many prompt tokens in the last slot."""
        slots = range(width)
        for slot in slots:
            if self._lengths[slot] >= self._engine.max_context:
                self._fill(slot, self._chunk)
        rows = [DecodeRow(slot=s, token=_TOKEN, position=self._lengths[s], sampling=_GREEDY) for s in slots]
        last = self._engine.num_slots - 1
        chunk = PrefillChunk(slot=last, tokens=(_TOKEN,) * beside, start=0, sampling=_GREEDY)
        elapsed_s = _timed(partial(self._engine.step, [chunk] if beside else [], rows))
        for slot in slots:
            self._lengths[slot] += 1
        if beside:
            self._lengths[last] = beside
        return StepShape(width, beside, sum(row.position for row in rows)), elapsed_s


def _widths(num_slots: int) -> list[int]:
    widths, width = [], 1
    while width < num_slots:
        widths.append(width)
        width *= 2
    return [*widths, num_slots]


def _timed(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s
