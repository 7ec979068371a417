"""An application under uvicorn on a free loopback port, in a thread; tests talk to it as any client would."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI
from openai import OpenAI

from serving.config import TierLimits
from serving.engine.protocol import TokenEngine
from serving.engine.replica import Replica
from serving.http.app import create_app
from serving.http.service import ServedModel, Service
from serving.policy import PolicyConfig
from tests.serving.worlds import PATIENT, make_replica

MAX_BODY_BYTES = 64 * 1024


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
    engine: TokenEngine | None = None, *, config: PolicyConfig = PATIENT, timeout_s: float = 60.0, max_tokens: int = 400
) -> Iterator[tuple[str, Replica]]:
    """An endpoint for the model `gpt-demo` (version 3) and its replica."""
    replica = make_replica(engine, config)
    limits = {tier: TierLimits(max_tokens=max_tokens, timeout_s=timeout_s) for tier in config.targets}
    model = ServedModel(id="gpt-demo", ref="gpt-demo@3", created_s=1_760_000_000)
    service = Service(model=model, replica=replica, policy=config, limits=limits)
    replica.start()
    try:
        with serve_app(create_app(service, max_body_bytes=MAX_BODY_BYTES)) as url:
            yield url, replica
    finally:
        replica.close()


@contextlib.contextmanager
def openai_client(url: str) -> Iterator[OpenAI]:
    """The real client, which repeats nothing by itself."""
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client
