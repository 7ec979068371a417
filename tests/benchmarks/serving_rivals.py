"""What one would build without tiers: the competitors of the serving benchmark, each a server process of its own.

    python -m tests.benchmarks.serving_rivals NAME CONFIG.json

All of them answer `POST /v1/completions` with the same weights, tokens and engine as ours. Their engine work runs on
the pinned core; Ray's own processes and proxies run on the client's core, which favours them.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations again in Serve's replica, where text such as
# "dict[str, Any]" means nothing to a class that was pickled by value.
import asyncio
import json
import os
import queue
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from serving.engine.protocol import DecodeRow, Sampling

GREEDY = Sampling(temperature=0.0)
Ask = tuple[list[int], int]


class StaticEngine:
    """Whole answers for a list of requests: prefill each, then decode together until the last one is done."""

    def __init__(self, folder: str, slots: int) -> None:
        import torch

        from serving.engine.torch_engine import load_engine

        torch.set_num_threads(1)
        self._engine = load_engine(Path(folder), num_slots=slots, max_context=512, precision="fp32")

    def generate(self, asks: Sequence[Ask], slots: Sequence[int] | None = None) -> list[list[int]]:
        """Tokens of each answer."""
        slots = slots or range(len(asks))
        made = []
        for slot, (prompt, _) in zip(slots, asks, strict=True):
            token = self._engine.prefill(slot, prompt, start=0, sampling=GREEDY)
            assert token is not None
            made.append([token])
        while live := [i for i, (_, wanted) in enumerate(asks) if len(made[i]) < wanted]:
            rows = [
                DecodeRow(
                    slot=slots[i], token=made[i][-1], position=len(asks[i][0]) + len(made[i]) - 1, sampling=GREEDY
                )
                for i in live
            ]
            for i, token in zip(live, self._engine.decode(rows), strict=True):
                made[i].append(token)
        return made


def ask_of(body: dict[str, Any]) -> Ask:
    """Prompt tokens and answer length of a request's body."""
    return list(body["prompt"].encode()), int(body["max_tokens"])


def answer(tokens: Sequence[int]) -> dict[str, Any]:
    """The part of OpenAI's answer that the client reads."""
    text = bytes(tokens).decode(errors="replace")
    return {
        "choices": [{"text": text, "finish_reason": "length"}],
        "usage": {"completion_tokens": len(tokens)},
    }


def pin(core: int, nice: int = 0) -> None:
    """Keep every thread of this process on one core."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {core})
        if nice:
            os.setpriority(os.PRIO_PROCESS, int(thread), nice)


def fastapi_app(config: dict[str, Any]) -> FastAPI:
    """A plain route around `generate`: the thread pool's 40 threads share the core, each with a batch of one."""
    pin(config["engine_core"])
    app, engine, free = FastAPI(), StaticEngine(config["folder"], 40), queue.SimpleQueue[int]()
    for slot in range(40):
        free.put(slot)

    @app.post("/v1/completions")
    def completions(body: dict[str, Any]) -> dict[str, Any]:
        slot = free.get()
        try:
            return answer(engine.generate([ask_of(body)], [slot])[0])
        finally:
            free.put(slot)

    return app


def serve_batch_app(config: dict[str, Any], *, name: str, nice: int, prefix: str) -> None:
    """A Serve deployment whose handler is batched by `@serve.batch`, run under `prefix`."""
    from ray import serve

    app = FastAPI()
    batching = config["batching"]  # None = Serve's defaults
    limits = {} if batching is None else {"max_ongoing_requests": 100}

    @serve.deployment(name=name, num_replicas=1, ray_actor_options={"num_cpus": 0}, **limits)
    @serve.ingress(app)
    class Rival:
        def __init__(self) -> None:
            pin(config["engine_core"], nice)
            self._engine = StaticEngine(config["folder"], 64)
            pin(config["engine_core"], nice)  # torch's threads, too

        @app.post("/v1/completions")
        async def completions(self, body: dict[str, Any]) -> dict[str, Any]:
            return answer(await self.generate(ask_of(body)))

        @app.post("/tune")
        async def tune(self, body: dict[str, Any]) -> None:
            self.generate.set_max_batch_size(body["max_batch_size"])  # type: ignore[attr-defined]
            self.generate.set_batch_wait_timeout_s(body["batch_wait_timeout_s"])  # type: ignore[attr-defined]

        @serve.batch(**(batching or {}))
        async def generate(self, asks: list[Ask]) -> list[list[int]]:
            return await asyncio.to_thread(self._engine.generate, asks)

    serve.run(Rival.bind(), name=name, route_prefix=prefix)


def run_serve(config: dict[str, Any], *, split: bool) -> None:
    """Ray Serve with one deployment for everything, or one for online and one, with nice 19, for batch requests."""
    import ray

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.sched_setaffinity(0, {config["client_core"]})
    # A folder of its own with a short name: sockets below it must not be longer than 107 characters.
    with tempfile.TemporaryDirectory(prefix="rv-", dir="/tmp") as folder:
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        _serve_until_killed(config, split=split)


def _serve_until_killed(config: dict[str, Any], *, split: bool) -> None:
    from ray import serve

    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": config["port"]})
    serve_batch_app(config, name="online", nice=0, prefix="/")
    if split:
        serve_batch_app(config, name="batch", nice=19, prefix="/batch")
    Path(config["ready"]).touch()
    while True:
        time.sleep(1)


def main() -> None:
    """Serve until killed."""
    name, config = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    if name == "fastapi":
        app = fastapi_app(config)
        Path(config["ready"]).touch()
        uvicorn.run(app, host="127.0.0.1", port=config["port"], log_level="warning")
    else:
        run_serve(config, split=name == "serve-split")


if __name__ == "__main__":
    main()
