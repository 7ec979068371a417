"""DeepSpeed's collectives over a tree where one suits; see `tree.py`.

DeepSpeed sends everything through the methods of one class, which are wrapped here once per process. What a tree does
not suit (few ranks, large tensors, other operations, other groups, device memory) goes where it always went.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from deepspeed.comm.reduce_op import ReduceOp
from deepspeed.comm.torch import TorchBackend

from jobs.train.tree import Tree, can_reduce, tree_of


class Done:
    """The handle of a collective that is over."""

    def wait(self) -> None:
        """Returns at once."""

    def is_completed(self) -> bool:
        return True


def install() -> None:
    """Wrap DeepSpeed's backend; again is harmless."""
    for name, over_tree in _OVER_TREE.items():
        method = getattr(TorchBackend, name)
        if not hasattr(method, "without_tree"):
            setattr(TorchBackend, name, _with_tree(method, _ARGUMENTS[name], over_tree))


def _with_tree(
    method: Callable[..., Any], names: tuple[str, ...], over_tree: Callable[..., bool]
) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        named = dict(zip(names, args, strict=False)) | kwargs
        tree = tree_of(named.get("group"))
        if tree is None or not over_tree(tree, named):
            return method(self, *args, **kwargs)
        return Done() if named.get("async_op") else None

    vars(call)["without_tree"] = method
    return call


def _op(named: dict[str, Any]) -> Any:
    """DeepSpeed has its own names for torch's operations."""
    op = named.get("op", dist.ReduceOp.SUM)
    return getattr(dist.ReduceOp, op.name) if isinstance(op, ReduceOp) else op


def _all_reduce(tree: Tree, named: dict[str, Any]) -> bool:
    if not tree.suits(named["tensor"]) or not can_reduce(_op(named)):
        return False
    tree.all_reduce(named["tensor"], _op(named))
    return True


def _reduce(tree: Tree, named: dict[str, Any]) -> bool:
    if not tree.suits(named["tensor"]) or not can_reduce(_op(named)):
        return False
    tree.reduce(named["tensor"], named["dst"], _op(named))
    return True


def _broadcast(tree: Tree, named: dict[str, Any]) -> bool:
    if not tree.suits(named["tensor"]) or named["src"] != 0:
        return False
    tree.broadcast(named["tensor"])
    return True


def _all_gather(tree: Tree, named: dict[str, Any]) -> bool:
    if not tree.suits(named["output_tensor"]) or not named["output_tensor"].is_contiguous():
        return False
    tree.all_gather(named["output_tensor"], named["input_tensor"])
    return True


def _reduce_scatter(tree: Tree, named: dict[str, Any]) -> bool:
    if not tree.suits(named["input_tensor"]) or not can_reduce(_op(named)):
        return False
    tree.reduce_scatter(named["output_tensor"], named["input_tensor"], _op(named))
    return True


def _barrier(tree: Tree, named: dict[str, Any]) -> bool:
    tree.barrier()
    return True


_OVER_TREE: dict[str, Callable[[Tree, dict[str, Any]], bool]] = {
    "all_reduce": _all_reduce,
    "reduce": _reduce,
    "broadcast": _broadcast,
    "all_gather_into_tensor": _all_gather,
    "reduce_scatter_tensor": _reduce_scatter,
    "barrier": _barrier,
}
# Positions in `TorchBackend`'s signatures.
_ARGUMENTS = {
    "all_reduce": ("tensor", "op", "group", "async_op"),
    "reduce": ("tensor", "dst", "op", "group", "async_op"),
    "broadcast": ("tensor", "src", "group", "async_op"),
    "all_gather_into_tensor": ("output_tensor", "input_tensor", "group", "async_op"),
    "reduce_scatter_tensor": ("output_tensor", "input_tensor", "op", "group", "async_op"),
    "barrier": ("group", "async_op", "device_ids"),
}
