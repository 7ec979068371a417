"""BentoML as a competitor: a service that answers HTTP before one that batches adaptively, around the same engine. It
lives in an environment of its own, which sees ours as well; see `--rivals-python` of the serving benchmark.

    python -m tests.benchmarks.serving_bentoml CONFIG.json
"""

# No `from __future__ import annotations`: BentoML reads the types of what is batched.
import json
import os
import sys
from pathlib import Path
from typing import Any

import bentoml
from fastapi import FastAPI

from tests.benchmarks.serving_rivals import StaticEngine, answer, ask_of, pin

_CONFIG = "SERVING_BENTOML_CONFIG"
_PATIENT = {"timeout": 600}  # by default a request that waits for a minute is an error
_QUIET = {"access": {"enabled": False}}

config: dict[str, Any] = json.loads(Path(os.environ.get(_CONFIG, sys.argv[-1])).read_text())
front = FastAPI()


@bentoml.service(name="engine", workers=1, traffic=_PATIENT, logging=_QUIET)
class Engine:
    """Batches as BentoML's dispatcher makes them; a batch runs to its end."""

    def __init__(self) -> None:
        pin(config["engine_core"])
        self._engine = StaticEngine(config["folder"], 128)
        pin(config["engine_core"])

    @bentoml.api(batchable=True, max_batch_size=config["batching"]["max_batch_size"])
    def generate(self, bodies: list[dict[str, Any]]) -> list[list[int]]:
        """Tokens of each answer."""
        return self._engine.generate([ask_of(body) for body in bodies])


@bentoml.service(name="completions", workers=1, traffic=_PATIENT, logging=_QUIET)
@bentoml.asgi_app(front)
class Completions:
    """The address; BentoML's own routes for batches take lists, and clients send one request each."""

    engine = bentoml.depends(Engine)

    def __init__(self) -> None:
        pin(config["client_core"])

    @front.post("/v1/completions")
    async def completions(self, body: dict[str, Any]) -> dict[str, Any]:
        """One completion."""
        (tokens,) = await self.engine.to_async.generate([body])
        return answer(tokens)


def main() -> None:
    """Serve until killed."""
    os.environ.update({_CONFIG: str(Path(sys.argv[1]).resolve()), "BENTOML_DO_NOT_TRACK": "true",
                       "BENTOML_HOME": str(Path(sys.argv[1]).resolve().parent / "bentoml")})  # fmt: skip
    Path(config["ready"]).touch()
    address = ["--host", "127.0.0.1", "--port", str(config["port"])]
    service = "tests.benchmarks.serving_bentoml:Completions"
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", "serve", service, *address])


if __name__ == "__main__":
    main()
