"""A night's session: its minimum useful slice, its order, and what gives way when the end comes nearer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.lending.session import (
    NotStarted,
    Progress,
    SessionPlan,
    Stage,
    StageReason,
    StageTimes,
    plan_session,
    stage_now,
)

TIMES = StageTimes(stage_in_s=120.0, checkpoint_s=30.0, evaluate_s=300.0, register_s=20.0, release_s=10.0)


def test_a_night_that_holds_everything_defers_nothing() -> None:
    plan = plan_session(TIMES, now_s=0.0, until_s=28_800.0, min_slice_s=1800.0)
    assert isinstance(plan, SessionPlan)
    assert (plan.train_from_s, plan.train_until_s, plan.deferred) == (120.0, 28_800.0 - 360.0, ())


def test_a_short_night_trains_and_leaves_evaluation_to_the_next() -> None:
    plan = plan_session(TIMES, now_s=0.0, until_s=2000.0, min_slice_s=1800.0)
    assert isinstance(plan, SessionPlan)
    assert plan.deferred == (Stage.EVALUATE, Stage.REGISTER)
    assert plan.train_until_s == 1960.0


@pytest.mark.parametrize(("until_s", "starts"), [(1960.0, True), (1959.0, False), (0.0, False)])
def test_a_night_without_a_useful_slice_is_not_begun(until_s: float, starts: bool) -> None:
    plan = plan_session(TIMES, now_s=0.0, until_s=until_s, min_slice_s=1800.0)
    assert isinstance(plan, SessionPlan) == starts
    if isinstance(plan, NotStarted):
        assert (plan.needed_s, plan.reason) == (1960.0, StageReason.SLICE_TOO_SHORT)


def run(until_s: float, *, steps_s: float = 1e9, recall: tuple[float, float] | None = None, pace: float = 1.0):
    """A session in which every stage takes `pace` of its time; `recall`: at a time, the end comes to another."""
    plan = plan_session(TIMES, now_s=0.0, until_s=until_s, min_slice_s=1800.0)
    progress = Progress(evaluates=isinstance(plan, SessionPlan) and not plan.deferred)
    now_s, trained_s, stages = 0.0, 0.0, []
    lasting = {
        Stage.STAGE_IN: TIMES.stage_in_s,
        Stage.CHECKPOINT: TIMES.checkpoint_s,
        Stage.EVALUATE: TIMES.evaluate_s,
        Stage.REGISTER: TIMES.register_s,
        Stage.RELEASE: TIMES.release_s,
    }
    end_s = until_s
    while True:
        if recall and now_s >= recall[0]:
            end_s = min(end_s, max(recall[1], now_s + TIMES.release_s))
        stage, reason = stage_now(TIMES, progress, now_s=now_s, until_s=end_s, min_slice_s=1800.0)
        if not stages or stages[-1] is not stage:
            stages.append(stage)
        if stage is Stage.TRAIN:
            # A rank looks up after every step, here of a second.
            now_s, trained_s = now_s + 1.0, trained_s + 1.0
            progress = replace(progress, dirty=True, trained=trained_s >= steps_s)
            continue
        if Stage.STAGE_IN in progress.done:
            progress = replace(progress, done=progress.done | {Stage.TRAIN})
        now_s += lasting[stage] * pace
        progress = replace(
            progress, done=progress.done | {stage}, dirty=progress.dirty and stage is not Stage.CHECKPOINT
        )
        if stage is Stage.RELEASE:
            return stages, now_s, end_s, reason


def test_the_stages_come_in_order_and_end_in_time() -> None:
    stages, over_s, end_s, _ = run(7200.0)
    assert stages == list(Stage)
    assert end_s - 1.0 <= over_s <= end_s + 1.0


def test_a_job_that_is_done_early_goes_on_at_once() -> None:
    stages, over_s, _, _ = run(7200.0, steps_s=600.0)
    assert stages == list(Stage)
    assert over_s == 120.0 + 600.0 + 360.0


def test_a_recall_saves_and_lets_go() -> None:
    stages, over_s, end_s, _ = run(7200.0, recall=(3000.0, 3060.0))
    assert stages == [Stage.STAGE_IN, Stage.TRAIN, Stage.CHECKPOINT, Stage.RELEASE]
    assert over_s <= end_s == 3060.0


def test_a_recall_without_time_to_save_lets_go_at_once() -> None:
    stages, _, _, reason = run(7200.0, recall=(3000.0, 3020.0))
    assert stages == [Stage.STAGE_IN, Stage.TRAIN, Stage.RELEASE]
    assert reason is StageReason.NO_TIME_LEFT


def test_a_recall_while_data_comes_in_does_not_begin_to_train() -> None:
    stages, _, _, reason = run(7200.0, recall=(60.0, 300.0))
    assert stages[0] is Stage.STAGE_IN
    assert stages[-1] is Stage.RELEASE
    assert reason in (StageReason.NOTHING_NEW_TO_SAVE, StageReason.IN_ORDER)


@settings(max_examples=60, deadline=None)
@given(
    until_s=st.integers(0, 6000),
    recall=st.none() | st.tuples(st.integers(0, 5000), st.integers(0, 6000)),
    pace=st.floats(0.1, 1.0),
    steps_s=st.integers(1, 5000),
)
def test_whatever_happens_the_release_is_over_in_time(
    until_s: int, recall: tuple[int, int] | None, pace: float, steps_s: int
) -> None:
    stages, over_s, end_s, _ = run(float(until_s), recall=recall, pace=pace, steps_s=float(steps_s))
    order = [list(Stage).index(stage) for stage in stages]
    assert order == sorted(set(order))
    if len(stages) == 1:
        assert until_s < 1960 or recall is not None
        return
    # A step that was begun is ended, and a stage that was begun when the end came nearer.
    begun = max((TIMES.evaluate_s, TIMES.stage_in_s)) * pace if recall else 0.0
    assert over_s <= end_s + 1.0 + begun
