"""Which part of a data set each document goes to, decided by its path alone.

A document keeps its split when others come or go, so a validation loss stays comparable from version to version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.data.files import SourceFile

_PARTS = 20
BY_PATH = f"sha256(path) % {_PARTS} == 0"
BY_TAIL = f"last {_PARTS}th of every document"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes [start, stop) of a file; a document of one split."""

    file: SourceFile
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """The documents of both splits in packing order, and the rule that divided them."""

    train: tuple[Piece, ...]
    validation: tuple[Piece, ...]
    rule: str


def divide(files: Sequence[SourceFile]) -> Division:
    """Every 20th file by the hash of its path is validation.

    Where that leaves a split empty (one big file, a handful of small ones), the last 20th of every file is.
    """
    validation = tuple(_whole(file) for file in files if _is_validation(file.path))
    train = tuple(_whole(file) for file in files if not _is_validation(file.path))
    if train and validation:
        return Division(train=train, validation=validation, rule=BY_PATH)
    heads = tuple(Piece(file=file, start=0, stop=_cut(file)) for file in files)
    tails = tuple(Piece(file=file, start=_cut(file), stop=file.num_bytes) for file in files)
    return Division(train=heads, validation=tuple(tail for tail in tails if tail.start < tail.stop), rule=BY_TAIL)


def _whole(file: SourceFile) -> Piece:
    return Piece(file=file, start=0, stop=file.num_bytes)


def _cut(file: SourceFile) -> int:
    return file.num_bytes - file.num_bytes // _PARTS


def _is_validation(path: bytes) -> bool:
    return int.from_bytes(hashlib.sha256(path).digest(), "big") % _PARTS == 0
