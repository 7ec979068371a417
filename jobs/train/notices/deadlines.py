"""Clouds write times; drains need seconds from now. Pure.

Sources: AWS "Spot Instance interruption notices" (UTC, `2017-09-18T08:22:00Z`); Azure "Scheduled Events" (RFC 1123,
`Mon, 19 Sep 2016 18:29:47 GMT`, or empty when the event has started).
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from jobs.train.notices.values import SourceError


def seconds_until_iso(text: str, now_s: float) -> float:
    """Seconds from `now_s` (Unix time) to an ISO 8601 time, UTC unless it says otherwise; 0 if it has passed.

    Raises: SourceError if it is no time.
    """
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        raise SourceError(f"{text!r} is no time") from None
    return _until(when, now_s)


def seconds_until_rfc1123(text: str, now_s: float) -> float:
    """The same for an RFC 1123 time; the empty string means now. Raises: SourceError if it is no time."""
    if not text.strip():
        return 0.0
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        raise SourceError(f"{text!r} is no time") from None
    return _until(when, now_s)


def _until(when: datetime, now_s: float) -> float:
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, aware.timestamp() - now_s)
