"""Our replica for the serving benchmark: the whole process, HTTP included, on the engine's core.

python -m tests.benchmarks.serving_ours CONFIG.json

With `"on_ray": true` in the configuration it is deployed on Ray Serve, as `tide serve` does, and its requests come
through Serve's proxy, which is on the client's core with the rest of Ray, as for the competitors.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
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
  listen: {port: PORT}
  engine: {slots: SLOTS, max_context: 512, prefill_chunk: 64, precision: PRECISION}
  tiers:
    keystroke: {slo: {latency: 288ms}, step_cap: 20ms, max_queue: 64}
    interactive: {slo: {latency: 1.9s, per_token: 50ms}, step_cap: 35ms, max_queue: 64}
    batch: {min_share: 0.05, step_cap: 50ms}
"""


def endpoint(*, slots: int, precision: str, port: int = 8000) -> Endpoint:
    """The endpoint under test."""
    text = ENDPOINT.replace("SLOTS", str(slots)).replace("PRECISION", precision).replace("PORT", str(port))
    (loaded,) = load_text(text)
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
    if config["on_ray"]:
        _serve_on_ray(config)
    os.sched_setaffinity(0, {config["engine_core"]})
    import torch

    torch.set_num_threads(1)
    with running_app(replica_spec(config)) as app:
        Path(config["ready"]).touch()
        uvicorn.run(app, host="127.0.0.1", port=config["port"], log_level="warning")


def _serve_on_ray(config: dict[str, Any]) -> None:
    from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
    from orchestrator.adapters.ray_serve import deploy
    from orchestrator.registry import Provenance, Registry

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.sched_setaffinity(0, {config["client_core"]})  # inherited by everything that Ray starts
    home = Path(sys.argv[1]).resolve().parent / "home"
    registry = Registry(home / "models")
    registry.register("bench", Path(config["folder"]), Provenance(run="bench"))
    with LocalCluster((NodeSize(num_cpus=2),)):
        deploy(endpoint(slots=config["slots"], precision=config["precision"], port=config["port"]), registry)
        for process in psutil.Process().children(recursive=True):
            if "ServeReplica" in " ".join(process.cmdline()):
                pin(process.pid, config["engine_core"])
        Path(config["ready"]).touch()
        while True:
            time.sleep(1)


def pin(pid: int, core: int) -> None:
    """Keep every thread of a process on one core."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {core})


if __name__ == "__main__":
    main()
