"""Fill a view from a saved state of any world size: intersect, verify blocks, copy.

A rank reads the blocks that hold what it needs, checks each once while it is in the processor's cache, and copies out
of it. Nothing is read, converted or allocated for other ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.train.state.blocks import VerifiedBlocks, needed_blocks
from jobs.train.state.dtypes import dtype_name, torch_dtype
from jobs.train.state.errors import CorruptStateError
from jobs.train.state.hashing import BLOCK_BYTES
from jobs.train.state.intervals import Copies, Line, Saved, intersect, num_filled, overlap, saved_by_kind
from jobs.train.state.manifest import Manifest, Part
from jobs.train.state.memory import copy_in, join
from jobs.train.state.sources import ShardSource
from jobs.train.state.view import Piece, ShardView

Int = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """`needed_bytes`: what the rank's pieces hold; `read_bytes`: whole blocks read and verified to get them."""

    needed_bytes: int
    read_bytes: int


@dataclass(frozen=True, slots=True)
class _Moves:
    """Copies with their target as (run, byte offset), sorted by part and file position; arrays of shape (C,)."""

    part: Int
    file_offset: Int
    nbytes: Int
    run: Int
    target: Int


def load_into(view: ShardView, manifest: Manifest, source: ShardSource) -> LoadReport:
    """Fill every wanted piece of the view, set the scalars and publish; collective where `view.publish` is.

    Raises: CorruptStateError naming the file if something is missing, truncated or changed. The view's memory is then
    partly overwritten: load another state before using it. Check the model first (`require_same_model`).
    """
    report = fill(view.wanted, manifest, source)
    view.set_scalars(manifest.scalars)
    view.publish()
    return report


def fill(pieces: Sequence[Piece], manifest: Manifest, source: ShardSource) -> LoadReport:
    """Fill pieces from a saved state, without publishing anything."""
    saved = saved_by_kind(manifest)
    line = Line(manifest.shapes)
    report = LoadReport(needed_bytes=0, read_bytes=0)
    for dtype, group in _by_dtype(pieces).items():
        found = [_find(kind, few, saved, line, manifest) for kind, few in _by_kind(group)]
        exact = [(few, copies) for few, copies in found if (copies.dtype == dtype).all()]
        other = [(few, copies) for few, copies in found if not (copies.dtype == dtype).all()]
        read = _copy_bytes(exact, manifest, source)
        read += sum(_copy_converted(few, copies, manifest, source) for few, copies in other)
        needed = report.needed_bytes + sum(p.tensor.nbytes for p in group)
        report = LoadReport(needed_bytes=needed, read_bytes=report.read_bytes + read)
    return report


def _by_dtype(pieces: Sequence[Piece]) -> dict[str, list[Piece]]:
    grouped: dict[str, list[Piece]] = {}
    for piece in pieces:
        grouped.setdefault(dtype_name(piece.tensor.dtype), []).append(piece)
    return grouped


def _by_kind(pieces: Sequence[Piece]) -> list[tuple[str, list[Piece]]]:
    grouped: dict[str, list[Piece]] = {}
    for piece in pieces:
        grouped.setdefault(piece.kind, []).append(piece)
    return list(grouped.items())


def _find(
    kind: str, pieces: list[Piece], saved: dict[str, Saved], line: Line, manifest: Manifest
) -> tuple[list[Piece], Copies]:
    """The copies that fill these pieces of one kind; raises CorruptStateError if they do not fill them once each."""
    where = f"{manifest.run} step {manifest.step}"
    if kind not in saved:
        raise CorruptStateError(f"has no {kind!r}, which this optimizer needs", where=where)
    if overlap(saved[kind]) is not None:
        raise CorruptStateError(f"saves elements of {kind!r} twice", where=where)
    base = np.array([line.locate(p.name) for p in pieces], dtype=np.int64)
    start = base + np.array([p.start for p in pieces], dtype=np.int64)
    stop = base + np.array([p.stop for p in pieces], dtype=np.int64)
    copies = intersect(saved[kind], start, stop)
    short = np.flatnonzero(num_filled(copies, len(pieces)) != stop - start)
    if short.size:
        piece = pieces[int(short[0])]
        raise CorruptStateError(
            f"lacks elements of {kind!r} of {piece.name!r} in {piece.start}..{piece.stop}", where=where
        )
    return pieces, copies


