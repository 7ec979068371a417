"""The watcher: once per notice, patient with failures, quick to see that nobody is there, never spinning."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.train.notices.values import Notice, NoticeKind, SourceAbsentError, SourceError
from jobs.train.notices.watcher import Health, NoticeWatcher, Pace, WatchState, after_failure

PACE = Pace(interval_s=1.0, wait_s=0.0, most_s=10.0, absent_s=300.0, absent_after=3)


def notice(ident: str = "n", deadline_s: float | None = 100.0) -> Notice:
    return Notice(kind=NoticeKind.PREEMPT, source="fake", id=ident, deadline_s=deadline_s, detail="")


class FakeSource:
    """Answers from a list: notices, or an error; the last answer repeats."""

    name = "fake"

    def __init__(self, *answers) -> None:
        self.answers = list(answers)
        self.polls = 0
        self.closed = threading.Event()

    def poll(self, timeout_s):
        answer = self.answers[min(self.polls, len(self.answers) - 1)]
        self.polls += 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self):
        self.closed.set()


class Watched:
    def __init__(self, *answers, pace: Pace = PACE) -> None:
        self.now_s = 0.0
        self.heard: list[Notice] = []
        self.source = FakeSource(*answers)
        self.watcher = NoticeWatcher(self.source, self.heard.append, pace, clock=lambda: self.now_s)

    def poll(self, times: int = 1) -> list[float]:
        waits = []
        for _ in range(times):
            waits.append(self.watcher.poll_once())
            self.now_s += waits[-1]
        return waits


def test_a_notice_is_passed_on_once_however_often_it_is_seen():
    watched = Watched((notice(deadline_s=100.0),), (notice(deadline_s=99.0),), (notice(deadline_s=98.0),))
    assert watched.poll(3) == [1.0, 1.0, 1.0]
    assert len(watched.heard) == 1


def test_a_notice_that_ends_earlier_than_said_is_passed_on_again():
    watched = Watched((notice(deadline_s=100.0),), (notice(deadline_s=30.0),))
    watched.poll(2)
    assert [heard.deadline_s for heard in watched.heard] == [100.0, 30.0]


def test_a_notice_that_gets_a_deadline_is_passed_on_again():
    watched = Watched((notice(deadline_s=None),), (notice(deadline_s=30.0),), (notice(deadline_s=None),))
    watched.poll(3)
    assert [heard.deadline_s for heard in watched.heard] == [None, 30.0]


def test_two_notices_are_two_calls():
    watched = Watched((notice("a"), notice("b")))
    watched.poll()
    assert [heard.id for heard in watched.heard] == ["a", "b"]


def test_failures_double_the_wait_up_to_a_bound_and_success_resets_it():
    watched = Watched((), *[SourceError("500")] * 6, ())
    assert watched.poll(8) == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 1.0]
    assert watched.watcher.state == WatchState(health=Health.OK, was_ok=True)


def test_a_service_that_was_never_there_is_absent_soon_and_asked_rarely():
    watched = Watched(SourceAbsentError("no route"))
    assert watched.poll(5) == [2.0, 4.0, 300.0, 300.0, 300.0]
    assert watched.watcher.state.health is Health.ABSENT


def test_a_service_that_was_there_is_never_taken_for_absent():
    watched = Watched((), SourceAbsentError("down"))
    assert max(watched.poll(8)) == PACE.most_s
    assert watched.watcher.state.health is Health.FAILING


def test_a_callback_that_fails_is_tried_again():
    source = FakeSource((notice(),))
    calls = []

    def fragile(heard: Notice) -> None:
        calls.append(heard)
        if len(calls) == 1:
            raise RuntimeError("the cluster does not answer")

    watcher = NoticeWatcher(source, fragile, PACE, clock=lambda: 0.0)
    for _ in range(3):
        watcher.poll_once()
    assert len(calls) == 2


def test_the_thread_calls_back_and_stops_at_once():
    heard = threading.Event()
    source = FakeSource((notice(),))
    watcher = NoticeWatcher(source, lambda _: heard.set(), Pace(**{**_fields(PACE), "interval_s": 1000.0}))
    watcher.start()
    assert heard.wait(20)
    watcher.close()
    assert source.closed.is_set()
    assert source.polls == 1, "it slept between questions"


@given(failures=st.lists(st.booleans(), max_size=60))
def test_no_sequence_of_failures_makes_it_spin_or_sleep_for_ever(failures):
    state = WatchState()
    for absent in failures:
        state, wait_s = after_failure(state, PACE, (SourceAbsentError if absent else SourceError)("x"))
        assert PACE.interval_s <= wait_s <= PACE.absent_s
        assert state.error == "x"


def _fields(pace: Pace) -> dict[str, float]:
    return {name: getattr(pace, name) for name in pace.__slots__}


@pytest.mark.parametrize("kind", list(NoticeKind))
def test_every_kind_has_a_name_that_reads(kind):
    assert kind.value == kind.value.lower()
