"""Put a replica together: model, engine, calibrated scheduler and HTTP application, in one process.

Ingress and engine share the process: a hop between Ray Serve deployments costs 2-7 ms, which a keystroke's 300 ms do
not have to give away, and a second queue in a proxy would be a queue that knows no tiers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fastapi import FastAPI

from orchestrator.spec import Endpoint
from serving.config import policy_config, tier_limits
from serving.engine.calibrate import calibrate
from serving.engine.echo import EchoEngine
from serving.engine.protocol import TokenEngine
from serving.engine.replica import Replica
from serving.engine.text import ByteTokenizer
from serving.http.app import create_app
from serving.http.service import ServedModel, Service
from serving.policy import TierScheduler

if TYPE_CHECKING:
    from serving.versions import Versions

_CALIBRATION_S = 2.0
_ECHO_CONTEXT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """What a replica needs to start, in plain values that survive pickling."""

    endpoint: Endpoint
    model: ServedModel
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A replica that computes. `versions` changes its weights while it runs; None for an engine without weights."""

    replica: Replica
    app: FastAPI
    versions: Versions | None


def build_replica(spec: ReplicaSpec) -> Started:
    """A started replica and its application; the caller closes the replica. Raises: UserError."""
    if spec.endpoint.spec.engine.name == "vllm":
        return _build_vllm(spec)
    engine = _make_engine(spec)
    config = policy_config(spec.endpoint)
    step_time = calibrate(engine, chunk_tokens=config.prefill_chunk_tokens, budget_s=_CALIBRATION_S)
    scheduler = TierScheduler(config, num_slots=engine.num_slots, model=step_time)
    replica = Replica(engine, scheduler, ByteTokenizer())
    service = Service(model=spec.model, replica=replica, policy=config, limits=tier_limits(spec.endpoint))
    app = create_app(service, max_body_bytes=spec.endpoint.spec.listen.max_body)
    replica.start()
    return Started(replica=replica, app=app, versions=_versions(spec, replica, engine, service))


@contextlib.contextmanager
def running_app(spec: ReplicaSpec) -> Iterator[FastAPI]:
    """The application of a replica that is closed on exit; for any ASGI server, without Ray."""
    started = build_replica(spec)
    try:
        yield started.app
    finally:
        started.replica.close()


def _build_vllm(spec: ReplicaSpec) -> Started:
    from serving.engine.vllm_replica import load_vllm

    config, engine = policy_config(spec.endpoint), spec.endpoint.spec.engine
    loaded = load_vllm(
        spec.folder, config, slots=engine.slots, max_context=engine.max_context, precision=engine.precision
    )
    replica = cast(Replica, loaded)  # it has the methods that routes and metrics call
    service = Service(model=spec.model, replica=replica, policy=config, limits=tier_limits(spec.endpoint))
    app = create_app(service, max_body_bytes=spec.endpoint.spec.listen.max_body)
    replica.start()
    return Started(replica=replica, app=app, versions=None)


def _versions(spec: ReplicaSpec, replica: Replica, engine: TokenEngine, service: Service) -> Versions | None:
    if spec.endpoint.spec.engine.name != "torch":
        return None
    from serving.versions import Versions  # torch

    def show(model: ServedModel) -> None:
        service.model = model

    return Versions(spec.endpoint, replica, cast(Any, engine), spec.model, show)


def _make_engine(spec: ReplicaSpec) -> TokenEngine:
    engine = spec.endpoint.spec.engine
    match engine.name:
        case "echo":
            return EchoEngine(num_slots=engine.slots, max_context=engine.max_context or _ECHO_CONTEXT)
        case "torch":
            from serving.engine.torch_engine import load_engine  # torch costs seconds and 150 MB; echo needs neither

            return load_engine(
                spec.folder, num_slots=engine.slots, max_context=engine.max_context, precision=engine.precision
            )
        case _:
            raise AssertionError(engine.name)  # vllm is built without an engine of ours
