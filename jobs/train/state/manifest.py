"""The manifest of one saved state: which bytes of which file hold which elements of which tensor.

Values and JSON, no files. One manifest describes one step of one run at one world size; nothing in it depends on the
world size that will read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.train.state.errors import CorruptStateError
from jobs.train.state.hashing import num_blocks
from jobs.train.state.kinds import KINDS_WITHOUT_MOMENTS

FORMAT = "tideline-state/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalGroup:
    """A stretch of a part file: for each kind in turn the elements of all ranges, without gaps.

    Optimizer moments cover the same ranges as the fp32 parameters, so ranges are written once for all of them, as
    columns: elements [starts[i], stops[i]) of the flattened tensor with index `tensors[i]` in `Manifest.tensor_names`.
    `offset` is the file position of the first range of the first kind; `dtype` is safetensors' name (F32, BF16, ...).
    """

    kinds: tuple[str, ...]
    dtype: str
    offset: int
    tensors: tuple[int, ...]
    starts: tuple[int, ...]
    stops: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One rank's file: its size, the hash of each block, and what lies in it. `file` is relative to the storage."""

    rank: int
    file: str
    nbytes: int
    blocks: tuple[str, ...]
    groups: tuple[IntervalGroup, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Part:
        """The inverse of `to_json`. Raises: KeyError, TypeError or ValueError for anything else."""
        groups = tuple(
            IntervalGroup(
                kinds=tuple(group["kinds"]),
                dtype=str(group["dtype"]),
                offset=int(group["offset"]),
                tensors=tuple(map(int, group["tensors"])),
                starts=tuple(map(int, group["starts"])),
                stops=tuple(map(int, group["stops"])),
            )
            for group in saved["groups"]
        )
        return cls(
            rank=int(saved["rank"]),
            file=str(saved["file"]),
            nbytes=int(saved["nbytes"]),
            blocks=tuple(saved["blocks"]),
            groups=groups,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One complete saved state.

    `step`: optimizer steps it contains. `model` and `buffers`: shapes by name, in the model's order. `tied`: further
    names of a parameter. `scalars`: optimizer state that is no tensor. `task`: {"task": "module:factory", "args":
    {...}}, enough to build the model again. `replicated`: what every rank has alike (scheduler,
    sample ledger, counters), as JSON values.
    """

    run: str
    step: int
    attempt: int
    world_size: int
    zero_stage: int
    precision: str
    task: Mapping[str, Any]
    dataset_hash: str
    model: Mapping[str, tuple[int, ...]]
    buffers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    scalars: Mapping[str, Any] = field(default_factory=dict)
    replicated: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """What `IntervalGroup.tensors` counts."""
        return (*self.model, *self.buffers)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of parameters and buffers by name."""
        return {**self.model, **self.buffers}

    @property
    def moments(self) -> tuple[str, ...]:
        """The optimizer moments that were saved, sorted; empty before the first step."""
        kinds = {kind for part in self.parts for group in part.groups for kind in group.kinds}
        return tuple(sorted(kinds - set(KINDS_WITHOUT_MOMENTS)))

    def contents(self) -> dict[str, dict[str, str]]:
        """What was saved of each tensor, in the model's order: {name: {kind: element type}}."""
        names = self.tensor_names
        found: dict[str, dict[str, str]] = {name: {} for name in names}
        for group in (group for part in self.parts for group in part.groups):
            types = dict.fromkeys(group.kinds, group.dtype)
            for tensor in group.tensors:
                found[names[tensor]].update(types)
        return found

    @property
    def num_parameters(self) -> int:
        """Elements of all parameters."""
        return sum(math.prod(shape) for shape in self.model.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts)

    def to_bytes(self) -> bytes:
        """The manifest file's content."""
        content = {"format": FORMAT, **asdict(self)}
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> Manifest:
        """Read a manifest file's content; `where` names it in errors.

        Raises: CorruptStateError if it is no manifest, of another format, or does not hold together.
        """
        try:
            saved = json.loads(content)
            found = saved.pop("format", None)
            if found != FORMAT:
                raise CorruptStateError(f"format is {found!r}; this version reads {FORMAT!r}", where=where)
            manifest = cls(**{**saved, **_typed(saved)})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptStateError(f"not a manifest ({type(error).__name__}: {error})", where=where) from error
        _check(manifest, where)
        return manifest


def _typed(saved: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": {str(name): tuple(map(int, shape)) for name, shape in saved["model"].items()},
        "buffers": {str(name): tuple(map(int, shape)) for name, shape in saved["buffers"].items()},
        "parts": tuple(Part.from_json(part) for part in saved["parts"]),
        "step": int(saved["step"]),
        "world_size": int(saved["world_size"]),
    }


def _check(manifest: Manifest, where: str) -> None:
    if sorted(part.rank for part in manifest.parts) != list(range(manifest.world_size)):
        raise CorruptStateError(f"does not list one part for each of {manifest.world_size} ranks", where=where)
    for part in manifest.parts:
        if any(not len(group.tensors) == len(group.starts) == len(group.stops) for group in part.groups):
            raise CorruptStateError(f"{part.file}: columns of different lengths", where=where)
        # A part without blocks is allowed: foreign checkpoints carry no hashes.
        if part.blocks and len(part.blocks) != num_blocks(part.nbytes):
            raise CorruptStateError(f"{part.file}: {len(part.blocks)} hashes for {part.nbytes} bytes", where=where)
