"""Metrics of a server for Prometheus: GET /metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

STAGES = ('prepare', 'queue', 'infer', 'total')
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The figures of one server; each has a registry of its own.

    Args:
        depth: how many requests wait for a batch.
        clipped: how many prompts were too long and lost words.
    """

    def __init__(self, depth: Callable[[], int], clipped: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            'rt2_requests',
            'Requests by protocol, what they want and how they ended.',
            ['protocol', 'wants', 'outcome'],
            registry=self.registry,
        )
        self.batch_size = Histogram(
            'rt2_batch_size', 'Requests a batch.', buckets=_SIZES, registry=self.registry
        )
        seconds = Histogram(
            'rt2_request_seconds',
            'Of answered requests: decoding and resizing, waiting, computing, and all of it.',
            ['stage'],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.seconds = {stage: seconds.labels(stage) for stage in STAGES}
        self.connections = Gauge(
            'rt2_connections', 'Websockets that are open.', registry=self.registry
        )
        queue = Gauge('rt2_queue_depth', 'Requests that wait for a batch.', registry=self.registry)
        queue.set_function(depth)
        self.registry.register(_ClippedPrompts(clipped))

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class _ClippedPrompts(Collector):
    """The policy counts its clipped prompts itself."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(
            'rt2_clipped_prompts', 'Prompts that were too long and lost words.', value=self._count()
        )
