"""DeepSpeed's own checkpoints (ZeRO 1, 2, 3), read at any other size without a conversion pass.

A checkpoint folder becomes a Manifest and a ShardSource over its memory-mapped tensors; loading it is then the same
intersection of intervals as for ours. There are no hashes to verify. Format: deepspeed/runtime/engine.py
(`_save_checkpoint`, `_save_zero_checkpoint`) and the optimizers' `state_dict` in 0.19.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.train.state.dtypes import dtype_name
from jobs.train.state.errors import CorruptStateError, StateError
from jobs.train.state.hashing import BLOCK_BYTES
from jobs.train.state.kinds import BUFFER, FP32, FROZEN
from jobs.train.state.manifest import IntervalGroup, Manifest, Part
from jobs.train.state.pickles import load_pickled

_OPTIMIZER_FILE = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")


@dataclass(frozen=True, slots=True)
class Found:
    """Elements [start, stop) of the tensor `name`, in memory."""

    name: str
    kind: str
    start: int
    tensor: torch.Tensor


class NativeSource:
    """The ranks' tensors as files: each tensor starts on a block, so that no read spans two."""

    def __init__(self) -> None:
        self._tensors: dict[str, list[tuple[int, memoryview]]] = {}
        self._found: dict[str, tuple[Found, ...]] = {}

    def add(self, file: str, found: Sequence[Found], index: Mapping[str, int]) -> tuple[int, list[IntervalGroup]]:
        """Lay out a rank's tensors; returns the file's size and its groups."""
        at, groups, placed = 0, [], []
        for one in found:
            stop = one.start + one.tensor.numel()
            groups.append(
                IntervalGroup(
                    kinds=(one.kind,),
                    dtype=dtype_name(one.tensor.dtype),
                    offset=at,
                    tensors=(index[one.name],),
                    starts=(one.start,),
                    stops=(stop,),
                )
            )
            data = memoryview(one.tensor.contiguous().view(torch.uint8).numpy())
            placed.append((at, data))
            at += -(-len(data) // BLOCK_BYTES) * BLOCK_BYTES
        self._tensors[file], self._found[file] = placed, tuple(found)
        return at, groups

    def found(self, file: str) -> tuple[Found, ...]:
        """What a rank has."""
        return self._found[file]

    def read(self, file: str, offset: int, nbytes: int) -> memoryview:
        """Bytes of one block; what follows a tensor up to its block's end is zero."""
        for start, data in self._tensors[file]:
            if start <= offset < start + len(data):
                part = data[offset - start : offset - start + nbytes]
                return part if len(part) == nbytes else memoryview(bytes(part).ljust(nbytes, b"\0"))
        raise CorruptStateError(f"has nothing at byte {offset}", where=file)


def read_native(folder: Path) -> tuple[Manifest, NativeSource]:
    """A checkpoint folder (the one named by the tag) as a manifest and a source for `load_into`.

    The manifest knows no task and no data set: check the model with `require_same_model`.
    Raises: CorruptStateError if a file is missing or damaged, StateError for layouts that are not plain data
    parallelism or files that hold classes not on the list.
    """
    optimizer_files = _optimizer_files(folder)
    world_size = len(optimizer_files)
    states = [load_pickled(path)["optimizer_state_dict"] for path in optimizer_files]
    stage3 = "fp32_flat_groups" in states[0]
    model_files = _model_files(folder, world_size if stage3 else 1, stage3)
    models = [load_pickled(path) for path in model_files]
    found = _zero3(states, models) if stage3 else _zero12(states, models[0])
    found[0] += _buffers(models[0])
    params, buffers = _shapes(models[0]), {name: tuple(models[0]["module"][name].shape) for name in _names(models[0])}
    return _describe(folder, models[0], states[0], params, buffers, found)


def _describe(
    folder: Path,
    model: Mapping[str, Any],
    state: Mapping[str, Any],
    params: dict[str, tuple[int, ...]],
    buffers: dict[str, tuple[int, ...]],
    found: list[list[Found]],
) -> tuple[Manifest, NativeSource]:
    index = {name: i for i, name in enumerate((*params, *buffers))}
    source, parts = NativeSource(), []
    for rank, mine in enumerate(found):
        file = f"{folder}/rank-{rank}"
        nbytes, groups = source.add(file, [one for one in mine if one.tensor.numel()], index)
        parts.append(Part(rank=rank, file=file, nbytes=nbytes, blocks=(), groups=tuple(groups)))
    weights = [tensor for name, tensor in model["module"].items() if name in params]
    manifest = Manifest(
        run=str(folder),
        step=int(model["global_steps"]),
        attempt=0,
        world_size=len(found),
        zero_stage=3 if "fp32_flat_groups" in state else int(state.get("zero_stage", 1)),
        precision="bf16" if any(w.dtype == torch.bfloat16 for w in weights) else "fp32",
        task={},
        dataset_hash="",
        model=params,
        buffers=buffers,
        tied=dict(model.get("shared_params") or {}),
        scalars=_scalars(state),
        parts=tuple(parts),
    )
    return manifest, source


def _optimizer_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise CorruptStateError("there is no such folder", where=str(folder))
    by_rank: dict[int, Path] = {}
    for path in folder.iterdir():
        match = _OPTIMIZER_FILE.fullmatch(path.name)
        if match and int(match.group(2)) > 0:
            raise StateError("tensor or pipeline parallel checkpoints are not supported", where=str(path))
        if match:
            by_rank[int(match.group(1))] = path
    if sorted(by_rank) != list(range(len(by_rank))) or not by_rank:
        problem = f"holds optimizer files of ranks {sorted(by_rank)}; ranks 0..N-1 are needed"
        raise CorruptStateError(problem, where=str(folder), next_step="Name the tag's folder of a ZeRO checkpoint")
    return [by_rank[rank] for rank in sorted(by_rank)]


def _model_files(folder: Path, count: int, stage3: bool) -> list[Path]:
    names = [f"zero_pp_rank_{rank}_" if stage3 else "" for rank in range(count)]
    paths = [folder / f"{name}mp_rank_00_model_states.pt" for name in names]
    for path in paths:
        if not path.exists():
            raise CorruptStateError("is missing", where=str(path))
    return paths


def _zero12(states: Sequence[Mapping[str, Any]], model: Mapping[str, Any]) -> list[list[Found]]:
    """Each rank's fragments of the flat groups; a parameter's fragments follow one another from rank to rank."""
    done: dict[str, int] = {}
    found: list[list[Found]] = []
    for state in states:
        mine: list[Found] = []
        for group, (flat, fragments) in enumerate(
            zip(state["single_partition_of_fp32_groups"], state["param_slice_mappings"], strict=True)
        ):
            moments = _moments(state["base_optimizer_state"], group, at_least=flat.numel())
            for name, where in fragments.items():
                start = done.get(name, 0)
                done[name] = start + where.numel
                for kind, tensor in ((FP32, flat), *moments.items()):
                    mine.append(Found(name, kind, start, tensor.view(-1)[where.start : where.start + where.numel]))
        found.append(mine)
    found[0] += [Found(name, FROZEN, 0, tensor.reshape(-1)) for name, tensor in _frozen(model).items()]
    return found


def _zero3(states: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]]) -> list[list[Found]]:
    """Each rank's equal shares of every parameter, sub-group after sub-group."""
    found: list[list[Found]] = []
    for rank, (state, model) in enumerate(zip(states, models, strict=True)):
        mine: list[Found] = []
        groups = zip(state["fp32_flat_groups"], model["param_shapes"], strict=True)
        for group, (flat, shapes) in enumerate(groups):
            moments = _moments(state["optimizer_state_dict"], group, at_least=flat.numel())
            at = 0
            for name, shape in shapes.items():
                numel = math.prod(shape)
                share = -(-numel // len(states))
                start = min(rank * share, numel)
                stop = min(start + share, numel)
                for kind, tensor in ((FP32, flat), *moments.items()):
                    mine.append(Found(name, kind, start, tensor.view(-1)[at : at + stop - start]))
                at += share
        mine += _frozen_shares(rank, len(states), model)
        found.append(mine)
    return found


def _frozen_shares(rank: int, world_size: int, model: Mapping[str, Any]) -> Iterable[Found]:
    for name, tensor in (model.get("frozen_param_fragments") or {}).items():
        numel = math.prod(model["frozen_param_shapes"][name])
        share = -(-numel // world_size)
        start = min(rank * share, numel)
        yield Found(name, FROZEN, start, tensor.reshape(-1)[: min(start + share, numel) - start])


def _moments(base: Any, group: int, at_least: int) -> dict[str, torch.Tensor]:
    """Optimizer moments of one flat tensor; an elastic checkpoint lists them by group, others by number."""
    state = base[group] if isinstance(base, list) else base["state"].get(group, {})
    found = {key: value for key, value in state.items() if torch.is_tensor(value) and value.dim() == 1}
    return {key: value for key, value in found.items() if value.numel() >= at_least}


def _scalars(state: Mapping[str, Any]) -> dict[str, float | int]:
    base = state.get("base_optimizer_state", state.get("optimizer_state_dict"))
    first = base[0] if isinstance(base, list) else next(iter(base["state"].values()), {})
    scalars = {k: v for k, v in first.items() if isinstance(v, int | float) or (torch.is_tensor(v) and v.dim() == 0)}
    if "step" not in scalars and "base_optimizer_state_step" in state:
        scalars["step"] = state["base_optimizer_state_step"]
    numbers = {key: float(value) for key, value in scalars.items()}
    return {key: int(value) if value.is_integer() else value for key, value in numbers.items()}


def _shapes(model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    trained = {name: tuple(shape) for group in model["param_shapes"] for name, shape in group.items()}
    frozen = model.get("frozen_param_shapes") or {name: tensor.shape for name, tensor in _frozen(model).items()}
    return trained | {name: tuple(shape) for name, shape in frozen.items()}


def _frozen(model: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Frozen parameters: listed from ZeRO 2 on; at ZeRO 1 whatever is no trained, tied or buffer name."""
    listed = model.get("frozen_param_fragments")
    if listed is not None:
        return dict(listed)
    known = {name for group in model["param_shapes"] for name in group} | set(_names(model))
    known |= set(model.get("shared_params") or {})
    return {name: tensor for name, tensor in model["module"].items() if name not in known}


def _names(model: Mapping[str, Any]) -> list[str]:
    """Buffers that were saved and have elements."""
    return [name for name in model["buffer_names"] if name in model["module"] and model["module"][name].numel()]


def _buffers(model: Mapping[str, Any]) -> list[Found]:
    return [Found(name, BUFFER, 0, model["module"][name].reshape(-1)) for name in _names(model)]
