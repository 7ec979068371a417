"""Put a replica together: model, engine, calibrated scheduler and HTTP application, in one process.

Ingress and engine share the process: a hop between Ray Serve deployments costs 2-7 ms, which a keystroke's 300 ms do
not have to give away, and a second queue in a proxy would be a queue that knows no tiers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI

from orchestrator.spec import Endpoint
from orchestrator.spec.errors import UserError
from serving.batch.database import sqlite_url
from serving.batch.leases import LeaseRules
from serving.batch.runner import BatchRunner
from serving.batch.store import BatchStore
from serving.config import batch_rules, policy_config, slo_objectives, tenant_limits, tier_limits
from serving.engine.calibrate import calibrate
from serving.engine.echo import EchoEngine
from serving.engine.protocol import TokenEngine
from serving.engine.replica import Replica
from serving.engine.text import ByteTokenizer
from serving.http.app import HttpConfig, assemble
from serving.http.keys import KeyRing
from serving.http.service import Batches, ServedModel, Service
from serving.policy import TierScheduler

_CALIBRATION_S = 2.0
_ECHO_CONTEXT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """What a replica needs to start, in plain values that survive pickling.

    `base` is the folder that paths in the endpoint's file are relative to; `state` the folder for batches when the
    file names no store (None = no batches are kept).
    """

    endpoint: Endpoint
    model: ServedModel
    folder: Path
    base: Path = Path()
    state: Path | None = None


class ServingProcess:
    """A started replica with what belongs to it; `close` once."""

    def __init__(self, replica: Replica, runner: BatchRunner | None, batches: Batches | None) -> None:
        self.replica = replica
        self._runner = runner
        self._batches = batches

    @property
    def failure(self) -> str | None:
        """Why the engine no longer computes; None while it does."""
        return self.replica.failure

    def drain(self) -> None:
        """Lease no more rows of batches and give back those that run; online requests go on."""
        if self._runner is not None:
            self._runner.drain()

    def close(self) -> None:
        """Drain, then end the engine."""
        self.drain()
        self.replica.close()
        if self._batches is not None:
            self._batches.store.close()


def build_replica(spec: ReplicaSpec) -> tuple[ServingProcess, FastAPI]:
    """A started replica and its application; the caller closes the replica. Raises: UserError."""
    ring = _key_ring(spec)
    engine = _make_engine(spec)
    config = policy_config(spec.endpoint)
    step_time = calibrate(engine, chunk_tokens=config.prefill_chunk_tokens, budget_s=_CALIBRATION_S)
    scheduler = TierScheduler(config, num_slots=engine.num_slots, model=step_time)
    replica = Replica(engine, scheduler, ByteTokenizer())
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
    return ServingProcess(replica, assembled.runner, batches), assembled.app


@contextlib.contextmanager
def running_app(spec: ReplicaSpec) -> Iterator[FastAPI]:
    """The application of a replica that is closed on exit; for any ASGI server, without Ray."""
    replica, app = build_replica(spec)
    try:
        yield app
    finally:
        replica.close()


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
            return EchoEngine(num_slots=engine.slots, max_context=engine.max_context or _ECHO_CONTEXT)
        case "torch":
            from serving.engine.torch_engine import load_engine  # torch costs seconds and 150 MB; echo needs neither

            return load_engine(
                spec.folder, num_slots=engine.slots, max_context=engine.max_context, precision=engine.precision
            )
        case _:
            raise UserError(f"engine.name {engine.name} is not served yet; torch and echo are")
