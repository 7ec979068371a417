"""What the applied Cluster says, as the queues see it, and the rules it sets."""

from __future__ import annotations

import json
from dataclasses import dataclass

from orchestrator.policy.queueing.from_spec import levels_of, queues_of, windows_of
from orchestrator.policy.queueing.parties import Queue, Reach, Rules
from orchestrator.policy.queueing.places import Level, OpenHours
from orchestrator.spec import Cluster
from orchestrator.spec.cluster_queues import Tenant as TenantSpec
from orchestrator.spec.notify import Hook

DEFAULT_RULES = Rules(
    tight=Reach(),
    modular=Reach(),
    island_min_workers=2,
    unknown_run_s=86_400.0,
    drain_grace_s=120.0,
    urgent_s=1800.0,
    max_starts=1000,
    usage_half_life_s=7 * 86_400.0,
)
"""How queues behave where nobody said otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """Everything that decides and is not capacity. `generation` 0: nothing was applied yet.
    `document`: the whole of it, as JSON."""

    generation: int = 0
    queues: tuple[Queue, ...] = ()
    tenants: tuple[TenantSpec, ...] = ()
    windows: tuple[OpenHours, ...] = ()
    levels: tuple[Level, ...] = ()
    hooks: tuple[Hook, ...] = ()
    rules: Rules = DEFAULT_RULES
    document: str = ""


def facts_of(cluster: Cluster, generation: int, rules: Rules = DEFAULT_RULES) -> ClusterFacts:
    """The facts of an applied Cluster."""
    return ClusterFacts(
        generation=generation,
        queues=queues_of(cluster),
        tenants=cluster.spec.tenants,
        windows=windows_of(cluster),
        levels=levels_of(cluster),
        hooks=cluster.spec.notify.hooks,
        rules=rules,
        document=json.dumps(cluster.to_document(), separators=(",", ":"), default=str),
    )
