"""Collectives of host memory for many ranks: a tree instead of a ring.

Gloo sums and gathers in rings: each of N ranks sends 2N messages, 2 N^2 in all. Up and down a tree it is 2N messages
and log N rounds: 200 ranks on two cores sum 0.1 MB in 0.09 s and 2 MB in 0.3 s, where the ring takes 6 s and 4 s. A
ring sends fewer bytes through the busiest rank, so large tensors stay with it. Pairs of ranks connect when they first
speak: a tree has N - 1 of them.

Every rank calls the same operations in the same order, as with any collective. A sum is made once, at the top, in a
fixed order, so all ranks have the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Children of a rank: three levels carry 584 ranks.
ARITY = 8
# With four ranks a ring is as quick; with six on two cores the tree takes a third of its time.
MIN_RANKS = 5
# A sum that may run beside the computation is left to the ring as long as its rounds are few.
MIN_RANKS_BESIDE = 16
# Up to this much per rank a ring's messages cost more than the tree's bytes: at 200 ranks and 10 Gbit/s the top sends
# and receives 8 x 3.2 MB in 0.04 s, and a ring's 400 rounds take as long at 0.1 ms each. In one machine all bytes cross
# the same memory either way: 16 ranks on two cores sum 2 MB in 0.04 s, and in 0.06 s by the ring.
MAX_BYTES_PER_RANK = 16 * 1024
MAX_BYTES_PER_RANK_IN_MACHINE = 128 * 1024
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Point-to-point messages of this module; nobody else in a rank sends any.
_TAG = 71

_IN_PLACE: dict[dist.ReduceOp.RedOpType, Callable[[Tensor, Tensor], Tensor]] = {
    dist.ReduceOp.SUM: Tensor.add_,
    dist.ReduceOp.MAX: lambda a, b: torch.maximum(a, b, out=a),
    dist.ReduceOp.MIN: lambda a, b: torch.minimum(a, b, out=a),
}


@dataclass(frozen=True, slots=True)
class Branch:
    """A rank's place: its parent (None: the top) and the ranks [start, stop) below it, itself first; `children` are the
    same for each child, whose rank is `start`."""

    parent: int | None
    start: int
    stop: int
    children: tuple[tuple[int, int], ...]


@lru_cache(maxsize=8)
def branch_of(rank: int, size: int, arity: int = ARITY) -> Branch:
    """The place of `rank` in the tree over ranks [0, size): neighbours in rank are neighbours in the tree."""
    parent, start, stop = None, 0, size
    while True:
        children = tuple(_split(start + 1, stop, arity))
        if rank == start:
            return Branch(parent, start, stop, children)
        parent, (start, stop) = start, next(child for child in children if child[0] <= rank < child[1])


def _split(start: int, stop: int, parts: int) -> Iterable[tuple[int, int]]:
    cuts = [start + (stop - start) * n // parts for n in range(parts + 1)]
    return ((low, high) for low, high in pairwise(cuts) if low < high)


def can_reduce(op: Any) -> bool:
    """Whether `all_reduce` and its kin know the operation."""
    return op in _IN_PLACE


class Tree:
    """Collectives over the ranks of a gloo group; all of them block.

    Raises: RuntimeError if a rank is gone or silent.
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group if group is not None else dist.group.WORLD
        self.size = dist.get_world_size(self.group)
        self.rank = dist.get_rank(self.group)
        self._branch = branch_of(self.rank, self.size)
        self._max_bytes = MAX_BYTES_PER_RANK * self.size

    def look_around(self) -> None:
        """Find out, collectively, whether all ranks are in one machine."""
        here = int(hashlib.sha256(_BOOT_ID.read_bytes()).hexdigest()[:12], 16) if _BOOT_ID.exists() else self.rank
        everywhere = torch.tensor([here, -here], dtype=torch.int64)
        self.all_reduce(everywhere, dist.ReduceOp.MAX)
        if int(everywhere[0]) == -int(everywhere[1]):
            self._max_bytes = MAX_BYTES_PER_RANK_IN_MACHINE * self.size

    def suits(self, tensor: Tensor) -> bool:
        """Whether this is the better way to sum or gather `tensor`, which is as large as all ranks' parts together."""
        return tensor.device.type == "cpu" and tensor.nbytes <= self._max_bytes

    def all_reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM) -> None:
        """Of everybody's `tensor`, in place on every rank."""
        flat = tensor.detach().contiguous().view(-1)
        self._reduce_up(flat, op)
        self._from_parent(flat)
        self._to_children(flat for _ in self._branch.children)
        if flat.data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(flat.view(tensor.shape))

    def reduce(self, tensor: Tensor, dst: int, op: Any = dist.ReduceOp.SUM) -> None:
        """The same on rank `dst` alone; the others' tensors stay as they are."""
        flat = tensor.detach().reshape(-1).clone()
        self._reduce_up(flat, op)
        if self.rank == 0 and dst != 0:
            self._wait([self._send(flat, dst)])
        elif self.rank == dst != 0:
            self._wait([self._receive(flat, 0)])
        if self.rank == dst:
            tensor.detach().copy_(flat.view(tensor.shape))

    def all_gather(self, output: Tensor, tensor: Tensor) -> None:
        """Everybody's `tensor` one after the other, in `output` (contiguous, size times as large), on every rank."""
        flat, length = output.detach().view(-1), tensor.numel()
        flat[self.rank * length :][:length].copy_(tensor.detach().reshape(-1))
        self._wait([self._receive(flat[a * length : b * length], a) for a, b in self._branch.children])
        if self._branch.parent is not None:
            mine = flat[self._branch.start * length : self._branch.stop * length]
            self._wait([self._send(mine, self._branch.parent)])
        self._from_parent(flat)
        self._to_children(flat for _ in self._branch.children)

    def reduce_scatter(self, output: Tensor, tensor: Tensor, op: Any = dist.ReduceOp.SUM) -> None:
        """Of everybody's `tensor` this rank's part, in `output`; `tensor` (size times as large) stays as it is."""
        flat, length = tensor.detach().reshape(-1).clone(), output.numel()
        self._reduce_up(flat, op)
        below = flat[self._branch.start * length : self._branch.stop * length]
        self._from_parent(below)
        self._to_children(flat[a * length : b * length] for a, b in self._branch.children)
        output.detach().copy_(below[:length].view(output.shape))

    def broadcast(self, tensor: Tensor) -> None:
        """Rank 0's `tensor`, on every rank."""
        flat = tensor.detach().contiguous().view(-1)
        self._from_parent(flat)
        self._to_children(flat for _ in self._branch.children)
        if flat.data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(flat.view(tensor.shape))

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.all_reduce(torch.zeros(1))

    def _reduce_up(self, flat: Tensor, op: Any) -> None:
        children = self._branch.children
        theirs = [torch.empty_like(flat) for _ in children]
        self._wait([self._receive(part, child) for part, (child, _) in zip(theirs, children, strict=True)])
        for part in theirs:
            _IN_PLACE[op](flat, part)
        if self._branch.parent is not None:
            self._wait([self._send(flat, self._branch.parent)])

    def _from_parent(self, flat: Tensor) -> None:
        if self._branch.parent is not None:
            self._wait([self._receive(flat, self._branch.parent)])

    def _to_children(self, parts: Iterable[Tensor]) -> None:
        self._wait([self._send(part, child) for part, (child, _) in zip(parts, self._branch.children, strict=True)])

    def _send(self, part: Tensor, rank: int) -> Any:
        return dist.isend(part, group=self.group, group_dst=rank, tag=_TAG)

    def _receive(self, part: Tensor, rank: int) -> Any:
        return dist.irecv(part, group=self.group, group_src=rank, tag=_TAG)

    @staticmethod
    def _wait(works: Iterable[Any]) -> None:
        for work in works:
            work.wait()


