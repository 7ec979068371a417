"""Where packed data sets lie: `home/datasets/<name>/<manifest hash>/`, and `latest` beside them.

A version folder appears by one rename and is never changed.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from jobs.data.folders import fsync_folder, locked, write_durably, writing
from jobs.data.manifest import FILE_NAME, Manifest, read_manifest
from orchestrator.spec.errors import ExitCode, UserError

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_VERSION = re.compile(r"latest|[0-9a-f]{4,64}")
_LATEST = "latest"


def check_name(name: str) -> str:
    """`name` if a data set may be called so. Raises: UserError."""
    if not _NAME.fullmatch(name):
        rule = "up to 63 of a-z 0-9 . _ - starting and ending with a letter or digit"
        raise UserError(f"{name!r} is not a name for a data set; {rule}", next_step="Choose another --name.")
    return name


def parse_ref(ref: str) -> tuple[str, str]:
    """(name, version) of `name@version`; a bare name means its latest version. Raises: UserError."""
    name, _, version = ref.partition("@")
    version = version if "@" in ref else _LATEST
    if not _NAME.fullmatch(name) or not _VERSION.fullmatch(version):
        rule = "a reference is name@latest or name@ and at least 4 hex digits of a manifest hash"
        raise UserError(f"{ref!r} is not a reference to a data set; {rule}", next_step=_LIST)
    return name, version


_LIST = "Run 'tide data ls' for the list."


def resolve(ref: str, home: Path) -> Path:
    """The folder of the version that `ref` names. Raises: UserError if there is none or more than one."""
    name, version = parse_ref(ref)
    folder = _root(home) / name
    if version == _LATEST:
        return _latest(folder, ref, home)
    found = [entry for entry in _versions(folder) if entry.name.startswith(version)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise _unknown(ref, home)
    hashes = ", ".join(entry.name[:12] for entry in found)
    raise UserError(f"{ref!r} could be any of {hashes}", next_step="Give more digits of the hash.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One version in the store; `manifest` is None where it is damaged, and `problem` says how."""

    name: str
    folder: Path
    is_latest: bool
    manifest: Manifest | None
    problem: str = ""

    @property
    def version(self) -> str:
        return self.folder.name


def datasets(home: Path) -> list[Stored]:
    """Every version, by name and age."""
    found: list[Stored] = []
    for folder in sorted(_folders(_root(home))):
        latest = _read_latest(folder)
        versions = sorted(_versions(folder), key=lambda version: (version.stat().st_mtime_ns, version.name))
        found += [_stored(version, is_latest=version.name == latest) for version in versions]
    return found


def _stored(folder: Path, *, is_latest: bool) -> Stored:
    manifest, problem = None, ""
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        problem = str(error)
    return Stored(name=folder.parent.name, folder=folder, is_latest=is_latest, manifest=manifest, problem=problem)


def publish(work: Path, manifest: Manifest, parent: Path) -> Path:
    """Make the finished folder `work` the version `manifest.hash` in `parent`; returns the version's folder.

    Adopts the version that is there already when another process was first: same hash, same content.
    """
    write_durably(work / FILE_NAME, manifest.to_json())
    final = parent / manifest.hash
    with locked(parent):
        if not (final / FILE_NAME).exists():
            shutil.rmtree(final, ignore_errors=True)
            work.chmod(0o755)
            fsync_folder(work)
            os.rename(work, final)
            fsync_folder(parent)
    return final


def set_latest(parent: Path, version: str) -> None:
    """Let `name@latest` mean `version` from now on."""
    write_durably(parent / _LATEST, version + "\n")


def dataset_folder(home: Path, name: str) -> Path:
    """The folder that holds all versions of `name`, created. Raises: UserError for a name that is none."""
    folder = _root(home) / check_name(name)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _root(home: Path) -> Path:
    return home / "datasets"


def _folders(parent: Path) -> list[Path]:
    return [entry for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []


def _versions(folder: Path) -> list[Path]:
    return [entry for entry in _folders(folder) if re.fullmatch(r"[0-9a-f]{64}", entry.name)]


def _read_latest(folder: Path) -> str | None:
    try:
        return (folder / _LATEST).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def _latest(folder: Path, ref: str, home: Path) -> Path:
    version = _read_latest(folder)
    if version is None:
        raise _unknown(ref, home)
    if not re.fullmatch(r"[0-9a-f]{64}", version) or not (folder / version).is_dir():
        problem = f"{ref!r} names version {version[:12]!r}, which is not there"
        raise UserError(problem, code=ExitCode.UNKNOWN, where=str(folder / _LATEST), next_step=_LIST)
    return folder / version


def _unknown(ref: str, home: Path) -> UserError:
    names = [folder.name for folder in _folders(_root(home)) if _versions(folder)]
    near = difflib.get_close_matches(ref.partition("@")[0], names, n=1)
    advice = f"Did you mean {near[0]!r}? " if near and near[0] != ref.partition("@")[0] else ""
    next_step = f"{advice}Run 'tide data ls' for the list, 'tide data pack' to make one."
    return UserError(f"there is no data set {ref!r}", code=ExitCode.UNKNOWN, next_step=next_step)
