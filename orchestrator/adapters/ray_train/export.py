"""A finished run's last checkpoint as a plain model directory, which the registry takes and the server loads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from jobs.models.own_code import CODE_FOLDER
from jobs.train.state.checkpoints import read_manifest
from jobs.train.state.export import export_model
from jobs.train.state.open_storage import open_storage


def export_checkpoint(storage_url: str, run_id: str, step: int, out_dir: Path, *, code: Path | None = None) -> Path:
    """Write the model of a checkpoint to `out_dir`, replacing an older export; it appears whole or not at all.

    `code`: the folder of the job's own code, which the model then carries: whoever loads it needs no other.
    Raises: StateError if the checkpoint is damaged or gone.
    """
    storage = open_storage(storage_url)
    manifest = read_manifest(storage, run_id, step)
    draft = out_dir.with_name(f".{out_dir.name}.{os.getpid()}")
    try:
        export_model(manifest, storage, draft)
        if code is not None:
            shutil.copytree(code, draft / CODE_FOLDER, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.rmtree(out_dir, ignore_errors=True)
        draft.replace(out_dir)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out_dir
