"""The one way a version comes to be: copy and hash into staging, move the blobs, then a single rename.

The rename of a complete version folder onto its number is the commit, and it fails when the number is taken: no lock
orders concurrent registrations. A process killed anywhere leaves at worst unreferenced blobs, which the same
registration adopts when it is repeated.
"""

from __future__ import annotations

import dataclasses
import errno
import os
from datetime import datetime
from pathlib import Path

from orchestrator.registry.blobs import BlobStore, copy_hashed
from orchestrator.registry.durable import flush_folder, write_file
from orchestrator.registry.layout import FILES, MANIFEST, Layout
from orchestrator.registry.manifest import FileEntry, Provenance, Version, decode, encode
from orchestrator.registry.source import count_parameters, list_files

_TAKEN = frozenset({errno.EEXIST, errno.ENOTEMPTY})


def stage(
    layout: Layout, staging: Path, source: Path, *, model: str, provenance: Provenance, created_at: datetime
) -> Version:
    """Copy `source` into the blob store; returns the version that will be, as number 0, and its folder in staging.

    Raises: RegistryError for a source that is no model folder; the blob store is untouched then.
    """
    copies, paths = staging / "copies", list_files(source)
    entries = tuple(_copy(source, copies, path) for path in paths)
    version = Version(model=model, number=0, created_at=created_at, num_parameters=count_parameters(copies, paths),
                      files=entries, provenance=provenance)  # fmt: skip
    blobs = BlobStore(layout.blobs)
    for entry in entries:
        blobs.adopt(copies / entry.path, entry.sha256)
    return version


def publish(layout: Layout, staging: Path, version: Version) -> Version:
    """Give a staged version the next free number, or return the one that is already there with the same identity."""
    versions = layout.versions(version.model)
    versions.mkdir(parents=True, exist_ok=True)
    flush_folder(layout.models)
    _link_files(layout, staging / "version", version)
    seen = 0
    while True:
        known = layout.numbers(version.model)
        for number in known[known.index(seen) + 1 if seen else 0 :]:
            if (there := read_version(layout, version.model, number)).identity == version.identity:
                return there
        seen = known[-1] if known else 0
        numbered = dataclasses.replace(version, number=seen + 1)
        if _rename_to(layout, staging / "version", numbered):
            return numbered


def read_version(layout: Layout, model: str, number: int) -> Version:
    """Read a published manifest. Raises: CorruptRegistryError."""
    path = layout.version(model, number) / MANIFEST
    return decode(path.read_bytes(), str(path))


def _copy(source: Path, copies: Path, path: str) -> FileEntry:
    (copies / path).parent.mkdir(parents=True, exist_ok=True)
    sha256, num_bytes = copy_hashed(source / path, copies / path)
    return FileEntry(path=path, sha256=sha256, num_bytes=num_bytes)


def _link_files(layout: Layout, folder: Path, version: Version) -> None:
    """Symlinks relative to the final place, so that a registry may be moved or copied as a whole."""
    final = layout.files(version.model, 0)  # every number is as deep as 0
    for entry in version.files:
        link = folder / FILES / entry.path
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = BlobStore(layout.blobs).path(entry.sha256)
        link.symlink_to(os.path.relpath(blob, (final / entry.path).parent))
        flush_folder(link.parent)


def _rename_to(layout: Layout, folder: Path, version: Version) -> bool:
    """Commit; False when another registration took the number first."""
    manifest = folder / MANIFEST
    manifest.unlink(missing_ok=True)
    write_file(manifest, encode(version))
    flush_folder(folder)
    try:
        os.rename(folder, layout.version(version.model, version.number))
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    flush_folder(layout.versions(version.model))
    return True
