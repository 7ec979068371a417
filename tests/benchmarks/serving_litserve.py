"""LitServe as a competitor: its batching server around the same engine. It lives in an environment of its own, which
sees ours as well; see `--rivals-python` of the serving benchmark.

    python -m tests.benchmarks.serving_litserve CONFIG.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import litserve

from tests.benchmarks.serving_rivals import Ask, StaticEngine, answer, ask_of, pin


class Completions(litserve.LitAPI):  # type: ignore[misc]
    """Batches as large as LitServe collects; a batch runs to its end."""

    config: dict[str, Any]

    def setup(self, device: str) -> None:
        pin(self.config["engine_core"])
        self._engine = StaticEngine(self.config["folder"], 64)
        pin(self.config["engine_core"])

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # a type would become a query parameter
        return ask_of(request)

    def batch(self, inputs: list[Ask]) -> list[Ask]:
        return list(inputs)

    def predict(self, x: list[Ask]) -> list[list[int]]:
        return self._engine.generate(x)

    def unbatch(self, output: list[list[int]]) -> list[list[int]]:
        return output

    def encode_response(self, output: list[int]) -> dict[str, Any]:
        return answer(output)


def main() -> None:
    """Serve until killed."""
    config = json.loads(Path(sys.argv[1]).read_text())
    pin(config["client_core"])  # its HTTP server; the engine's worker moves to the engine's core
    batching = config["batching"]
    api = Completions(
        max_batch_size=batching["max_batch_size"],
        batch_timeout=batching["batch_wait_timeout_s"],
        api_path="/v1/completions",
    )
    api.config = config
    server = litserve.LitServer(api, accelerator="cpu", timeout=False)
    Path(config["ready"]).touch()
    server.run(host="127.0.0.1", port=config["port"], generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
