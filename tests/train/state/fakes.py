"""Ranks without a framework: a whole state in memory, cut the ways that ZeRO cuts it and in random ways."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from jobs.train.state import (
    BUFFER,
    FP32,
    FROZEN,
    FileStorage,
    Manifest,
    MemorySource,
    PartLayout,
    Piece,
    ShardView,
    commit,
    describe_state,
    part_file,
    write_part,
    write_part_into,
)

TRAINED_KINDS = (FP32, "exp_avg", "exp_avg_sq")
TASK = {"task": "tests:none", "args": {}}


@dataclass(frozen=True)
class Whole:
    """The state of a model as flat tensors by (kind, name): what every save and load must agree on."""

    shapes: dict[str, tuple[int, ...]]
    frozen: tuple[str, ...]
    buffers: tuple[str, ...]
    flat: dict[tuple[str, str], torch.Tensor]

    @property
    def trained(self) -> list[str]:
        return [n for n in self.shapes if n not in self.frozen and n not in self.buffers]


def random_whole(shapes, seed, frozen=(), buffers=()) -> Whole:
    generator = torch.Generator().manual_seed(seed)
    flat = {}
    for name, shape in shapes.items():
        numel = math.prod(shape)
        if name in buffers:
            flat[BUFFER, name] = torch.randint(0, 1000, (numel,), generator=generator)
        elif name in frozen:
            flat[FROZEN, name] = torch.randn(numel, generator=generator).bfloat16()
        else:
            for kind in TRAINED_KINDS:
                flat[kind, name] = torch.randn(numel, generator=generator)
    last = {name: shape for name, shape in shapes.items() if name in buffers}
    first = {name: shape for name, shape in shapes.items() if name not in buffers}
    return Whole(first | last, tuple(frozen), tuple(buffers), flat)


def zero12_cuts(whole, world_size, align=2, groups=1):
    """ZeRO 1 and 2: parameters of a group laid end to end, padded, cut into equal partitions."""
    cuts = [[] for _ in range(world_size)]
    for group in range(groups):
        names = whole.trained[group::groups]
        total = sum(whole.flat[FP32, n].numel() for n in names)
        size = math.ceil(total / (align * world_size)) * align
        at = 0
        for name in names:
            numel = whole.flat[FP32, name].numel()
            for rank in range(world_size):
                start, stop = max(at, rank * size), min(at + numel, (rank + 1) * size)
                if start < stop:
                    cuts[rank].append((name, start - at, stop - at))
            at += numel
    return cuts


def zero3_cuts(whole, world_size):
    """ZeRO 3: every parameter cut into equal pieces, the last ones short or empty."""
    cuts = [[] for _ in range(world_size)]
    for name in whole.trained:
        numel = whole.flat[FP32, name].numel()
        size = math.ceil(numel / world_size)
        for rank in range(world_size):
            start, stop = rank * size, min((rank + 1) * size, numel)
            if start < stop:
                cuts[rank].append((name, start, stop))
    return cuts


def random_cuts(whole, world_size, seed):
    """Any cut at all: random owners of random ranges, in random order."""
    rng = np.random.default_rng(seed)
    cuts = [[] for _ in range(world_size)]
    for name in whole.trained:
        numel = whole.flat[FP32, name].numel()
        edges = sorted({0, numel, *rng.integers(0, numel + 1, rng.integers(0, 5)).tolist()})
        for start, stop in itertools.pairwise(edges):
            cuts[rng.integers(world_size)].append((name, start, stop))
    for cut in cuts:
        rng.shuffle(cut)
    return cuts


def views(whole, cuts, *, filled=True, zero_stage=2) -> list[ShardView]:
    """One view per rank over fresh memory: one flat tensor per kind, as the optimizers have it."""
    return [_view(whole, cut, rank, len(cuts), filled, zero_stage) for rank, cut in enumerate(cuts)]


def _view(whole, cut, rank, world_size, filled, zero_stage):
    owned = []
    for kind in TRAINED_KINDS:
        flat = torch.full((sum(stop - start for _, start, stop in cut),), math.nan)
        at = 0
        for name, start, stop in cut:
            if filled:
                flat[at : at + stop - start] = whole.flat[kind, name][start:stop]
            owned.append(Piece(name, kind, start, stop, flat[at : at + stop - start]))
            at += stop - start
    common = []
    for (kind, name), full in whole.flat.items():
        if kind in (FROZEN, BUFFER) and full.numel():
            common.append(Piece(name, kind, 0, full.numel(), full.clone() if filled else torch.zeros_like(full)))
    return ShardView(
        rank=rank,
        world_size=world_size,
        zero_stage=zero_stage,
        precision="fp32",
        shapes=whole.shapes,
        owned=(*owned, *(common if rank == 0 else ())),
        wanted=(*owned, *common),
        scalars={"step": 7},
    )


def manifest_of(rank_views, parts=(), step=10, run="run", attempt=0, **changes) -> Manifest:
    manifest = describe_state(
        rank_views[0], run=run, step=step, attempt=attempt, task=TASK, dataset_hash="d" * 64, replicated={}, parts=parts
    )
    return replace(manifest, **changes)


def save_in_memory(rank_views) -> tuple[Manifest, MemorySource]:
    buffers, parts = {}, []
    for view in rank_views:
        layout, file = PartLayout.of(view), part_file("run", 10, 0, view.rank, view.world_size)
        buffers[file] = memoryview(bytearray(layout.nbytes))
        parts.append(write_part_into(layout, buffers[file], rank=view.rank, file=file))
    manifest = manifest_of(rank_views, parts)
    return Manifest.from_bytes(manifest.to_bytes(), "memory"), MemorySource(buffers)


def save_to_storage(storage: FileStorage, rank_views, step, run="run", attempt=0) -> Manifest:
    world_size = len(rank_views)
    parts = [
        write_part(PartLayout.of(v), storage, rank=v.rank, file=part_file(run, step, attempt, v.rank, world_size))
        for v in rank_views
    ]
    manifest = manifest_of(rank_views, parts, step=step, run=run, attempt=attempt)
    commit(storage, manifest)
    return manifest


def gathered(whole, rank_views) -> dict[tuple[str, str], torch.Tensor]:
    """The whole state put together again from the ranks' memory."""
    found = {key: torch.full_like(full, -1) for key, full in whole.flat.items()}
    for view in rank_views:
        for piece in view.wanted:
            found[piece.kind, piece.name][piece.start : piece.stop] = piece.tensor
    return found


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def header_of(part: memoryview) -> dict:
    length = int.from_bytes(part[:8], "little")
    return json.loads(bytes(part[8 : 8 + length]))
