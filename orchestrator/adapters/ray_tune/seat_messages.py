"""What a node's seat and the study's driver say to each other, as values that travel through Ray."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobs.train.config import RankJob


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatOrder:
    """Start this node's ranks of one attempt of a trial: global ranks `ranks` of `world_size`."""

    trial: str
    attempt: int
    job: RankJob
    ranks: tuple[int, ...]
    world_size: int
    master_addr: str
    master_port: int
    reports: tuple[int, ...]
    evaluation_samples: int
    cwd: str
    environment: dict[str, str] = field(repr=False)
    log_dir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatSteps:
    """Steps that the trial has run: (step, loss, learning rate)."""

    trial: str
    attempt: int
    points: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatReport:
    """The trial's rank 0 has reported and waits."""

    trial: str
    attempt: int
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatOver:
    """No rank of the attempt is left on this node. `kind` "" means that all of them left in order."""

    trial: str
    attempt: int
    kind: str = ""
    detail: str = ""


SeatItem = SeatSteps | SeatReport | SeatOver
