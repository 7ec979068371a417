"""Prometheus metrics of one replica, per tier; no request, session or key is ever a label."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.engine.replica import Replica
from serving.policy import Tier

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class ServingMetrics:
    """Counts requests as they end. `outcome` is a finish reason, a refusal reason, `disconnected` or `failed`."""

    def __init__(self, replica: Replica) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(replica))
        self._requests = Counter(
            "tide_serving_requests", "Requests by how they ended.", ["tier", "outcome"], registry=self.registry
        )
        self._tokens = Counter(
            "tide_serving_tokens",
            "Tokens read and made for answered requests.",
            ["tier", "kind"],
            registry=self.registry,
        )
        self._ttft_s = Histogram(
            "tide_serving_ttft_seconds", "Arrival to first token.", ["tier"], buckets=_SECONDS, registry=self.registry
        )
        self._e2e_s = Histogram(
            "tide_serving_e2e_seconds", "Arrival to last token.", ["tier"], buckets=_SECONDS, registry=self.registry
        )

    def first_token(self, tier: Tier, elapsed_s: float) -> None:
        """The first token of an answer is out."""
        self._ttft_s.labels(tier).observe(elapsed_s)

    def answered(self, tier: Tier, outcome: str, elapsed_s: float, *, prompt: int, completion: int) -> None:
        """An answer has ended by itself; token counts are those of its usage."""
        self._requests.labels(tier, outcome).inc()
        self._e2e_s.labels(tier).observe(elapsed_s)
        self._tokens.labels(tier, "prompt").inc(prompt)
        self._tokens.labels(tier, "completion").inc(completion)

    def ended(self, tier: Tier, outcome: str) -> None:
        """A request has ended without an answer."""
        self._requests.labels(tier, outcome).inc()


class _EngineCollector(Collector):
    """Reads the replica's own counts when it is scraped."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def collect(self) -> Iterator[Metric]:
        stats = self._replica.stats()
        yield CounterMetricFamily("tide_serving_steps", "Engine steps.", value=stats.steps)
        yield CounterMetricFamily("tide_serving_busy_seconds", "Time spent in engine steps.", value=stats.busy_s)
        yield CounterMetricFamily(
            "tide_serving_wasted_tokens", "Tokens made for requests that were left or superseded.",
            value=stats.wasted_tokens,
        )  # fmt: skip
        rows = GaugeMetricFamily("tide_serving_rows", "Live requests.", labels=["tier", "state"])
        for tier, (computing, waiting) in stats.rows.items():
            rows.add_metric([tier, "in_slot"], computing)
            rows.add_metric([tier, "waiting"], waiting)
        yield rows
