"""A checkpoint as a plain model folder: `config.json` and `model.safetensors`, which any program can load.

The weights go straight from the parts into the mapped output file: the model need not fit in memory.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import shutil
import struct
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from jobs.models.load import CONFIG_FILE, WEIGHTS_FILE, ModelConfig
from jobs.train.state.dtypes import dtype_name, torch_dtype
from jobs.train.state.errors import StateError, StorageError
from jobs.train.state.kinds import BUFFER, FP32, FROZEN
from jobs.train.state.loading import fill
from jobs.train.state.manifest import Manifest
from jobs.train.state.sources import ShardSource
from jobs.train.state.view import Piece
from orchestrator.spec.errors import ExitCode

_ALIGN_BYTES = 64


def export_model(manifest: Manifest, source: ShardSource, out_dir: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write the model of a checkpoint as a new folder, which appears whole or not at all.

    Trained parameters are written as `dtype`, frozen ones and buffers as they were; a parameter with several names
    under the first. Raises: StateError if `out_dir` is there and not empty, CorruptStateError, StorageError.
    """
    with new_folder(out_dir) as draft:
        tensors = _what_to_write(manifest, dtype)
        with _mapped_safetensors(draft / WEIGHTS_FILE, manifest.shapes, tensors) as pieces:
            fill(pieces, manifest, source)
        (draft / CONFIG_FILE).write_text(_config(manifest).to_json(), encoding="utf-8")
    return out_dir


@contextmanager
def new_folder(out_dir: Path) -> Iterator[Path]:
    """A draft folder that becomes `out_dir` when the block ends well, and goes when it does not."""
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise StateError(
            "is there already and not empty", code=ExitCode.CONFLICT, where=str(out_dir), next_step="Name a new folder"
        )
    draft = out_dir.with_name(f".{out_dir.name}.{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
        yield draft
        draft.replace(out_dir)
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror or error})", where=str(out_dir), next_step="Check space and access"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _what_to_write(manifest: Manifest, dtype: torch.dtype) -> dict[str, tuple[str, torch.dtype]]:
    """Kind and type of every tensor; wide types first, as safetensors orders them, so that each is aligned."""
    tensors: dict[str, tuple[str, torch.dtype]] = {}
    for name, saved in manifest.contents().items():
        kept = next((kind for kind in (FROZEN, BUFFER) if kind in saved), None)
        tensors[name] = (kept, torch_dtype(saved[kept])) if kept else (FP32, dtype)
    return dict(sorted(tensors.items(), key=lambda item: -item[1][1].itemsize))


@contextmanager
def _mapped_safetensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, tuple[str, torch.dtype]]
) -> Iterator[list[Piece]]:
    """A safetensors file of the final size whose tensors are memory, to be filled inside the block."""
    sizes = {name: math.prod(shapes[name]) * dtype.itemsize for name, (_, dtype) in tensors.items()}
    header = _header(shapes, tensors, sizes)
    with path.open("xb+") as file:
        file.write(header)
        file.truncate(len(header) + sum(sizes.values()))
        mapped = mmap.mmap(file.fileno(), 0)  # closed when the last piece goes
        yield _pieces(torch.frombuffer(mapped, dtype=torch.uint8), len(header), tensors, sizes)
        mapped.flush()
        os.fsync(file.fileno())


def _pieces(
    whole: torch.Tensor, at: int, tensors: Mapping[str, tuple[str, torch.dtype]], sizes: Mapping[str, int]
) -> list[Piece]:
    pieces = []
    for name, (kind, dtype) in tensors.items():
        if sizes[name]:
            flat = whole[at : at + sizes[name]].view(dtype)
            pieces.append(Piece(name, kind, 0, flat.numel(), flat))
            at += sizes[name]
    return pieces


def _header(
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, tuple[str, torch.dtype]],
    sizes: Mapping[str, int],
) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (_, dtype) in tensors.items():
        offsets = [at, at + sizes[name]]
        entries[name] = {"dtype": dtype_name(dtype), "shape": list(shapes[name]), "data_offsets": offsets}
        at += sizes[name]
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGN_BYTES)
    return struct.pack("<Q", len(text)) + text


def _config(manifest: Manifest) -> ModelConfig:
    notes = {"run": manifest.run, "step": manifest.step, "dataset_hash": manifest.dataset_hash}
    return ModelConfig(task=manifest.task["task"], args=manifest.task["args"], notes=notes)
