"""Figures of a running service, as Prometheus reads them.

When each is moved on is told where it happens.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """All figures of one service.

    Args:
        waiting: tells how many texts wait.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry}
        self.requests = Counter("moe_requests", "requests answered", ["path", "status"], **own)
        self.latency = Histogram("moe_request_seconds", "seconds until the answer", ["path"], buckets=LATENCY_BUCKETS, **own)
        self.texts = Counter("moe_texts", "texts, or prompts, that were answered", **own)
        self.waiting = Gauge("moe_queue_texts", "texts that wait", **own)
        self.batch = Histogram("moe_batch_texts", "texts that were computed together", buckets=BATCH_SIZE_BUCKETS, **own)
        self.seconds = Counter("moe_model_seconds", "seconds in the model", **own)
        self.shares = Counter("moe_expert_share", "shares of each expert, summed over texts", ["expert"], **own)
        self.swaps = Counter("moe_swaps", "models opened while running", ["outcome"], **own)
        self.waiting.set_function(waiting)

    def computed(self, texts: int, seconds: float) -> None:
        """A batch came back from the model."""
        self.batch.observe(texts)
        self.seconds.inc(seconds)

    def answered(self, shares: Iterable[Mapping[str, float] | None]) -> None:
        """Texts were answered by experts of these shares."""
        for one in shares:
            self.texts.inc()
            for name, share in (one or {}).items():
                self.shares.labels(name).inc(share)

    def page(self) -> bytes:
        """All of it, in Prometheus' own form."""
        return generate_latest(self.registry)
