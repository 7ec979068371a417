"""Who gets the workers of a study."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.study.allot import Seeker, Shape, allot

BATCH = BatchPlan(32, 4)


def _seeker(trial: str, step: int = 0, workers: int = 0, rung_s: float | None = None) -> Seeker:
    return Seeker(trial=trial, step=step, workers=workers, batch=BATCH, rung_s=rung_s)


def _shape(low: int = 1, high: int = 4, min_trials: int = 1, max_trials: int = 4, stall_s: float = 1.0) -> Shape:
    return Shape(min_workers=low, max_workers=high, min_trials=min_trials, max_trials=max_trials, stall_s=stall_s)


def test_freed_workers_go_to_surviving_trials() -> None:
    seekers = [_seeker("t1", 90, 1, rung_s=100.0), _seeker("t2", 30, 1, rung_s=100.0)]
    found = allot(4, seekers, _shape(), may_draw=False)
    assert dict(found.workers) == {"t1": 2, "t2": 2}


def test_new_trials_come_before_larger_ones() -> None:
    found = allot(4, [_seeker("t1", 90, 1, rung_s=100.0)], _shape(), may_draw=True)
    assert dict(found.workers) == {"t1": 1}
    assert found.room_for_new == 3


def test_a_rung_that_is_nearly_over_is_not_worth_a_resize() -> None:
    found = allot(4, [_seeker("t1", 90, 1, rung_s=1.0)], _shape(stall_s=5.0), may_draw=False)
    assert dict(found.workers) == {"t1": 1}


def test_a_shrinking_lease_pauses_who_came_least_far() -> None:
    seekers = [_seeker("t1", 10, 1), _seeker("t2", 30, 1), _seeker("t3", 90, 1)]
    assert set(allot(2, seekers, _shape(), may_draw=True).workers) == {"t2", "t3"}


def test_a_shrinking_lease_makes_large_trials_smaller_before_it_pauses_any() -> None:
    seekers = [_seeker("t1", 10, 4), _seeker("t2", 30, 2)]
    found = allot(3, seekers, _shape(), may_draw=False)
    assert set(found.workers) == {"t1", "t2"}
    assert sum(found.workers.values()) <= 3


def test_with_room_for_fewer_than_the_least_the_study_waits() -> None:
    found = allot(1, [_seeker("t1", 10, 1)], _shape(min_trials=2), may_draw=True)
    assert dict(found.workers) == {}
    assert found.room_for_new == 0


@given(
    num_workers=st.integers(0, 40),
    held=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 4)), max_size=8),
    low=st.integers(1, 3),
    more=st.integers(0, 4),
    max_trials=st.integers(1, 6),
    may_draw=st.booleans(),
)
def test_nobody_gets_more_than_there_is(
    num_workers: int, held: list[tuple[int, int]], low: int, more: int, max_trials: int, may_draw: bool
) -> None:
    shape = _shape(low, low + more, 1, max_trials)
    seekers = [
        _seeker(f"t{at}", step, workers if workers >= low else 0, 50.0) for at, (step, workers) in enumerate(held)
    ]
    found = allot(num_workers, seekers, shape, may_draw=may_draw)
    assert sum(found.workers.values()) + found.room_for_new * low <= num_workers
    assert len(found.workers) + found.room_for_new <= max_trials
    assert all(low <= workers <= low + more for workers in found.workers.values())
    turned = allot(num_workers, list(reversed(seekers)), shape, may_draw=may_draw)
    assert dict(turned.workers) == dict(found.workers)
