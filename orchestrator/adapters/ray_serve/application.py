"""From an Endpoint to Serve applications: one for all tiers, or with dedicated placement one for each tier."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from orchestrator.adapters.ray_serve.replica import EndpointReplica
from orchestrator.registry import Registry, Version
from orchestrator.spec import Endpoint
from orchestrator.spec.endpoint_changes import built_from, fixed_while_served
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.names import split_reference
from serving.app import ReplicaSpec
from serving.config import tier_limits
from serving.http.service import ServedModel
from serving.versions import Wanted, WantedVersion, canary_rules

# Serve's own queues know no tiers: let everything through to the replica, whose scheduler refuses what is too much.
_UNBOUNDED = 100_000
_POLICY = "orchestrator.adapters.ray_serve.autoscale:SloPolicy"
_SESSION_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
# Of one replica there must be a second before the first may go; of many, a quarter more at a time is enough.
_SURGE_ALONE, _SURGE_PERCENT = 100, 25
# Serve looks first after this, and then as often, whether a replica that leaves still answers somebody.
_LEAVE_POLL_S = 0.2
# For what a leaving replica does after its last answer, and for a controller that is late.
_LEAVE_MARGIN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One Serve application: its name, the path below which it answers, and the endpoint as its replicas see it."""

    name: str
    path: str
    endpoint: Endpoint


def parts(endpoint: Endpoint, below: str = "") -> tuple[Part, ...]:
    """One part for all tiers, or one for each. A hop to choose a tier by the request's body would cost 2-7 ms, so with
    dedicated placement each tier has an address of its own. `below`: the path that all of them are under."""
    name = endpoint.metadata.name
    if endpoint.spec.placement == "shared":
        return (Part(name=name, path=below or "/", endpoint=endpoint),)
    return tuple(
        Part(name=f"{name}-{tier}", path=f"{below}/{tier}", endpoint=_only(endpoint, tier))
        for tier in endpoint.spec.tiers.present()
    )


