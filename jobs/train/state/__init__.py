"""Elastic state: saved by N ranks, loaded by M, by intersection of intervals.

What a caller needs, in the order of use:

    view = deepspeed_shards.view_of(engine)            # what this rank owns; to load: moments=manifest.moments
    layout = PartLayout.of(view)                       # once per attempt; layout.nbytes is the part's size

    # a snapshot into shared memory (`buffer` is a writable memoryview of at least layout.nbytes):
    copy_part_into(layout, buffer)                     # the only thing training waits for
    part = describe_part(layout, rank=r, file=part_file(run, step, attempt, r, w), blocks=hash_blocks(buffer))

    # or straight into storage:
    part = write_part(layout, storage, rank=r, file=part_file(run, step, attempt, r, w))

    # rank 0 (or a keeper), with every rank's part:
    commit(storage, describe_state(view, ..., parts=parts))    # atomic; False: this step was committed before

    # at the next attempt, on any number of ranks, at any ZeRO stage:
    require(Expected(...), manifest); load_into(view, manifest, source)     # source: a Storage, a keeper, ...
    load_latest_good(view, storage, run, expected, agree=...)               # falls back to older ones, and says so

Beside these: `export` and `universal` (a checkpoint as a model folder or in DeepSpeed's format), `native` (DeepSpeed's
own checkpoints as a manifest and a source). Random generators have no state here: every draw is seeded by its step.

The manifest's JSON is `Manifest.to_bytes()`, a part's is `Part.to_json()`. Files are safetensors; `Storage` is the port
to where they lie. This package refuses to know Ray, keepers and schedules, and everything but the adapters
(`deepspeed_shards`, `native`, `universal`) refuses to know DeepSpeed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# At once, because the function hides the module of its name.
from jobs.train.state.open_storage import open_storage, place_marker, remove_marker, require_marker

if TYPE_CHECKING:
    from jobs.train.state.checkpoints import commit, latest, prune, read_manifest, steps, verify
    from jobs.train.state.compatibility import Expected, changes, require
    from jobs.train.state.describe import describe_state
    from jobs.train.state.errors import CorruptStateError, StateError, StorageError, WrongStateError
    from jobs.train.state.hashing import BLOCK_BYTES, hash_blocks
    from jobs.train.state.kinds import BUFFER, FP32, FROZEN
    from jobs.train.state.layout import PartLayout
    from jobs.train.state.loading import LoadReport, fill, load_into
    from jobs.train.state.manifest import IntervalGroup, Manifest, Part
    from jobs.train.state.naming import part_file, step_folder
    from jobs.train.state.parts import (
        copy_part_into,
        describe_part,
        encode_part,
        part_nbytes,
        write_part,
        write_part_into,
    )
    from jobs.train.state.recovery import Loaded, load_latest_good
    from jobs.train.state.sources import MemorySource, ShardSource
    from jobs.train.state.storage import FileStorage, Storage
    from jobs.train.state.view import Piece, ShardView

__all__ = [
    "BLOCK_BYTES",
    "BUFFER",
    "FP32",
    "FROZEN",
    "CorruptStateError",
    "Expected",
    "FileStorage",
    "IntervalGroup",
    "LoadReport",
    "Loaded",
    "Manifest",
    "MemorySource",
    "Part",
    "PartLayout",
    "Piece",
    "ShardSource",
    "ShardView",
    "StateError",
    "Storage",
    "StorageError",
    "WrongStateError",
    "changes",
    "commit",
    "copy_part_into",
    "describe_part",
    "describe_state",
    "encode_part",
    "fill",
    "hash_blocks",
    "latest",
    "load_into",
    "load_latest_good",
    "open_storage",
    "part_file",
    "part_nbytes",
    "place_marker",
    "prune",
    "read_manifest",
    "remove_marker",
    "require",
    "require_marker",
    "step_folder",
    "steps",
    "verify",
    "write_part",
    "write_part_into",
]

# Loaded when first asked for: a node's agent commits checkpoints and must not bring torch (hundreds of MB) for that.
_NAMES = {
    "checkpoints": "commit latest prune read_manifest steps verify",
    "compatibility": "Expected changes require",
    "describe": "describe_state",
    "errors": "CorruptStateError StateError StorageError WrongStateError",
    "hashing": "BLOCK_BYTES hash_blocks",
    "kinds": "BUFFER FP32 FROZEN",
    "layout": "PartLayout",
    "loading": "LoadReport fill load_into",
    "manifest": "IntervalGroup Manifest Part",
    "naming": "part_file step_folder",
    "parts": "copy_part_into describe_part encode_part part_nbytes write_part write_part_into",
    "recovery": "Loaded load_latest_good",
    "sources": "MemorySource ShardSource",
    "storage": "FileStorage Storage",
    "view": "Piece ShardView",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
