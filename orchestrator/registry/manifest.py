"""A model version as a value: which files, from what, how good; and its one canonical JSON form.

Refuses to know where manifests are kept.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from orchestrator.registry.errors import CorruptRegistryError

FORMAT = 1
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Relation(enum.StrEnum):
    """How a version came from its parents, in Hugging Face's words (`base_model_relation`)."""

    FINETUNE = "finetune"
    ADAPTER = "adapter"
    MERGE = "merge"
    QUANTIZED = "quantized"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Parents as `name@N` of this registry or `hf://org/name@revision`; one relation holds for all of them."""

    relation: Relation
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a version's bytes came from and how good they are; what the caller of `register` knows.

    `dataset_hash` is the manifest hash of the training data, `code_version` a commit or package version,
    `run` the training run (job name and attempt), `metrics` plain numbers such as bits_per_byte.
    """

    dataset: str = ""
    dataset_hash: str = ""
    code_version: str = ""
    run: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    lineage: Lineage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of a version: its path inside the version's folder (posix), its content hash, its size."""

    path: str
    sha256: Sha256
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One immutable version of a registered model."""

    model: str
    number: int
    created_at: datetime
    num_parameters: int
    files: tuple[FileEntry, ...]
    provenance: Provenance

    @property
    def ref(self) -> str:
        """`name@N`, which names these bytes for ever."""
        return f"{self.model}@{self.number}"

    @property
    def num_bytes(self) -> int:
        """Size of all files together."""
        return sum(entry.num_bytes for entry in self.files)

    @property
    def identity(self) -> str:
        """sha256 of everything but the number and the time: equal for a registration that was merely repeated."""
        return _digest({k: v for k, v in to_document(self).items() if k not in {"number", "created_at"}})


_VERSION = TypeAdapter(Version)


def to_document(version: Version) -> dict[str, Any]:
    """The version as JSON-ready values, keys in the order of the classes above."""
    document = _VERSION.dump_python(version, mode="json")
    assert isinstance(document, dict)
    return document


def encode(version: Version) -> bytes:
    """The manifest file's content: readable JSON that carries the sha256 of its own canonical form."""
    document = to_document(version)
    envelope = {"format": FORMAT, "sha256": _digest(document), "version": document}
    return (json.dumps(envelope, indent=2, ensure_ascii=False) + "\n").encode()


def decode(content: bytes, where: str) -> Version:
    """Read a manifest. Raises: CorruptRegistryError naming `where` for anything but what `encode` wrote."""
    try:
        envelope = json.loads(content)
        found, document = (envelope["format"], envelope["sha256"]), envelope["version"]
        version = _VERSION.validate_json(json.dumps(document))
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise CorruptRegistryError(f"the manifest cannot be read ({type(error).__name__})", where=where) from error
    if found != (FORMAT, _digest(document)):
        raise CorruptRegistryError(f"the manifest is of another format than {FORMAT} or was altered", where=where)
    return version


def _digest(document: Mapping[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