def wanted_versions(
    endpoint: Endpoint, registry: Registry, *, stable: str | None = None, with_canary: bool = True
) -> Wanted:
    """The versions that the endpoint's references mean now; `stable` another one than its file names.

    Raises: UserError for an unknown one.
    """
    canary = endpoint.spec.canary if with_canary else None
    return Wanted(
        stable=_wanted(registry, registry.get(stable or endpoint.spec.model)),
        canary=_wanted(registry, registry.get(canary.model)) if canary else None,
        rules=canary_rules(endpoint) if canary else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a lease says of replicas. `initial`: how many at first; `surge`: whether new ones start before old ones go,
    which takes room for one more; else one after the other goes first."""

    initial: int
    surge: bool = True


def application(
    part: Part, registry: Registry, start: Version, wanted: Wanted, *, base: Path, held: Held | None = None
) -> serve.Application:
    """The Serve application. Its replicas start with the version `start` and then serve what is `wanted`.

    `base`: the folder that paths in the endpoint's file are relative to. `held`: None = as many replicas as the file
    and their load say.

    Only what is in `start` or `built_from` the endpoint makes Serve replace replicas; `wanted` changes them while they
    run.
    """
    replicas, spec = part.endpoint.spec.replicas, part.endpoint.spec
    resources = replicas.resources.as_ray()
    model = ServedModel(id=split_reference(spec.model)[0], ref=start.ref, created_s=int(start.created_at.timestamp()))
    deployment = serve.deployment(
        EndpointReplica,
        name="endpoint",
        max_ongoing_requests=_UNBOUNDED,
        graceful_shutdown_timeout_s=leave_timeout_s(part.endpoint),
        graceful_shutdown_wait_loop_s=_LEAVE_POLL_S,
        max_surge_percent=_surge_percent(part.endpoint, held),
        user_config=wanted.to_json(),
        ray_actor_options={
            "num_cpus": resources.pop("CPU", 0),
            "num_gpus": resources.pop("GPU", 0),
            "memory": resources.pop("memory", None),
            "resources": resources,
        },
        **_count(part.endpoint, held),
        **_routing(part.endpoint),
    )
    # Serve draws a new code version for each run, and with it restarts replicas; ours says what they were built from,
    # so other weights reach them through `reconfigure` alone (tests/cluster/test_serve_scaling.py).
    built = code_version(part.endpoint, start)
    deployment = deployment.options(version=built, _internal=True)
    state, folder = registry.root.resolve().parent, registry.folder(start)
    replica = ReplicaSpec(endpoint=part.endpoint, model=model, folder=folder, base=base, state=state, built=built)
    return deployment.bind(replica)


def leave_timeout_s(endpoint: Endpoint) -> float:
    """When Serve kills a replica that leaves: not before the last answer that it has promised can be over. Online
    answers end with their tier's timeout, batch requests with `drain`."""
    online = [limits.timeout_s for tier, limits in tier_limits(endpoint).items() if tier.is_online]
    return max(endpoint.spec.replicas.drain, *online, 0.0) + _LEAVE_MARGIN_S


def code_version(endpoint: Endpoint, start: Version) -> str:
    """Names what replicas are built from: another one means that they are replaced."""
    text = f"{start.ref} {json.dumps(built_from(endpoint), sort_keys=True)}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def surge(endpoint: Endpoint, held: Held) -> int:
    """Replicas of a part that may start before old ones go; rounded up, as Serve does."""
    return -(-_surge_percent(endpoint, held) * held.initial // 100)


def _surge_percent(endpoint: Endpoint, held: Held | None) -> int:
    if held is not None and not held.surge:
        return 0
    return _SURGE_ALONE if endpoint.spec.replicas.min == 1 else _SURGE_PERCENT


def _count(endpoint: Endpoint, held: Held | None) -> Mapping[str, Any]:
    replicas = endpoint.spec.replicas
    if replicas.max == 1 and held is None:
        return {"num_replicas": 1}
    # Also where the file names one number: a lease may leave fewer. One more while a replica moves to its lease's node;
    # a lease, which is always there, says exactly how many.
    least, most = (replicas.min, replicas.max) if held is None else (replicas.max + 1, replicas.max + 1)
    scaling = AutoscalingConfig(
        min_replicas=0,
        max_replicas=most,
        initial_replicas=replicas.min if held is None else held.initial,
        # The policy has its own patience, and it reads averages over seconds.
        upscale_delay_s=0.0,
        downscale_delay_s=0.0,
        metrics_interval_s=2.0,
        look_back_period_s=4.0,
        policy=AutoscalingPolicy(policy_function=_POLICY, policy_kwargs={"min_replicas": least}),
    )
    return {"autoscaling_config": scaling}


def _routing(endpoint: Endpoint) -> Mapping[str, Any]:
    """Where requests of one session must meet, the session's header decides which replica gets them."""
    keystroke, replicas = endpoint.spec.tiers.keystroke, endpoint.spec.replicas
    if keystroke is None or not keystroke.supersede or max(replicas.min, replicas.max) == 1:
        return {}
    return {"request_router_config": RequestRouterConfig(request_router_class=_SESSION_ROUTER)}


def _wanted(registry: Registry, version: Version) -> WantedVersion:
    return WantedVersion(
        ref=version.ref, folder=str(registry.folder(version)), created_s=int(version.created_at.timestamp())
    )


def _only(endpoint: Endpoint, tier: str) -> Endpoint:
    tiers = endpoint.spec.tiers.model_copy(
        update={other: None for other in endpoint.spec.tiers.present() if other != tier}
    )
    # A tier that is alone cannot be "dedicated" among others.
    spec = endpoint.spec.model_copy(update={"tiers": tiers, "placement": "shared"})
    return endpoint.model_copy(update={"spec": spec})


def check_same_place(endpoint: Endpoint, running: Endpoint) -> None:
    """Raises: UserError for a change that needs another address or another set of applications."""
    if fixed := fixed_while_served(running, endpoint):
        raise UserError(
            f"{', '.join(fixed)} cannot change while the endpoint runs",
            where=f"Endpoint {running.metadata.name}",
            code=ExitCode.CONFLICT,
            next_step="Take it down and serve it anew.",
        )
