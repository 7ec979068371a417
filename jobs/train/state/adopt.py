"""A DeepSpeed checkpoint as the first state of a run: written once as ours, and any number of ranks goes on from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.train.sample_ledger import SampleLedger
from jobs.train.state.checkpoints import commit, steps
from jobs.train.state.errors import CorruptStateError, StateError
from jobs.train.state.layout import PartLayout
from jobs.train.state.manifest import Manifest
from jobs.train.state.naming import part_file
from jobs.train.state.native import read_native
from jobs.train.state.parts import write_part
from jobs.train.state.storage import Storage
from jobs.train.state.view import Piece, ShardView
from orchestrator.spec.errors import ExitCode

_TAG_FILE = "latest"


def tag_folder(folder: Path) -> Path:
    """The folder of one checkpoint: `folder`, or the one in it that DeepSpeed's `latest` names."""
    named = folder / _TAG_FILE
    if not named.is_file():
        return folder
    tag = named.read_text(encoding="utf-8", errors="replace").strip()
    if not tag or Path(tag).name != tag:
        raise CorruptStateError(f"names {tag[:80]!r}, which is no folder beside it", where=str(named))
    return folder / tag


def adopt(
    folder: Path,
    storage: Storage,
    *,
    run: str,
    step: int | None,
    task: Mapping[str, Any],
    dataset_hash: str,
    wrote: Callable[[int], None] = lambda num_bytes: None,
) -> Manifest:
    """Commit the checkpoint in `folder` as step `step` (None: as many as it has made) of a run that has none yet.

    The run's own samples begin with the step after it: nobody knows which ones were used before. `wrote` is told of
    every rank's bytes. The checkpoint is read into memory as a whole.
    Raises: StateError for a checkpoint that cannot be read, or a run that has begun.
    """
    if there := steps(storage, run):
        raise StateError(
            f"run {run!r} has a checkpoint of step {there[-1]} already: it goes on from that",
            code=ExitCode.CONFLICT,
            where=storage.url,
            next_step="Give the job another name",
        )
    native, source = read_native(tag_folder(folder))
    at = native.step if step is None else step
    parts = []
    for part in native.parts:
        # Kind by kind, so that ranges which follow one another share a line of the manifest.
        pieces = sorted(
            (
                Piece(one.name, one.kind, one.start, one.start + one.tensor.numel(), one.tensor.contiguous())
                for one in source.found(part.file)
            ),
            key=lambda piece: piece.kind,
        )
        view = ShardView(
            rank=part.rank,
            world_size=native.world_size,
            zero_stage=native.zero_stage,
            precision=native.precision,
            shapes=native.shapes,
            owned=tuple(pieces),
            wanted=(),
        )
        file = part_file(run, at, 0, part.rank, native.world_size)
        written = write_part(PartLayout.of(view), storage, rank=part.rank, file=file)
        wrote(written.nbytes)
        parts.append(written)
    ledger = SampleLedger(next_step=at).to_json()
    ours = replace(
        native,
        run=run,
        step=at,
        task=dict(task),
        dataset_hash=dataset_hash,
        replicated={"ledger": ledger, "passed_over": []},
        parts=tuple(parts),
    )
    commit(storage, ours)
    return ours
