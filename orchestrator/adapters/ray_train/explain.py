"""Why an attempt failed, as one cause and one sentence. Pure."""

from __future__ import annotations

from collections.abc import Collection

from orchestrator.adapters.ray_train.events import Cause
from orchestrator.adapters.ray_train.journal import OpenAttempt
from orchestrator.adapters.ray_train.protocol import GroupIdle


def explain(attempt: OpenAttempt, idle: GroupIdle, lost_nodes: Collection[str]) -> tuple[Cause, str, str]:
    """Cause, kind and sentence of an attempt's failure: a lost node explains what its peers complain of."""
    failure = attempt.root_failure()
    if lost_nodes:
        detail = f"lost node{'s' * (len(lost_nodes) > 1)} {', '.join(node[:12] for node in sorted(lost_nodes))}"
        return Cause.NODE_LOSS, "node_loss", detail
    if failure is not None:
        cause = Cause.HANG if failure.kind == "hang" else Cause.WORKER_FAILURE
        return cause, failure.kind, failure.detail or failure.kind
    if not attempt.joined:
        return Cause.START_FAILURE, "start", idle.detail or "the workers did not start"
    return Cause.WORKER_FAILURE, "internal", idle.detail or "the worker group ended without a word"
