"""Where each piece of a rank lies in its part file: a safetensors header, then the pieces back to back.

The layout depends on the view's shape alone, not on its values: it is computed once per attempt and then reused by
every snapshot and checkpoint.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jobs.train.state.dtypes import dtype_name
from jobs.train.state.manifest import IntervalGroup
from jobs.train.state.memory import Run, join
from jobs.train.state.view import Piece, ShardView

# Data starts on a cache line: mapped files and shared segments can then be read as any element type.
_ALIGN_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PartLayout:
    """`header`: the file's first bytes; `runs`: the memory that follows, in order; `groups`: the manifest's ranges."""

    header: bytes
    runs: tuple[Run, ...]
    groups: tuple[IntervalGroup, ...]
    nbytes: int

    @classmethod
    def of(cls, view: ShardView) -> PartLayout:
        """The layout of what a rank owns; a rank that owns nothing has a header only."""
        header = _header(view.owned)
        return cls(
            header=header,
            runs=tuple(join(view.owned)),
            groups=tuple(_groups(view, len(header))),
            nbytes=len(header) + sum(piece.tensor.nbytes for piece in view.owned),
        )


def _header(pieces: Sequence[Piece]) -> bytes:
    entries, at = {}, 0
    for piece in pieces:
        entries[f"{piece.kind}/{piece.name}[{piece.start}:{piece.stop}]"] = {
            "dtype": dtype_name(piece.tensor.dtype),
            "shape": [piece.stop - piece.start],
            "data_offsets": [at, at + piece.tensor.nbytes],
        }
        at += piece.tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    padding = -(8 + len(text)) % _ALIGN_BYTES
    return struct.pack("<Q", len(text) + padding) + text + b" " * padding


def _groups(view: ShardView, offset: int) -> list[IntervalGroup]:
    """Kinds that follow one another with the same ranges and type share a group."""
    index = {name: i for i, name in enumerate(view.shapes)}
    groups: list[IntervalGroup] = []
    for (kind, dtype), run in itertools.groupby(view.owned, key=lambda p: (p.kind, dtype_name(p.tensor.dtype))):
        pieces = list(run)
        group = IntervalGroup(
            kinds=(kind,),
            dtype=dtype,
            offset=offset,
            tensors=tuple(index[p.name] for p in pieces),
            starts=tuple(p.start for p in pieces),
            stops=tuple(p.stop for p in pieces),
        )
        if groups and replace(group, kinds=groups[-1].kinds, offset=groups[-1].offset) == groups[-1]:
            groups[-1] = replace(groups[-1], kinds=(*groups[-1].kinds, kind))
        else:
            groups.append(group)
        offset += sum(p.tensor.nbytes for p in pieces)
    return groups
