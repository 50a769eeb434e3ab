"""Prometheus metrics of a running service."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Metrics of one service, in a registry of their own.

    Args:
        queued_texts: returns the current number of texts in the queue.
    """

    def __init__(self, queued_texts: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        common: Any = {"registry": self.registry}
        self.requests = Counter("moe_requests", "HTTP requests by path and status", ["path", "status"], **common)
        self.latency = Histogram(
            "moe_request_seconds", "seconds until the response", ["path"], buckets=LATENCY_BUCKETS, **common
        )
        self.texts = Counter("moe_texts", "texts classified or chats answered", **common)
        self.queue = Gauge("moe_queue_texts", "texts in the queue", **common)
        self.batch = Histogram("moe_batch_texts", "texts per batch", buckets=BATCH_SIZE_BUCKETS, **common)
        self.seconds = Counter("moe_model_seconds", "seconds of model computation", **common)
        self.routing_weights = Counter(
            "moe_expert_share", "routing weight of each expert, summed over texts", ["expert"], **common
        )
        self.reloads = Counter("moe_swaps", "model reloads by outcome", ["outcome"], **common)
        self.connections = Gauge("moe_connections", "open connections", **common)
        self.closed = Counter(
            "moe_connections_closed", "connections closed by a limit or a timeout, by reason", ["reason"], **common
        )
        self.queue.set_function(queued_texts)

    def count_batch(self, texts: int, seconds: float) -> None:
        """Count a computed batch."""
        self.batch.observe(texts)
        self.seconds.inc(seconds)

    def count_results(self, routing_weights: Iterable[Mapping[str, float] | None]) -> None:
        """Count results, one mapping of expert names to routing weights per text; None if there is no router."""
        for weights in routing_weights:
            self.texts.inc()
            for expert, weight in (weights or {}).items():
                self.routing_weights.labels(expert).inc(weight)

    def render(self) -> bytes:
        """Return all metrics in Prometheus text format."""
        return generate_latest(self.registry)
