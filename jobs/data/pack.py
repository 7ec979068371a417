"""Packing a folder of text or code: its documents, one after the other, in shards of a few megabytes.

The same files give the same manifest hash on any machine, in any order of finding them. A shard ends where the path of
a document says so, not at a fixed byte: a changed file changes its own shard and leaves the others to be found in
caches.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.data.files import FileRules, find_text_files, read_range
from jobs.data.folders import workspace, writing
from jobs.data.manifest import Manifest, Shard, Split
from jobs.data.shard import ShardWriter
from jobs.data.splits import Piece, divide
from jobs.data.store import check_name, dataset_folder, publish, set_latest
from orchestrator.spec.errors import ExitCode, UserError

# Ends every document: text holds no NUL, so a model can learn it as the end and a server can stop at it.
END_OF_DOCUMENT = b"\0"
_MIB = 2**20

# Called with (bytes packed, bytes in all).
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRules:
    """How to pack: which files, and how large a shard gets before it must end (sizes in bytes)."""

    files: FileRules = field(default_factory=FileRules)
    min_shard_bytes: int = 1 * _MIB
    max_shard_bytes: int = 8 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What packing made; `passed_over` files were empty or binary."""

    folder: Path
    manifest: Manifest
    passed_over: int


def pack(
    source: Path,
    *,
    name: str,
    home: Path,
    rules: PackRules | None = None,
    origin: str = "",
    progress: Progress | None = None,
) -> Packed:
    """Pack the text files under `source` as a version of data set `name`, and make it the latest.

    A kill at any point leaves nothing visible. Raises: UserError for a bad name, an unreadable file, a file that
    changed meanwhile, or too little text for two splits.
    """
    rules, root = rules or PackRules(), source.resolve()
    if not root.is_dir():
        raise UserError("not a folder", where=str(source), code=ExitCode.UNKNOWN, next_step="Give a folder of text.")
    check_name(name)
    files, passed_over = find_text_files(root, rules.files)
    division = divide(files)
    if not division.train or not division.validation:
        problem = f"{len(files)} text files with {sum(file.num_bytes for file in files)} bytes are too little to pack"
        raise UserError(problem, where=str(source), next_step="Check --include and --exclude.")
    meter = _Meter(sum(file.num_bytes for file in files), progress)
    parent = dataset_folder(home, name)
    with writing(parent), workspace(parent) as work:
        manifest = Manifest(
            name=name,
            train=_write_split(root, division.train, work, rules, meter),
            validation=_write_split(root, division.validation, work, rules, meter),
            split_rule=division.rule,
            origin=origin or str(root),
        )
        folder = publish(work, manifest, parent)
        set_latest(parent, manifest.hash)
    return Packed(folder=folder, manifest=manifest, passed_over=passed_over)


def _write_split(root: Path, documents: Sequence[Piece], work: Path, rules: PackRules, meter: _Meter) -> Split:
    with contextlib.closing(_SplitWriter(work, rules)) as writer:
        for document in documents:
            for data in read_range(root, document.file, document.start, document.stop):
                writer.write(data)
                meter.add(len(data))
            writer.end_document(document)
        return Split(documents=len(documents), shards=writer.finish())


class _SplitWriter:
    """Divides a stream of documents into shards."""

    def __init__(self, work: Path, rules: PackRules) -> None:
        self._work, self._rules = work, rules
        self._shards: list[Shard] = []
        self._current: ShardWriter | None = None

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            current = self._current = self._current or ShardWriter(self._work, f"{len(self._shards)}.part")
            part = rest[: self._rules.max_shard_bytes - current.num_bytes]
            current.write(part)
            rest = rest[len(part) :]
            if current.num_bytes == self._rules.max_shard_bytes:
                self._end_shard()

    def end_document(self, document: Piece) -> None:
        self.write(END_OF_DOCUMENT)
        if self._current and self._current.num_bytes >= self._rules.min_shard_bytes and _may_end_shard(document):
            self._end_shard()

    def finish(self) -> tuple[Shard, ...]:
        self._end_shard()
        return tuple(self._shards)

    def close(self) -> None:
        if self._current:
            self._current.abandon()

    def _end_shard(self) -> None:
        if self._current:
            self._shards.append(self._current.close())
        self._current = None


def _may_end_shard(document: Piece) -> bool:
    """True for one document in 16, the same ones whatever lies around them."""
    return hashlib.sha256(document.file.path).digest()[0] < 16


class _Meter:
    """Adds up progress for whoever watches."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self, num_bytes: int) -> None:
        self._done += num_bytes
        if self._progress:
            self._progress(self._done, self._total)