def _copy_bytes(found: list[tuple[list[Piece], Copies]], manifest: Manifest, source: ShardSource) -> int:
    """Same type on both sides: bytes go straight from the source's memory into the pieces' memory."""
    pieces = [piece for few, _ in found for piece in few]
    if not pieces:
        return 0
    runs = join(pieces)
    run_of, offset_of = np.zeros(len(pieces), np.int64), np.zeros(len(pieces), np.int64)
    for number, run in enumerate(runs):
        sizes = np.array([pieces[i].tensor.nbytes for i in range(run.first, run.last + 1)])
        run_of[run.first : run.last + 1] = number
        offset_of[run.first : run.last + 1] = np.cumsum(sizes) - sizes
    moves = _moves(found, run_of, offset_of)
    return _run_moves(moves, [run.bytes_ for run in runs], manifest, source)


def _moves(found: list[tuple[list[Piece], Copies]], run_of: Int, offset_of: Int) -> _Moves:
    columns: list[list[Int]] = [[], [], [], [], []]
    first = 0
    for pieces, copies in found:
        wanted = copies.wanted + first
        size = np.array([p.tensor.element_size() for p in pieces], dtype=np.int64)[copies.wanted]
        target = offset_of[wanted] + copies.element * size
        values = (copies.part, copies.file_offset, copies.nbytes, run_of[wanted], target)
        for column, value in zip(columns, values, strict=True):
            column.append(value)
        first += len(pieces)
    return _coalesce(_Moves(*(np.concatenate(column) for column in columns)))


def _coalesce(moves: _Moves) -> _Moves:
    """Sort by file position and join copies that continue one another on both sides."""
    order = np.lexsort((moves.file_offset, moves.part))
    part, offset, nbytes, run, target = (getattr(moves, name)[order] for name in _Moves.__slots__)
    continues = (
        (part[1:] == part[:-1])
        & (run[1:] == run[:-1])
        & (offset[1:] == offset[:-1] + nbytes[:-1])
        & (target[1:] == target[:-1] + nbytes[:-1])
    )
    heads = np.flatnonzero(np.concatenate([[True], ~continues])) if len(part) else np.zeros(0, np.int64)
    joined = np.add.reduceat(nbytes, heads) if len(part) else nbytes
    return _Moves(part[heads], offset[heads], joined, run[heads], target[heads])


def _run_moves(moves: _Moves, targets: list[torch.Tensor], manifest: Manifest, source: ShardSource) -> int:
    read_bytes = 0
    for number in np.unique(moves.part):
        mine = np.flatnonzero(moves.part == number)
        read_bytes += _read_part(manifest.parts[int(number)], moves, mine, targets, source)
    return read_bytes


def _read_part(part: Part, moves: _Moves, mine: Int, targets: list[torch.Tensor], source: ShardSource) -> int:
    """Walk the part's needed blocks upwards; each is read and verified once, then copied from while it is hot."""
    blocks = VerifiedBlocks(part, needed_blocks(moves.file_offset[mine], moves.nbytes[mine]), source)
    for move in mine.tolist():
        at, left = int(moves.file_offset[move]), int(moves.nbytes[move])
        target, place = targets[int(moves.run[move])], int(moves.target[move])
        while left:
            data = blocks.at(at)
            within = at % BLOCK_BYTES
            taken = min(left, len(data) - within)
            copy_in(target[place : place + taken], data[within : within + taken])
            at, place, left = at + taken, place + taken, left - taken
    return blocks.read_bytes


def _copy_converted(pieces: list[Piece], copies: Copies, manifest: Manifest, source: ShardSource) -> int:
    """Another element type was saved: fetch it as it is, then let torch convert."""
    dtypes = set(copies.dtype.tolist())
    assert len(dtypes) == 1, f"one kind saved in several types: {dtypes}"
    dtype = torch_dtype(dtypes.pop())
    staged = [Piece(p.name, p.kind, p.start, p.stop, torch.empty(p.stop - p.start, dtype=dtype)) for p in pieces]
    read = _copy_bytes([(staged, copies)], manifest, source)
    for piece, stage in zip(pieces, staged, strict=True):
        piece.tensor.detach().copy_(stage.tensor)
    return read
