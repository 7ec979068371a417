"""Where DeepSpeed keeps each parameter's master copy, for every ZeRO stage: the one place that knows its attributes.

Read in DeepSpeed 0.19: runtime/zero/stage_1_and_2.py, runtime/zero/stage3.py, runtime/bf16_optimizer.py, runtime/fp16.
Held by tests/train/state/test_deepspeed_shards.py, which compares with DeepSpeed's public accessors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from jobs.train.state.errors import StateError
from jobs.train.state.weights import Shares, spread


@dataclass(frozen=True, slots=True)
class Slice:
    """Elements [start, stop) of a parameter lie `offset` elements into `master`, the tensor the optimizer updates."""

    name: str
    start: int
    stop: int
    master: torch.Tensor
    offset: int


@dataclass(frozen=True, slots=True)
class Masters:
    """A rank's part of the optimizer: its tensors (also those that are padding only) and what lies in them.

    `sharded` False means that every rank holds everything. `publish` copies masters into the model's weights and, where
    ranks hold different masters, gathers; collective then.
    """

    tensors: tuple[torch.Tensor, ...]
    slices: tuple[Slice, ...]
    sharded: bool
    publish: Callable[[], None]


def masters_of(optimizer: Any, names: dict[int, str], rank: int, world_size: int) -> Masters:
    """The masters of a DeepSpeed (or plain torch) optimizer; `names` maps id(parameter) to its name.

    Raises: StateError for optimizers whose state is not in memory (NVMe) or not known.
    """
    # By attribute, not by class: importing every optimizer class of DeepSpeed to ask costs a second.
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return _zero3(optimizer, names, rank, world_size)
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        cuts = optimizer.parallel_partitioned_bit16_groups
        return _zero12(optimizer, optimizer.single_partition_of_fp32_groups, optimizer.bit16_groups, cuts, names)
    if hasattr(optimizer, "fp32_groups_flat_partition"):
        cuts = optimizer.bf16_partitioned_groups
        return _zero12(optimizer, optimizer.fp32_groups_flat_partition, optimizer.bf16_groups, cuts, names)
    if hasattr(optimizer, "fp32_groups_flat"):
        return _fused(optimizer, names)
    if hasattr(optimizer, "fp32_groups"):
        return _unfused(optimizer, names)
    if isinstance(optimizer, torch.optim.Optimizer):
        return _plain(optimizer, names)
    raise StateError(
        f"the state of {type(optimizer).__name__} is not known",
        next_step="Use ZeRO 1, 2 or 3 (deepspeed.zero_stage) without elastic-incompatible options",
    )


def _zero12(
    optimizer: Any,
    flats: list[torch.Tensor],
    groups: list[list[torch.Tensor]],
    cuts: list[list[torch.Tensor]],
    names: dict[int, str],
) -> Masters:
    """One flat partition per parameter group; `_hp_mapping` says which part of which parameter lies where."""
    slices = []
    for flat, group in zip(flats, groups, strict=True):
        found = [(p._hp_mapping, names[id(p)]) for p in group if p._hp_mapping is not None]
        for mapping, name in sorted(found, key=lambda pair: pair[0].hp_fragment_address.start):
            lp, hp = mapping.lp_fragment_address, mapping.hp_fragment_address
            slices.append(Slice(name, lp.start, lp.start + lp.numel, flat, hp.start))
    shares = [Shares(cut, flat) for cut, flat in zip(cuts, flats, strict=True)]
    return Masters(tuple(flats), tuple(slices), sharded=True, publish=lambda: _publish_zero12(optimizer, shares))


def _publish_zero12(optimizer: Any, shares: list[Shares]) -> None:
    """Cast masters into weights and bring everybody's to everybody, as at the end of ZeRO's own step."""
    everyone, *others = optimizer.real_dp_process_group
    with torch.no_grad():
        if any(group is not everyone for group in others) or not spread(shares, everyone):
            optimizer.update_lp_params()


def _zero3(optimizer: Any, names: dict[int, str], rank: int, world_size: int) -> Masters:
    """One flat tensor per sub-group, holding this rank's equal share of each parameter, padded at the last ranks."""
    if optimizer.swap_optimizer or optimizer.params_in_nvme_and_cpu:
        raise StateError(
            "ZeRO-3 with state on NVMe cannot be saved elastically", next_step="Offload to cpu or not at all"
        )
    flats = optimizer.fp32_partitioned_groups_flat
    slices = []
    for flat, group in zip(flats, optimizer.fp16_groups, strict=True):
        for param in group:
            _, offset, share = optimizer.grad_position[optimizer.get_param_id(param)]
            assert share * world_size >= param.ds_numel, "a parameter is partitioned over fewer ranks than there are"
            start, stop = rank * share, min((rank + 1) * share, param.ds_numel)
            if start < stop:
                slices.append(Slice(names[id(param)], start, stop, flat, offset))
    return Masters(tuple(flats), tuple(slices), sharded=True, publish=lambda: _publish_zero3(optimizer))


def _publish_zero3(optimizer: Any) -> None:
    """As at the end of ZeRO-3's own step: refresh every partition, then gather the parameters kept whole."""
    with torch.no_grad():
        optimizer._partition_all_parameters()
        for sub_group in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(sub_group)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def _fused(optimizer: Any, names: dict[int, str]) -> Masters:
    """ZeRO 0, bf16, fused: one flat fp32 tensor per group, whole on every rank."""
    slices = []
    for flat, group in zip(optimizer.fp32_groups_flat, optimizer.fp16_groups, strict=True):
        offset = 0
        for param in group:
            slices.append(Slice(names[id(param)], 0, param.numel(), flat, offset))
            offset += param.numel()
    pairs = [
        (param, one.master.detach()[one.offset : one.offset + param.numel()].view_as(param))
        for param, one in zip((p for group in optimizer.fp16_groups for p in group), slices, strict=True)
    ]
    return Masters(tuple(optimizer.fp32_groups_flat), tuple(slices), sharded=False, publish=lambda: _copy(pairs))


def _unfused(optimizer: Any, names: dict[int, str]) -> Masters:
    """ZeRO 0, bf16: one fp32 tensor per parameter, whole on every rank."""
    pairs = [
        (param, master)
        for params, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        for param, master in zip(params, masters, strict=True)
    ]
    slices = tuple(Slice(names[id(param)], 0, param.numel(), master, 0) for param, master in pairs)
    return Masters(tuple(m for _, m in pairs), slices, sharded=False, publish=lambda: _copy(pairs))


def _plain(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> Masters:
    """ZeRO 0, fp32, or no DeepSpeed at all: the parameters are their own masters."""
    params = tuple(_trained(optimizer))
    slices = tuple(Slice(names[id(param)], 0, param.numel(), param, 0) for param in params)
    return Masters(params, slices, sharded=False, publish=lambda: None)


def _trained(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    for group in optimizer.param_groups:
        yield from (param for param in group["params"] if param.requires_grad)


def _copy(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    with torch.no_grad():
        for param, master in pairs:
            param.copy_(master)
