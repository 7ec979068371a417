"""Ranges of positive quantities, and the checks that keep zeros, negatives, NaN and infinities out of every formula.

Refuses to know what a number means: units stand in the names of those who use it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """A quantity that is not known exactly: `low` and `high` are plausible ends, not bounds that can be proved.

    Products and quotients combine ends with ends, so ranges widen as assumptions pile up; all values are positive.
    Raises: ValueError unless 0 < low <= typical <= high < infinity.
    """

    low: float
    typical: float
    high: float

    def __post_init__(self) -> None:
        if not (0 < self.low <= self.typical <= self.high < math.inf):
            raise ValueError(
                f"range is {self.low}..{self.typical}..{self.high}; need 0 < low <= typical <= high, all finite"
            )

    def __mul__(self, other: Range | float) -> Range:
        by = as_range(other)
        return Range(self.low * by.low, self.typical * by.typical, self.high * by.high)

    def __truediv__(self, other: Range | float) -> Range:
        by = as_range(other)
        return Range(self.low / by.high, self.typical / by.typical, self.high / by.low)

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"low": self.low, "typical": self.typical, "high": self.high}


def as_range(value: Range | float) -> Range:
    """A number as a range of no width. Raises: ValueError unless it is positive and finite."""
    if isinstance(value, Range):
        return value
    number = positive("value", value)
    return Range(number, number, number)


def positive(name: str, value: float) -> float:
    """`value`. Raises: ValueError unless it is above 0 and finite."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}; it must be above 0 and finite")
    return value


def not_negative(name: str, value: float) -> float:
    """`value`. Raises: ValueError unless it is at least 0 and finite."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value}; it must be at least 0 and finite")
    return value


def fraction(name: str, value: float) -> float:
    """`value`. Raises: ValueError unless it is above 0 and at most 1."""
    if not 0 < value <= 1:
        raise ValueError(f"{name} is {value}; it must be above 0 and at most 1")
    return value


def at_least_one(name: str, value: int) -> int:
    """`value`. Raises: ValueError unless it is a whole number of at least 1."""
    if value != value or value < 1 or value == math.inf or int(value) != value:
        raise ValueError(f"{name} is {value}; it must be a whole number of at least 1")
    return value
