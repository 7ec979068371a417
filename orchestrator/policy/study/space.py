"""A search space as values: which keys are drawn under which choices, every combination of a finite one, and how a
configuration becomes a job."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from orchestrator.policy.study.values import Config
from orchestrator.spec.problems import Finding, dotted
from orchestrator.spec.space import AnyParameter, Choice, Int, LogUniform, Space, Uniform
from orchestrator.spec.train_job import TrainJobSpec


def in_order(space: Space) -> list[str]:
    """Keys such that every key stands after those on which drawing it depends; otherwise as the file has them."""
    ordered: list[str] = []

    def visit(key: str) -> None:
        if key not in ordered:
            for other in space[key].when:
                visit(other)
            ordered.append(key)

    for key in space:
        visit(key)
    return ordered


def is_drawn(parameter: AnyParameter, config: Config) -> bool:
    """Whether the parameter's conditions hold in what has been drawn so far."""
    return all(other in config and config[other] in values for other, values in parameter.when.items())


def values_of(parameter: AnyParameter) -> tuple[object, ...] | None:
    """All that may be drawn, in order; None where there is no end of them."""
    match parameter:
        case Choice(values=values):
            return tuple(values)
        case Int(min=low, max=high, step=step):
            return tuple(range(low, high + 1, step))
        case Uniform() | LogUniform():
            return (parameter.min,) if parameter.min == parameter.max else None


def size_of(space: Space) -> float:
    """Upper bound of how many configurations there are; infinite where a range is."""
    return math.prod(math.inf if (values := values_of(one)) is None else len(values) for one in space.values())


def grid(space: Space) -> Iterator[dict[str, object]]:
    """Every configuration once, the last key varying fastest; keys whose condition fails are left out.

    Raises: ValueError if a range has no end of values (the spec refuses that for a grid).
    """
    keys = in_order(space)
    choices = [values_of(space[key]) for key in keys]
    endless = [key for key, values in zip(keys, choices, strict=True) if values is None]
    if endless:
        raise ValueError(f"{', '.join(endless)}: a grid needs an end of values")
    seen: set[tuple[tuple[str, object], ...]] = set()
    for picked in itertools.product(*(values or () for values in choices)):
        config: dict[str, object] = {}
        for key, value in zip(keys, picked, strict=True):
            if is_drawn(space[key], config):
                config[key] = value
        mark = tuple((key, repr(value)) for key, value in config.items())
        if mark not in seen:
            seen.add(mark)
            yield config


def apply(template: TrainJobSpec, config: Config) -> TrainJobSpec:
    """The job of a trial: the template with the configuration's values in place of its own."""
    changed = template
    for key, value in config.items():
        changed = _put(changed, key.split("."), value)
    return changed


def conflicts(job: TrainJobSpec) -> list[str]:
    """What contradicts itself in a trial's job, although every value by itself is allowed."""
    return [f"{dotted(found.at)}: {found.what}; {found.want}" for found in _findings(job)]


def _findings(part: BaseModel) -> Iterator[Finding]:
    check = getattr(part, "cross_check", None)
    if check is not None:
        yield from check()
    for name in type(part).model_fields:
        inner = getattr(part, name)
        if isinstance(inner, BaseModel):
            yield from (found.below(name) for found in _findings(inner))


def _put(holder: Any, path: list[str], value: object) -> Any:
    """A copy of a model or mapping with one value replaced, however deep."""
    head, *rest = path
    if isinstance(holder, BaseModel):
        inner = _put(getattr(holder, head), rest, value) if rest else value
        return holder.model_copy(update={head: inner})
    assert isinstance(holder, Mapping), f"{head} is in neither a model nor a mapping"
    return {**holder, head: _put(holder[head], rest, value) if rest else value}


def clamp(parameter: AnyParameter, value: object) -> object:
    """The nearest value that may be drawn, for schedulers that nudge values out of the space."""
    match parameter:
        case Choice():
            return value
        case Int(min=low, max=high, step=step):
            whole = min(max(round(float(str(value))), low), high)
            return low + (whole - low) // step * step
        case Uniform(min=least, max=most) | LogUniform(min=least, max=most):
            return min(max(float(str(value)), least), most)
