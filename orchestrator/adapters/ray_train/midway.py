"""A model in the middle of its training: exported from the newest state on storage, and evaluated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.adapters.ray_train.export import export_checkpoint
from orchestrator.adapters.ray_train.outcome import validation_metrics
from orchestrator.adapters.ray_train.prepare import prepare
from orchestrator.adapters.ray_train.run import RunResult
from orchestrator.spec import TrainJob


def evaluated(job: TrainJob, result: RunResult, home: Path) -> RunResult:
    """The result of a run that was stopped, with the model of its newest checkpoint and that model's metrics.

    Raises: UserError where nothing was saved.
    """
    assert result.checkpoint_step is not None, "asked only for what was saved"
    # The code that the run had: its folder may have changed since.
    runtime = job.spec.runtime.model_copy(update={"working_dir": result.code or None})
    as_run = job.model_copy(update={"spec": job.spec.model_copy(update={"runtime": runtime})})
    prepared = prepare(as_run, home, run_id=result.run_id)
    model_dir = export_checkpoint(
        prepared.storage_url, result.run_id, result.checkpoint_step, result.run_dir / "model", code=prepared.code_dir
    )
    metrics = validation_metrics(prepared, model_dir) or result.metrics
    return replace(result, model_dir=model_dir, metrics=metrics, steps=result.checkpoint_step)
