"""What is counted, in Prometheus terms. Knows no workers: it is told, and asks one callback."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lmaas.generation_types import Usage
from lmaas.serving.statistics import Statistics

LATENCY_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

Depths = Callable[[], dict[str, tuple[int, float]]]
"""Of each loaded model: requests in hand, and the share of its KV cache that is in use."""


class Metrics(Collector):
    """All of a server's metrics, in a registry of their own.

    `model` labels are `name:version`, or "" where no model was found: never what a caller made up.
    `statistics` are by tenant, for who calls.
    """

    def __init__(self, failures: Mapping[str, int] = MappingProxyType({})) -> None:
        """`failures` tells how often each long-lived task has failed."""
        self._failures = failures
        self.statistics = Statistics()
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
        self._first_token = Histogram(
            "lmaas_first_token_seconds",
            "Time from a request's arrival to the first token of its answer.",
            ("model",),
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._tokens = Counter(
            "lmaas_tokens",
            "Tokens of language models, by kind: prompt, completion.",
            ("model", "kind"),
            registry=self._registry,
        )
        self._answers = Counter(
            "lmaas_cached_answers",
            "Requests that the response cache was asked for, by outcome: hit, miss.",
            ("model", "outcome"),
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

    def first_token(self, model: str, seconds: float) -> None:
        """A generation has its first token."""
        self._first_token.labels(model).observe(seconds)

    def used(self, model: str, usage: Usage) -> None:
        """A generation is over."""
        self._tokens.labels(model, "prompt").inc(usage.prompt)
        self._tokens.labels(model, "completion").inc(usage.completion)

    def cached(self, model: str, *, hit: bool) -> None:
        """The response cache was asked for an answer."""
        self._answers.labels(model, "hit" if hit else "miss").inc()

    def restart(self, model: str) -> None:
        """A worker died and is started again."""
        self._restarts.labels(model).inc()

    def watch(self, depths: Depths) -> None:
        """Ask `depths` whenever metrics are read."""
        self._depths = depths

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Gauges that are read, not kept. Called by the registry."""
        depths = self._depths() if self._depths else {}
        queue = GaugeMetricFamily(
            "lmaas_queue_depth", "Requests that wait or run.", labels=("model",)
        )
        cache = GaugeMetricFamily(
            "lmaas_kv_cache_used",
            "Share of the cache of keys and values in use.",
            labels=("model",),
        )
        for model, (depth, cache_used) in depths.items():
            queue.add_metric((model,), depth)
            cache.add_metric((model,), cache_used)
        yield queue
        yield cache
        failures = CounterMetricFamily(
            "lmaas_task_failures",
            "Times that a long-lived task of the server failed and was started again.",
            labels=("task",),
        )
        for name, count in self._failures.items():
            failures.add_metric((name,), count)
        yield failures
        yield GaugeMetricFamily("lmaas_loaded_models", "Models loaded now.", value=len(depths))
