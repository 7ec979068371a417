"""A night's session: its minimum useful slice, the order of what follows it, and what gives way in a hurry."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.lending.session import (
    NO_ENDING,
    Ending,
    NotStarted,
    SessionPlan,
    Stage,
    StageReason,
    StageTimes,
    next_stage,
    plan_session,
)

TIMES = StageTimes(checkpoint_s=30.0, evaluate_s=300.0, register_s=20.0, release_s=10.0)
ENDING = TIMES.ending(registers=True)


def test_a_job_without_a_model_has_nothing_to_evaluate() -> None:
    assert TIMES.ending(registers=True) == Ending(leave_s=40.0, finish_s=360.0)
    assert TIMES.ending(registers=False) == Ending(leave_s=40.0, finish_s=40.0)


@pytest.mark.parametrize(
    ("until_s", "train_until_s", "deferred"),
    [(28_800.0, 28_440.0, ()), (2160.0, 1800.0, ()), (2159.0, 2119.0, (Stage.EVALUATE, Stage.REGISTER))],
    ids=["a long night", "just all", "evaluation is left to another night"],
)
def test_training_stops_early_enough_for_what_follows(
    until_s: float, train_until_s: float, deferred: tuple[Stage, ...]
) -> None:
    plan = plan_session(ENDING, begins_s=0.0, until_s=until_s, min_slice_s=1800.0)
    assert plan == SessionPlan(train_until_s=train_until_s, deferred=deferred)


@pytest.mark.parametrize(("until_s", "starts"), [(1840.0, True), (1839.0, False), (0.0, False)])
def test_a_night_without_a_useful_slice_is_not_begun(until_s: float, starts: bool) -> None:
    plan = plan_session(ENDING, begins_s=0.0, until_s=until_s, min_slice_s=1800.0)
    assert isinstance(plan, SessionPlan) == starts
    if isinstance(plan, NotStarted):
        assert plan.needed_s == 1840.0


def test_a_job_of_which_nothing_is_known_may_use_any_night_that_has_not_closed() -> None:
    assert isinstance(plan_session(NO_ENDING, begins_s=0.0, until_s=1.0, min_slice_s=0.0), SessionPlan)
    assert isinstance(plan_session(NO_ENDING, begins_s=1.0, until_s=1.0, min_slice_s=0.0), NotStarted)


@given(until_s=st.floats(1.0, 1e5), later_s=st.floats(0.001, 1e4))
def test_without_a_slice_no_session_begins_in_what_the_end_of_one_leaves(until_s: float, later_s: float) -> None:
    plan = plan_session(ENDING, begins_s=0.0, until_s=until_s, min_slice_s=0.0)
    if isinstance(plan, SessionPlan) and not plan.deferred:
        begins_s = plan.train_until_s + later_s
        assert isinstance(plan_session(ENDING, begins_s=begins_s, until_s=until_s, min_slice_s=0.0), NotStarted)


def follow(
    left_s: float, *, saved: bool = True, evaluates: bool = True, pace: float = 1.0
) -> tuple[list[Stage], float]:
    """What follows training when `left_s` are left and every stage takes `pace` of its time; and what is left then."""
    lasting = {Stage.EVALUATE: 300.0, Stage.REGISTER: 20.0, Stage.RELEASE: 10.0}
    done, stages = frozenset([Stage.CHECKPOINT] if saved else []), []
    while Stage.RELEASE not in done:
        stage, _ = next_stage(TIMES, done, evaluates=evaluates, left_s=left_s)
        stages.append(stage)
        done |= {stage}
        left_s -= lasting[stage] * pace
    return stages, left_s


@pytest.mark.parametrize(
    ("left_s", "options", "stages"),
    [
        (330.0, {}, [Stage.EVALUATE, Stage.REGISTER, Stage.RELEASE]),
        (329.0, {}, [Stage.RELEASE]),
        (1000.0, {"saved": False}, [Stage.RELEASE]),
        (1000.0, {"evaluates": False}, [Stage.RELEASE]),
        (335.0, {"pace": 1.1}, [Stage.EVALUATE, Stage.RELEASE]),
    ],
    ids=["all", "no time", "nothing on storage", "a job without a model", "evaluation took longer than ever"],
)
def test_what_does_not_fit_is_left_out(left_s: float, options: dict[str, float], stages: list[Stage]) -> None:
    assert follow(left_s, **options)[0] == stages  # type: ignore[arg-type]


def test_what_is_left_out_says_why() -> None:
    saved = frozenset({Stage.CHECKPOINT})
    assert next_stage(TIMES, saved, evaluates=True, left_s=1.0) == (Stage.RELEASE, StageReason.NO_TIME_LEFT)
    assert next_stage(TIMES, frozenset(), evaluates=True, left_s=1e9) == (Stage.RELEASE, StageReason.NO_TIME_LEFT)
    assert next_stage(TIMES, saved, evaluates=False, left_s=1.0) == (Stage.RELEASE, StageReason.IN_ORDER)


@settings(deadline=None)
@given(left_s=st.floats(10.0, 1000.0), pace=st.floats(0.0, 1.0), saved=st.booleans(), evaluates=st.booleans())
def test_whatever_is_left_the_release_is_over_in_time(left_s: float, pace: float, saved: bool, evaluates: bool) -> None:
    stages, after_s = follow(left_s, saved=saved, evaluates=evaluates, pace=pace)
    order = [list(Stage).index(stage) for stage in stages]
    assert order == sorted(set(order))
    assert after_s >= -1e-9
