"""An application under uvicorn on a free loopback port, in a thread; tests talk to it as any client would."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from openai import OpenAI

from serving.batch.database import sqlite_url
from serving.batch.runner import RunnerConfig
from serving.batch.store import BatchStore
from serving.config import BatchRules, TierLimits
from serving.engine.protocol import TokenEngine
from serving.engine.replica import Replica
from serving.http.app import HttpConfig, assemble
from serving.http.keys import KeyRing
from serving.http.limits import TenantLimits
from serving.http.service import Batches, ServedModel, Service
from serving.policy import PolicyConfig
from tests.serving.worlds import PATIENT, make_replica

MAX_BODY_BYTES = 64 * 1024
MAX_FILE_BYTES = 2**20
RULES = BatchRules(
    min_window_s=60.0,
    max_window_s=86_400.0,
    max_rows=1000,
    max_line_bytes=MAX_BODY_BYTES,
    max_file_bytes=MAX_FILE_BYTES,
)
RUNNER = RunnerConfig(rows_at_once=8, poll_s=0.01, gather_s=0.0, heartbeat_s=0.05)


@contextlib.contextmanager
def serve_app(app: FastAPI) -> Iterator[str]:
    """The base URL while the application runs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)  # clients may connect before the thread serves
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def served(
    engine: TokenEngine | None = None, *, config: PolicyConfig = PATIENT, timeout_s: float = 60.0,
    max_tokens: int = 400, folder: Path | None = None, ring: KeyRing | None = None, limits: TenantLimits | None = None,
) -> Iterator[tuple[str, Replica]]:  # fmt: skip
    """An endpoint for the model `gpt-demo` (version 3) and its replica; with a folder it keeps batches there."""
    with running_service(engine, config=config, timeout_s=timeout_s, max_tokens=max_tokens, folder=folder) as service:
        http = HttpConfig(max_body_bytes=MAX_BODY_BYTES, ring=ring, limits=limits or TenantLimits())
        assembled = assemble(service, http, RUNNER)
        with serve_app(assembled.app) as url:
            if assembled.runner is not None:
                assembled.runner.start()
            try:
                yield url, service.replica
            finally:
                if assembled.runner is not None:
                    assembled.runner.drain()


@contextlib.contextmanager
def running_service(
    engine: TokenEngine | None = None, *, config: PolicyConfig = PATIENT, timeout_s: float = 60.0,
    max_tokens: int = 400, folder: Path | None = None,
) -> Iterator[Service]:  # fmt: skip
    """The service behind an application, its replica started."""
    replica = make_replica(engine, config)
    limits = {tier: TierLimits(max_tokens=max_tokens, timeout_s=timeout_s) for tier in config.targets}
    model = ServedModel(id="gpt-demo", ref="gpt-demo@3", created_s=1_760_000_000)
    store = BatchStore(sqlite_url(folder / "batches.sqlite3")) if folder else None
    batches = Batches(store=store, rules=RULES) if store else None
    replica.start()
    try:
        yield Service(model=model, replica=replica, policy=config, limits=limits, batches=batches)
    finally:
        replica.close()
        if store is not None:
            store.close()


@contextlib.contextmanager
def openai_client(url: str, api_key: str = "none") -> Iterator[OpenAI]:
    """The real client, which repeats nothing by itself."""
    with OpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0) as client:
        yield client
