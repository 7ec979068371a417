"""A finished run's last checkpoint as a plain model directory, which the registry takes and the server loads."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from jobs.models.load import CONFIG_FILE, ModelConfig
from jobs.train.state.checkpoints import read_manifest
from jobs.train.state.export import export_model
from jobs.train.state.open_storage import open_storage
from orchestrator.spec import TrainJob


def export_checkpoint(job: TrainJob, storage_url: str, run_id: str, step: int, out_dir: Path) -> Path:
    """Write the model of a checkpoint to `out_dir`, replacing an older export; it appears whole or not at all.

    Raises: StateError if the checkpoint is damaged or gone.
    """
    storage = open_storage(storage_url)
    manifest = read_manifest(storage, run_id, step)
    draft = out_dir.with_name(f".{out_dir.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        export_model(manifest, storage, draft)
        config = ModelConfig(task=job.spec.task, args=job.spec.args, notes=_notes(draft, run_id, step))
        (draft / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
        shutil.rmtree(out_dir, ignore_errors=True)
        draft.replace(out_dir)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out_dir


def _notes(folder: Path, run_id: str, step: int) -> dict[str, Any]:
    """What the export itself noted, and which run and step the model is."""
    path = folder / CONFIG_FILE
    noted = json.loads(path.read_bytes()) if path.exists() else {}
    own = {"task", "args", "format"}
    return {**{key: value for key, value in noted.items() if key not in own}, "run": run_id, "step": step}
