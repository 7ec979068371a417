"""The methods of a merge, as arithmetic on one tensor: blocks of parents in, blocks of the merged tensor out.

Everything is fp32, whatever the parents and the result are stored as. The order of the models in a file changes
nothing, not even the last bit: all methods but slerp take them in the order of their names.

Sources: task arithmetic 2212.04089, TIES 2306.01708, DARE 2311.03099. Our choices where those leave one: what is kept
of a difference is counted tensor by tensor; a draw between signs leaves the base as it is; every tensor keeps at least
one number of a difference, so that small ones (norms, biases) are merged like all others.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import torch
from torch import Tensor

from jobs.transform.draws import Draws
from jobs.transform.magnitude import magnitudes_of_rank
from jobs.transform.stored import BLOCK, blocks
from orchestrator.spec.merge import Dare, Linear, Method, Slerp, TaskArithmetic, Ties

# (start, count) -> fp32 numbers of the tensor, the caller's to write on until the next call of the same function.
Read = Callable[[int, int], Tensor]

_ROUNDING = 1e-9
# Below this sine, an arc and its chord differ by less than fp32 can tell, and at half a turn there is no arc to choose.
_STRAIGHT = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One model's part in a merge of one tensor; `name` orders the models and decides what is drawn for this one."""

    name: str
    weight: float
    read: Read


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """The merge of one tensor of `numel` numbers."""

    tensor: str
    numel: int
    sides: Sequence[Side]
    base: Read | None = None
    block: int = BLOCK

    def spans(self) -> Iterator[tuple[int, int]]:
        return blocks(self.numel, self.block)

    def changes(self) -> Iterator[list[Tensor]]:
        """What each model has learned since the base, block by block, in the models' own buffers."""
        return (changes for _, changes in self.changes_from_base())

    def changes_from_base(self) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """The same, with the base itself."""
        assert self.base is not None
        for start, count in self.spans():
            base = self.base(start, count)
            yield base, [side.read(start, count).sub_(base) for side in self.sides]


def passes(method: Method) -> int:
    """How often a method reads a model's floating-point tensors."""
    match method:
        case Slerp():
            return 2
        case Ties(density=density) if density < 1:
            return 3
        case _:
            return 1


def blend(method: Method, of: Blend) -> Iterator[Tensor]:
    """The merged tensor, fp32, block by block; each is good until the next is asked for."""
    if isinstance(method, Slerp):
        return _slerp(of, method.t)
    of = dataclasses.replace(of, sides=sorted(of.sides, key=lambda side: side.name))
    match method:
        case Linear():
            return _linear(of, normalize=method.normalize)
        case TaskArithmetic():
            return _task_arithmetic(of, method.scale)
        case Ties():
            return _ties(of, method)
        case Dare():
            return _dare(of, method)
        case _:
            assert_never(method)


def _linear(of: Blend, *, normalize: bool) -> Iterator[Tensor]:
    total = math.fsum(side.weight for side in of.sides) if normalize else 1.0
    weights = [side.weight / total for side in of.sides]
    for start, count in of.spans():
        yield _sum([side.read(start, count) for side in of.sides], weights)


def _slerp(of: Blend, t: float) -> Iterator[Tensor]:
    first, second = of.sides
    shares = _arc_shares(of, t)
    for start, count in of.spans():
        yield _sum([first.read(start, count), second.read(start, count)], shares)


def _arc_shares(of: Blend, t: float) -> tuple[float, float]:
    """Factors of the two tensors for the point at `t` of the arc between their directions."""
    first, second = of.sides
    aa = ab = bb = 0.0
    for start, count in of.spans():
        a, b = first.read(start, count), second.read(start, count)
        aa, ab, bb = aa + _dot(a, a), ab + _dot(a, b), bb + _dot(b, b)
    angle = math.acos(max(-1.0, min(1.0, ab / math.sqrt(aa * bb)))) if aa and bb else 0.0
    sine = math.sin(angle)
    if sine < _STRAIGHT:
        return 1 - t, t
    return math.sin((1 - t) * angle) / sine, math.sin(t * angle) / sine


def _dot(a: Tensor, b: Tensor) -> float:
    """Summed in fp64: an fp32 sum of millions of terms would decide an angle by its rounding."""
    return float(np.sum((a * b).numpy(), dtype=np.float64))


def _task_arithmetic(of: Blend, scale: float) -> Iterator[Tensor]:
    weights = [side.weight for side in of.sides]
    for base, changes in of.changes_from_base():
        yield _sum(changes, weights).mul_(scale).add_(base)


def _ties(of: Blend, method: Ties) -> Iterator[Tensor]:
    edges = _edges(of, method.density)
    weights = [side.weight for side in of.sides]
    for base, changes in of.changes_from_base():
        for change, edge in zip(changes, edges, strict=True):
            change.masked_fill_(change.abs() < edge, 0.0)
        yield _agreed(changes, weights).mul_(method.scale).add_(base)


def _edges(of: Blend, density: float) -> list[float]:
    """The smallest magnitude of each model's changes that is kept; of equal ones all are."""
    keep = max(1, math.ceil(density * of.numel - _ROUNDING))
    if density == 1 or not of.numel:
        return [0.0] * len(of.sides)
    return magnitudes_of_rank(of.changes, len(of.sides), of.numel - keep + 1)


def _dare(of: Blend, method: Dare) -> Iterator[Tensor]:
    draws = [Draws(method.seed, of.tensor, side.name) for side in of.sides]
    weights = [side.weight for side in of.sides]
    for base, changes in of.changes_from_base():
        if method.density < 1:
            for change, draw in zip(changes, draws, strict=True):
                change.mul_(draw.chosen(len(change), method.density))
        mixed = _agreed(changes, weights) if method.elect_sign else _sum(changes, weights)
        yield mixed.mul_(method.scale / method.density).add_(base)  # rescaled once: both sums are linear


def _sum(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weighted sum, in the first part's memory."""
    total = parts[0].mul_(weights[0])
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total.add_(part, alpha=weight)
    return total


def _agreed(changes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """For each parameter the weighted mean of the changes that point where the weighted sum of all points."""
    for change, weight in zip(changes, weights, strict=True):
        change.mul_(weight)
    sign = functools.reduce(Tensor.add_, changes[1:], changes[0].clone()).sign_()
    mixed, share = torch.zeros_like(sign), torch.zeros_like(sign)
    for change, weight in zip(changes, weights, strict=True):
        agrees = (change * sign > 0).float()
        mixed.add_(change.mul_(agrees))
        share.add_(agrees, alpha=abs(weight))
    return mixed.div_(share.masked_fill_(share == 0, 1.0))
