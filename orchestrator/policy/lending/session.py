"""A night's session: stage data in, train, checkpoint, evaluate, register, release; and what is left out in a hurry.

The end is given (a window's close, a drain's deadline). A session is begun where it holds its minimum useful slice of
training and the way out after it; training stops early enough for what must follow it; and what follows is left to
another night where it does not fit. What never gives way is the release. Data is staged before a device is held, so it
takes no time of the session.
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
    """Why a session is in a stage."""

    IN_ORDER = "in_order"
    TRAINED = "trained"
    END_NEARS = "end_nears"
    NO_TIME_LEFT = "no_time_left"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What follows training. `leave_s`: saving the state and having let go; `finish_s`: the same with the model
    evaluated and registered, where that is asked for."""

    leave_s: float = 0.0
    finish_s: float = 0.0


NO_ENDING = Ending()
"""Of a job that has no nights, or of which nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """How long the stages after training take, each at the 95th percentile."""

    checkpoint_s: float
    evaluate_s: float
    register_s: float
    release_s: float

    def ending(self, *, registers: bool) -> Ending:
        """All of it together; `registers`: whether a model is evaluated and registered at all."""
        leave_s = self.checkpoint_s + self.release_s
        return Ending(leave_s=leave_s, finish_s=leave_s + registers * (self.evaluate_s + self.register_s))


UNSEEN = StageTimes(checkpoint_s=20.0, evaluate_s=60.0, register_s=20.0, release_s=5.0)
"""Of a job whose nights nobody has seen yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """A session that is worth starting: when training stops, and what moves to another night."""

    train_until_s: float
    deferred: tuple[Stage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotStarted:
    """A session that would get nothing done; `needed_s`: the shortest stretch that would."""

    needed_s: float


def plan_session(ending: Ending, *, begins_s: float, until_s: float, min_slice_s: float) -> SessionPlan | NotStarted:
    """Whether a session between these instants holds the minimum useful slice of training, and its course.

    Where no slice is named, training must last as long as evaluation and registration do: so no session begins in what
    these leave of a night.
    """
    slice_s = min_slice_s or ending.finish_s - ending.leave_s
    needed_s, available_s = slice_s + ending.leave_s, until_s - begins_s
    if available_s < needed_s or available_s <= 0:
        return NotStarted(needed_s=needed_s)
    if available_s < slice_s + ending.finish_s:
        return SessionPlan(train_until_s=until_s - ending.leave_s, deferred=(Stage.EVALUATE, Stage.REGISTER))
    return SessionPlan(train_until_s=until_s - ending.finish_s, deferred=())


def next_stage(
    times: StageTimes, done: frozenset[Stage], *, evaluates: bool, left_s: float
) -> tuple[Stage, StageReason]:
    """The stage that a session should be in once training has stopped, asked at every end of a stage.

    `done`: with CHECKPOINT if the last step is on storage; what is not by then outlives the release in the keepers, or
    is made again. `evaluates`: whether a model is evaluated and registered at all. Holds: as long as no stage takes
    longer than its time, and `release_s` are left at the first asking, the release is over by the end.
    """
    if Stage.CHECKPOINT not in done:
        return Stage.RELEASE, StageReason.NO_TIME_LEFT
    if not evaluates or Stage.REGISTER in done:
        return Stage.RELEASE, StageReason.IN_ORDER
    needed_s = times.register_s + times.release_s + (0.0 if Stage.EVALUATE in done else times.evaluate_s)
    if left_s < needed_s:
        return Stage.RELEASE, StageReason.NO_TIME_LEFT
    return Stage.REGISTER if Stage.EVALUATE in done else Stage.EVALUATE, StageReason.IN_ORDER
