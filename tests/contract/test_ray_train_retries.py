"""Why an attempt ended, and whether the run tries again: causes, budgets, waits."""

from __future__ import annotations

import pytest

from orchestrator.adapters.ray_train.events import (
    Cause,
)
from orchestrator.adapters.ray_train.explain import explain
from orchestrator.adapters.ray_train.journal import OpenAttempt
from orchestrator.adapters.ray_train.protocol import (
    GroupIdle,
    Leaving,
    Left,
)
from orchestrator.adapters.ray_train.retries import (
    Failure,
    GiveUp,
    Retry,
    RetryBudget,
    RetryState,
    after_failure,
)
from tests.contract.ray_train_fakes import plan


def lost(kind: str, worker: int) -> Left:
    return Left(attempt=1, worker=worker, node_id="n", at_s=float(worker), how=Leaving.FAILED, kind=kind, detail=kind)


@pytest.mark.parametrize(
    ("kinds", "lost_nodes", "cause", "detail"),
    [
        (["lost_peer", "killed"], (), Cause.WORKER_FAILURE, "killed"),
        (["lost_peer", "user_code"], (), Cause.WORKER_FAILURE, "user_code"),
        (["hang", "lost_peer"], (), Cause.HANG, "hang"),
        (["lost_peer"], ("abcdef",), Cause.NODE_LOSS, "lost node abcdef"),
        ([], (), Cause.START_FAILURE, "the workers did not start"),
    ],
)
def test_the_root_cause_explains_what_its_peers_complain_of(
    kinds: list[str], lost_nodes: tuple[str, ...], cause: Cause, detail: str
) -> None:
    attempt = OpenAttempt(plan=plan(), opened_at_s=0.0)
    attempt.left = {worker: lost(kind, worker) for worker, kind in enumerate(kinds)}
    attempt.joined = set(attempt.left)
    found = explain(attempt, GroupIdle(at_s=1.0), lost_nodes)
    assert (found[0], found[2]) == (cause, detail)


BUDGET = RetryBudget(failures=2, preemptions=None)


BUDGET = RetryBudget(failures=2, preemptions=None)


def failure(cause: Cause = Cause.WORKER_FAILURE, kind: str = "killed", start: int = 0, steps: int = 1) -> Failure:
    return Failure(cause=cause, kind=kind, start_step=start, num_steps=steps)


def test_progress_renews_the_budget() -> None:
    state = RetryState()
    for start in range(20):
        verdict, state = after_failure(BUDGET, state, failure(start=start))
        assert verdict == Retry(delay_s=0.0)


def test_lost_capacity_has_a_budget_of_its_own() -> None:
    state = RetryState()
    for _ in range(50):
        verdict, state = after_failure(BUDGET, state, failure(Cause.NODE_LOSS, "node_loss"))
        assert isinstance(verdict, Retry)
    assert state.failures == 0


@pytest.mark.parametrize(
    ("kind", "steps", "gives_up"), [("nan", 9, True), ("user_code", 0, True), ("killed", 0, False)]
)
def test_what_would_happen_again_is_not_tried_again(kind: str, steps: int, gives_up: bool) -> None:
    verdict, _ = after_failure(BUDGET, RetryState(), failure(kind=kind, steps=steps))
    assert isinstance(verdict, GiveUp) is gives_up


def test_waits_double_up_to_a_minute() -> None:
    state, delays = RetryState(), []
    for _ in range(9):
        verdict, state = after_failure(RetryBudget(failures=99, preemptions=None), state, failure())
        assert isinstance(verdict, Retry)
        delays.append(verdict.delay_s)
    assert delays == [0, 1, 2, 4, 8, 16, 32, 60, 60]
