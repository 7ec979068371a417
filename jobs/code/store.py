"""Where a home keeps code: one read-only folder per content, whole or not there at all."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from jobs.code.bundle import pack, unpack
from jobs.code.listing import CodeFile, code_id, list_code
from jobs.data.folders import fsync_folder, workspace, writing
from orchestrator.spec.errors import ExitCode, UserError


class CodeStore:
    """The code in a home's folder; every node of a run sees it at the same path, as it does the data sets there."""

    def __init__(self, home: Path) -> None:
        self._root = home / "code"

    def has(self, ident: str) -> bool:
        """Whether the code is here. Who asks is about to use it: from now on it is not old."""
        path = self._root / ident
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        except OSError:  # a home that is read-only here: somebody else sees to its age
            return path.is_dir()
        return True

    def folder(self, ident: str) -> Path:
        """Where code is. It counts as used. Raises: UserError (unknown)."""
        if not self.has(ident):
            step = "Submit the job again with 'tide submit', which brings its code along"
            raise UserError(f"there is no code {ident[:12]}", code=ExitCode.UNKNOWN, next_step=step)
        return self._root / ident

    def keep(self, folder: Path) -> str:
        """Keep a copy of a folder's code as it is now; its id. Raises: UserError."""
        files = list_code(folder)
        ident = code_id(folder, files)
        if not self.has(ident):
            self.add(ident, pack(folder, files))
        return ident

    def add(self, ident: str, packed: bytes) -> None:
        """Keep what an archive holds, which must be what `ident` says. Twice is once. Raises: UserError."""
        if self.has(ident):
            return
        with writing(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            with workspace(self._root) as work:
                inside = work / "code"
                inside.mkdir()
                unpack(packed, inside)
                found = code_id(inside, _all_files(inside))
                if found != ident:
                    problem = f"the archive holds {found[:12]}, not {ident[:12]}"
                    raise UserError(problem, code=ExitCode.INVALID, next_step="Send the folder's files as they are")
                self._sync_folders(inside)
                try:
                    inside.rename(self._root / ident)
                except OSError:
                    if not self.has(ident):  # else somebody has just brought the same
                        raise
            fsync_folder(self._root)

    def prune(self, *, unused_s: float, in_use: Collection[str]) -> list[str]:
        """Remove code that nobody has used for so long, but for what is in use; what was removed."""
        removed = []
        for path in sorted(self._root.glob("[0-9a-f]" * 64)) if self._root.is_dir() else []:
            if path.name not in in_use and time.time() - path.stat().st_mtime > unused_s:
                path.rename(self._root / f".old-{path.name}")  # from here on it is not there
                removed.append(path.name)
        for left in self._root.glob(".old-*"):
            shutil.rmtree(left, ignore_errors=True)
        return removed

    @staticmethod
    def _sync_folders(inside: Path) -> None:
        for folder, _, _ in os.walk(inside):
            fsync_folder(Path(folder))


def _all_files(folder: Path) -> list[CodeFile]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    files = [
        CodeFile(
            path=path.relative_to(folder).as_posix(),
            num_bytes=path.stat().st_size,
            is_executable=bool(path.stat().st_mode & 0o100),
        )
        for path in found
    ]
    return sorted(files, key=lambda file: file.path)
