"""Asks one source again and again and calls back once per notice; backs off when it fails, never spins."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from jobs.train.notices.values import Notice, NoticeSource, SourceAbsentError, SourceError

_log = structlog.get_logger(__name__)


class Health(enum.StrEnum):
    """What the watcher knows of its source."""

    UNKNOWN = "unknown"
    OK = "ok"
    FAILING = "failing"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often to ask.

    `interval_s`: at least this long from one question to the next. `wait_s`: how long a source that can wait may hold
    its answer. After failures the interval doubles, up to `most_s`, which bounds how much later a notice can be heard.
    A source that was never there is asked every `absent_s` after `absent_after` tries.
    """

    interval_s: float
    wait_s: float
    most_s: float
    absent_s: float
    absent_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchState:
    """`failures` in a row; `was_ok`: it has answered at least once; `error`: the last one, "" after a success."""

    health: Health = Health.UNKNOWN
    failures: int = 0
    was_ok: bool = False
    error: str = ""


def after_failure(state: WatchState, pace: Pace, error: SourceError) -> tuple[WatchState, float]:
    """The state after a failed question, and the seconds until the next one. Pure."""
    failures = state.failures + 1
    gone = isinstance(error, SourceAbsentError) and not state.was_ok and failures >= pace.absent_after
    wait_s = pace.absent_s if gone else min(pace.most_s, pace.interval_s * 2.0 ** min(failures, 30))
    health = Health.ABSENT if gone else Health.FAILING
    return WatchState(health=health, failures=failures, was_ok=state.was_ok, error=str(error)), wait_s


def is_news(seen: dict[tuple[str, str], float], notice: Notice, now_s: float, tolerance_s: float) -> bool:
    """Whether a notice is new, or its end has come nearer by more than `tolerance_s`; `seen` maps (source, id) to the
    end known so far (infinity if none was said). Pure."""
    known = seen.get((notice.source, notice.id))
    return known is None or _end_s(notice, now_s) < known - tolerance_s


def _end_s(notice: Notice, now_s: float) -> float:
    return float("inf") if notice.deadline_s is None else now_s + notice.deadline_s


# Clouds repeat a deadline in whole seconds, and reading takes time: smaller changes are no news.
_TOLERANCE_S = 2.0


class NoticeWatcher:
    """A thread for one source. `on_notice` is called in that thread, once per notice, and again if it ends earlier."""

    def __init__(
        self,
        source: NoticeSource,
        on_notice: Callable[[Notice], None],
        pace: Pace,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._on_notice = on_notice
        self._pace = pace
        self._clock = clock
        self._seen: dict[tuple[str, str], float] = {}
        self._state = WatchState()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"notices-{source.name}", daemon=True)

    @property
    def state(self) -> WatchState:
        """How the source is doing."""
        return self._state

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop, also in the middle of a question."""
        self._stop.set()
        self._source.close()
        if self._thread.is_alive():
            self._thread.join()

    def poll_once(self) -> float:
        """Ask once, call back if there is news; seconds until the next question is due."""
        started_s = self._clock()
        try:
            notices = self._source.poll(self._pace.wait_s)
        except SourceError as error:
            if self._stop.is_set():  # it was interrupted; that says nothing of the source
                return 0.0
            if self._state.health is not Health.ABSENT:
                _log.info("notices not heard", source=self._source.name, error=str(error))
            self._state, wait_s = after_failure(self._state, self._pace, error)
            return wait_s
        self._state = WatchState(health=Health.OK, was_ok=True)
        for notice in notices:
            self._tell(notice)
        return max(0.0, self._pace.interval_s - (self._clock() - started_s))

    def _tell(self, notice: Notice) -> None:
        now_s = self._clock()
        if not is_news(self._seen, notice, now_s, _TOLERANCE_S):
            return
        self._seen[notice.source, notice.id] = _end_s(notice, now_s)
        _log.warning(
            "notice", source=notice.source, kind=notice.kind, deadline_s=notice.deadline_s, detail=notice.detail
        )
        try:
            self._on_notice(notice)
        except Exception:
            # Forget that it was seen: a drain that could not be started is asked for again.
            self._seen.pop((notice.source, notice.id), None)
            _log.exception("notice could not be passed on", source=notice.source, id=notice.id)

    def _run(self) -> None:
        while not self._stop.is_set():
            wait_s = self.poll_once()
            self._stop.wait(wait_s)
