"""The shape of the models: which keys a place has, found by walking annotations instead of keeping a second list."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from orchestrator.spec.problems import Path


def members(annotation: Any) -> Iterator[Any]:
    """The alternatives of an annotation: itself, or the members of a union, without None and `Annotated`."""
    if typing.get_origin(annotation) is typing.Annotated:
        yield from members(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in (typing.Union, _UNION):
        for member in typing.get_args(annotation):
            yield from members(member)
    elif annotation is not type(None):
        yield annotation


def models(annotation: Any) -> tuple[type[BaseModel], ...]:
    """The models among the alternatives of an annotation."""
    return tuple(one for one in members(annotation) if isinstance(one, type) and issubclass(one, BaseModel))


def item_annotation(annotation: Any) -> Any:
    """What a list's items or a mapping's values are; None when it is neither."""
    for one in members(annotation):
        origin, arguments = typing.get_origin(one), typing.get_args(one)
        if origin is tuple:
            return arguments[0]
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return arguments[1]
    return None


def inner_annotations(annotation: Any) -> Iterator[Any]:
    """The annotation itself and, through lists and mappings, those of what it holds."""
    while annotation is not None:
        yield annotation
        annotation = item_annotation(annotation)


def reachable(model: type[BaseModel]) -> set[type[BaseModel]]:
    """The model and every model below it."""
    found: set[type[BaseModel]] = set()
    waiting = [model]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            for field in one.model_fields.values():
                waiting += [below for inner in inner_annotations(field.annotation) for below in models(inner)]
    return found


def tag_of(model: type[BaseModel]) -> str:
    """The value of the `Literal` that tells this member of a union from the others; empty when it has none."""
    for key in ("type", "name", "source"):
        field = model.model_fields.get(key)
        if field is not None and typing.get_origin(field.annotation) is typing.Literal:
            return str(typing.get_args(field.annotation)[0])
    return ""


def descend(model: type[BaseModel], loc: Path) -> type[BaseModel] | None:
    """The model at a location below another; None when the location leads out of the models."""
    annotation: Any = model
    for part in loc:
        here = models(annotation)
        if len(here) > 1:
            annotation = next((one for one in here if tag_of(one) == part), None)
        elif here:
            field = here[0].model_fields.get(str(part))
            annotation = field.annotation if field else None
        else:
            annotation = item_annotation(annotation)
        if annotation is None:
            return None
    found = models(annotation)
    return found[0] if len(found) == 1 else None


_UNION = type(int | str)
