"""Names of files in a storage, relative to it."""

from __future__ import annotations


def part_file(run: str, step: int, attempt: int, rank: int, world_size: int) -> str:
    """Name of a part.

    The attempt is in it, so that a straggler of an earlier attempt never writes into a file of this one.
    """
    return f"{step_folder(run, step)}/part-{rank:05d}-of-{world_size:05d}.a{attempt}.safetensors"


def step_folder(run: str, step: int) -> str:
    """Folder of one saved step; names sort like numbers."""
    return f"{run}/{step:012d}"
