"""Content-addressed bytes: a blob's name is the sha256 of its content, so it can be checked at any time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.registry.durable import flush_file, flush_folder

_CHUNK_BYTES = 4 * 2**20


class BlobStore:
    """Blobs under `root/<first two hex digits>/<sha256>`, read-only once they are in place."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        """Where the blob is, or would be."""
        return self.root / sha256[:2] / sha256

    def adopt(self, staged: Path, sha256: str) -> None:
        """Move a staged file, flushed and hashed by `copy_hashed`, into place.

        A blob already there is replaced by the same bytes: should the old copy have rotted, this mends it.
        """
        target = self.path(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, target)
        flush_folder(target.parent)

    def __iter__(self) -> Iterator[str]:
        for folder in sorted(self.root.glob("??")):
            yield from sorted(entry.name for entry in folder.iterdir())


def copy_hashed(source: Path, target: Path) -> tuple[str, int]:
    """Copy a file to a new read-only one, flushed; returns the sha256 and size of exactly the bytes written.

    One pass: a source that changes while it is read cannot get a hash that is not its copy's.
    """
    digest, num_bytes = hashlib.sha256(), 0
    with open(source, "rb") as reader, open(target, "xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += writer.write(chunk)
        os.fchmod(writer.fileno(), 0o444)
        writer.flush()
        flush_file(writer.fileno())
    return digest.hexdigest(), num_bytes


def hash_file(path: Path) -> str:
    """sha256 of a file's content."""
    with open(path, "rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()
