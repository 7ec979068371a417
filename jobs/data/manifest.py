"""What a data set consists of, as a value whose hash is the data set's identity.

The hash covers content alone: splits, shards and the form they are in. Name and origin are labels, so the same files
packed under two names, or on two machines, are the same data set.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from orchestrator.spec.errors import ExitCode, UserError

FILE_NAME = "manifest.json"
# One checksum per block; a reader verifies the blocks it touches. 64 KiB is what the kernel reads ahead at least, and
# takes 7 microseconds to hash.
BLOCK_BYTES = 65536
SUM_BYTES = 16

_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One immutable file: `num_bytes` of content, then one xxh3-128 per block of it.

    `sha256` is of the whole file and names it, which makes a path in a manifest impossible to forge; `sums` is the
    xxh3-128 of the checksums at its end.
    """

    num_bytes: _Count
    sha256: _Sha256
    sums: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

    @property
    def file(self) -> str:
        return f"{self.sha256}.shard"

    @property
    def num_blocks(self) -> int:
        return -(-self.num_bytes // BLOCK_BYTES)

    @property
    def file_bytes(self) -> int:
        return self.num_bytes + self.num_blocks * SUM_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One part of a data set, its shards in order; `documents` were concatenated to make it."""

    documents: _Count
    shards: tuple[Shard, ...]

    @property
    def num_bytes(self) -> int:
        return sum(shard.num_bytes for shard in self.shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A packed data set. `origin` says where it came from, for people."""

    name: str
    train: Split
    validation: Split
    split_rule: str
    origin: str = ""
    format: Literal["tideline-data/1"] = "tideline-data/1"
    block_bytes: Literal[65536] = 65536

    @property
    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "validation": self.validation}

    @property
    def shards(self) -> tuple[Shard, ...]:
        return self.train.shards + self.validation.shards

    @property
    def num_bytes(self) -> int:
        return self.train.num_bytes + self.validation.num_bytes

    @property
    def hash(self) -> str:
        """Hex sha256 of everything but the labels; independent of when, where and in what order files were packed."""
        return _content_hash(self)

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "hash": self.hash}, indent=1, sort_keys=True) + "\n"


@functools.lru_cache(maxsize=64)
def _content_hash(manifest: Manifest) -> str:
    content = {key: value for key, value in asdict(manifest).items() if key not in ("name", "origin")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse_manifest(text: str | bytes, where: str) -> Manifest:
    """Read a manifest and check it against the hash it carries. Raises: UserError that names `where`."""
    try:
        manifest = _adapter().validate_json(text)
        stated = json.loads(text).get("hash")
    except (ValidationError, ValueError, AttributeError) as error:
        raise UserError(f"not a data set manifest: {_first_line(error)}", where=where, next_step=_PACK_AGAIN) from error
    if stated != manifest.hash:
        problem = f"the manifest says its hash is {stated}, its content has {manifest.hash}: it was changed"
        raise UserError(problem, where=where, next_step=_PACK_AGAIN)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the data set in `folder`. Raises: UserError."""
    path = folder / FILE_NAME
    try:
        text = path.read_bytes()
    except OSError as error:
        problem = f"no data set in {folder}: {error.strerror}"
        raise UserError(problem, code=ExitCode.UNKNOWN, next_step="Run 'tide data ls' for the list.") from error
    return parse_manifest(text, str(path))


_PACK_AGAIN = "Pack it again with 'tide data pack', or fetch it anew."


@functools.cache
def _adapter() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
