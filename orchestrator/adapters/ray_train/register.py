"""The model of a finished run as a version in the registry, if it reaches its gate."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from orchestrator.adapters.ray_train.run import RunResult
from orchestrator.registry import Provenance, Registry, Version
from orchestrator.registry.gate import check_gate
from orchestrator.spec import TrainJob


def register(job: TrainJob, result: RunResult, home: Path) -> Version | None:
    """Make the model of a finished run the next version of the model that the job names, if it names one.

    Raises: UserError (job_failed) when its gate is not reached; nothing is registered then.
    """
    wanted = job.spec.register
    if wanted is None or result.model_dir is None:
        return None
    if wanted.gate is not None:
        step = f"The model itself is in {result.model_dir}"
        check_gate(wanted.gate, result.metrics, where="spec.register.gate", next_step=step)
    provenance = Provenance(
        dataset=job.spec.data.dataset,
        dataset_hash=result.dataset_hash,
        code_version=", ".join(filter(None, (f"tideline {importlib.metadata.version('tideline')}", result.code))),
        run=f"{result.run_id}/{result.steps}",
        metrics=result.metrics,
    )
    return Registry(home / "models").register(wanted.model, result.model_dir, provenance)
