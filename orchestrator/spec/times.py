"""Wall time, time zones, instants, cron lines and deadlines: text to values of `datetime`, and back.

Refuses to know what time it is: whoever compares with now passes it in.
"""

from __future__ import annotations

import datetime as dt
import difflib
import functools
import re
import zoneinfo

import cronsim

from orchestrator.spec.problems import BadValueError, Code
from orchestrator.spec.quantities import SECONDS, parse_duration, render_duration
from orchestrator.spec.scalars import scalar_text, shown

CLOCK_PATTERN = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"
ZONE_PATTERN = r"^(UTC|[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)+)$"
INSTANT_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})$"
_CLOCK_WANT = "it must be a time of day in 24 hours, 00:00 to 23:59, such as 22:00 or 06:30"
_ZONE_WANT = "it must be an IANA time zone such as Europe/Berlin, America/New_York or UTC"
_INSTANT_WANT = "it must be a time with date and offset, such as 2026-03-01T06:00:00+01:00 or ...Z"
_CRON_WANT = 'it must be five fields: minute hour day-of-month month day-of-week, such as "0 22 * * 1-5"'
_DEADLINE_WANT = "it must be a duration after submission such as 8h, or a time such as 2026-03-01T06:00:00+01:00"
# Whether a cron line can ever come is asked from here: leap days and month ends all follow within cronsim's horizon.
_CRON_EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_YEARS = range(1970, 2200)


def parse_clock(value: object) -> dt.time:
    """A wall time `HH:MM`."""
    if isinstance(value, dt.time):
        return value
    text = scalar_text(value, _CLOCK_WANT)
    if re.match(CLOCK_PATTERN, text) and not text.endswith("\n"):
        return dt.time(int(text[:2]), int(text[3:]))
    advice = "Write 00:00 for midnight" if text == "24:00" else ""
    if re.match(r"[0-9]:[0-5][0-9]\Z", text):
        advice = f"Did you mean 0{text}?"
    raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} is not a time of day", _CLOCK_WANT, advice)


def render_clock(value: dt.time) -> str:
    """`HH:MM`."""
    return value.strftime("%H:%M")


def parse_zone(value: object) -> str:
    """An IANA zone that this machine's zone data knows; abbreviations such as CET are refused."""
    text = scalar_text(value, _ZONE_WANT)
    try:
        known = bool(re.match(ZONE_PATTERN, text)) and bool(zoneinfo.ZoneInfo(text))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = False
    if known and not text.endswith("\n"):
        return text
    near = difflib.get_close_matches(text[:40], _zones(), n=1, cutoff=0.7)
    advice = f"Did you mean {near[0]}?" if near and "/" in near[0] else ""
    raise BadValueError(Code.NOT_ONE_OF, f"{shown(text)} is not a known time zone", _ZONE_WANT, advice)


@functools.cache
def _zones() -> tuple[str, ...]:
    return tuple(sorted(zoneinfo.available_timezones()))


def parse_instant(value: object) -> dt.datetime:
    """An ISO 8601 time with date and offset; without the offset it would mean another time on another machine."""
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return value
    text = str(value) if isinstance(value, dt.datetime) else scalar_text(value, _INSTANT_WANT)
    if re.match(INSTANT_PATTERN, f"{text}Z"):
        raise BadValueError(
            Code.WRONG_VALUE, f"{shown(text)} has no offset", _INSTANT_WANT, f"Write {text}Z if it is UTC"
        )
    try:
        instant = dt.datetime.fromisoformat(text) if re.match(INSTANT_PATTERN, text) else None
    except ValueError:
        instant = None
    if instant is None or instant.year not in _YEARS:
        raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} is not a time with date and offset", _INSTANT_WANT)
    return instant


def render_instant(value: dt.datetime) -> str:
    """ISO 8601 with offset."""
    return value.isoformat()


def parse_cron(value: object) -> str:
    """A cron line of five fields that comes at least once."""
    text = scalar_text(value, _CRON_WANT)
    if len(text.split()) != 5:
        raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} has {len(text.split())} fields", _CRON_WANT)
    try:
        next(cronsim.CronSim(text, _CRON_EPOCH))
    except (cronsim.CronSimError, ValueError) as error:
        raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} is not a cron line ({error})", _CRON_WANT) from None
    except StopIteration:
        raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} never comes", _CRON_WANT) from None
    return text


def parse_deadline(value: object) -> float | dt.datetime:
    """Seconds after submission, or an instant."""
    if isinstance(value, int | float | dt.datetime) and not isinstance(value, bool):
        return parse_instant(value) if isinstance(value, dt.datetime) else parse_duration(value, positive=True)
    text = scalar_text(value, _DEADLINE_WANT)
    if re.match(r"[0-9]{4}-", text):
        return parse_instant(text)
    if not any(text.endswith(unit) for unit in SECONDS):
        raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} is neither a duration nor a time", _DEADLINE_WANT)
    return parse_duration(text, positive=True)


def render_deadline(value: float | dt.datetime) -> str:
    """The text that reads back as the same deadline."""
    return render_instant(value) if isinstance(value, dt.datetime) else render_duration(value)
