"""Prometheus metrics of one replica, per tier and tenant; no request, session, key or batch is ever a label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.engine.generation import Finished, FinishReason, Generation
from serving.engine.replica import Replica
from serving.policy import Tier
from serving.policy.canary import VersionCounts

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_SLACK = (-30.0, -5.0, -1.0, -0.3, -0.1, 0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 60.0, 3600.0)
_WHO = ["tier", "tenant"]
_WASTED = (FinishReason.SUPERSEDED, FinishReason.TIMEOUT)


class ServingMetrics:
    """Counts requests as they come, start and end.

    `outcome` is a finish reason, a refusal reason, `disconnected` or `failed`. A request misses its SLO when its last
    token comes after its deadline, or never because of us; superseded and abandoned requests do not count at all.
    """

    def __init__(self, replica: Replica, objectives: Mapping[Tier, float]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(replica))
        self._requests = self._counter("requests", "Requests by how they ended.", "outcome")
        self._arrivals = self._counter("arrivals", "Requests that came to the scheduler.")
        self._admitted = self._counter("admitted", "Requests that the scheduler took.")
        self._shed = self._counter("shed", "Requests that were refused for want of capacity.", "reason")
        self._superseded = self._counter("superseded", "Requests that a newer one of their session ended.")
        self._tokens = self._counter("tokens", "Tokens read and made for answered requests.", "kind")
        self._wasted = self._counter("wasted_tokens", "Tokens made for requests that were left or superseded.")
        self._counted = self._counter("slo_requests", "Requests that count for the tier's SLO.")
        self._missed = self._counter("slo_missed", "Those of them that were not answered in time.")
        self._ttft_s = self._histogram("ttft_seconds", "Arrival to first token.", _SECONDS)
        self._tpot_s = self._histogram("tpot_seconds", "Time for each token after the first.", _PER_TOKEN)
        self._e2e_s = self._histogram("e2e_seconds", "Arrival to last token.", _SECONDS)
        self._slack_s = self._histogram("slack_seconds", "Deadline minus last token; below 0 = late.", _SLACK)
        self._limited = self._named("limited", "Requests above a limit of their tenant.", ["tenant", "limit"])
        self._rows = self._named("batch_rows", "Leased rows of batches by how they ended.", ["tenant", "outcome"])
        objective = Gauge("tide_serving_slo_objective", "Share of requests that must be in time.", ["tier"],
                          registry=self.registry)  # fmt: skip
        for tier, share in objectives.items():
            objective.labels(tier).set(share)

    def arrived(self, generation: Generation) -> None:
        """A request goes to the scheduler."""
        self._arrivals.labels(generation.tier, generation.tenant).inc()

    def first_token(self, generation: Generation, elapsed_s: float) -> None:
        """The first token of an answer is out."""
        self._admitted.labels(generation.tier, generation.tenant).inc()
        self._ttft_s.labels(generation.tier, generation.tenant).observe(elapsed_s)

    def answered(self, generation: Generation, end: Finished, *, ttft_s: float, elapsed_s: float) -> None:
        """An answer has ended by itself."""
        who = (generation.tier, generation.tenant)
        self._requests.labels(*who, end.reason).inc()
        self._e2e_s.labels(*who).observe(elapsed_s)
        self._tokens.labels(*who, "prompt").inc(len(generation.prompt))
        self._tokens.labels(*who, "completion").inc(end.num_tokens)
        if end.num_tokens > 1:
            self._tpot_s.labels(*who).observe((elapsed_s - ttft_s) / (end.num_tokens - 1))
        if end.reason in _WASTED:
            self._wasted.labels(*who).inc(end.num_tokens)
        if end.reason is FinishReason.SUPERSEDED:
            self._superseded.labels(*who).inc()
            return
        slack_s = generation.deadline_s - generation.arrival_s - elapsed_s
        self._slack_s.labels(*who).observe(slack_s)
        self._count_slo(generation, missed=slack_s < 0 or end.reason is FinishReason.TIMEOUT)

    def refused(self, generation: Generation, reason: str) -> None:
        """The scheduler did not take a request."""
        self._requests.labels(generation.tier, generation.tenant, reason).inc()
        self._shed.labels(generation.tier, generation.tenant, reason).inc()
        self._count_slo(generation, missed=True)

    def failed(self, generation: Generation) -> None:
        """The engine broke."""
        self._requests.labels(generation.tier, generation.tenant, "failed").inc()
        self._count_slo(generation, missed=True)

    def left(self, generation: Generation, num_tokens: int) -> None:
        """Nobody waits for the answer any more; `num_tokens` of it were read."""
        self._requests.labels(generation.tier, generation.tenant, "disconnected").inc()
        self._wasted.labels(generation.tier, generation.tenant).inc(num_tokens)

    def limited(self, tenant: str, limit: str) -> None:
        """A request was above a limit of its tenant."""
        self._limited.labels(tenant, limit).inc()

    def batch_row(self, tenant: str, outcome: str) -> None:
        """A leased row of a batch has ended."""
        self._rows.labels(tenant, outcome).inc()

    def _count_slo(self, generation: Generation, *, missed: bool) -> None:
        self._counted.labels(generation.tier, generation.tenant).inc()
        self._missed.labels(generation.tier, generation.tenant).inc(missed)

    def _counter(self, name: str, text: str, *more: str) -> Counter:
        return self._named(name, text, [*_WHO, *more])

    def _named(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(f"tide_serving_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"tide_serving_{name}", text, _WHO, buckets=buckets, registry=self.registry)


class _EngineCollector(Collector):
    """Reads the replica's own counts when it is scraped."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def collect(self) -> Iterator[Metric]:
        stats = self._replica.stats()
        yield CounterMetricFamily("tide_serving_steps", "Engine steps.", value=stats.steps)
        yield CounterMetricFamily("tide_serving_busy_seconds", "Time spent in engine steps.", value=stats.busy_s)
        yield CounterMetricFamily(
            "tide_serving_step_budget_seconds", "Time that steps with a budget were allowed.", value=stats.budget_s
        )
        yield CounterMetricFamily(
            "tide_serving_step_budget_used_seconds", "Time that they took.", value=stats.budget_used_s
        )
        rows = GaugeMetricFamily("tide_serving_rows", "Live requests.", labels=["tier", "state"])
        for tier, (computing, waiting) in stats.rows.items():
            rows.add_metric([tier, "in_slot"], computing)
            rows.add_metric([tier, "waiting"], waiting)
        yield rows
        yield from self._versions()

    def _versions(self) -> Iterator[Metric]:
        """What canaries are judged by; the stable version is one label, whichever it is."""
        rollout = self._replica.rollout
        asked = _by_version("requests", "Requests that ended, by the version that answered.")
        failed = _by_version("failed", "Those of them whose model failed.")
        missed = _by_version("slo_missed", "Those of them that were not answered in time.")
        for version, counts in {"": VersionCounts(), **rollout.totals}.items():
            for family, count in ((asked, counts.requests), (failed, counts.failed), (missed, counts.missed_slo)):
                family.add_metric([version or "stable"], count)
        yield from (asked, failed, missed)
        taken_back = CounterMetricFamily(
            "tide_serving_canary_rollbacks", "Versions on trial that were taken back.", labels=["version", "reason"]
        )
        for (version, reason), times in rollout.rollbacks.items():
            taken_back.add_metric([version, reason], times)
        yield taken_back


def _by_version(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"tide_serving_version_{name}", text, labels=["version"])
