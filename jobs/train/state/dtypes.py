"""Element types by their safetensors names: those that survive in a file, and their sizes."""

from __future__ import annotations

import torch

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """safetensors' name of a torch type. Raises: ValueError for types that files cannot hold (complex, quantised)."""
    if dtype not in _NAMES:
        raise ValueError(f"tensors of type {dtype} cannot be saved; one of {', '.join(map(str, _NAMES))} can")
    return _NAMES[dtype]


def torch_dtype(name: str) -> torch.dtype:
    """The torch type of a safetensors name. Raises: ValueError for an unknown one."""
    if name not in _TYPES:
        raise ValueError(f"element type {name!r} is unknown; known are {', '.join(_TYPES)}")
    return _TYPES[name]


def itemsize(name: str) -> int:
    """Bytes of one element."""
    return int(torch_dtype(name).itemsize)
