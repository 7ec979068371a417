"""A node's own copy of data sets that lie elsewhere: fetches the shards it lacks, verified, once for all processes.

Layout: `root/shards/<sha256>.shard`, shared by all versions of all data sets, and `root/versions/<manifest hash>/`, a
folder like any other packed data set whose shards are links to them.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from jobs.data.folders import fsync_folder, locked, workspace
from jobs.data.manifest import FILE_NAME, Manifest, Shard, parse_manifest, read_manifest
from jobs.data.shard import file_sha256
from jobs.data.source import Source
from jobs.data.store import publish


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """What staging did: the folder for `open_dataset`, and how much had to be fetched."""

    folder: Path
    manifest: Manifest
    fetched_shards: int
    fetched_bytes: int


class ShardCache:
    """Data sets staged on this node under `root`. Any number of processes may use one root at once."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._shards, self._versions = self._root / "shards", self._root / "versions"
        for folder in (self._shards, self._versions):
            folder.mkdir(parents=True, exist_ok=True)

    def stage(self, source: str | Path, *, recheck: bool = False) -> Staged:
        """Make the data set in `source` (a folder or an fsspec URL) available on this node.

        Only shards this node lacks are fetched; each is verified before it gets its name. `recheck` hashes those it
        has, too, and fetches damaged ones again. Raises: UserError if the source cannot be reached or is damaged.
        """
        origin = Source(str(source))
        manifest = parse_manifest(origin.read_small(FILE_NAME), origin.where(FILE_NAME))
        with locked(self._root, shared=True):
            fetched = [shard for shard in dict.fromkeys(manifest.shards) if self._fetch(origin, shard, recheck=recheck)]
            folder = self._assemble(manifest)
        fetched_bytes = sum(shard.file_bytes for shard in fetched)
        return Staged(folder=folder, manifest=manifest, fetched_shards=len(fetched), fetched_bytes=fetched_bytes)

    def prune(self, keep: frozenset[str] = frozenset()) -> int:
        """Delete every version whose hash is not in `keep`, and the shards only they used; returns the bytes freed.

        Waits until nobody stages. Who has a deleted version open goes on reading what it has mapped.
        """
        freed = 0
        with locked(self._root):
            for version in self._versions.iterdir():
                if version.is_dir() and version.name not in keep:
                    shutil.rmtree(version)
            used = {shard.file for version in keep & self._staged() for shard in self._manifest(version).shards}
            for path in self._shards.iterdir():
                if path.name not in used and path.name.removeprefix(".").removesuffix(".lock") not in used:
                    freed += path.stat().st_size
                    path.unlink()
        return freed

    def _staged(self) -> set[str]:
        return {version.name for version in self._versions.iterdir() if version.is_dir()}

    def _manifest(self, version: str) -> Manifest:
        return read_manifest(self._versions / version)

    def _fetch(self, origin: Source, shard: Shard, *, recheck: bool) -> bool:
        """True if the shard had to be fetched. Waits while another process fetches the same one."""
        path, draft = self._shards / shard.file, self._shards / f".{shard.file}.part"
        with locked(self._shards, f".{shard.file}.lock"):
            if _is_whole(path, shard, recheck=recheck):
                return False
            try:
                # Overwrites what a killed process may have left: the lock says that nobody else writes it.
                origin.copy(shard, draft)
                os.replace(draft, path)
            finally:
                draft.unlink(missing_ok=True)
            fsync_folder(self._shards)
            return True

    def _assemble(self, manifest: Manifest) -> Path:
        folder = self._versions / manifest.hash
        if (folder / FILE_NAME).exists():
            return folder
        with workspace(self._versions) as work:
            for file in {shard.file for shard in manifest.shards}:
                # A link by name and not by inode: a shard that is fetched again is mended in every version.
                (work / file).symlink_to(Path("..", "..", "shards", file))
            return publish(work, manifest, self._versions)


def _is_whole(path: Path, shard: Shard, *, recheck: bool) -> bool:
    """Size decides, as readers verify content anyway; `recheck` reads the whole file."""
    try:
        if path.stat().st_size != shard.file_bytes:
            return False
    except FileNotFoundError:
        return False
    return not recheck or file_sha256(path) == shard.sha256
