"""Reading a data set in full to find out whether it is still what its manifest says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobs.data.manifest import Shard, read_manifest
from jobs.data.pack import Progress
from jobs.data.shard import file_sha256
from orchestrator.spec.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One shard that is not what it was: its place in the data set, its file, and what is wrong."""

    shard: str
    path: Path
    problem: str


def verify(folder: Path, *, progress: Progress | None = None) -> tuple[Damage, ...]:
    """Hash every shard of the data set in `folder`; all damaged ones. Raises: UserError for a damaged manifest."""
    manifest = read_manifest(folder)
    if len(folder.name) == len(manifest.hash) and folder.name != manifest.hash:
        problem = f"the folder holds version {manifest.hash[:12]}, not the one it is named after"
        raise UserError(problem, where=str(folder), next_step="Pack or fetch the data set again.")
    done, total, found = 0, sum(shard.file_bytes for shard in manifest.shards), []
    for name, split in manifest.splits.items():
        for index, shard in enumerate(split.shards):
            problem = _problem(folder / shard.file, shard)
            if problem:
                found.append(Damage(shard=f"{name}[{index}]", path=folder / shard.file, problem=problem))
            done += shard.file_bytes
            if progress:
                progress(done, total)
    return tuple(found)


def _problem(path: Path, shard: Shard) -> str:
    try:
        num_bytes = path.stat().st_size
        if num_bytes != shard.file_bytes:
            return f"{num_bytes} bytes instead of {shard.file_bytes}"
        return "" if file_sha256(path) == shard.sha256 else "its content has another hash"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
