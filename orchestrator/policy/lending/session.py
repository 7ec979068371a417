"""A night's session: stage data in, train, checkpoint, evaluate, register, release; and what is left out in a hurry.

The end is given (a loan's, a window's close less the lead) and may come nearer while the session runs. Training stops
early enough for what must follow it. What never gives way is the checkpoint's chance and the release; evaluation and
registration move to the next night when they do not fit.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Stage(enum.StrEnum):
    """The stages, in order."""

    STAGE_IN = "stage_in"
    TRAIN = "train"
    CHECKPOINT = "checkpoint"
    EVALUATE = "evaluate"
    REGISTER = "register"
    RELEASE = "release"


class StageReason(enum.StrEnum):
    """Why a session is in a stage, or not started."""

    IN_ORDER = "in_order"
    TRAINED = "trained"
    END_NEARS = "end_nears"
    NOTHING_NEW_TO_SAVE = "nothing_new_to_save"
    NO_TIME_LEFT = "no_time_left"
    SLICE_TOO_SHORT = "slice_too_short"
    FITS = "fits"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """How long the stages take beside training, each at the 95th percentile; `stage_in_s` for what changed only."""

    stage_in_s: float
    checkpoint_s: float
    evaluate_s: float
    register_s: float
    release_s: float

    @property
    def leave_s(self) -> float:
        """From stopping to train to having let go, with the state saved."""
        return self.checkpoint_s + self.release_s

    @property
    def finish_s(self) -> float:
        """The same with the model evaluated and registered."""
        return self.leave_s + self.evaluate_s + self.register_s


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """A session that is worth starting: when training stops, and what moves to another night."""

    train_from_s: float
    train_until_s: float
    deferred: tuple[Stage, ...]
    reason: StageReason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotStarted:
    """A session that would get nothing done; `needed_s`: the shortest stretch that would."""

    needed_s: float
    reason: StageReason
    detail: str


def plan_session(times: StageTimes, *, now_s: float, until_s: float, min_slice_s: float) -> SessionPlan | NotStarted:
    """Whether a session from now until `until_s` holds the minimum useful slice of training, and its course."""
    available_s, begun_s = until_s - now_s, now_s + times.stage_in_s
    needed_s = times.stage_in_s + min_slice_s + times.leave_s
    if available_s < needed_s:
        detail = f"{available_s:.0f} s are left; {min_slice_s:.0f} s of training need {needed_s:.0f} s with all around"
        return NotStarted(needed_s=needed_s, reason=StageReason.SLICE_TOO_SHORT, detail=detail)
    complete = available_s >= times.stage_in_s + min_slice_s + times.finish_s
    train_until_s = until_s - (times.finish_s if complete else times.leave_s)
    return SessionPlan(
        train_from_s=begun_s,
        train_until_s=train_until_s,
        deferred=() if complete else (Stage.EVALUATE, Stage.REGISTER),
        reason=StageReason.FITS,
        detail=f"{train_until_s - begun_s:.0f} s of training in {available_s:.0f} s",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a session has done. `trained`: the job's steps are all made. `dirty`: there are steps not yet saved.

    `evaluates`: its plan defers nothing, so training stops early enough for evaluation and registration, too.
    """

    done: frozenset[Stage] = frozenset()
    trained: bool = False
    dirty: bool = False
    evaluates: bool = True


def stage_now(
    times: StageTimes, progress: Progress, *, now_s: float, until_s: float, min_slice_s: float
) -> tuple[Stage, StageReason]:
    """The stage a session should be in, asked at every end of a stage and while it trains.

    `until_s` may have come nearer since the start. Holds: as long as no stage takes longer than its time, and the end
    never comes nearer than `release_s` (a recall's drain), the release is over by `until_s`.
    """
    left_s, done = until_s - now_s, progress.done
    if Stage.STAGE_IN not in done and Stage.TRAIN not in done:
        fits = left_s >= times.stage_in_s + min_slice_s + times.leave_s
        return (Stage.STAGE_IN, StageReason.IN_ORDER) if fits else (Stage.RELEASE, StageReason.SLICE_TOO_SHORT)
    stop_s = times.finish_s if progress.evaluates else times.leave_s
    if Stage.TRAIN not in done and not progress.trained and left_s > stop_s:
        return Stage.TRAIN, StageReason.IN_ORDER
    return _after_training(times, progress, left_s)


def _after_training(times: StageTimes, progress: Progress, left_s: float) -> tuple[Stage, StageReason]:
    why = StageReason.TRAINED if progress.trained else StageReason.END_NEARS
    if progress.dirty:
        if left_s >= times.leave_s:
            return Stage.CHECKPOINT, why
        # The last snapshot is in the keepers: it outlives the release, and what came after it is made again.
        return Stage.RELEASE, StageReason.NO_TIME_LEFT
    if Stage.EVALUATE not in progress.done and Stage.CHECKPOINT in progress.done and progress.evaluates:
        fits = left_s >= times.evaluate_s + times.register_s + times.release_s
        return (Stage.EVALUATE, StageReason.IN_ORDER) if fits else (Stage.RELEASE, StageReason.NO_TIME_LEFT)
    if Stage.EVALUATE in progress.done and Stage.REGISTER not in progress.done:
        fits = left_s >= times.register_s + times.release_s
        return (Stage.REGISTER, StageReason.IN_ORDER) if fits else (Stage.RELEASE, StageReason.NO_TIME_LEFT)
    reason = StageReason.IN_ORDER if Stage.CHECKPOINT in progress.done else StageReason.NOTHING_NEW_TO_SAVE
    return Stage.RELEASE, reason
