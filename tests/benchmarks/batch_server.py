"""One replica with its batch store as a real HTTP server process, for `batch_crash` to kill.

`python -m tests.benchmarks.batch_server STORE_URL PORT LEASE_S STEP_S`: the echo engine with a pause before each step,
so that a batch lasts long enough to be interrupted. Everything else is what an endpoint runs.
"""

from __future__ import annotations

import sys
import time

import uvicorn

from serving.batch.leases import LeaseRules
from serving.batch.store import BatchStore
from serving.config import BatchRules, TierLimits
from serving.engine.echo import EchoEngine
from serving.engine.replica import Replica
from serving.engine.text import ByteTokenizer
from serving.http.app import HttpConfig, assemble
from serving.http.service import Batches, ServedModel, Service
from serving.policy import PolicyConfig, Tier, TierScheduler, TierTarget, untrained

MODEL = "echo"
RETRIES = 10
_SLOTS = 16


def main(url: str, port: int, lease_s: float, step_s: float) -> None:
    """Serve until killed."""
    engine = EchoEngine(num_slots=_SLOTS, before_step=lambda: time.sleep(step_s))
    policy = PolicyConfig(targets={Tier.BATCH: TierTarget(latency_s=86_400.0, max_waiting=100_000)})
    replica = Replica(engine, TierScheduler(policy, num_slots=_SLOTS, model=untrained()), ByteTokenizer())
    rules = BatchRules(min_window_s=60.0, max_window_s=86_400.0, max_rows=100_000, max_line_bytes=2**20)
    store = BatchStore(url, rules=LeaseRules(lease_s=lease_s, retries=RETRIES))
    service = Service(
        model=ServedModel(id=MODEL, ref=f"{MODEL}@1", created_s=0),
        replica=replica,
        policy=policy,
        limits={Tier.BATCH: TierLimits(max_tokens=400, timeout_s=86_400.0)},
        batches=Batches(store=store, rules=rules),
    )
    assembled = assemble(service, HttpConfig(max_body_bytes=2**20))
    replica.start()
    assert assembled.runner is not None
    assembled.runner.start()
    uvicorn.run(assembled.app, host="127.0.0.1", port=port, log_level="error", lifespan="off")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
