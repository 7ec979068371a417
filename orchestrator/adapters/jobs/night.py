"""The end of a job's night in its own process: what was trained is evaluated and registered as far as there is time.

The control plane says when (`Letter.night_over`) and until when devices may be held; the order of stages and what is
left out in a hurry is `policy.lending.session`'s. How long stages take is kept beside the run, for the nights to come:
the leader reads it, too, before it begins one.
A night that ends because its devices are called back (`Letter.called_back`) gives them back first and does the rest
on none; what came of it is told when the job next runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from orchestrator.adapters.files import read_json, write_json
from orchestrator.policy.lending.session import UNSEEN, Stage, StageReason, StageTimes, next_stage
from orchestrator.policy.lending.values import p95

log = structlog.get_logger(__name__)

KEPT = 20
AFTERWARDS_S = 900.0
"""How long a process may go on without devices."""
_FILE = "nights.json"
_AFTERWARDS = "afterwards.json"
_STAGED = "staged.json"
Say = Callable[[Stage, StageReason, float | None, str], None]
"""A stage has begun (None), is over after so many seconds, or says something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What two stages do; each returns a sentence for people."""

    evaluate: Callable[[], str]
    register: Callable[[], str]


class Nights:
    """How long the stages of earlier nights took; `folder` is the run's."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self._afterwards = folder / _AFTERWARDS
        self._staged = folder / _STAGED
        self._took = _earlier(self._path)

    def took(self, stage: Stage, seconds: float) -> None:
        """One more; kept at once."""
        # A clock that was set back meanwhile takes nothing away from later nights.
        self._took[stage.value] = [*self._took.get(stage.value, []), max(0.0, seconds)][-KEPT:]
        write_json(self._path, self._took)

    def keep_afterwards(self, said: str) -> None:
        """What came of a night whose end was told before."""
        write_json(self._afterwards, {"said": said})

    def take_afterwards(self) -> str:
        """That, once; empty where there is nothing to tell."""
        kept = read_json(self._afterwards)
        self._afterwards.unlink(missing_ok=True)
        return "" if kept is None else str(kept["said"])

    def keep_staged(self, seconds: float, said: str) -> None:
        """What was done for the next night before anybody held a device."""
        write_json(self._staged, {"seconds": seconds, "said": said})

    def take_staged(self) -> tuple[float, str] | None:
        """That, once: seconds and words."""
        kept = read_json(self._staged)
        self._staged.unlink(missing_ok=True)
        return None if kept is None else (float(kept["seconds"]), str(kept["said"]))

    @property
    def times(self) -> StageTimes:
        """The 95th percentiles."""
        return StageTimes(
            checkpoint_s=self._p95(Stage.CHECKPOINT, UNSEEN.checkpoint_s),
            evaluate_s=self._p95(Stage.EVALUATE, UNSEEN.evaluate_s),
            register_s=self._p95(Stage.REGISTER, UNSEEN.register_s),
            release_s=self._p95(Stage.RELEASE, UNSEEN.release_s),
        )

    def _p95(self, stage: Stage, otherwise_s: float) -> float:
        seen = self._took.get(stage.value, [])
        return p95(stage.value, seen) if seen else otherwise_s


def _earlier(path: Path) -> dict[str, list[float]]:
    """Seconds by stage; what nobody can read was never measured, and keeps no job from its nights."""
    try:
        return read_json(path) or {}
    except (OSError, ValueError):
        log.warning("a job's earlier nights cannot be read", file=str(path), exc_info=True)
        return {}


def end_night(
    nights: Nights, steps: Steps, *, asked_s: float, until_s: float, saved: bool, registers: bool,
    now_s: Callable[[], float], say: Say,
) -> str:  # fmt: skip
    """Carry out the stages after training, which has stopped in order; returns what came of it.

    `asked_s`: when the stop was ordered; `saved`: whether the last step is on storage, `registers`: whether the job
    names a model. Holds: nothing is begun that would not be over by `until_s` as far as earlier nights tell.
    """
    checkpoint_s = max(0.0, now_s() - asked_s)
    if saved:
        nights.took(Stage.CHECKPOINT, checkpoint_s)
        say(Stage.CHECKPOINT, StageReason.END_NEARS, checkpoint_s, "the state is on storage")
    done = frozenset([Stage.CHECKPOINT] if saved else [])
    does: Mapping[Stage, Callable[[], str]] = {Stage.EVALUATE: steps.evaluate, Stage.REGISTER: steps.register}
    told = ["its night is over"]
    while True:
        stage, reason = next_stage(nights.times, done, evaluates=registers, left_s=until_s - now_s())
        if stage is Stage.RELEASE:
            break
        began_s = now_s()
        say(stage, reason, None, "")
        try:
            told.append(does[stage]())
        except Exception as error:  # whatever it was, it must not cost the job its nights
            told.append(f"{stage} failed: {type(error).__name__}: {error}")
            say(stage, reason, now_s() - began_s, told[-1])
            break
        nights.took(stage, now_s() - began_s)
        say(stage, reason, now_s() - began_s, told[-1])
        done |= {stage}
    if registers and Stage.REGISTER not in done:
        told.append("registration waits for another night")
    say(Stage.RELEASE, reason, None, told[-1])
    return "; ".join(told)
