"""The kind Merge: one model out of several of the same architecture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.base import Document, SpecModel, repeated, without_effect
from orchestrator.spec.fields import Flag, Fraction, Many, OneOf, Positive, Reference, Seed, real
from orchestrator.spec.job_parts import Register
from orchestrator.spec.problems import Code, Finding

_NO_NORM = "Change a weight, or set method.normalize: false"
Density = Annotated[float, real(0, 1, above=True)]


class Ingredient(SpecModel):
    """One of the models."""

    model: Reference
    """A registered version: name@version."""
    weight: Annotated[float, real()] = 1.0
    """Its share; below 0 takes what it learned away."""


class Linear(SpecModel):
    """The weighted mean of the parameters."""

    name: Literal["linear"]
    """Weighted mean."""
    normalize: Flag = True
    """Divide by the sum of the weights."""


class Slerp(SpecModel):
    """A point on the arc between two models, tensor by tensor."""

    name: Literal["slerp"]
    """Spherical interpolation."""
    t: Fraction = 0.5
    """0 = the first model, 1 = the second."""


class TaskArithmetic(SpecModel):
    """The base plus the weighted differences of the models from it."""

    name: Literal["task_arithmetic"]
    """Sum of differences."""
    scale: Positive = 1.0
    """Factor on the sum."""


class Ties(SpecModel):
    """Differences from the base, trimmed to the largest, with one elected sign for each parameter."""

    name: Literal["ties"]
    """Trim, elect sign, merge."""
    density: Density = 0.2
    """Part of each difference that is kept."""
    scale: Positive = 1.0
    """Factor on the sum."""


class Dare(SpecModel):
    """Differences from the base, dropped at random and rescaled."""

    name: Literal["dare"]
    """Drop and rescale."""
    density: Density = 0.5
    """Part of each difference that is kept."""
    elect_sign: Flag = False
    """Elect one sign for each parameter, as ties does."""
    scale: Positive = 1.0
    """Factor on the sum."""
    seed: Seed = 0
    """Decides what is dropped."""


Method = Annotated[Linear | Slerp | TaskArithmetic | Ties | Dare, Field(discriminator="name")]


class MergeSpec(SpecModel):
    """Which models, how, and what becomes of the result."""

    models: Many[Ingredient]
    """What goes in."""
    base: Reference | None = None
    """The common ancestor; only methods of differences have one."""
    method: Method
    """How they are put together; sums are fp32 always."""
    dtype: Annotated[Literal["fp32", "bf16", "fp16"], OneOf()] = "fp32"
    """The number format that is written."""
    output: Register
    """The registered model that gets the new version."""

    def cross_check(self) -> Iterator[Finding]:
        yield from repeated((one.model for one in self.models), "models", key="model")
        yield from self._base()
        yield from self._counts()
        total = sum(one.weight for one in self.models)
        if isinstance(self.method, Linear) and self.method.normalize and abs(total) < 1e-12:
            yield Finding(("models",), Code.CONFLICT, "has weights that sum to 0", "their sum is divided by", _NO_NORM)

    def _base(self) -> Iterator[Finding]:
        if isinstance(self.method, Linear | Slerp):
            yield from without_effect(self, ["base"], f"{self.method.name} uses no differences from a base")
        elif self.base is None:
            want = f"{self.method.name} adds differences from it"
            yield Finding(
                ("base",), Code.MISSING_KEY, "is missing", want, "Name the model that the others started from"
            )
        for index, one in enumerate(self.models):
            if one.model == self.base:
                at, want = ("models", index, "model"), "its difference from itself is nothing"
                yield Finding(at, Code.CONFLICT, "is the base", want, "Remove it here")

    def _counts(self) -> Iterator[Finding]:
        if isinstance(self.method, Slerp):
            if len(self.models) != 2:
                yield Finding(("models",), Code.CONFLICT, f"is a list of {len(self.models)}", "slerp takes exactly 2")
            for index, one in enumerate(self.models):
                for found in without_effect(one, ["weight"], "slerp goes by t"):
                    yield found.below("models", index)
        elif len(self.models) < (2 if isinstance(self.method, Linear) else 1):
            yield Finding(("models",), Code.EMPTY, f"is a list of {len(self.models)}", "there is nothing to merge")


class Merge(Document):
    """A merge of models."""

    kind: Literal["Merge"] = "Merge"
    """What the document describes."""
    spec: MergeSpec
    """What goes in and what comes out."""
