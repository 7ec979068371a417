"""Durations (`90s 15m 8h 2d`) and sizes (`24GiB`): text with a unit to seconds and bytes, and back.

A number without its unit is refused: Ray means seconds, Kubernetes nanoseconds, and a cloud's console minutes.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

from orchestrator.spec.problems import BadValueError, Code
from orchestrator.spec.scalars import scalar_text, shown

SECONDS: dict[str, Decimal] = {
    "us": Decimal("0.000001"),
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
BYTES: dict[str, int] = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
DURATION_PATTERN = r"^[0-9]{1,19}(\.[0-9]{1,9})?(us|ms|s|m|h|d)$"
SIZE_PATTERN = r"^[0-9]{1,19}(\.[0-9]{1,9})?(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)$"
_AMOUNT = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)\s?([A-Za-z]*)\Z")
_DURATION_WANT = "it must be a number with a unit, such as 250ms, 90s, 15m, 8h or 2d"
_SIZE_WANT = "it must be a number with a unit, such as 512MiB or 24GiB"
# A hundred years: longer spans overflow calendars, and are typing errors.
_MAX_SECONDS = 100 * 366 * 86400


def parse_duration(value: object, *, positive: bool = False) -> float:
    """Seconds of a duration; with `positive`, 0 is refused. A bare number is taken as seconds in code only."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        number, unit = _split(value, _DURATION_WANT, SECONDS, "s")
        seconds = float(number * SECONDS[unit])
    if not 0 <= seconds <= _MAX_SECONDS or not math.isfinite(seconds):
        raise BadValueError(Code.OUT_OF_BOUNDS, f"{shown(value)} is outside 0s..36600d", _DURATION_WANT)
    if positive and seconds == 0:
        raise BadValueError(Code.OUT_OF_BOUNDS, f"{shown(value)} is no time at all", "it must be above 0s")
    return seconds


def render_duration(seconds: float) -> str:
    """The shortest text that reads back as the same number of seconds."""
    exact = Decimal(repr(seconds))
    for unit in ("d", "h", "m"):
        if exact and exact % SECONDS[unit] == 0:
            return f"{int(exact / SECONDS[unit])}{unit}"
    for unit in ("s", "ms", "us"):
        amount = exact / SECONDS[unit]
        if amount == amount.to_integral_value():
            return f"{amount.to_integral_value():f}{unit}"
    return f"{exact / SECONDS['us']:f}us"


def parse_size(value: object, *, positive: bool = False) -> int:
    """Bytes of a size; with `positive`, 0 is refused. A bare number is taken as bytes in code only."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        number, unit = _split(value, _SIZE_WANT, BYTES, "GiB")
        exact = number * BYTES[unit]
        if exact != exact.to_integral_value():
            raise BadValueError(Code.WRONG_VALUE, f"{shown(value)} is not a whole number of bytes", _SIZE_WANT)
        size = int(exact)
    if not 0 <= size < 2**63:
        raise BadValueError(Code.OUT_OF_BOUNDS, f"{shown(value)} is outside 0B..8388607TiB", _SIZE_WANT)
    if positive and size == 0:
        raise BadValueError(Code.OUT_OF_BOUNDS, f"{shown(value)} is no room at all", "it must be above 0B")
    return size


def render_size(size: int) -> str:
    """The shortest text that reads back as the same number of bytes."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % BYTES[unit] == 0:
            return f"{size // BYTES[unit]}{unit}"
    return f"{size}B"


def _split(value: object, want: str, units: dict[str, Decimal] | dict[str, int], example: str) -> tuple[Decimal, str]:
    text = scalar_text(value, want)
    match = _AMOUNT.match(text)
    if match is None:
        raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} is not a number with a unit", want)
    number, unit = match.groups()
    if not unit:
        raise BadValueError(
            Code.WRONG_VALUE, f"{shown(text)} has no unit", want, f"Write {number}{example} if you mean that"
        )
    if unit not in units or " " in text:
        near = next((known for known in units if known.lower() == unit.lower()), None)
        advice = f"Did you mean {number}{near}?" if near else ""
        raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} has no known unit", want, advice)
    return Decimal(number), unit
