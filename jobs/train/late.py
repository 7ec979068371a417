"""Numbers that a device is still computing: brought to the host beside the training stream, read when they are there.

`float(tensor)` makes the host wait for everything that the device has been given so far, so that it stands idle until
the host has given it more. Here a second stream waits for the number, and the host only where it is read, a step later.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def late(value: Tensor | float) -> Callable[[], float]:
    """How to read a number later, without having waited for it now."""
    if not isinstance(value, Tensor) or value.device.type == "cpu":
        number = float(value)
        return lambda: number
    read = _fetch(value.detach().double().reshape(1))
    return lambda: read()[0]


class LateSum:
    """A sum over ranks of numbers on the device. `wait` is the only place where the host waits."""

    def __init__(self, values: Sequence[Tensor], device_group: Any) -> None:
        total = torch.stack([value.detach().double().reshape(()) for value in values])
        work = dist.all_reduce(total, group=device_group, async_op=True)
        self._read = _fetch(total, after=work)

    def wait(self) -> list[float]:
        """The sums."""
        return self._read()


def _fetch(value: Tensor, after: Any = None) -> Callable[[], list[float]]:
    """Copy a device vector to the host once the current stream, and `after`, a collective, are done with it."""
    side = _side_stream(value.device)
    side.wait_stream(torch.cuda.current_stream(value.device))
    with torch.cuda.stream(side):
        if after is not None:
            after.wait()  # of NCCL: the stream waits, not the host
        host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        host.copy_(value, non_blocking=True)
        value.record_stream(side)  # or its memory could be given away before the copy
        copied = side.record_event()

    def read() -> list[float]:
        copied.synchronize()
        return [float(number) for number in host]

    return read


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
