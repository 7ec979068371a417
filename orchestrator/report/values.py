"""What a run report is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPoint:
    """One optimizer step as it happened; `at_s` counts from the start of the run."""

    step: int
    at_s: float
    loss: float
    tokens_per_s: float
    world_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of the run's time on one lane of the timeline, seconds from the start of the run."""

    lane: str
    label: str
    start_s: float
    end_s: float
    kind: str  # useful | stall | lost | other: its colour


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderRung:
    """A known compressor or model on the same validation bytes."""

    name: str
    bits_per_byte: float
    ours: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """Everything the page shows; empty parts are left out of it."""

    title: str
    summary: tuple[tuple[str, str], ...]
    steps: tuple[StepPoint, ...] = ()
    spans: tuple[Span, ...] = ()
    ladder: tuple[LadderRung, ...] = ()
    prompt: str = ""
    completion: str = ""
    notes: tuple[str, ...] = ()
