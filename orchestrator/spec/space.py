"""The search space of a Study: what a trial may draw for a key of its job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.base import SpecModel, min_above_max
from orchestrator.spec.fields import Count, Flag, Free, KeyPath, Many, Positive, real, whole
from orchestrator.spec.problems import Code, Finding, Path
from orchestrator.spec.scalars import shown

Number = Annotated[float, real()]
Integer = Annotated[int, whole(-(10**15), 10**15)]
When = Mapping[KeyPath, Many[Free]]


class _Parameter(SpecModel):
    when: When = Field(default_factory=dict)
    """Drawn only when each of these keys drew one of its values; otherwise the template's value stays."""

    def cross_check(self) -> Iterator[Finding]:
        for key, values in self.when.items():
            if not values:
                yield Finding(("when", key), Code.EMPTY, "names no value", "it can never hold")


class Uniform(_Parameter):
    """Any number from min to max, all equally likely."""

    type: Literal["uniform"]
    """Even draws."""
    min: Number
    """The least."""
    max: Number
    """The most."""

    def cross_check(self) -> Iterator[Finding]:
        yield from super().cross_check()
        yield from min_above_max(self.min, self.max)

    def samples(self) -> Iterator[tuple[Path, object]]:
        """Values at the edge of what may be drawn, and the keys that name them."""
        yield from ((("min",), self.min), (("max",), self.max))


class LogUniform(_Parameter):
    """Any number from min to max, every order of magnitude equally likely."""

    type: Literal["loguniform"]
    """Even draws of the logarithm."""
    min: Positive
    """The least; above 0, for the logarithm."""
    max: Positive
    """The most."""

    def cross_check(self) -> Iterator[Finding]:
        yield from super().cross_check()
        yield from min_above_max(self.min, self.max)

    def samples(self) -> Iterator[tuple[Path, object]]:
        """Values at the edge of what may be drawn, and the keys that name them."""
        yield from ((("min",), self.min), (("max",), self.max))


class Int(_Parameter):
    """A whole number from min to max."""

    type: Literal["int"]
    """Whole draws."""
    min: Integer
    """The least."""
    max: Integer
    """The most."""
    step: Count = 1
    """From one value to the next."""
    log: Flag = False
    """Every order of magnitude equally likely."""

    def cross_check(self) -> Iterator[Finding]:
        yield from super().cross_check()
        yield from min_above_max(self.min, self.max)
        if self.log and self.min < 1:
            yield Finding(
                ("min",), Code.OUT_OF_BOUNDS, f"{self.min} has no logarithm", "with log it must be at least 1"
            )
        if self.log and self.step != 1:
            yield Finding(("step",), Code.CONFLICT, "excludes log", "steps of the logarithm would not be whole")

    def samples(self) -> Iterator[tuple[Path, object]]:
        """Values at the edge of what may be drawn, and the keys that name them."""
        yield from ((("min",), self.min), (("max",), self.max))


class Choice(_Parameter):
    """One of the values."""

    type: Literal["choice"]
    """Named draws."""
    values: Many[Free]
    """What may be drawn."""

    def cross_check(self) -> Iterator[Finding]:
        yield from super().cross_check()
        if not self.values:
            yield Finding(("values",), Code.EMPTY, "is an empty choice", "it must hold one value at least")
        for index, value in enumerate(self.values):
            if value in self.values[:index]:
                yield Finding(
                    ("values", index), Code.CONFLICT, f"{shown(value)} is there already", "values must differ"
                )

    def samples(self) -> Iterator[tuple[Path, object]]:
        """All that may be drawn, and the keys that name it."""
        yield from ((("values", index), value) for index, value in enumerate(self.values))


AnyParameter = Uniform | LogUniform | Int | Choice
Parameter = Annotated[AnyParameter, Field(discriminator="type")]
Space = Mapping[KeyPath, Parameter]
