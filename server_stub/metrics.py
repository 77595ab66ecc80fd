"""Prometheus metrics of one app, in a registry of its own so that two apps in a process do not mix."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

_SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300)


class Metrics:
    """Counters by route template and status; no account names, no ids, so that the label sets stay small."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "blackbox_ti_requests", "Requests answered.", ["route", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "blackbox_ti_request_seconds", "Time to answer.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.forwards = Counter("blackbox_ti_forwards", "Denoiser passes charged.", registry=self.registry)
        self.queries = Counter("blackbox_ti_queries", "Queries charged.", registry=self.registry)
        self.replays = Counter("blackbox_ti_replays", "Stored replies sent again.", registry=self.registry)
        self.rejected = Counter(
            "blackbox_ti_rejected_candidates", "Candidates rejected.", ["code"], registry=self.registry
        )
        self.active = Gauge("blackbox_ti_active_requests", "Requests being worked on.", registry=self.registry)
        self.ready = Gauge("blackbox_ti_ready", "1 when new work is taken.", registry=self.registry)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self.requests.labels(route, method, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)
