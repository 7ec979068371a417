"""Carry every rank's new weights to all ranks of one machine through a window of shared memory.

ZeRO 1 and 2 keep masters in shares and weights whole, so after a load every rank needs everybody's share. Over gloo
that dominates a load (measured: 6 ranks on 2 cores, 0.36 GB of weights: 5.4 s by gathering, 0.3 s this way); ranks of
one machine can as well read one another's memory. The window is an anonymous memory file, so a killed rank leaves
nothing behind, and a few rounds of it carry any amount.

The rule: host memory, and every rank can open rank 0's window (same machine, user and process namespace). Otherwise the
caller gathers: between machines a collective moves each byte once per machine, and on devices NCCL is faster.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from jobs.train.tree import all_reduce, barrier, broadcast

# At most; two halves, used in turn. Smaller ones cost meetings, larger ones fresh pages: 32 to 128 MiB are alike.
WINDOW_BYTES = 32 * 2**20
_TOKEN_BYTES = 16
_PREFIX = "tide-weights-"

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Shares:
    """One parameter group: `cuts[r]` is rank r's slice of the weights, `master` this rank's slice in full precision."""

    cuts: Sequence[torch.Tensor]
    master: torch.Tensor


def spread(groups: Sequence[Shares], process_group: Any) -> bool:
    """Set all weights from all ranks' masters; collective. False, and nothing done, where the rule says to gather.

    Raises: RuntimeError if a rank is gone or silent.
    """
    rank, world_size = dist.get_rank(process_group), dist.get_world_size(process_group)
    if any(cut.device.type != "cpu" for group in groups for cut in group.cuts):
        return False
    largest = max((cut.nbytes for group in groups for cut in group.cuts), default=0)
    nbytes = min(WINDOW_BYTES, 2 * world_size * max(largest, 1))  # no more than one round needs
    with _window(process_group, rank, nbytes) as window:
        if window is None:
            return False
        for group in groups:
            group.cuts[rank].copy_(group.master)
        whole = [[_bytes(group.cuts[r]) for r in range(world_size)] for group in groups]
        exchange(whole, rank, window, lambda: barrier(process_group))
    return True


def exchange(groups: Sequence[Sequence[Bytes]], rank: int, window: Bytes, meet: Callable[[], None]) -> None:
    """Fill everybody else's cuts; the own ones are given. `meet` returns when every rank has called it.

    A half is written again only after the meeting of the round between, which all enter after reading it.
    """
    half = len(window) // 2
    round_ = 0
    for cuts in groups:
        slot = half // len(cuts)
        for at in range(0, max(map(len, cuts)), slot):
            base = half * (round_ % 2)
            mine = cuts[rank][at : at + slot]
            window[base + rank * slot : base + rank * slot + len(mine)] = mine
            meet()
            for other in (*range(rank + 1, len(cuts)), *range(rank)):  # not all of them at the same slot at once
                target = cuts[other][at : at + slot]
                target[:] = window[base + other * slot : base + other * slot + len(target)]
            round_ += 1


def _bytes(tensor: torch.Tensor) -> Bytes:
    whole: Bytes = tensor.detach().view(torch.uint8).numpy()
    return whole


@contextlib.contextmanager
def _window(process_group: Any, rank: int, nbytes: int) -> Iterator[Bytes | None]:
    """The same memory on every rank, or None on every rank."""
    with contextlib.ExitStack() as stack:
        facts = torch.zeros(2 + _TOKEN_BYTES, dtype=torch.int64)
        mapped: mmap.mmap | None = None
        if rank == 0:
            token = secrets.token_bytes(_TOKEN_BYTES)
            descriptor = _make(token, nbytes)
            if descriptor is not None:
                stack.callback(os.close, descriptor)
                facts = torch.tensor([os.getpid(), descriptor, *token])
        broadcast(facts, process_group)
        pid, number, *letters = facts.tolist()
        mapped = open_window(pid, number, bytes(letters), nbytes) if pid else None
        here = torch.tensor(1 if mapped is not None else 0)
        all_reduce(here, process_group, dist.ReduceOp.MIN)
        yield np.frombuffer(mapped, dtype=np.uint8) if mapped is not None and int(here) else None


def _make(token: bytes, nbytes: int) -> int | None:
    """A memory file whose name is the token; None where the machine has none to give."""
    try:
        descriptor = os.memfd_create(_PREFIX + token.hex())
        os.ftruncate(descriptor, nbytes)
    except OSError:
        return None
    return descriptor


def open_window(pid: int, descriptor: int, token: bytes, nbytes: int) -> mmap.mmap | None:
    """Map another process's memory file; None if that process is not on this machine or not ours to see.

    The file is known by its name before it is opened: on another machine the same number may be anything.
    """
    link = f"/proc/{pid}/fd/{descriptor}"
    try:
        if os.readlink(link) != f"/memfd:{_PREFIX}{token.hex()} (deleted)":
            return None
        opened = os.open(link, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return mmap.mmap(opened, nbytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    except (OSError, ValueError):
        return None
    finally:
        os.close(opened)
