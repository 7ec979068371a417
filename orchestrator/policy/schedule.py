"""Schedules: which instances of a job that starts by itself are due, given what is running and when we last looked.

A cron line is read as wall time by cronsim, without a zone; what that means on the days on which clocks change is said
here, and as cron has always had it. A line of fixed times (no star in front of minute and hour) comes once for every
wall time: one that the clock skips comes at the skip, one that comes twice is taken the first time. A line with a star
there is a rhythm: it comes in every real minute whose wall time matches, so not in a skipped hour, and twice in one
that is repeated.

Refuses to know what time it is, and to start anything. Instants are UTC seconds since the epoch.
"""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import cronsim

from orchestrator.policy.windows import first_reached
from orchestrator.spec.job_parts import Schedule

# Whoever looks later than this after an instant was not there when it came.
ON_TIME_S = 90.0
# No clock changes by more than this, nor twice within it.
_MARGIN = dt.timedelta(days=2)
_MAX_NAME = 63
_FIRST_LOOK_BACK_S = 3600.0


class ScheduleReason(enum.StrEnum):
    """Why an instance is started, or is not."""

    DUE = "due"
    CAUGHT_UP = "caught_up"
    MISSED = "missed"
    STILL_RUNNING = "still_running"
    OVERTAKEN = "overtaken"


