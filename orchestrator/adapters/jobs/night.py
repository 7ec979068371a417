"""The end of a job's night in its own process: what was trained is evaluated and registered as far as there is time.

The control plane says when (`Letter.night_over`) and until when devices may be held; the order of stages and what is
left out in a hurry is `policy.lending.session`'s. How long stages take is kept beside the run, for the nights to come.
A night that ends because its devices are called back (`Letter.called_back`) gives them back first and does the rest
on none; what came of it is told when the job next runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.adapters.files import read_json, write_json
from orchestrator.policy.lending.session import Progress, Stage, StageReason, StageTimes, stage_now
from orchestrator.policy.lending.values import p95

KEPT = 20
UNMEASURED = {Stage.CHECKPOINT: 20.0, Stage.EVALUATE: 60.0, Stage.REGISTER: 20.0, Stage.RELEASE: 5.0}
"""Until a stage was seen."""
AFTERWARDS_S = 900.0
"""How long a process may go on without devices."""
_FILE = "nights.json"
_AFTERWARDS = "afterwards.json"
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
        self._took: dict[str, list[float]] = read_json(self._path) or {}

    def took(self, stage: Stage, seconds: float) -> None:
        """One more; kept at once."""
        self._took[stage.value] = [*self._took.get(stage.value, []), seconds][-KEPT:]
        write_json(self._path, self._took)

    def keep_afterwards(self, said: str) -> None:
        """What came of a night whose end was told before."""
        write_json(self._afterwards, {"said": said})

    def take_afterwards(self) -> str:
        """That, once; empty where there is nothing to tell."""
        kept = read_json(self._afterwards)
        self._afterwards.unlink(missing_ok=True)
        return "" if kept is None else str(kept["said"])

    @property
    def times(self) -> StageTimes:
        """The 95th percentiles; staging is over before a night begins."""
        each = {stage: self._p95(stage, otherwise_s) for stage, otherwise_s in UNMEASURED.items()}
        return StageTimes(
            stage_in_s=0.0,
            checkpoint_s=each[Stage.CHECKPOINT],
            evaluate_s=each[Stage.EVALUATE],
            register_s=each[Stage.REGISTER],
            release_s=each[Stage.RELEASE],
        )

    def _p95(self, stage: Stage, otherwise_s: float) -> float:
        seen = self._took.get(stage.value, [])
        return p95(stage.value, seen) if seen else otherwise_s


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
    done = frozenset({Stage.STAGE_IN, Stage.TRAIN, *([Stage.CHECKPOINT] if saved else [])})
    progress = Progress(done=done, dirty=not saved, evaluates=registers)
    does: Mapping[Stage, Callable[[], str]] = {Stage.EVALUATE: steps.evaluate, Stage.REGISTER: steps.register}
    told = ["its night is over"]
    while True:
        stage, reason = stage_now(nights.times, progress, now_s=now_s(), until_s=until_s, min_slice_s=0.0)
        if stage not in does:  # what was not saved by now is in nobody's hands any more: release
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
        progress = replace(progress, done=progress.done | {stage})
    if registers and Stage.REGISTER not in progress.done:
        told.append("registration waits for another night")
    say(Stage.RELEASE, reason, None, told[-1])
    return "; ".join(told)
