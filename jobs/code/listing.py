"""Which files of a folder are a job's code, and the one name that stands for exactly these files.

What git ignores is left out (`.gitignore` of every folder, as git reads them), and what `.tideignore` adds by the same
rules; `.git`, caches and virtual environments always.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from orchestrator.spec.errors import UserError

MAX_FILES = 10_000
MAX_BYTES = 256 * 2**20
IGNORE_FILES = (".gitignore", ".tideignore")
ALWAYS_IGNORED = frozenset({".git", ".hg", ".venv", "venv", "__pycache__", ".ipynb_checkpoints", "node_modules"})
_ALWAYS_IGNORED_ENDINGS = (".pyc", ".pyo", ".egg-info")
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeFile:
    """A file of the code: its path within the folder (posix), its size, and whether it may be run."""

    path: str
    num_bytes: int
    is_executable: bool


def list_code(folder: Path) -> tuple[CodeFile, ...]:
    """The files of a folder that are code, in the order of their paths.

    Raises: UserError for a folder that is not there, is too large, or holds what cannot be copied.
    """
    if not folder.is_dir():
        problem = "is no folder" if folder.exists() else "there is no such folder"
        raise UserError(problem, where=f"working_dir {folder}", next_step="Name the folder that holds the job's code")
    try:
        found = tuple(sorted(_walk(folder.resolve(), folder.resolve(), ()), key=lambda file: file.path))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=f"working_dir {error.filename}") from error
    _require_small(folder, found)
    return found


def code_id(folder: Path, files: Sequence[CodeFile]) -> str:
    """What these files are, as 64 hex digits: a SHA-256 over every path, its mode and its content's SHA-256."""
    whole = hashlib.sha256()
    for file in files:
        mode = "x" if file.is_executable else "-"
        whole.update(f"{mode} {_sha256(folder / file.path)} {file.path}\n".encode())
    return whole.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


Rules = tuple[tuple[Path, GitIgnoreSpec], ...]
"""Ignore files that hold in a folder, the outermost first, each with where it stands."""


def _walk(root: Path, folder: Path, above: Rules) -> Iterator[CodeFile]:
    rules = (*above, *_rules_in(folder))
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        is_folder = entry.is_dir(follow_symlinks=False)
        if _always(entry.name) or _is_ignored(path, rules, is_folder=is_folder):
            continue
        if is_folder:
            yield from _walk(root, path, rules)
        else:
            yield _file(root, path)


def _rules_in(folder: Path) -> Iterator[tuple[Path, GitIgnoreSpec]]:
    for name in IGNORE_FILES:
        path = folder / name
        if path.is_file():
            yield folder, GitIgnoreSpec.from_lines(path.read_text(encoding="utf-8", errors="replace").splitlines())


def _always(name: str) -> bool:
    return name in ALWAYS_IGNORED or name.endswith(_ALWAYS_IGNORED_ENDINGS)


def _is_ignored(path: Path, rules: Rules, *, is_folder: bool) -> bool:
    """By the innermost rule that says anything about it, as git does."""
    for base, spec in reversed(rules):
        name = path.relative_to(base).as_posix() + ("/" if is_folder else "")
        verdict = spec.check_file(name).include
        if verdict is not None:
            return verdict
    return False


def _file(root: Path, path: Path) -> CodeFile:
    name = path.relative_to(root).as_posix()
    where = f"working_dir {root}"
    step = "Take it out, or name it in .tideignore; data belongs into a data set, or its path into args"
    if path.is_symlink() and (not path.resolve().is_relative_to(root) or path.is_dir()):
        raise UserError(f"{name} is a link to {os.readlink(path)}, which is not copied", where=where, next_step=step)
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{name} is neither a file nor a folder", where=where, next_step=step)
    if "\n" in name or not name.isprintable():
        raise UserError(f"{name!r} has control characters in its name", where=where, next_step="Rename it")
    return CodeFile(path=name, num_bytes=found.st_size, is_executable=bool(found.st_mode & 0o100))


def _require_small(folder: Path, files: Sequence[CodeFile]) -> None:
    num_bytes = sum(file.num_bytes for file in files)
    if num_bytes <= MAX_BYTES and len(files) <= MAX_FILES:
        return
    largest = sorted(files, key=lambda file: -file.num_bytes)[:_MOST_NAMED]
    named = ", ".join(f"{file.path} ({file.num_bytes / 2**20:.1f} MiB)" for file in largest)
    raise UserError(
        f"{len(files):,} files of {num_bytes / 2**20:,.0f} MiB; at most {MAX_FILES:,} of {MAX_BYTES // 2**20} MiB are "
        f"copied to where a job runs. The largest: {named}",
        where=f"working_dir {folder}",
        next_step="Name what is no code in .tideignore (the rules are .gitignore's)",
    )
