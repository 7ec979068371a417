"""Why an attempt failed, as one cause and one sentence. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from orchestrator.adapters.ray_train.events import Cause, WorkerDied
from orchestrator.adapters.ray_train.journal import OpenAttempt
from orchestrator.adapters.ray_train.protocol import GroupIdle, Leaving

OF_THE_NODE = frozenset({"killed", "environment", "start"})
"""Kinds of failures that a node can be the reason for; what the job's own code raised is none."""


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


def deaths(attempt: OpenAttempt, idle: GroupIdle, lost_nodes: Collection[str]) -> Iterator[WorkerDied]:
    """Nodes that go on and on which a worker has died by itself, each once; what others pulled along is not told."""
    found = dict.fromkeys(idle.silent_nodes, "a worker died or does not answer")
    for left in sorted(attempt.left.values(), key=lambda one: one.worker, reverse=True):
        if left.how is Leaving.FAILED and left.kind in OF_THE_NODE:
            found[left.node_id] = left.detail
    for node in sorted(found.keys() - set(lost_nodes)):
        yield WorkerDied(at_s=idle.at_s, attempt=attempt.plan.attempt, node_id=node, detail=found[node])
