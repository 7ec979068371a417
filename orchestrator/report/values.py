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
class DayLine:
    """One look at a day's devices, real seconds after it began. `demand_replicas`: how many replicas the customers
    need; `serving`, `lent` and `returning` are replicas of the endpoint."""

    at_s: float
    demand_replicas: float
    serving: int
    lent: int
    returning: int
    spot_nodes: int
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DayRequest:
    """A customer's request: when it was sent, how long its whole answer took, and what was wrong with it."""

    at_s: float
    waited_s: float
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A day of `hours` from `begin_h` that was played in so many `seconds`; an answer is promised in `promised_s`."""

    source: str
    begin_h: float
    hours: float
    seconds: float
    lines: tuple[DayLine, ...]
    requests: tuple[DayRequest, ...]
    promised_s: float
    replicas: int
    nodes_moved: int

    @property
    def late(self) -> int:
        """Requests that were refused, failed or answered later than promised."""
        return sum(bool(one.problem) or one.waited_s > self.promised_s for one in self.requests)

    @property
    def most_lent(self) -> int:
        """Replicas whose devices trained at once, at most."""
        return max((line.lent for line in self.lines), default=0)

    @property
    def devices_moved(self) -> int:
        """Devices that came or went: spot nodes, and devices between endpoint and training in either direction."""
        lent = [line.lent for line in self.lines]
        return self.nodes_moved + sum(abs(after - before) for before, after in zip([0, *lent], lent, strict=False))


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
    day: Day | None = None
    notes: tuple[str, ...] = ()
