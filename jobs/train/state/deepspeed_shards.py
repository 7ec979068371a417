"""A DeepSpeed engine's state as a view: ZeRO 0, 1, 2 and 3, frozen parameters, buffers, tied names.

`masters` knows where DeepSpeed keeps things; here they become pieces. A plain torch model and optimizer work, too
(`view_of_model`), which strict mode and tests use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from jobs.train.state.kinds import BUFFER, FP32, FROZEN
from jobs.train.state.masters import masters_of
from jobs.train.state.optimizer_state import OptimizerState
from jobs.train.state.view import Piece, ShardView


def view_of(engine: Any, moments: Sequence[str] | None = None) -> ShardView:
    """The view of this rank's DeepSpeed engine.

    `moments` None takes what the optimizer has: after its first step all of them, before it none. To load, name those
    of the checkpoint (`Manifest.moments`): missing ones are made, so that a fresh engine can be filled.
    The view holds the engine's own memory: it stays valid until the engine goes.
    Raises: StateError if this optimizer's state cannot be saved.
    """
    return view_of_model(
        engine.module,
        engine.optimizer,
        rank=engine.global_rank,
        world_size=engine.world_size,
        zero_stage=engine.zero_optimization_stage(),
        precision="bf16" if engine.bfloat16_enabled() else "fp32",
        moments=moments,
    )


def view_of_model(
    model: nn.Module,
    optimizer: Any,
    *,
    rank: int,
    world_size: int,
    zero_stage: int,
    precision: str,
    moments: Sequence[str] | None = None,
) -> ShardView:
    """The view of a model and its optimizer, DeepSpeed's or torch's."""
    params, buffers, tied = _named(model)
    masters = masters_of(optimizer, {id(param): name for name, param in params.items()}, rank, world_size)
    state = OptimizerState(getattr(optimizer, "optimizer", optimizer), masters.tensors)
    if moments is not None:
        state.make(moments)
    kinds = [FP32, *(state.moments() if moments is None else moments)]
    trained = [state.piece(kind, one) for kind in kinds for one in masters.slices]
    partitioned, whole = _frozen(params, rank)
    replicated = [*([] if masters.sharded else trained), *whole, *(_whole(n, BUFFER, b) for n, b in buffers.items())]
    return ShardView(
        rank=rank,
        world_size=world_size,
        zero_stage=zero_stage,
        precision=precision,
        shapes={name: _shape(tensor) for name, tensor in (params | buffers).items()},
        owned=(*(trained if masters.sharded else ()), *partitioned, *share_out(replicated, rank, world_size)),
        wanted=(*(trained if masters.sharded else ()), *partitioned, *replicated),
        tied=tied,
        scalars=state.scalars(),
        set_scalars=state.set_scalars,
        publish=masters.publish,
    )


def share_out(pieces: Sequence[Piece], rank: int, world_size: int) -> list[Piece]:
    """This rank's equal share of each piece that every rank holds, so that all of them write a little."""
    found = []
    for piece in pieces:
        size = -(-(piece.stop - piece.start) // world_size)
        first, last = rank * size, min((rank + 1) * size, piece.stop - piece.start)
        if first < last:
            tensor = piece.tensor[first:last]
            found.append(Piece(piece.name, piece.kind, piece.start + first, piece.start + last, tensor))
    return found


def _frozen(params: Mapping[str, torch.Tensor], rank: int) -> tuple[list[Piece], list[Piece]]:
    """Parameters without gradient: (this rank's partitions under ZeRO-3, whole ones otherwise)."""
    partitioned, whole = [], []
    for name, param in params.items():
        if param.requires_grad or _numel(param) == 0:
            continue
        if not hasattr(param, "ds_tensor"):
            whole.append(_whole(name, FROZEN, param))
            continue
        share = param.ds_tensor.numel()
        start, stop = rank * share, min((rank + 1) * share, param.ds_numel)
        if start < stop:
            partitioned.append(Piece(name, FROZEN, start, stop, param.ds_tensor.detach().view(-1)[: stop - start]))
    return partitioned, whole


def _whole(name: str, kind: str, tensor: torch.Tensor) -> Piece:
    return Piece(name, kind, 0, tensor.numel(), tensor.detach().view(-1))


def _named(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, str]]:
    """Parameters, buffers that belong to the model's state (others are computed when it is built), and the further
    names of parameters that have several: {other name: first name}.

    In one walk: a state is saved every few steps, and a walk through torch's own lists costs a large model 10 ms each.
    """
    params: dict[str, torch.Tensor] = {}
    buffers: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    modules = set()
    for prefix, module in model.named_modules(remove_duplicate=False):
        before = f"{prefix}." if prefix else ""
        for name, param in module._parameters.items():
            if param is None:
                continue
            if first.setdefault(id(param), before + name) == before + name:
                params[before + name] = param
            else:
                tied[before + name] = first[id(param)]
        if module in modules:
            continue
        modules.add(module)
        for name, buffer in module._buffers.items():
            if buffer is not None and id(buffer) not in first:
                first[id(buffer)] = before + name
                if name not in module._non_persistent_buffers_set and buffer.numel():
                    buffers[before + name] = buffer
    return params, buffers, tied


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(getattr(tensor, "ds_shape", tensor.shape))  # ZeRO-3 empties a parameter and remembers its shape


def _numel(tensor: torch.Tensor) -> int:
    return int(getattr(tensor, "ds_numel", tensor.numel()))