@dataclass(frozen=True, slots=True, order=True)
class Instance:
    """One start of a scheduled job: the same job and instant are the same instance, however often it is decided."""

    due_s: float
    job: str

    @property
    def id(self) -> str:
        """`JOB-20261128t2100z`: a valid job name, in UTC so that a repeated hour makes two."""
        stamp = f"{dt.datetime.fromtimestamp(self.due_s, dt.UTC):-%Y%m%dt%H%Mz}"
        room = _MAX_NAME - len(stamp)
        if len(self.job) <= room:
            return self.job + stamp
        # A name that is cut keeps a mark of what was cut off, so that two jobs never share an instance.
        mark = hashlib.sha256(self.job.encode()).hexdigest()[:8]
        return f"{self.job[: room - len(mark) - 1]}-{mark}{stamp}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Submit this instance; its id makes a repeated submission the same."""

    instance: Instance
    reason: ScheduleReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """This instant came and nothing is started for it. Of instants missed in an outage only the last is named."""

    instance: Instance
    reason: ScheduleReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What is to be done: end `replaced` first, then submit `starts`. `next_s`: when to look again; None = never."""

    starts: tuple[Start, ...] = ()
    skipped: tuple[Skip, ...] = ()
    replaced: tuple[str, ...] = ()
    next_s: float | None = None


def due_instances(
    job: str,
    schedule: Schedule,
    *,
    looked_s: float,
    now_s: float,
    running: tuple[str, ...],
    on_time_s: float = ON_TIME_S,
) -> Due:
    """Which instances of `job` to start for the instants in (`looked_s`, `now_s`].

    `looked_s` is the last decision's `now_s`, kept in one transaction with what it submitted; the first time it is
    when the job was handed in. `running`: ids of this job's instances that have not ended. A clock that went back
    decides nothing: the instants it repeats were decided already.
    Holds: no instant is ever started twice over a sequence of decisions; with `forbid`, nothing starts beside another.
    """
    next_s = next_due_s(schedule, after_s=max(looked_s, now_s))
    if now_s <= looked_s:
        return Due(next_s=next_s)
    on_time_from_s = max(looked_s, now_s - on_time_s)
    on_time = [Instance(at_s, job) for at_s in due_between(schedule, on_time_from_s, now_s)]
    late_s = _latest(schedule, looked_s, on_time_from_s)
    late = None if late_s is None else Instance(late_s, job)
    starts = [Start(instance=each, reason=ScheduleReason.DUE) for each in on_time]
    skipped: list[Skip] = []
    if late and (on_time or schedule.catch_up == "none"):
        # An instant that is on time stands for those that were missed before it.
        skipped.append(Skip(instance=late, reason=ScheduleReason.MISSED))
    elif late:
        starts.append(Start(instance=late, reason=ScheduleReason.CAUGHT_UP))
    return _concurrent(schedule.concurrency, starts, skipped, running, next_s)


def _concurrent(
    concurrency: str, starts: list[Start], skipped: list[Skip], running: tuple[str, ...], next_s: float | None
) -> Due:
    """Starts that were made already are running; what the rule of concurrency says of the others."""
    starts = [each for each in starts if each.instance.id not in running]
    replaced: tuple[str, ...] = ()
    if concurrency == "forbid":
        kept = starts[:1] if not running else []
        skipped += [Skip(instance=one.instance, reason=ScheduleReason.STILL_RUNNING) for one in starts[len(kept) :]]
        starts = kept
    elif concurrency == "replace" and starts:
        skipped += [Skip(instance=one.instance, reason=ScheduleReason.OVERTAKEN) for one in starts[:-1]]
        starts, replaced = starts[-1:], tuple(sorted(running))
    return Due(starts=tuple(starts), skipped=tuple(skipped), replaced=replaced, next_s=next_s)


def next_due_s(schedule: Schedule, *, after_s: float) -> float | None:
    """The first instant later than `after_s`; None when it never comes again (cronsim looks 50 years ahead)."""
    return next(_instants(schedule, after_s), None)


def due_between(schedule: Schedule, after_s: float, until_s: float) -> Iterator[float]:
    """The instants in (`after_s`, `until_s`], soonest first, each once."""
    return itertools.takewhile(lambda at_s: at_s <= until_s, _instants(schedule, after_s))


def _latest(schedule: Schedule, after_s: float, until_s: float) -> float | None:
    """The last instant in (`after_s`, `until_s`]: looks back further and further, as an outage may have been long."""
    span_s = _FIRST_LOOK_BACK_S
    while until_s > after_s:
        from_s = max(after_s, until_s - span_s)
        *_, latest = itertools.chain([None], due_between(schedule, from_s, until_s))
        if latest is not None or from_s == after_s:
            return latest
        until_s, span_s = from_s, span_s * 4
    return None


def _instants(schedule: Schedule, after_s: float) -> Iterator[float]:
    """Instants later than `after_s`, in order.

    Wall times come in their own order, which on the day of a repeated hour is not that of the instants: those that
    may still be overtaken wait in a heap until the next wall time is first reached later than they are.
    """
    zone, rhythm = ZoneInfo(schedule.timezone), _is_rhythm(schedule.cron)
    waiting: list[float] = []
    last_s = after_s
    for wall in cronsim.CronSim(schedule.cron, _wall_before(after_s, zone)):
        reached_s = first_reached(wall, zone)
        while waiting and waiting[0] <= reached_s:
            at_s = heapq.heappop(waiting)
            if at_s > last_s:
                yield at_s
                last_s = at_s
        for at_s in _shown(wall, zone) if rhythm else (reached_s,):
            heapq.heappush(waiting, at_s)
    yield from (at_s for at_s in sorted(set(waiting)) if at_s > last_s)


def _wall_before(after_s: float, zone: ZoneInfo) -> dt.datetime:
    """A wall time not later than that of any instant after `after_s`; earlier than the clock shows near a change."""
    now, margin_s = dt.datetime.fromtimestamp(after_s, zone), _MARGIN.total_seconds()
    around = (dt.datetime.fromtimestamp(after_s + shift_s, zone) for shift_s in (-margin_s, margin_s))
    steady = all(moment.utcoffset() == now.utcoffset() for moment in around)
    return now.replace(tzinfo=None) - (dt.timedelta(0) if steady else _MARGIN)


def _is_rhythm(cron: str) -> bool:
    """Whether minute or hour begin with a star: the line says how often rather than when."""
    minute, hour, *_ = cron.split()
    return minute.startswith("*") or hour.startswith("*")


def _shown(wall: dt.datetime, zone: ZoneInfo) -> tuple[float, ...]:
    """Every instant at which the clock shows `wall`: none where it is skipped, two where it is repeated."""
    both = {wall.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1)}
    shown = (at_s for at_s in both if dt.datetime.fromtimestamp(at_s, zone).replace(tzinfo=None) == wall)
    return tuple(sorted(shown))
