"""Our replica for the serving benchmark: the whole process, HTTP included, on the engine's core.

python -m tests.benchmarks.serving_ours CONFIG.json
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import uvicorn

from orchestrator.spec import Endpoint, load_text
from serving.app import ReplicaSpec, running_app
from serving.http.service import ServedModel

# The promise to clients is 300 ms and 2 s + 50 ms a token from the scheduled send to the last byte; the replica is told
# less, because its clock starts when it has read the request and stops when the answer is handed to the socket.
ENDPOINT = """
apiVersion: tideline/v1
kind: Endpoint
metadata: {name: bench}
spec:
  model: bench@1
  engine: {slots: SLOTS, max_context: 512, prefill_chunk: 64, precision: PRECISION}
  tiers:
    keystroke: {slo: {latency: 250ms}, step_cap: 12ms, max_queue: 64}
    interactive: {slo: {latency: 1.9s, per_token: 50ms}, step_cap: 22ms, max_queue: 64}
    batch: {min_share: 0.05, step_cap: 50ms}
"""


def endpoint(*, slots: int, precision: str) -> Endpoint:
    """The endpoint under test."""
    (loaded,) = load_text(ENDPOINT.replace("SLOTS", str(slots)).replace("PRECISION", precision))
    assert isinstance(loaded, Endpoint)
    return loaded


def replica_spec(config: dict[str, Any]) -> ReplicaSpec:
    """What the replica starts from."""
    return ReplicaSpec(
        endpoint=endpoint(slots=config["slots"], precision=config["precision"]),
        model=ServedModel(id="bench", ref="bench@1", created_s=0),
        folder=Path(config["folder"]),
    )


def main() -> None:
    """Serve until killed."""
    config = json.loads(Path(sys.argv[1]).read_text())
    os.sched_setaffinity(0, {config["engine_core"]})
    import torch

    torch.set_num_threads(1)
    with running_app(replica_spec(config)) as app:
        Path(config["ready"]).touch()
        uvicorn.run(app, host="127.0.0.1", port=config["port"], log_level="warning")


if __name__ == "__main__":
    main()
