"""Checkpoints of a run in a storage: committed by one small file, listed, verified, pruned. Knows no torch.

A checkpoint exists when its manifest does. Everything else in a step's folder is either named by that manifest or
rubbish that `prune` removes.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable

from jobs.train.state.errors import CorruptStateError, StateError
from jobs.train.state.hashing import BLOCK_BYTES, verify_block
from jobs.train.state.manifest import Manifest
from jobs.train.state.naming import step_folder
from jobs.train.state.sources import ShardSource
from jobs.train.state.storage import Storage

_MANIFEST = "manifest.json"


def commit(storage: Storage, manifest: Manifest) -> bool:
    """Make the checkpoint visible, all at once; its parts must have been written.

    False if this step was committed before, by an earlier attempt: that one stays, the same step is the same state.
    Raises: StorageError, also if a part is not there.
    """
    for part in manifest.parts:
        found = storage.size(part.file)
        if found != part.nbytes:
            raise CorruptStateError(f"has {found} bytes, not {part.nbytes}: not committed", where=part.file)
    return storage.commit(manifest_file(manifest.run, manifest.step), manifest.to_bytes())


def manifest_file(run: str, step: int) -> str:
    """Name of a checkpoint's manifest."""
    return f"{step_folder(run, step)}/{_MANIFEST}"


def steps(storage: Storage, run: str) -> list[int]:
    """Committed steps, ascending. Raises: StorageError."""
    return _steps(storage.names(run))


def _steps(names: Iterable[str]) -> list[int]:
    folders = (name.rsplit("/", 2) for name in names if name.endswith(f"/{_MANIFEST}"))
    return sorted(int(folder[-2]) for folder in folders if folder[-2].isdecimal())


def read_manifest(storage: Storage, run: str, step: int) -> Manifest:
    """One checkpoint's manifest. Raises: CorruptStateError, StorageError."""
    name = manifest_file(run, step)
    size = storage.size(name)
    if size is None:
        raise CorruptStateError("there is no such checkpoint", where=name, next_step="'tide checkpoint ls' lists them")
    return Manifest.from_bytes(bytes(storage.read(name, 0, size)), name)


def latest(storage: Storage, run: str) -> Manifest | None:
    """The newest checkpoint with a readable manifest, or None."""
    for step in reversed(steps(storage, run)):
        try:
            return read_manifest(storage, run, step)
        except CorruptStateError:
            continue
    return None


def verify(
    manifest: Manifest, source: ShardSource, on_bytes: Callable[[int], None] = lambda done: None
) -> list[StateError]:
    """Check every block of every part; the errors name the files. Reads everything and tells how much after each block.

    Raises: StorageError.
    """
    problems: list[StateError] = []
    for part in manifest.parts:
        try:
            for block, expected in enumerate(part.blocks):
                start = block * BLOCK_BYTES
                data = source.read(part.file, start, min(BLOCK_BYTES, part.nbytes - start))
                verify_block(data, expected, part.file, block)
                on_bytes(len(data))
        except CorruptStateError as error:
            problems.append(error)
    return problems


def prune(storage: Storage, run: str, keep: int) -> list[int]:
    """Keep the newest `keep` checkpoints; delete older ones and the remains of older saves that never committed.

    A manifest goes before its parts, so that an interrupted prune leaves no checkpoint that only looks whole. Folders
    newer than the newest checkpoint are left alone: a save may be under way. Returns the steps that went.
    Raises: ValueError if keep is below 1, StorageError.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}; must be at least 1")
    names = storage.names(run)
    committed = _steps(names)
    if not committed:
        return []
    kept = set(committed[-keep:])
    for folder, files in itertools.groupby(names, key=lambda name: name.rpartition("/")[0]):
        number = folder.rpartition("/")[2]
        if number.isdecimal() and int(number) <= committed[-1]:
            _prune_folder(storage, run, int(number), list(files), keep=int(number) in kept)
    return [step for step in committed if step not in kept]


def drop(storage: Storage, run: str, step: int) -> None:
    """Delete one checkpoint, its manifest first; nothing if there is none. Raises: StorageError."""
    _prune_folder(storage, run, step, storage.names(step_folder(run, step)), keep=False)


def _prune_folder(storage: Storage, run: str, step: int, files: list[str], *, keep: bool) -> None:
    if not keep:
        storage.delete(sorted(files, key=lambda name: not name.endswith(_MANIFEST)))
        return
    with contextlib.suppress(CorruptStateError):  # what belongs to an unreadable manifest cannot be told: keep it all
        named = {part.file for part in read_manifest(storage, run, step).parts} | {manifest_file(run, step)}
        storage.delete([name for name in files if name not in named])
