"""The registry: register, find, alias, verify."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.registry.blobs import hash_file
from orchestrator.registry.durable import replace_file
from orchestrator.registry.errors import CorruptRegistryError, RegistryError, UnknownModelError
from orchestrator.registry.layout import Layout
from orchestrator.registry.manifest import FileEntry, Lineage, Provenance, Version
from orchestrator.registry.names import LATEST, check_alias, check_model_name, parse_ref
from orchestrator.registry.publish import publish, read_version, stage
from orchestrator.registry.staging import staging_folder

_EXTERNAL_PARENT = re.compile(r"hf://[^@/\s]+/[^@/\s]+@[0-9A-Za-z._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One stored file that is not what its manifest says."""

    path: str
    problem: str


class Registry:
    """Registered models under one folder of a POSIX file system; safe for many processes, keeps nothing in memory."""

    def __init__(self, root: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.root = root
        self._layout = Layout(root)
        self._now = now

    def register(self, model: str, source: Path, provenance: Provenance) -> Version:
        """Make the files in `source` the next version of `model`; they are copied, never moved.

        Registering the same bytes with the same provenance again returns the version that is there, so a caller
        that died after the commit may simply repeat the call; with any other provenance it is a new version that
        shares the blobs.
        Raises: RegistryError for a folder, name, metric or parent that cannot be taken; nothing is visible then.
        """
        check_model_name(model)
        _check_metrics(provenance)
        pinned = dataclasses.replace(provenance, lineage=self._pin(provenance.lineage))
        with staging_folder(self._layout.staging) as staging:
            version = stage(self._layout, staging, source, model=model, provenance=pinned, created_at=self._now())
            return publish(self._layout, staging, version)

    def models(self) -> tuple[str, ...]:
        """Names with at least one version, sorted."""
        folder = self._layout.models
        names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        return tuple(name for name in names if self._layout.numbers(name))

    def versions(self, model: str) -> tuple[Version, ...]:
        """All versions, oldest first. Raises: UnknownModelError."""
        return tuple(read_version(self._layout, model, number) for number in self._numbers(model))

    def get(self, ref: str) -> Version:
        """The version that `name`, `name@3`, `name@latest` or `name@alias` names now. Raises: UnknownModelError."""
        parsed = parse_ref(ref)
        numbers = self._numbers(parsed.name)
        match parsed.selector:
            case int(number):
                pass
            case selector if selector == LATEST:
                number = numbers[-1]
            case alias:
                number = self._alias_target(parsed.name, alias)
        if number not in numbers:
            raise UnknownModelError(f"{ref}: {parsed.name} has no version {number}; its newest is {numbers[-1]}")
        return read_version(self._layout, parsed.name, number)

    def folder(self, version: Version) -> Path:
        """A folder with the version's files under their own names, for any loader; never write there."""
        return self._layout.files(version.model, version.number)

    def aliases(self, model: str) -> dict[str, int]:
        """Alias -> version number, `latest` left out. Raises: UnknownModelError."""
        self._numbers(model)
        folder = self._layout.aliases(model)
        names = sorted(entry.name for entry in folder.glob("[a-z]*")) if folder.is_dir() else []
        return {name: self._alias_target(model, name) for name in names}

    def set_alias(self, ref: str, alias: str) -> Version:
        """Let `alias` name the version that `ref` names now; a reader sees the old target or the new one."""
        check_alias(alias)
        version = self.get(ref)
        folder = self._layout.aliases(version.model)
        folder.mkdir(exist_ok=True)
        replace_file(folder / alias, f"{version.number}\n".encode())
        return version

    def remove_alias(self, model: str, alias: str) -> None:
        """Forget an alias; the version stays. Raises: UnknownModelError."""
        check_model_name(model)
        check_alias(alias)
        try:
            (self._layout.aliases(model) / alias).unlink()
        except FileNotFoundError:
            raise UnknownModelError(f"{model} has no alias {alias!r}") from None

    def verify(self, version: Version) -> tuple[Damage, ...]:
        """Read every byte of a version again; empty when all is as registered."""
        folder = self.folder(version)
        return tuple(damage for entry in version.files if (damage := _damage(folder, entry)))

    def _numbers(self, model: str) -> tuple[int, ...]:
        check_model_name(model)
        numbers = self._layout.numbers(model)
        if not numbers:
            raise UnknownModelError(f"there is no model {model!r} in {self.root}")
        return numbers

    def _alias_target(self, model: str, alias: str) -> int:
        path = self._layout.aliases(model) / alias
        try:
            return int(path.read_text())
        except FileNotFoundError:
            raise UnknownModelError(f"{model} has no alias {alias!r}") from None
        except ValueError:
            raise CorruptRegistryError("the alias holds no version number", where=str(path)) from None

    def _pin(self, lineage: Lineage | None) -> Lineage | None:
        """The lineage with every parent named by number, so that moving an alias cannot change history."""
        if lineage is None:
            return None
        if not lineage.parents:
            raise RegistryError(f"a version that is a {lineage.relation} names at least one parent")
        parents = (ref if _EXTERNAL_PARENT.fullmatch(ref) else self.get(ref).ref for ref in lineage.parents)
        return dataclasses.replace(lineage, parents=tuple(parents))


def _check_metrics(provenance: Provenance) -> None:
    for name, value in provenance.metrics.items():
        if not math.isfinite(value):
            raise RegistryError(f"metric {name} is {value}; a registered metric is a finite number")


def _damage(folder: Path, entry: FileEntry) -> Damage | None:
    try:
        actual = hash_file(folder / entry.path)
    except OSError as error:
        return Damage(path=entry.path, problem=f"cannot be read: {error.strerror}")
    if actual == entry.sha256:
        return None
    return Damage(path=entry.path, problem=f"its sha256 is {actual[:16]}..., registered was {entry.sha256[:16]}...")
