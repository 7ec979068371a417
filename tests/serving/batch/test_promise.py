"""A window is promised only when the measured rate keeps it, for the new batch and for those that are open."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.batch.promise import Broken, Kept, OpenWork, promise

RATE = 1.1  # one token a second after the reserve


def work(tokens: int, due_s: float) -> OpenWork:
    return OpenWork(tokens=tokens, expires_s=due_s)


def test_an_idle_endpoint_keeps_what_fits() -> None:
    assert promise(work(100, 100.5), [], tokens_per_s=RATE, now_s=0.0) == Kept(eta_s=100 / (RATE / 1.1))
    assert isinstance(promise(work(101, 100.5), [], tokens_per_s=RATE, now_s=0.0), Broken)


def test_work_that_is_due_earlier_goes_first_and_later_work_does_not_count() -> None:
    assert isinstance(promise(work(50, 100.5), [work(51, 60.0)], tokens_per_s=RATE, now_s=0.0), Broken)
    assert isinstance(promise(work(50, 100.5), [work(51, 900.0)], tokens_per_s=RATE, now_s=0.0), Kept)


def test_a_batch_that_would_make_another_late_is_refused() -> None:
    assert isinstance(promise(work(50, 60.0), [work(80, 100.0)], tokens_per_s=RATE, now_s=0.0), Broken)


def test_work_that_is_late_already_is_not_harmed_again() -> None:
    assert isinstance(promise(work(50, 60.0), [work(800, 100.0)], tokens_per_s=RATE, now_s=0.0), Kept)


def test_too_much_for_its_window_can_never_be_kept() -> None:
    assert promise(work(1000, 60.0), [], tokens_per_s=RATE, now_s=0.0).retry_after_s is None  # type: ignore[union-attr]


open_work = st.lists(st.builds(work, st.integers(0, 500), st.floats(1.0, 1000.0)), max_size=6)


@given(open_work, st.integers(1, 500), st.floats(1.0, 1000.0))
def test_what_is_refused_is_kept_at_the_time_that_was_told(
    opened: list[OpenWork], tokens: int, window_s: float
) -> None:
    verdict = promise(work(tokens, window_s), opened, tokens_per_s=RATE, now_s=0.0)
    if isinstance(verdict, Broken):
        if verdict.retry_after_s is None:
            assert tokens > window_s * 0.999
            return
        at_s = verdict.retry_after_s + 1e-6
        left, budget = [], at_s * (RATE / 1.1)
        for each in sorted(opened, key=lambda one: one.expires_s):
            done = min(budget, each.tokens)
            budget -= done
            left.append(OpenWork(tokens=int(each.tokens - done), expires_s=max(each.expires_s, at_s)))
        assert isinstance(promise(work(tokens, at_s + window_s), left, tokens_per_s=RATE, now_s=at_s), Kept)
