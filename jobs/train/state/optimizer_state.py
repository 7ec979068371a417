"""An optimizer's state beside its parameters: moments, which have the parameter's size, and scalars, which have not."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from jobs.train.state.errors import StateError
from jobs.train.state.kinds import FP32
from jobs.train.state.masters import Slice
from jobs.train.state.view import Piece


class OptimizerState:
    """The state of a torch optimizer (DeepSpeed's own derive from it) for the tensors that a rank updates."""

    def __init__(self, optimizer: torch.optim.Optimizer, tensors: Sequence[torch.Tensor]) -> None:
        self._optimizer = optimizer
        self._tensors = tensors

    def moments(self) -> list[str]:
        """Names of the moments that all tensors have, sorted; none before the first step."""
        found = [
            {key for key, value in self._optimizer.state[tensor].items() if _is_moment(value, tensor)}
            for tensor in self._tensors
            if tensor in self._optimizer.state
        ]
        if len(found) != len(self._tensors) or not found:
            return []
        if any(names != found[0] for names in found):
            raise StateError(f"{type(self._optimizer).__name__} keeps different moments for different parameters")
        return sorted(found[0])

    def make(self, moments: Sequence[str]) -> None:
        """Give every tensor the named moments, zero where it has none yet."""
        for tensor in self._tensors:
            state = self._optimizer.state[tensor]
            for moment in moments:
                if not _is_moment(state.get(moment), tensor):
                    state[moment] = _zeros_like(tensor)

    def piece(self, kind: str, one: Slice) -> Piece:
        """The memory of a slice's masters (kind FP32) or of one of its moments."""
        whole = one.master if kind == FP32 else self._optimizer.state[one.master][kind]
        flat = whole.detach().view(-1)[one.offset : one.offset + one.stop - one.start]
        return Piece(one.name, kind, one.start, one.stop, flat)

    def scalars(self) -> dict[str, float | int]:
        """Step counters and the like, which are equal for all tensors and ranks."""
        for tensor in self._tensors:
            state = self._optimizer.state.get(tensor, {})
            if state:
                return {key: _number(value) for key, value in state.items() if _is_scalar(value)}
        return {}

    def set_scalars(self, scalars: Mapping[str, Any]) -> None:
        """Give every tensor these scalars, as this optimizer keeps them: torch's own want tensors, DeepSpeed's ints."""
        for tensor in self._tensors:
            for key, value in scalars.items():
                self._optimizer.state[tensor][key] = self._native(value, tensor)
        for group in self._optimizer.param_groups:
            if "step" in group and "step" in scalars:
                group["step"] = int(scalars["step"])

    def _native(self, value: float, tensor: torch.Tensor) -> torch.Tensor | int | float:
        if not type(self._optimizer).__module__.startswith("torch.optim"):
            return int(value) if float(value).is_integer() else value
        on_device = any(group.get("fused") or group.get("capturable") for group in self._optimizer.param_groups)
        return torch.tensor(float(value), dtype=torch.float32, device=tensor.device if on_device else None)


def _zeros_like(tensor: torch.Tensor) -> torch.Tensor:
    """Zeros as the kernel gives them, in huge pages: filling fresh small pages takes longer than reading the state."""
    if tensor.device.type != "cpu" or tensor.dtype != torch.float32 or not tensor.numel():
        return torch.zeros_like(tensor, requires_grad=False)
    memory = mmap.mmap(-1, tensor.nbytes)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(tensor.shape)


def _is_moment(value: Any, tensor: torch.Tensor) -> bool:
    return bool(torch.is_tensor(value) and value.shape == tensor.shape and value.dim() > 0)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float) or (torch.is_tensor(value) and value.numel() == 1 and value.dim() == 0)


def _number(value: Any) -> float | int:
    number = value.item() if torch.is_tensor(value) else value
    return int(number) if float(number).is_integer() else float(number)
