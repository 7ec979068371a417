"""From a storage URL to a Storage, and the check that several nodes see the same one."""

from __future__ import annotations

import uuid
from pathlib import Path
from urllib.parse import unquote, urlsplit

from jobs.train.state.errors import StorageError
from jobs.train.state.object_storage import FsspecStorage
from jobs.train.state.storage import FileStorage, Storage
from orchestrator.spec.errors import ExitCode

_MARKER_FOLDER = ".shared"


def open_storage(url: str) -> Storage:
    """Storage for `file:///absolute/path`, a plain absolute path, or any fsspec URL (`s3://`, `gs://`, `memory://`).

    Raises: StorageError if the URL cannot mean a storage.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("", "file"):
        return FsspecStorage(url)
    path = Path(unquote(parts.path))
    if not path.is_absolute() or parts.netloc not in ("", "localhost"):
        raise StorageError(
            "is no absolute path", code=ExitCode.INVALID, where=url, next_step="Write file:///absolute/path"
        )
    return FileStorage(path)


def place_marker(storage: Storage) -> str:
    """Write a small file for other nodes to find; returns its name for `require_marker`. Raises: StorageError."""
    name = f"{_MARKER_FOLDER}/{uuid.uuid4().hex}"
    content = name.encode()
    storage.write(name, [memoryview(content)], len(content))
    return name


def require_marker(storage: Storage, marker: str, node: str) -> None:
    """Raises: StorageError naming the node if it does not see the marker: its storage is another folder."""
    if storage.size(marker) != len(marker.encode()):
        raise StorageError(
            f"node {node} does not see the storage that the first node sees; "
            "a checkpoint would be scattered over local disks",
            code=ExitCode.INVALID,
            where=storage.url,
            next_step="Mount one shared folder there on every node, or set checkpoint.storage to an object store",
        )


def remove_marker(storage: Storage, marker: str) -> None:
    """Take the marker away again. Raises: StorageError."""
    storage.delete([marker])
