"""Text to typed scalars, one function a type: parse, and render back to the text that parses to the same value.

Every parser takes what YAML held (text) or a value that already has the type (specs built in code), and raises
`BadValueError` with the value and what would be right. Nothing here knows files, positions or pydantic.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

from orchestrator.spec.problems import BadValueError, Code

# Numbers longer than this are typing errors, and Python refuses to parse integers of thousands of digits.
_MAX_NUMBER_CHARS = 40
# Upper bounds from here on only keep numbers within what databases hold; naming them would confuse.
_NO_BOUND = 10**12
_WHOLE = re.compile(r"[+-]?[0-9]+\Z")
_REAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\Z")
_MONEY = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,6}0*)?\Z")
_BASED = re.compile(r"0x[0-9a-fA-F]+\Z|0o[0-7]+\Z")
_TRUE, _FALSE = frozenset({"true", "True", "TRUE"}), frozenset({"false", "False", "FALSE"})
_YAML_11_FLAGS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def shown(value: object) -> str:
    """A value as an error names it: quoted when text, cut when long, by its shape when it is not a scalar."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(str(value)) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def scalar_text(value: object, want: str) -> str:
    """The text of a scalar; a mapping, a list or nothing is a `BadValueError`."""
    if isinstance(value, str):
        return str(value)
    if value is None:
        raise BadValueError(Code.EMPTY, "is empty", want)
    code = Code.WRONG_SHAPE if isinstance(value, dict | list | tuple) else Code.WRONG_VALUE
    raise BadValueError(code, f"is {shown(value)}", want)


def parse_text(value: object, want: str = "it must be text") -> str:
    """Text of any content but the empty one."""
    text = scalar_text(value, want)
    if not text.strip():
        raise BadValueError(Code.EMPTY, "is empty", want)
    return text


def parse_flag(value: object) -> bool:
    """`true` or `false`; the words that only YAML 1.1 took for booleans are refused with the right one."""
    if isinstance(value, bool):
        return value
    want = "it must be true or false"
    text = scalar_text(value, want)
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    meant = _YAML_11_FLAGS.get(text.lower())
    raise BadValueError(
        Code.NOT_ONE_OF, f"{shown(text)} is not true or false", want, (meant and f"Write {meant}") or ""
    )


def parse_whole(value: object, low: int | None = None, high: int | None = None) -> int:
    """A whole number in low..high (inclusive; None = unbounded)."""
    want = f"it must be {bounds_text('a whole number', low, high)}"
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        text = scalar_text(value, want)
        if not _WHOLE.match(text) or len(text) > _MAX_NUMBER_CHARS:
            raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} is not a whole number", want)
        number = int(text)
    _require_within(number, low, high, want)
    return number


def parse_real(value: object, low: float | None = None, high: float | None = None, *, above: bool = False) -> float:
    """A finite number in low..high; with `above`, low itself is outside."""
    want = f"it must be {bounds_text('a number', low, high, above=above)}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    else:
        text = scalar_text(value, want)
        if not _REAL.match(text) or len(text) > _MAX_NUMBER_CHARS:
            raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} is not a number", want)
        number = float(text)
    if not math.isfinite(number):
        raise BadValueError(Code.OUT_OF_BOUNDS, f"{shown(value)} is not finite", want)
    if above and low is not None and number <= low:
        raise BadValueError(Code.OUT_OF_BOUNDS, f"{render_real(number)} is not above {render_real(low)}", want)
    _require_within(number, low, high, want)
    return number


def parse_money(value: object) -> Decimal:
    """An amount of US dollars, at least 0, at most six digits after the point: the ledger counts micro-dollars."""
    want = 'it must be an amount in US dollars such as "12.50", at least 0, with up to six decimals'
    from_code = isinstance(value, Decimal | int) and not isinstance(value, bool)
    text = f"{value:f}" if from_code else scalar_text(value, want)
    if not _MONEY.match(text):
        raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} is not an amount of money", want)
    amount = Decimal(text)
    if amount < 0:
        raise BadValueError(Code.OUT_OF_BOUNDS, f"{text} is below 0", want)
    return abs(amount)


def parse_core(value: object) -> object:
    """A value without a schema (`args`, `extra`): YAML 1.2's core rules for plain scalars, text for quoted ones."""
    if isinstance(value, dict):
        return {str(key): parse_core(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [parse_core(item) for item in value]
    return value.typed() if isinstance(value, Plain) else value


class Plain(str):
    """The text of an unquoted YAML scalar; quoted ones arrive as bare `str`."""

    __slots__ = ()

    def typed(self) -> object:
        """What YAML 1.2's core schema makes of it: a number, a boolean, or the text itself."""
        if self in _TRUE or self in _FALSE:
            return self in _TRUE
        if len(self) <= _MAX_NUMBER_CHARS and _WHOLE.match(self):
            return int(self)
        if len(self) <= _MAX_NUMBER_CHARS and _REAL.match(self):
            return parse_real(str(self))
        if len(self) <= _MAX_NUMBER_CHARS and _BASED.match(self):
            return int(self, 0)
        if self.lower().lstrip("+-") in (".inf", ".nan"):
            want = "it must be a finite number; text of this form must be quoted"
            raise BadValueError(Code.WRONG_VALUE, f"{shown(self)} is not finite", want)
        return str(self)


def render_money(amount: Decimal) -> str:
    """The amount as a plain decimal, never with an exponent."""
    return f"{amount:f}"


def render_real(value: float) -> str:
    """The shortest text that reads back as the same number, without a trailing `.0`."""
    return str(int(value)) if abs(value) < 2**53 and value == int(value) else repr(value)


def bounds_text(noun: str, low: float | None, high: float | None, *, above: bool = False) -> str:
    """`a whole number in 1..200`, `a number above 0`, ..."""
    low_text = None if low is None else render_real(low)
    high_text = None if high is None or high >= _NO_BOUND else render_real(high)
    if low_text is not None and above:
        return f"{noun} above {low_text}" + (f" and at most {high_text}" if high_text else "")
    if low_text is not None and high_text is not None:
        return f"{noun} in {low_text}..{high_text}"
    if low_text is not None:
        return f"{noun} of at least {low_text}"
    return noun if high_text is None else f"{noun} of at most {high_text}"


def _require_within(number: float, low: float | None, high: float | None, want: str) -> None:
    if low is not None and number < low:
        raise BadValueError(Code.OUT_OF_BOUNDS, f"{render_real(number)} is below {render_real(low)}", want)
    if high is not None and number > high:
        raise BadValueError(Code.OUT_OF_BOUNDS, f"{render_real(number)} is above {render_real(high)}", want)
