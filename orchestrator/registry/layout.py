"""Where things are in a registry, and nothing else.

```
root/blobs/<aa>/<sha256>                     content, read-only
root/models/<name>/versions/<N>/manifest.json
root/models/<name>/versions/<N>/files/...    relative symlinks into blobs: a folder any loader can open
root/models/<name>/aliases/<alias>           the number, as text
root/staging/                                work in progress, swept when its owner is dead
```
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"
FILES = "files"


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths under one root; every name given here has been checked."""

    root: Path

    @property
    def blobs(self) -> Path:
        """The blob store."""
        return self.root / "blobs"

    @property
    def staging(self) -> Path:
        """Unpublished work; on the same file system as everything else, so that renames are atomic."""
        return self.root / "staging"

    @property
    def models(self) -> Path:
        """One folder per model name."""
        return self.root / "models"

    def versions(self, model: str) -> Path:
        """The folder whose entries are a model's version numbers."""
        return self.models / model / "versions"

    def version(self, model: str, number: int) -> Path:
        """One version's folder: the manifest and the files."""
        return self.versions(model) / str(number)

    def files(self, model: str, number: int) -> Path:
        """The folder a loader opens."""
        return self.version(model, number) / FILES

    def aliases(self, model: str) -> Path:
        """The folder of a model's aliases."""
        return self.models / model / "aliases"

    def numbers(self, model: str) -> tuple[int, ...]:
        """Published version numbers, ascending; empty for a model there is not."""
        folder = self.versions(model)
        return tuple(sorted(int(entry.name) for entry in folder.iterdir())) if folder.is_dir() else ()
