"""Resharding as arithmetic: which bytes of which part fill which pieces, for any N ranks -> any M ranks.

Every tensor's elements are laid on one line, tensor after tensor; saved and wanted ranges are intervals on it, and
loading is their intersection. Pure and vectorised: no loop over parameters or parts.

Shapes: S saved intervals, W wanted ones, C copies.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.train.state.dtypes import itemsize
from jobs.train.state.manifest import IntervalGroup, Manifest

Int = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Saved:
    """What a manifest holds of one kind, ascending on the line; all arrays have shape (S,)."""

    start: Int
    stop: Int
    part: Int
    file_offset: Int
    item_bytes: Int
    dtype: NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Copies:
    """Byte ranges of parts and where they go; all arrays have shape (C,), in the order of the wanted pieces.

    `wanted` is the piece's place in the list that was asked for, `element` the first element of it that is filled.
    """

    part: Int
    file_offset: Int
    nbytes: Int
    wanted: Int
    element: Int
    item_bytes: Int
    dtype: NDArray[np.str_]


class Line:
    """Positions of all tensors' elements on one line."""

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        numels = [int(np.prod(shape, dtype=np.int64)) for shape in shapes.values()]
        self.base = np.concatenate([[0], np.cumsum(numels, dtype=np.int64)]).astype(np.int64)
        self.index = {name: i for i, name in enumerate(shapes)}

    def locate(self, name: str) -> int:
        """Position of the tensor's first element."""
        return int(self.base[self.index[name]])


def saved_by_kind(manifest: Manifest) -> dict[str, Saved]:
    """Every kind's intervals over all parts."""
    line = Line(manifest.shapes)
    groups = [(number, group) for number, part in enumerate(manifest.parts) for group in part.groups]
    kinds = dict.fromkeys(kind for _, group in groups for kind in group.kinds)
    return {kind: _saved([one for one in groups if kind in one[1].kinds], kind, line) for kind in kinds}


def _saved(groups: list[tuple[int, IntervalGroup]], kind: str, line: Line) -> Saved:
    """One kind's intervals: the groups' columns end to end, what holds for a whole group repeated for its ranges."""
    counts = np.array([len(group.tensors) for _, group in groups])
    base = line.base[_column(group.tensors for _, group in groups)]
    start = _column(group.starts for _, group in groups)
    stop = _column(group.stops for _, group in groups)
    part = np.repeat(_per_group(number for number, _ in groups), counts)
    size = np.repeat(_per_group(itemsize(group.dtype) for _, group in groups), counts)
    dtype = np.repeat(np.array([group.dtype for _, group in groups]), counts)
    before = np.concatenate([[0], np.cumsum(stop - start)])
    heads = np.cumsum(counts) - counts
    elements = before[heads + counts] - before[heads]  # of one kind, per group
    place = _per_group(group.kinds.index(kind) for _, group in groups)
    first = np.repeat(before[heads] - place * elements, counts)
    offset = np.repeat(_per_group(group.offset for _, group in groups), counts) + (before[:-1] - first) * size
    # Empty intervals cover nothing and would confuse the search.
    kept = np.flatnonzero(stop > start)
    order = kept[np.argsort((base + start)[kept], kind="stable")]
    return Saved(
        start=(base + start)[order],
        stop=(base + stop)[order],
        part=part[order],
        file_offset=offset[order],
        item_bytes=size[order],
        dtype=dtype[order],
    )


def _column(columns: Iterable[tuple[int, ...]]) -> Int:
    return np.fromiter(itertools.chain.from_iterable(columns), dtype=np.int64)


def _per_group(values: Iterable[int]) -> Int:
    return np.fromiter(values, dtype=np.int64)


def intersect(saved: Saved, want_start: Int, want_stop: Int) -> Copies:
    """The copies that fill the wanted intervals (shape (W,), positions on the line) as far as anything was saved."""
    first = np.searchsorted(saved.stop, want_start, side="right")
    last = np.searchsorted(saved.start, want_stop, side="left")
    counts = np.maximum(last - first, 0)
    wanted = np.repeat(np.arange(len(want_start)), counts)
    within = np.arange(len(wanted)) - np.repeat(np.cumsum(counts) - counts, counts)
    source = first[wanted] + within
    start = np.maximum(saved.start[source], want_start[wanted])
    stop = np.minimum(saved.stop[source], want_stop[wanted])
    size = saved.item_bytes[source]
    return Copies(
        part=saved.part[source],
        file_offset=saved.file_offset[source] + (start - saved.start[source]) * size,
        nbytes=(stop - start) * size,
        wanted=wanted,
        element=start - want_start[wanted],
        item_bytes=size,
        dtype=saved.dtype[source],
    )


def overlap(saved: Saved) -> int | None:
    """A position that was saved twice (damaged or mixed manifests only), or None."""
    twice = np.flatnonzero(saved.start[1:] < saved.stop[:-1])
    return int(saved.start[1 + twice[0]]) if twice.size else None


def num_filled(copies: Copies, num_wanted: int) -> Int:
    """Elements that the copies fill of each wanted interval, shape (W,)."""
    elements = copies.nbytes // copies.item_bytes
    return np.bincount(copies.wanted, weights=elements, minlength=num_wanted).astype(np.int64)
