"""An endpoint and its folder as tests of its process play them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.adapters.endpoints.life import Document, Life
from orchestrator.adapters.endpoints.process import Keeper
from orchestrator.adapters.endpoints.rollout import Progress
from orchestrator.adapters.endpoints.sight import read_sight
from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.jobs.letters import Letter
from orchestrator.adapters.jobs.log_writer import LogWriter
from orchestrator.adapters.ray_serve.seen import Count
from orchestrator.policy.lending.rates import Counter
from orchestrator.spec.errors import UserError

T0 = 1000.0


def letter(attempt: int, replicas: int, *, at_s: float = T0, stop: bool = False) -> Letter:
    seats = {} if stop else {"n": replicas}
    return Letter(id=f"e-a{attempt}", attempt=attempt, at_s=at_s, seats=seats, stop=stop)


def document(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "e"}, "spec": {"model": "m@1", **spec}}


@dataclass
class Fake:
    """An endpoint whose replicas come and go, and become others, when the test says so."""

    urls: dict[str, str] = field(default_factory=lambda: {"interactive": "http://127.0.0.1:1/e"})
    leased: list[int] = field(default_factory=list)
    begun: list[Life] = field(default_factory=list)
    dies: bool = False
    rolled: list[Life] = field(default_factory=list)
    now: Count = field(default_factory=lambda: Count(answering=0, present=0))
    going: Progress = field(default_factory=lambda: Progress(fresh=0, wanted=2))
    room: bool = True
    unknown: set[str] = field(default_factory=set)
    said: tuple[str, ...] = ()
    newer: Life | None = None
    made: Life | None = None

    @property
    def life(self) -> Life:
        assert self.made is not None
        return self.made

    def first(self, document: Document) -> Life:
        return self.plan(document)

    def start(self, life: Life, seats: Mapping[str, int]) -> None:
        if self.dies:
            raise SystemExit
        self.leased.append(sum(seats.values()))
        self.begun.append(life)
        self.made = life

    def plan(self, document: Document) -> Life:
        model = document["spec"]["model"]
        if model in self.unknown:
            raise UserError(f"there is no {model}")
        return Life(document=document, built=model, ref=model)

    def has_room(self, life: Life) -> bool:
        return self.room

    def roll(self, life: Life) -> None:
        self.made = life
        self.rolled.append(life)

    def progress(self) -> Progress:
        return self.going

    def lease(self, seats: Mapping[str, int]) -> None:
        self.leased.append(sum(seats.values()))

    def settle(self) -> bool:
        return False

    def extra(self, *, rolling: bool) -> int:
        return int(rolling)

    def nodes(self) -> dict[str, int]:
        return {}

    def count(self) -> Count:
        return self.now

    def arrivals(self) -> tuple[Counter, ...]:
        return ()

    def refresh(self) -> tuple[str, ...]:
        return self.said

    def overtaken(self) -> Life | None:
        return self.newer

    def canary(self) -> dict[str, Any] | None:
        return None

    def close(self) -> None:
        """Nothing is there."""


@dataclass
class World:
    """A folder, and the clock of whoever keeps the endpoint."""

    root: Path
    at_s: float = T0

    def __post_init__(self) -> None:
        self.wants()

    def wants(self, **spec: Any) -> dict[str, Any]:
        """The file is this from now on."""
        self.folder.write_job(document(**spec), {})
        return document(**spec)

    @property
    def folder(self) -> JobFolder:
        return JobFolder(self.root / "jobs" / "e")

    def keeper(self, fake: Fake) -> Keeper:
        log = LogWriter(self.root / "logs", "e", self.root / "none", lambda: "12:00")
        return Keeper(self.folder, fake, log, lambda: self.at_s)

    def tick(self, keeper: Keeper) -> None:
        self.at_s += 1.0
        assert keeper.tick(())

    def change(self) -> tuple[str, str]:
        found = read_sight(self.folder.path).rollout
        assert found is not None
        return found["state"], found["detail"]
