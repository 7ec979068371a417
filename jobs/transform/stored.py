"""The weights of a model folder, read block by block as fp32, whatever format they are stored in.

Blocks are read into memory that is used again, not mapped: a mapped file counts as this process's memory for as long as
it has not been read by somebody else, and a merge of large parents would look, and be limited, as if it held them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jobs.models.packed import read_packings
from orchestrator.spec.errors import ExitCode, UserError

BLOCK = 2**19
"""Numbers in a block; even, so that draws of random numbers are the same for every size of block."""

FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""Types that can be averaged, in safetensors' words; numbers of all others are counts, masks, or codes."""

OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor of a file: its type in safetensors' words, its shape, and the bytes it takes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS


@dataclass(frozen=True, slots=True)
class _Place:
    descriptor: int
    offset: int


def blocks(numel: int, size: int = BLOCK) -> Iterator[tuple[int, int]]:
    """Start and length of every block of a tensor, in order."""
    for start in range(0, numel, size):
        yield start, min(size, numel - start)


class StoredModel:
    """An open model folder. `label` names it in errors; `on_read` hears of every byte that is read.

    Raises: UserError for a folder without whole safetensors files.
    """

    def __init__(self, label: str, folder: Path, on_read: OnBytes = lambda count: None) -> None:
        self.label, self.folder = label, folder
        self.entries: dict[str, Entry] = {}
        self.is_packed = False
        self._places: dict[str, _Place] = {}
        self._on_read = on_read
        self._raw = torch.empty(0, dtype=torch.uint8)
        self._values = torch.empty(0)
        with contextlib.ExitStack() as stack:
            files = sorted(folder.glob("*.safetensors"))
            if not files:
                raise UserError(f"there are no weights in {folder}", where=label, code=ExitCode.UNKNOWN)
            for file in files:
                self._open(file, stack)
            self._files = stack.pop_all()

    def __enter__(self) -> StoredModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def floats(self, name: str, start: int, count: int) -> Tensor:
        """Numbers [start, start + count) of a tensor as fp32; good, and the caller's to write on, until the next read.

        Raises: UserError for a number that is none.
        """
        entry = self.entries[name]
        dtype = FLOATS[entry.dtype]
        if len(self._values) < count:
            self._values = torch.empty(count)
        values = self._values[:count]
        if dtype is torch.float32:
            self._fill(name, start * 4, values.view(torch.uint8))
        else:
            raw = self._raw_block(count * dtype.itemsize)
            self._fill(name, start * dtype.itemsize, raw)
            values.copy_(raw.view(dtype))
        self._check(values, name)
        return values

    def raw(self, name: str, start: int, count: int) -> Tensor:
        """Bytes [start, start + count) of a tensor, good until the next read."""
        block = self._raw_block(count)
        self._fill(name, start, block)
        return block

    def refuse_packed(self, verb: str) -> None:
        """Raises: UserError for a quantized version."""
        if self.is_packed:
            problem = f"it is quantized, and only full weights can be {verb}"
            step = f"Take the version that it was made from ('tide models show {self.label}' names its parents)."
            raise UserError(problem, where=self.label, next_step=step)

    def _open(self, file: Path, stack: contextlib.ExitStack) -> None:
        try:
            with safe_open(file, framework="pt") as checked:  # lengths and offsets are as they must be
                self.is_packed |= bool(read_packings(checked.metadata(), str(file)))
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, SafetensorError) as error:
            raise UserError(f"the weights cannot be read: {error}", where=str(file)) from error
        stack.callback(os.close, descriptor)
        (length,) = struct.unpack("<Q", os.pread(descriptor, 8, 0))
        header: dict[str, Any] = json.loads(os.pread(descriptor, length, 8))
        header.pop("__metadata__", None)
        for name, said in header.items():
            if name in self.entries:
                raise UserError(f"{name} is there twice, the second time in {file.name}", where=self.label)
            begin, end = said["data_offsets"]
            shape = tuple(said["shape"])
            self.entries[name] = Entry(name=name, dtype=said["dtype"], shape=shape, num_bytes=end - begin)
            self._places[name] = _Place(descriptor, 8 + length + begin)

    def _raw_block(self, num_bytes: int) -> Tensor:
        if len(self._raw) < num_bytes:
            self._raw = torch.empty(num_bytes, dtype=torch.uint8)
        return self._raw[:num_bytes]

    def _fill(self, name: str, at: int, block: Tensor) -> None:
        place, target, done = self._places[name], block.numpy(), 0
        while done < len(target):
            got = os.preadv(place.descriptor, [target[done:]], place.offset + at + done)
            if not got:
                raise UserError(f"{name} ends too early: the file was cut short meanwhile", where=self.label)
            done += got
        self._on_read(len(target))

    def _check(self, values: Tensor, name: str) -> None:
        if not len(values):
            return
        low, high = torch.aminmax(values)
        if not (math.isfinite(low) and math.isfinite(high)):
            problem = f"{name} holds numbers that are not finite; every number must be"
            raise UserError(problem, where=self.label, next_step="Take a version from before its training went wrong.")
