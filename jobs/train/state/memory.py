"""Pieces as memory: neighbours joined into runs, so that saving and loading copy megabytes, not parameters.

A run is a one-dimensional byte tensor over the memory of several adjacent pieces, on any device. Host memory is read
in place; device memory goes through one staging buffer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from jobs.train.state.hashing import BLOCK_BYTES
from jobs.train.state.view import Piece


@dataclass(frozen=True, slots=True)
class Run:
    """`nbytes` of one storage, holding pieces first..last (inclusive) of a sequence without gaps."""

    bytes_: torch.Tensor
    first: int
    last: int


def join(pieces: Sequence[Piece]) -> list[Run]:
    """Maximal runs of pieces that follow one another in memory and in the sequence."""
    runs: list[Run] = []
    first = 0
    for at in range(1, len(pieces) + 1):
        if at == len(pieces) or not _follows(pieces[at - 1].tensor, pieces[at].tensor):
            runs.append(Run(_as_bytes(pieces[first].tensor, pieces[at - 1].tensor), first, at - 1))
            first = at
    return runs if pieces else []


def _follows(before: torch.Tensor, after: torch.Tensor) -> bool:
    return bool(
        before.dtype == after.dtype
        and before.data_ptr() + before.nbytes == after.data_ptr()
        and before.untyped_storage().data_ptr() == after.untyped_storage().data_ptr()
    )


def _as_bytes(first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Byte tensor from the start of `first` to the end of `last`, both in one storage; bounds are checked by torch."""
    nbytes = last.data_ptr() + last.nbytes - first.data_ptr()
    offset = first.storage_offset() * first.element_size()
    return torch.empty(0, dtype=torch.uint8, device=first.device).set_(first.untyped_storage(), offset, (nbytes,))


def chunks_of(runs: Sequence[Run], max_bytes: int = BLOCK_BYTES) -> Iterator[memoryview]:
    """The runs' bytes in order, as host memory, at most `max_bytes` at a time.

    A chunk is valid until the next one is asked for: device memory shares one staging buffer.
    """
    staging: torch.Tensor | None = None
    for run in runs:
        for at in range(0, run.bytes_.numel(), max_bytes):
            part = run.bytes_[at : at + max_bytes]
            if part.device.type != "cpu":
                staging = staging if staging is not None else torch.empty(max_bytes, dtype=torch.uint8, pin_memory=True)
                part = staging[: part.numel()].copy_(part)
            yield memoryview(part.numpy()).cast("B")


def copy_in(target: torch.Tensor, data: memoryview) -> None:
    """Copy host bytes into a byte tensor of equal length on any device."""
    source = np.frombuffer(data, dtype=np.uint8)
    if target.device.type == "cpu":
        np.copyto(target.numpy(), source)
    else:
        staged = torch.empty(source.size, dtype=torch.uint8, pin_memory=True)
        np.copyto(staged.numpy(), source)
        target.copy_(staged)
