"""A safetensors file written block by block, and the model folder around it, which appears whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from jobs.data.folders import writing
from jobs.models.load import CONFIG_FILE, WEIGHTS_FILE
from jobs.transform.stored import Entry
from orchestrator.spec.errors import ExitCode, UserError

_ALIGN_BYTES = 64
# A page cache takes pieces of a quarter MiB six times as fast as those of one MiB and more (measured on ext4, Linux 6).
_PIECE_BYTES = 2**18
_WEIGHTS_MARK = ".safetensors"
# What a trainer notes about its run says nothing true of a model that was made from its model.
_OF_THE_RUN = ("run", "step", "dataset_hash")
# Where Hugging Face configurations tell the weights' type; loaders go by it.
_DTYPE_KEYS = ("torch_dtype", "dtype")

Write = Callable[[str, Tensor], None]


@contextlib.contextmanager
def new_weights(folder: Path, entries: Iterable[Entry], metadata: Mapping[str, str]) -> Iterator[Write]:
    """Yields write(name, block), which puts a block of a tensor behind the block before it; every tensor must have all
    its bytes when this ends."""
    placed = sorted(entries, key=lambda entry: (-_width(entry), entry.name))  # wide types first: each is aligned
    header = _header(placed, {"format": "pt", **metadata})
    at: dict[str, int] = {}
    ends: dict[str, int] = {}
    start = len(header)
    for entry in placed:
        at[entry.name], ends[entry.name] = start, start + entry.num_bytes
        start += entry.num_bytes
    descriptor = os.open(folder / WEIGHTS_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        _write_all(descriptor, memoryview(header), 0)

        def write(name: str, block: Tensor) -> None:
            data = memoryview(block.contiguous().view(-1).view(torch.uint8).numpy())
            _write_all(descriptor, data, at[name])
            at[name] += len(data)

        yield write
        assert at == ends, "a tensor was not written whole"
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def new_model_folder(
    out: Path, like: Path, note: Mapping[str, object], *, dtype: torch.dtype | None = None
) -> Iterator[Path]:
    """A draft with every file of `like` but its weights, which becomes `out` when the block ends well and goes when it
    does not; config.json says under `transform` what was done, and `dtype` where it told another before.

    Raises: UserError if `out` is there and not empty, or the disk refuses.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("is there already and not empty", where=str(out), code=ExitCode.CONFLICT)
    draft = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    with writing(out):
        try:
            draft.mkdir(parents=True)
            _copy_all_but_weights(like, draft)
            config = {**read_json(like), "transform": dict(note)}
            kept = {key: value for key, value in config.items() if key not in _OF_THE_RUN}
            kept |= {key: str(dtype).removeprefix("torch.") for key in _DTYPE_KEYS if dtype and key in kept}
            (draft / CONFIG_FILE).write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            yield draft
            draft.replace(out)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def read_json(folder: Path) -> dict[str, object]:
    """A model folder's config.json. Raises: UserError."""
    path = folder / CONFIG_FILE
    try:
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict):
            raise ValueError("it must be a JSON object")
    except (OSError, ValueError) as error:
        raise UserError(f"the model's configuration cannot be read: {error}", where=str(path)) from error
    return document


def _copy_all_but_weights(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):  # files of a version are links into the blob store
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        elif _WEIGHTS_MARK not in path.name:
            shutil.copyfile(path, place)


def _width(entry: Entry) -> int:
    return entry.num_bytes // entry.numel if entry.numel else 0


def _header(entries: Iterable[Entry], metadata: Mapping[str, str]) -> bytes:
    said: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for entry in entries:
        place = [at, at + entry.num_bytes]
        said[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": place}
        at += entry.num_bytes
    text = json.dumps(said, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGN_BYTES)
    return struct.pack("<Q", len(text)) + text


def _write_all(descriptor: int, data: memoryview, at: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done : done + _PIECE_BYTES], at + done)
