"""A search space against the job it varies: every key must be there, and take every value that may be drawn for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from orchestrator.spec.fields import did_you_mean
from orchestrator.spec.problems import BadValueError, Code, Finding, Path
from orchestrator.spec.scalars import shown
from orchestrator.spec.shape import item_annotation, models
from orchestrator.spec.space import AnyParameter, Choice, LogUniform, Space, Uniform
from orchestrator.spec.train_job import TrainJobSpec

_STUDYS_OWN = {
    "steps": "how far a trial goes is said by the template's steps and the scheduler",
    "data.seed": "a trial's seed follows from the study's; 'repeat' runs the best again with others",
}
_RUN_AS = frozenset(
    {
        *("queue", "priority", "workers", "window", "deadline", "after", "schedule", "budget", "hang_timeout"),
        *("retries", "checkpoint", "register", "notify"),
    }
)
"""How a job is run: the study says it for all of its trials, and none would be better or worse for it."""


def space_findings(space: Space, template: TrainJobSpec) -> Iterator[Finding]:
    """What is wrong between a space and the job it varies; paths count from the space."""
    if not space:
        yield Finding((), Code.EMPTY, "is empty", "a study must vary one key at least")
    for key, parameter in space.items():
        yield from _target_findings(key, parameter, template)
        for other in parameter.when:
            yield from _when_findings(key, other, space)


def _target_findings(key: str, parameter: AnyParameter, template: TrainJobSpec) -> Iterator[Finding]:
    target = _target(key, template)
    if isinstance(target, Finding):
        yield target
        return
    adapter = TypeAdapter[Any](target)
    for at, value in parameter.samples():
        refusal = _refusal(adapter, value)
        if refusal is not None:
            yield Finding((key, *at), refusal.code, f"{key} refuses it: {refusal.what}", refusal.want)


def _target(key: str, template: TrainJobSpec) -> Any | Finding:
    """The annotation of the template's key, or what is wrong with the key."""
    here: Any = template
    annotation: Any = TrainJobSpec
    for part in key.split("."):
        known = _keys(here)
        if part not in known:
            want = f"there are {', '.join(known)}" if known else "the template holds nothing below it"
            advice = did_you_mean(part, known) or _deeper(part, here)
            return Finding((key,), Code.UNKNOWN_REFERENCE, f"the template has no {key}", want, advice)
        here, annotation = _step(here, annotation, part)
    if models(annotation) or isinstance(here, Mapping):
        want = "it must be the key of a single value"
        return Finding((key,), Code.UNKNOWN_REFERENCE, "is a whole part of the job", want)
    return _idle(key) or annotation


def _idle(key: str) -> Finding | None:
    """What is wrong with a key whose values would make no difference between trials."""
    because = _STUDYS_OWN.get(key)
    if because is None and key.partition(".")[0] in _RUN_AS:
        because = "it says how a trial is run and not what it learns, and the study runs all of them alike"
    return None if because is None else Finding((key,), Code.NO_EFFECT, "has no effect on a trial", because)


def _deeper(name: str, here: Any) -> str:
    """Who wrote the last part of a key alone most likely means the one place that has it."""
    places = [f"{outer}.{name}" for outer in _keys(here) if name in _keys(_inner(here, outer))]
    return f"Did you mean {places[0]}?" if len(places) == 1 else ""


def _inner(here: Any, key: str) -> Any:
    return here.get(key) if isinstance(here, Mapping) else getattr(here, key)


def _keys(here: Any) -> tuple[str, ...]:
    if isinstance(here, BaseModel):
        return tuple(type(here).model_fields)
    return tuple(here) if isinstance(here, Mapping) else ()


def _step(here: Any, annotation: Any, part: str) -> tuple[Any, Any]:
    """The value and the annotation one key further down; below free values, everything is free."""
    if isinstance(here, BaseModel):
        field = type(here).model_fields[part]
        full = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        return getattr(here, part), full
    return here[part], item_annotation(annotation) or Any


def _refusal(adapter: TypeAdapter[Any], value: object) -> BadValueError | None:
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        # Only keys of single values get here, and every type of those refuses in our own words.
        cause: BadValueError = error.errors()[0]["ctx"]["error"]
        return cause
    return None


def _when_findings(key: str, other: str, space: Space) -> Iterator[Finding]:
    at: Path = (key, "when", other)
    if other not in space:
        known = tuple(one for one in space if one != key)
        want = f"it must be another key of the space: {', '.join(known) or 'there is none'}"
        yield Finding(at, Code.UNKNOWN_REFERENCE, f"the space has no {other}", want, did_you_mean(other, known))
        return
    if key in _conditions(other, space):
        yield Finding(at, Code.CONFLICT, "depends on this key in turn", "conditions must not run in a circle")
    match space[other]:
        case Uniform() | LogUniform():
            yield Finding(at, Code.CONFLICT, "is drawn from a range", "a condition must name a choice or an int")
        case Choice(values=values):
            for index, value in enumerate(space[key].when[other]):
                if value not in values:
                    want = f"it must be one of {', '.join(shown(one) for one in values)}"
                    yield Finding((*at, index), Code.UNKNOWN_REFERENCE, f"{other} never is {shown(value)}", want)


def _conditions(key: str, space: Space) -> set[str]:
    """Every key on which drawing this one depends, itself included."""
    found: set[str] = set()
    waiting = [key]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += space[one].when if one in space else ()
    return found
