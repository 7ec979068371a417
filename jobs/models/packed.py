"""Weights in fewer bits: how a quantized version keeps a matrix, and how the matrix comes back.

A tensor NAME of R rows (its first dimension) and C columns (all others) is kept as integers under its own name, with
the scales beside it as `NAME:scale`; the file's metadata says which tensors are kept so. Eight bits have one fp32 scale
a row, computed as the INT8 engine computes it: it finds the same integers again. Four bits have one bf16 scale for each
group of columns and two weights a byte, the first in its lower half. (fp16 has no scales for very small weights.)

Shapes: R rows, C columns, G groups of g columns each; 1 a dimension that broadcasts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.spec.errors import UserError

SCALE = ":scale"
_KEY = "quantization"
# Read by the registry: two weights in a byte are two parameters.
_COUNT_KEY = "num_parameters"
_SMALLEST_SCALE = 1e-12
# What the number of largest magnitude in a group becomes; of the two scales, the one that errs less is taken. A group
# that is lopsided gains by the one step more that two's complement has on its negative side.
_EXTREMES_OF_4_BITS = (7.0, -8.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How one tensor is kept; `group` is the number of columns that share a scale, 0 = all of a row."""

    bits: int
    group: int
    shape: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        return self.shape[0]

    @property
    def num_columns(self) -> int:
        return math.prod(self.shape[1:])

    @property
    def packed(self) -> tuple[str, tuple[int, int]]:
        """Type, in safetensors' words, and shape of the integers."""
        if self.bits == 8:
            return "I8", (self.num_rows, self.num_columns)
        return "U8", (self.num_rows, self._num_groups * self.group // 2)

    @property
    def scale(self) -> tuple[str, tuple[int, ...]]:
        """Type and shape of the scales."""
        return ("F32", (self.num_rows,)) if self.bits == 8 else ("BF16", (self.num_rows, self._num_groups))

    @property
    def num_bytes(self) -> int:
        """Bytes of integers and scales together."""
        return math.prod(self.packed[1]) + math.prod(self.scale[1]) * (4 if self.bits == 8 else 2)

    @property
    def _num_groups(self) -> int:
        return -(-self.num_columns // self.group)


def pack(weight_RC: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """Integers and scales of some rows of a matrix, which is fp32 and finite."""
    return _pack_8(weight_RC) if packing.bits == 8 else _pack_4(weight_RC, packing.group)


def unpack(packed: Tensor, scale: Tensor, packing: Packing) -> Tensor:
    """The matrix again, fp32, in its own shape."""
    if packing.bits == 8:
        return (packed.float() * scale[:, None]).view(packing.shape)
    codes_RC = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)
    values_RGg = (codes_RC.float() - 8).view(packing.num_rows, -1, packing.group) * scale.float()[:, :, None]
    return values_RGg.flatten(1)[:, : packing.num_columns].reshape(packing.shape)


def _pack_8(weight_RC: Tensor) -> tuple[Tensor, Tensor]:
    scale_R = weight_RC.abs().amax(1).clamp_min(_SMALLEST_SCALE) / 127.0
    return (weight_RC / scale_R[:, None]).round().to(torch.int8), scale_R


def _pack_4(weight_RC: Tensor, group: int) -> tuple[Tensor, Tensor]:
    w_RGg = F.pad(weight_RC, (0, -weight_RC.shape[1] % group)).unflatten(1, (-1, group))
    extreme_RG1 = w_RGg.gather(2, w_RGg.abs().argmax(2, keepdim=True))
    tries = [_quantized(w_RGg, extreme_RG1 / largest) for largest in _EXTREMES_OF_4_BITS]
    (codes, scale, error), (other_codes, other_scale, other_error) = tries
    other = other_error < error
    codes_RC = torch.where(other, other_codes, codes).add_(8).to(torch.uint8).flatten(1)
    return codes_RC[:, 0::2] | codes_RC[:, 1::2] << 4, torch.where(other, other_scale, scale).squeeze(2)


def _quantized(w_RGg: Tensor, scale_RG1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Integers (as floats), the scale as it is kept, and the squared error of each group."""
    kept_RG1 = scale_RG1.to(torch.bfloat16)
    step_RG1 = kept_RG1.float()
    codes_RGg = (w_RGg / step_RG1.masked_fill(step_RG1 == 0, 1.0)).round_().clamp_(-8, 7)
    error_RG1 = (codes_RGg * step_RG1 - w_RGg).square_().sum(2, keepdim=True)
    return codes_RGg, kept_RG1, error_RG1


def to_metadata(packings: Mapping[str, Packing], num_parameters: int) -> dict[str, str]:
    """What a safetensors file says about its packed tensors."""
    said = {name: {"bits": one.bits, "group": one.group, "shape": one.shape} for name, one in packings.items()}
    return {_KEY: json.dumps(said, separators=(",", ":")), _COUNT_KEY: str(num_parameters)}


def read_packings(metadata: Mapping[str, str] | None, where: str) -> dict[str, Packing]:
    """The inverse; empty for a file without packed tensors. Raises: UserError naming `where`."""
    try:
        said = json.loads((metadata or {}).get(_KEY, "{}"))
        return {name: _packing(one) for name, one in said.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"what it says of its quantized tensors cannot be read ({type(error).__name__})"
        raise UserError(problem, where=where, next_step="Quantize the model again.") from error


def _packing(said: Mapping[str, Any]) -> Packing:
    found = Packing(bits=int(said["bits"]), group=int(said["group"]), shape=tuple(map(int, said["shape"])))
    known = found.group == 0 if found.bits == 8 else found.bits == 4 and found.group >= 2 and found.group % 2 == 0
    if not (known and found.shape):
        raise ValueError(f"{found.bits} bits in groups of {found.group}")
    return found


def logical_shapes(stored: Any, packings: Mapping[str, Packing], where: str) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that the opened file stands for. Raises: UserError for parts that do not fit together."""
    kept = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    for name, packing in packings.items():
        wanted = {name: packing.packed[1], name + SCALE: packing.scale[1]}
        wrong = [part for part, shape in wanted.items() if kept.get(part) != shape]
        if wrong:
            problem = f"{wrong[0]} is not what a tensor of {packing.bits} bits is kept as"
            raise UserError(problem, where=where, next_step="Quantize the model again.")
    scales = {name + SCALE for name in packings}
    logical = {name: packings[name].shape if name in packings else shape for name, shape in kept.items()}
    return {name: shape for name, shape in logical.items() if name not in scales}


def logical_tensor(stored: Any, name: str, packings: Mapping[str, Packing]) -> Tensor:
    """A tensor of the opened file, in full precision if it was packed."""
    if name not in packings:
        return stored.get_tensor(name)
    return unpack(stored.get_tensor(name), stored.get_tensor(name + SCALE), packings[name])
