"""Metrics of the HTTP side: requests by route, method and status, their latency, streams that are open.

Labels are of bounded number: routes are templates, never paths, and no job's name is among them.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class HttpCounts:
    """Registered with `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        labels = ("route", "method")
        self.requests = Counter("tide_http_requests", "Requests answered.", (*labels, "status"), registry=registry)
        self.seconds = Histogram(
            "tide_http_request_seconds",
            "From the request to the begin of its answer.",
            labels,
            buckets=_BUCKETS,
            registry=registry,
        )
        self.refused = Counter("tide_http_refused", "Requests refused for who asked.", ("why",), registry=registry)
        self.streams = Gauge("tide_http_streams", "Streams that are open.", ("kind",), registry=registry)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self.requests.labels(route, method, str(status)).inc()
        self.seconds.labels(route, method).observe(seconds)
