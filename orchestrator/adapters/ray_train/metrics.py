"""A run's Prometheus metrics, a fold over its events, on a loopback port.

Names: `tide_run_steps_total`, `tide_run_tokens_total`, `tide_run_loss`, `tide_run_mfu`, `tide_run_step_seconds`,
`tide_run_world_size`, `tide_run_attempts_total{cause}`, `tide_run_stall_seconds_total{cause,part}`,
`tide_run_worker_seconds{state}`, `tide_run_steps_lost_total{cause}`, `tide_run_checkpoint_step`; all carry `job`.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from orchestrator.adapters.ray_train.events import (
    AttemptClosed,
    AttemptOpened,
    Cause,
    CheckpointSaved,
    Event,
    StallPart,
    StepDone,
)
from orchestrator.adapters.ray_train.record import RunRecord

STEP_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class RunMetrics:
    """Metrics of one run in a registry of their own; `serve` opens them to scrapers of this machine."""

    def __init__(self, job: str) -> None:
        self.registry = CollectorRegistry()
        self._job = job
        self._steps = self._make(Counter, "steps_total", "Optimizer steps made, repeated ones included.")
        self._tokens = self._make(Counter, "tokens_total", "Tokens trained on, repeated ones included.")
        self._loss = self._make(Gauge, "loss", "Mean loss of the last step.")
        self._mfu = self._make(Gauge, "mfu", "Model FLOPs utilisation of the last step, 0..1; 0 where unknown.")
        self._step_s = Histogram(
            "tide_run_step_seconds",
            "Time of one optimizer step.",
            ["job"],
            registry=self.registry,
            buckets=STEP_BUCKETS_S,
        ).labels(job)
        self._world_size = self._make(Gauge, "world_size", "Ranks in the running group; 0 between groups.")
        self._checkpoint = self._make(Gauge, "checkpoint_step", "Steps in the newest checkpoint on storage.")
        self._attempts = self._family(Counter, "attempts_total", "Worker groups opened.", "cause")
        self._stalls = self._family(Counter, "stall_seconds_total", "Stall by part, wall seconds.", "cause", "part")
        self._lost = self._family(Gauge, "steps_lost", "Steps that had to be made again.", "cause")
        self._worker_s = self._family(Gauge, "worker_seconds", "Held worker-time.", "state")
        self._cause = Cause.START

    def _make(self, kind: Any, name: str, text: str) -> Any:
        return kind(f"tide_run_{name}", text, ["job"], registry=self.registry).labels(self._job)

    def _family(self, kind: Any, name: str, text: str, *labels: str) -> Any:
        return kind(f"tide_run_{name}", text, ["job", *labels], registry=self.registry)

    def observe(self, event: Event, record: RunRecord) -> None:
        """Count one event; `record` already includes it."""
        match event:
            case StepDone():
                self._steps.inc()
                self._tokens.inc(event.num_tokens)
                self._loss.set(event.loss)
                self._mfu.set(event.mfu)
                self._step_s.observe(event.step_s)
            case AttemptOpened():
                self._cause = event.cause
                self._attempts.labels(self._job, event.cause).inc()
                self._world_size.set(event.world_size)
            case AttemptClosed():
                self._cause = event.cause or self._cause
                self._world_size.set(0)
                self._book(record)
            case StallPart():
                self._stalls.labels(self._job, self._cause, event.part).inc(event.seconds)
            case CheckpointSaved():
                self._checkpoint.set(event.step)
            case _:
                pass

    def _book(self, record: RunRecord) -> None:
        seconds = record.worker_seconds()
        self._worker_s.labels(self._job, "useful").set(seconds["useful"])
        self._worker_s.labels(self._job, "lost").set(sum(seconds["lost"].values()))
        self._worker_s.labels(self._job, "stalled").set(sum(seconds["stalled"].values()))
        for cause, steps in record.lost_steps.items():
            self._lost.labels(self._job, cause).set(steps)

    def serve(self, port: int = 0) -> tuple[int, Any]:
        """Answer scrapes on 127.0.0.1; returns the port and a function that ends it."""
        server, thread = start_http_server(port, addr="127.0.0.1", registry=self.registry)

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return int(server.server_port), close
