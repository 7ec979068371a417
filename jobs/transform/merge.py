"""Merge: one model out of several, block by block, so that memory does not grow with the models."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from jobs.transform.alike import check_alike, equal_blocks
from jobs.transform.blend import Blend, Side, blend, passes
from jobs.transform.stored import BLOCK, FLOATS, Entry, OnBytes, StoredModel
from jobs.transform.written import Write, new_model_folder, new_weights
from orchestrator.spec.errors import UserError
from orchestrator.spec.merge import Dare, Linear, Method, TaskArithmetic, Ties

_DTYPES = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A model that goes in: what it is called (`name@3`), its folder, its weight."""

    name: str
    folder: Path
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is merged and how; `dtype` is one of fp32, bf16, fp16. `base` is there for methods of differences alone."""

    parents: tuple[Parent, ...]
    method: Method
    base: Parent | None = None
    dtype: str = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class MergePlan:
    """What a merge will do. `peak_bytes` is what it holds at once beside the program itself."""

    num_tensors: int
    num_parameters: int
    read_bytes: int
    written_bytes: int
    peak_bytes: int


def plan_merge(recipe: Recipe) -> MergePlan:
    """Check all that can be checked without reading weights. Raises: UserError."""
    with _opened(recipe, lambda count: None) as (base, models):
        return _planned(recipe, base, models)


def merge(recipe: Recipe, out: Path, *, on_read: OnBytes = lambda count: None) -> MergePlan:
    """Write the merged model as a new folder, which appears whole or not at all; `on_read` hears of bytes read.

    Everything but the weights is that of the base, or of the first model where there is none.
    Raises: UserError for models that differ, numbers that are none or do not fit the format, a full disk.
    """
    with _opened(recipe, on_read) as (base, models):
        plan = _planned(recipe, base, models)
        like = base or models[0]
        entries = [_as_written(entry, recipe.dtype) for entry in like.entries.values()]
        with new_model_folder(out, like.folder, _note(recipe), dtype=FLOATS[_DTYPES[recipe.dtype]]) as draft:
            with new_weights(draft, entries, {}) as write:
                for entry in like.entries.values():
                    _merge_tensor(entry, recipe, base, models, write)
    return plan


@contextlib.contextmanager
def _opened(recipe: Recipe, on_read: OnBytes) -> Iterator[tuple[StoredModel | None, list[StoredModel]]]:
    with contextlib.ExitStack() as stack:
        parents = (*([recipe.base] if recipe.base else []), *recipe.parents)
        everything = [stack.enter_context(StoredModel(one.name, one.folder, on_read)) for one in parents]
        for model in everything:
            model.refuse_packed("merged")
        check_alike(everything)
        if recipe.base:
            yield everything[0], everything[1:]
        else:
            yield None, everything


def _planned(recipe: Recipe, base: StoredModel | None, models: Sequence[StoredModel]) -> MergePlan:
    everything = [*([base] if base else []), *models]
    written = [_as_written(entry, recipe.dtype) for entry in everything[0].entries.values()]
    read = [entry for model in everything for entry in model.entries.values()]
    block = min(BLOCK, max((entry.numel for entry in written), default=0))
    # A model that is not stored as fp32 has a second buffer, for its bytes as they are.
    widths = [max((_buffer_width(entry) for entry in model.entries.values()), default=4) for model in everything]
    return MergePlan(
        num_tensors=len(written),
        num_parameters=sum(entry.numel for entry in written),
        read_bytes=sum(entry.num_bytes * (passes(recipe.method) if entry.is_float else 1) for entry in read),
        written_bytes=sum(entry.num_bytes for entry in written),
        peak_bytes=block * (sum(widths) + 4 * _blocks_of_work(recipe.method)),
    )


def _blocks_of_work(method: Method) -> int:
    """Blocks of temporary numbers, rounded up from what tests/benchmarks/merge.py measures."""
    match method:
        case Linear() | TaskArithmetic():
            return 4
        case Ties() | Dare(elect_sign=True):
            return 20
        case _:
            return 8


def _buffer_width(entry: Entry) -> int:
    return 4 if entry.dtype == "F32" or not entry.is_float else 4 + FLOATS[entry.dtype].itemsize


def _as_written(entry: Entry, dtype: str) -> Entry:
    if not entry.is_float:
        return entry
    word = _DTYPES[dtype]
    return dataclasses.replace(entry, dtype=word, num_bytes=entry.numel * FLOATS[word].itemsize)


def _merge_tensor(
    entry: Entry, recipe: Recipe, base: StoredModel | None, models: Sequence[StoredModel], write: Write
) -> None:
    name = entry.name
    if not entry.is_float:
        for block in equal_blocks(name, [*([base] if base else []), *models]):
            write(name, block)
        return
    sides = [
        Side(name=parent.name, weight=parent.weight, read=functools.partial(model.floats, name))
        for parent, model in zip(recipe.parents, models, strict=True)
    ]
    read_base = functools.partial(base.floats, name) if base else None
    for block in blend(recipe.method, Blend(tensor=name, numel=entry.numel, sides=sides, base=read_base)):
        write(name, _narrowed(block, recipe.dtype, name))


def _narrowed(block: Tensor, dtype: str, name: str) -> Tensor:
    """The block as it is written. Raises: UserError where the format cannot hold a number."""
    wanted = FLOATS[_DTYPES[dtype]]
    low, high = torch.aminmax(block)
    largest = max(abs(float(low)), abs(float(high)))
    if not largest <= torch.finfo(wanted).max:
        problem = f"a merged number is {largest:.4g}, and {dtype} ends at {torch.finfo(wanted).max:.4g}"
        raise UserError(problem, where=name, next_step="Choose smaller weights, or another dtype.")
    return block.to(wanted)


def _note(recipe: Recipe) -> dict[str, object]:
    """What config.json says of the merge."""
    return {
        "relation": "merge",
        "method": recipe.method.model_dump(mode="json"),
        "models": [{"model": parent.name, "weight": parent.weight} for parent in recipe.parents],
        **({"base": recipe.base.name} if recipe.base else {}),
        "dtype": recipe.dtype,
    }
