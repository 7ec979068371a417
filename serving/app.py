"""Put a replica together: model, engine, calibrated scheduler and HTTP application, in one process.

Ingress and engine share the process: a hop between Ray Serve deployments costs 2-7 ms, which a keystroke's 300 ms do
not have to give away, and a second queue in a proxy would be a queue that knows no tiers.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from orchestrator.spec import Endpoint
from serving.batch.database import sqlite_url
from serving.batch.leases import LeaseRules
from serving.batch.runner import BatchRunner
from serving.batch.store import BatchStore
from serving.config import batch_rules, policy_config, slo_objectives, tenant_limits, tier_limits
from serving.engine.calibrate import calibrate
from serving.engine.echo import PacedEchoEngine
from serving.engine.protocol import TokenEngine
from serving.engine.replica import Replica
from serving.engine.text import ByteTokenizer
from serving.http.app import HttpConfig, assemble
from serving.http.keys import KeyRing
from serving.http.service import Batches, ServedModel, Service
from serving.policy import PolicyConfig, TierScheduler

if TYPE_CHECKING:
    from serving.versions import Versions

_CALIBRATION_S = 2.0
_ECHO_CONTEXT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """What a replica needs to start, in plain values that survive pickling.

    `base` is the folder that paths in the endpoint's file are relative to; `state` the folder for batches when the
    file names no store (None = no batches are kept). `built` names everything else, for whoever compares replicas.
    """

    endpoint: Endpoint
    model: ServedModel
    folder: Path
    base: Path = Path()
    state: Path | None = None
    built: str = ""


class ServingProcess:
    """A started replica with what belongs to it; `close` once.

    `versions` changes its weights while it runs; None for an engine without weights of ours.
    """

    def __init__(
        self,
        replica: Replica,
        app: FastAPI,
        metrics: CollectorRegistry,
        *,
        versions: Versions | None = None,
        runner: BatchRunner | None = None,
        batches: Batches | None = None,
    ) -> None:
        self.replica = replica
        self.app = app
        self.metrics = metrics
        self.versions = versions
        self._runner = runner
        self._batches = batches
        self._draining = threading.Lock()

    @property
    def failure(self) -> str | None:
        """Why the engine no longer computes; None while it does."""
        return self.replica.failure

    def give_rows_back(self) -> None:
        """Lease no more rows of batches and give back those that run; every request goes on."""
        with self._draining:  # a notice and the end may come together
            if self._runner is not None:
                self._runner.drain()

    def drain(self) -> None:
        """Give rows back and end batch requests; online ones go on."""
        self.give_rows_back()
        self.replica.drain()

    def close(self) -> None:
        """Drain, then end the engine."""
        self.drain()
        self.replica.close()
        if self._batches is not None:
            self._batches.store.close()


def build_replica(spec: ReplicaSpec) -> ServingProcess:
    """A started replica and its application; the caller closes it. Raises: UserError."""
    ring = _key_ring(spec)
    config = policy_config(spec.endpoint)
    replica, engine = _make_replica(spec, config)
    batches = _open_batches(spec)
    limits = tier_limits(spec.endpoint)
    service = Service(model=spec.model, replica=replica, policy=config, limits=limits, batches=batches)
    http = HttpConfig(
        max_body_bytes=spec.endpoint.spec.listen.max_body,
        ring=ring,
        limits=tenant_limits(spec.endpoint),
        objectives=slo_objectives(spec.endpoint),
    )
    assembled = assemble(service, http)
    replica.start()
    if assembled.runner is not None:
        assembled.runner.start()
    versions = _versions(spec, replica, engine, service)
    return ServingProcess(
        replica, assembled.app, assembled.metrics, versions=versions, runner=assembled.runner, batches=batches
    )


@contextlib.contextmanager
def running_app(spec: ReplicaSpec) -> Iterator[FastAPI]:
    """The application of a replica that is closed on exit; for any ASGI server, without Ray."""
    process = build_replica(spec)
    try:
        yield process.app
    finally:
        process.close()


def _make_replica(spec: ReplicaSpec, config: PolicyConfig) -> tuple[Replica, TokenEngine | None]:
    """A replica, not yet started, and its engine when that is one of ours. Raises: UserError."""
    asked = spec.endpoint.spec.engine
    if asked.name == "vllm":
        from serving.engine.vllm_replica import load_vllm

        loaded = load_vllm(
            spec.folder, config, slots=asked.slots, max_context=asked.max_context, precision=asked.precision
        )
        return cast(Replica, loaded), None  # it has the methods that routes and metrics call
    engine = _make_engine(spec)
    step_time = calibrate(engine, chunk_tokens=config.prefill_chunk_tokens, budget_s=_CALIBRATION_S)
    scheduler = TierScheduler(config, num_slots=engine.num_slots, model=step_time)
    return Replica(engine, scheduler, ByteTokenizer()), engine


def _versions(spec: ReplicaSpec, replica: Replica, engine: TokenEngine | None, service: Service) -> Versions | None:
    if spec.endpoint.spec.engine.name != "torch":
        return None
    from serving.versions import Versions  # torch

    def show(model: ServedModel) -> None:
        service.model = model

    return Versions(spec.endpoint, replica, cast(Any, engine), spec.model, show)


def _key_ring(spec: ReplicaSpec) -> KeyRing | None:
    """Raises: UserError for a keys file that cannot be read."""
    keys = spec.endpoint.spec.keys
    return None if keys is None else KeyRing(spec.base / keys)


def _open_batches(spec: ReplicaSpec) -> Batches | None:
    """The batch store that the endpoint names, else one in the state folder. Raises: UserError."""
    rules = batch_rules(spec.endpoint)
    batch = spec.endpoint.spec.tiers.batch
    if rules is None or batch is None:
        return None
    url = batch.store
    if url is None:
        if spec.state is None:
            return None
        folder = spec.state / "batches"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        url = sqlite_url(folder / f"{spec.endpoint.metadata.name}.sqlite3")
    return Batches(store=BatchStore(url, rules=LeaseRules(retries=rules.retries)), rules=rules)


def _make_engine(spec: ReplicaSpec) -> TokenEngine:
    engine = spec.endpoint.spec.engine
    match engine.name:
        case "echo":
            return PacedEchoEngine(
                num_slots=engine.slots, max_context=engine.max_context or _ECHO_CONTEXT, step_s=engine.step_time
            )
        case "torch":
            from serving.engine.torch_engine import load_engine  # torch costs seconds and 150 MB; echo needs neither

            return load_engine(
                spec.folder, num_slots=engine.slots, max_context=engine.max_context, precision=engine.precision
            )
        case _:
            raise AssertionError(engine.name)  # vllm is built without an engine of ours
