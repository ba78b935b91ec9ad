"""What is counted, in Prometheus terms. Knows no workers: it is told, and asks one callback."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

LATENCY_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

Depths = Callable[[], dict[str, int]]


class Metrics(Collector):
    """All of a server's metrics, in a registry of their own.

    `model` labels are `name:version`, or "" where no model was found: never what a caller made up.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._depths: Depths | None = None
        self._requests = Counter(
            "lmaas_requests",
            "Requests answered, by model, route and HTTP status.",
            ("model", "route", "status"),
            registry=self._registry,
        )
        self._latency = Histogram(
            "lmaas_request_seconds",
            "Time from a request's head to its answer.",
            ("model", "route"),
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "lmaas_batch_size",
            "Samples joined into one engine call.",
            ("model",),
            buckets=BATCH_BUCKETS,
            registry=self._registry,
        )
        self._restarts = Counter(
            "lmaas_worker_restarts",
            "Workers started again after they died.",
            ("model",),
            registry=self._registry,
        )
        self._registry.register(self)

    def request(self, model: str, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        self._requests.labels(model, route, str(status)).inc()
        self._latency.labels(model, route).observe(seconds)

    def batches(self, model: str, sizes: Iterable[int]) -> None:
        """A worker ran batches of these sizes."""
        histogram = self._batches.labels(model)
        for size in sizes:
            histogram.observe(size)

    def restart(self, model: str) -> None:
        """A worker died and is started again."""
        self._restarts.labels(model).inc()

    def watch(self, depths: Depths) -> None:
        """Take queue depths by loaded model from `depths` whenever metrics are read."""
        self._depths = depths

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Gauges that are read, not kept. Called by the registry."""
        depths = self._depths() if self._depths else {}
        queue = GaugeMetricFamily(
            "lmaas_queue_depth", "Requests that wait or run.", labels=("model",)
        )
        for model, depth in depths.items():
            queue.add_metric((model,), depth)
        yield queue
        yield GaugeMetricFamily("lmaas_loaded_models", "Models loaded now.", value=len(depths))
