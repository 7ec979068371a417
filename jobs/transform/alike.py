"""Whether models have one architecture: the same tensors, of the same shapes, built by the same task."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jobs.models.load import differences
from jobs.transform.stored import StoredModel, blocks
from jobs.transform.written import read_json
from orchestrator.spec.errors import UserError

_NAMED_AT_MOST = 8
# What builds a model: a task and its arguments, or the words of a Hugging Face configuration.
_OF_THE_ARCHITECTURE = ("task", "args", "architectures", "model_type")
# Acts in training alone: experts may differ in it.
_TRAINING_ONLY = "dropout"
_NEXT_STEP = "Merge versions of one architecture."


def check_alike(models: Sequence[StoredModel]) -> None:
    """Raises: UserError naming what differs between the first model and the first other one that is not like it."""
    first, *others = models
    wanted = {name: entry.shape for name, entry in first.entries.items()}
    for other in others:
        found = differences(wanted, {name: entry.shape for name, entry in other.entries.items()})
        found += _of_another_kind(first, other)
        if found:
            more = f" and {len(found) - _NAMED_AT_MOST} more" if len(found) > _NAMED_AT_MOST else ""
            problem = f"its tensors are not those of {first.label}: {'; '.join(found[:_NAMED_AT_MOST])}{more}"
            raise UserError(problem, where=other.label, next_step=_NEXT_STEP)
    _check_configurations(models)


def equal_blocks(name: str, models: Sequence[StoredModel]) -> Iterator[Tensor]:
    """The bytes of a tensor that cannot be averaged (counts, masks). Raises: UserError unless it is one everywhere."""
    first, *others = models
    for start, count in blocks(first.entries[name].num_bytes):
        wanted = first.raw(name, start, count)
        for other in others:
            if not torch.equal(wanted, other.raw(name, start, count)):
                dtype = first.entries[name].dtype
                problem = f"{name} is of type {dtype}, which cannot be averaged, and differs from that of {first.label}"
                raise UserError(problem, where=other.label, next_step=_NEXT_STEP)
        yield wanted


def _of_another_kind(first: StoredModel, other: StoredModel) -> list[str]:
    """Tensors that can be averaged in one model and not in the other, or are of different types that cannot be."""
    return [
        f"{name} is {other.entries[name].dtype} instead of {entry.dtype}"
        for name, entry in first.entries.items()
        if name in other.entries
        and not (entry.is_float and other.entries[name].is_float)
        and entry.dtype != other.entries[name].dtype
    ]


def _check_configurations(models: Sequence[StoredModel]) -> None:
    """Weights of one shape can mean different things: 4 heads of 16 are as large as 2 of 32."""
    first, *others = [(model.label, _architecture(read_json(model.folder))) for model in models]
    for label, said in others:
        keys = [key for key in sorted({*first[1], *said}) if first[1].get(key) != said.get(key)]
        if keys:
            shown = "; ".join(f"{key} is {_shown(said, key)} instead of {_shown(first[1], key)}" for key in keys)
            problem = f"its configuration is not that of {first[0]}: {shown}"
            raise UserError(problem, where=label, next_step=_NEXT_STEP)


def _architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key in _OF_THE_ARCHITECTURE:
        value = config.get(key)
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": one for name, one in value.items() if _TRAINING_ONLY not in name}
        elif value is not None:
            flat[key] = value
    return flat


def _shown(said: Mapping[str, Any], key: str) -> str:
    return json.dumps(said[key]) if key in said else "not set"
