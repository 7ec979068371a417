"""The model of a finished run as a version in the registry, if it reaches its gate."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from orchestrator.adapters.ray_train.run import RunResult
from orchestrator.registry import Provenance, Registry, Version
from orchestrator.spec import TrainJob
from orchestrator.spec.errors import ExitCode, UserError


def register(job: TrainJob, result: RunResult, home: Path) -> Version | None:
    """Make the model of a finished run the next version of the model that the job names, if it names one.

    Raises: UserError (job_failed) when its gate is not reached; nothing is registered then.
    """
    wanted = job.spec.register
    if wanted is None or result.model_dir is None:
        return None
    if wanted.gate is not None:
        _check_gate(job, result)
    provenance = Provenance(
        dataset=job.spec.data.dataset,
        dataset_hash=result.dataset_hash,
        code_version=", ".join(filter(None, (f"tideline {importlib.metadata.version('tideline')}", result.code))),
        run=f"{result.run_id}/{result.steps}",
        metrics=result.metrics,
    )
    return Registry(home / "models").register(wanted.model, result.model_dir, provenance)


def _check_gate(job: TrainJob, result: RunResult) -> None:
    assert job.spec.register is not None
    gate = job.spec.register.gate
    assert gate is not None
    where, value = "spec.register.gate", result.metrics.get(gate.metric)
    if value is None:
        known = ", ".join(sorted(result.metrics)) or "none"
        raise UserError(f"the task reports no {gate.metric}; it reports {known}", code=ExitCode.JOB_FAILED, where=where)
    low, high = gate.min, gate.max
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = " and ".join(
            words for bound, words in ((low, f"at least {low}"), (high, f"at most {high}")) if bound is not None
        )
        raise UserError(
            f"{gate.metric} is {value:.4g}, and the gate is {bounds}: the model is not registered",
            code=ExitCode.JOB_FAILED,
            where=where,
            next_step=f"The model itself is in {result.model_dir}",
        )
