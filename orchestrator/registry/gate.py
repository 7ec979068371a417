"""A registered model's gate: which metrics let a version in."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.job_parts import Gate


def check_gate(gate: Gate, metrics: Mapping[str, float], *, where: str, next_step: str = "") -> None:
    """Raises: UserError (job_failed) unless the gate's metric is there and reaches it."""
    value = metrics.get(gate.metric)
    if value is None:
        known = ", ".join(sorted(metrics)) or "none"
        raise UserError(f"the task reports no {gate.metric}; it reports {known}", code=ExitCode.JOB_FAILED, where=where)
    if (gate.min is None or value >= gate.min) and (gate.max is None or value <= gate.max):
        return
    bounds = " and ".join(
        words
        for bound, words in ((gate.min, f"at least {gate.min}"), (gate.max, f"at most {gate.max}"))
        if bound is not None
    )
    problem = f"{gate.metric} is {value:.4g}, and the gate is {bounds}: the model is not registered"
    raise UserError(problem, code=ExitCode.JOB_FAILED, where=where, next_step=next_step)
