"""What one rank owns of the training state: named ranges of flat tensors, whatever framework holds them.

An adapter builds the view (`deepspeed_shards`, `torch_shards`); saving and loading work on views alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements [start, stop) of the flattened tensor `name`; `tensor` is 1-D, contiguous and shares their memory."""

    name: str
    kind: str
    start: int
    stop: int
    tensor: torch.Tensor

    def __post_init__(self) -> None:
        assert self.stop - self.start == self.tensor.numel() > 0, (self.name, self.kind, self.start, self.stop)
        assert self.tensor.dim() == 1, (self.name, self.kind)
        assert self.tensor.is_contiguous(), (self.name, self.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardView:
    """A rank's state as memory: what it saves and what it wants back.

    `owned`: pieces this rank writes; over all ranks they cover every element once. `wanted`: pieces this rank needs
    filled when loading (owned ones, and whatever is replicated). Pieces that lie side by side in memory should be side
    by side in the tuples: they become one copy.
    `shapes`: every parameter, buffers after them, in the model's order. `tied`: further names of a parameter.
    `scalars`: optimizer state that is not a tensor of the parameter's shape, such as step counters.
    `set_scalars` writes them back; `publish` carries loaded master weights into the weights that the model computes
    with, and is collective: every rank calls it.
    """

    rank: int
    world_size: int
    zero_stage: int
    precision: str
    shapes: Mapping[str, tuple[int, ...]]
    owned: tuple[Piece, ...]
    wanted: tuple[Piece, ...]
    tied: Mapping[str, str] = field(default_factory=dict)
    scalars: Mapping[str, Any] = field(default_factory=dict)
    set_scalars: Callable[[Mapping[str, Any]], None] = lambda scalars: None
    publish: Callable[[], None] = lambda: None
