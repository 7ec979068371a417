"""What a study's driver needs of the world: somebody who draws and judges, and somebody who runs trials."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.policy.study.values import Config, TrialState
from orchestrator.spec.train_job import TrainJobSpec


class Choice(enum.StrEnum):
    """What becomes of the trial that reported."""

    GO_ON = "go_on"
    PAUSE = "pause"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A trial shall go on from another one's newest state, with another configuration."""

    trial: str
    source: str
    config: Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer to a report; it may end other trials, or change them."""

    choice: Choice
    stops: tuple[str, ...] = ()
    copies: tuple[Copy, ...] = ()


class Strategy(Protocol):
    """Searcher and scheduler. Deterministic: the same calls in the same order get the same answers."""

    def draw(self, trial: str, number: int) -> Config | None:
        """The configuration of the `number`-th trial (from 0); None when there is none left."""

    def reported(self, trial: str, step: int, value: float) -> Verdict:
        """A trial was measured, with steps still to go."""

    def ended(self, trial: str, state: TrialState, step: int, value: float | None) -> None:
        """A trial is over: by itself, by a failure, or stopped by us."""

    def resume_first(self, paused: Sequence[str]) -> str | None:
        """Which of the paused trials shall go on first; None: none of them yet, others must come first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start one attempt of a trial; it goes on from the newest state of `run` in storage, if there is one.

    `step` is how far that state had come when it was last heard of. After each of `reports` the trial saves, is
    measured, says so and waits to be told.
    """

    trial: str
    attempt: int
    run: str
    step: int
    job: TrainJobSpec
    reports: tuple[int, ...]
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Steps that were run: (step, loss, learning rate)."""

    trial: str
    attempt: int
    points: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A trial has saved its state after `step` and waits to be told."""

    trial: str
    attempt: int
    step: int
    metrics: dict[str, float]


class Leaving(enum.StrEnum):
    """How an attempt ended."""

    ORDERLY = "orderly"  # its state is in storage
    LOST = "lost"  # node, rank or seat died
    FAILED = "failed"  # it says itself why


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """An attempt holds no worker any more; `step` is the newest step in storage, `ran_to` the last one that was run.
    `kind` is the failure's (`jobs.train.messages.FailureKind`)."""

    trial: str
    attempt: int
    how: Leaving
    step: int
    ran_to: int
    kind: str = ""
    detail: str = ""


News = Progress | Report | Left


class Trials(Protocol):
    """Runs attempts of trials. Nothing here blocks for long but `poll`."""

    def now_s(self) -> float:
        """Unix time, or the time of a simulated world."""

    def workers(self) -> int:
        """Workers that this study may hold now, those that it holds included."""

    def start(self, start: Start) -> None:
        """Begin an attempt; how it goes comes as news."""

    def go_on(self, trial: str) -> None:
        """Answer a report: train to the next one."""

    def leave(self, trial: str) -> None:
        """Answer a report: leave, the state is saved."""

    def stop(self, trial: str, *, at_once: bool = False) -> None:
        """End an attempt between reports: in order, its state saved; or at once."""

    def copy_state(self, source_run: str, step: int, target_run: str) -> None:
        """Make `target_run`'s newest state that of `source_run` after `step`. May be repeated."""

    def poll(self, timeout_s: float) -> list[News]:
        """What has happened; waits up to `timeout_s` for something."""