_enrolled: list[Tree] = []


def enroll(group: Any, min_ranks: int = MIN_RANKS) -> Tree | None:
    """Use a tree for this gloo group from now on, if it has ranks enough for one."""
    if dist.get_world_size(group) < min_ranks:
        return None
    _enrolled.append(Tree(group))
    return _enrolled[-1]


def tree_of(group: Any) -> Tree | None:
    """The tree of a group (None: the world) that was enrolled."""
    wanted = group if group is not None else dist.group.WORLD
    return next((tree for tree in _enrolled if tree.group is wanted), None)


def forget_all() -> None:
    """When groups end."""
    _enrolled.clear()


def broadcast(tensor: Tensor, group: Any) -> None:
    """Rank 0's `tensor`, on every rank of the group, over its tree if it has one."""
    tree = tree_of(group)
    if tree is not None:
        tree.broadcast(tensor)
    else:
        dist.broadcast(tensor, group=group, group_src=0)


def all_reduce(tensor: Tensor, group: Any, op: Any = dist.ReduceOp.SUM) -> None:
    """Of everybody's small `tensor`, in place, over the group's tree if it has one."""
    tree = tree_of(group)
    if tree is not None:
        tree.all_reduce(tensor, op)
    else:
        dist.all_reduce(tensor, op=op, group=group)


def barrier(group: Any) -> None:
    """Wait until every rank of the group is here."""
    all_reduce(torch.zeros(1), group)
