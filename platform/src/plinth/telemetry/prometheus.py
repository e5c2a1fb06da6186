"""Prometheus: the metrics of `metrics.py` as series of one registry.

What something else already counts (the inference log, the release holder) is read when it is scraped, so the request
path pays for nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Any

from plinth.core.evidence import LATENCY_BOUNDS, SCORE_BOUNDS
from plinth.core.routes import FULL
from plinth.errors import MissingExtra
from plinth.telemetry import metrics
from plinth.telemetry.counts import RolloutCounts
from plinth.telemetry.histograms import Counted, Histogram
from plinth.telemetry.metrics import Metric
from plinth.telemetry.otlp import lines

Reading = tuple[Metric, tuple[str, ...], float]
"""A metric, the values of its labels after `product`, and its value now."""


def service_readings(stats: Mapping[str, Any], exported: int = 0, failed: int = 0) -> list[Reading]:
    """What a service counts itself, as readings.

    Args:
        stats: `written`, `dropped`, `buffered`, `write_errors`, `release`, `generation`, `stale`, `release_failures`;
            `step`, `weight` (basis points) and `shadow_dropped` where there is a router.
        exported: Spans handed to the collector.
        failed: Spans that could not be.
    """
    return [
        (metrics.LOG_WRITTEN, (), stats["written"]),
        (metrics.LOG_DROPPED, (), stats["dropped"]),
        (metrics.LOG_BUFFERED, (), stats["buffered"]),
        (metrics.LOG_ERRORS, (), stats["write_errors"]),
        *release_readings(stats, exported, failed),
    ]


def release_readings(stats: Mapping[str, Any], exported: int = 0, failed: int = 0) -> list[Reading]:
    """What every service counts of its releases, its rollout and its traces. Arguments as `service_readings`."""
    shipped, dropped = lines()
    readings: list[Reading] = [
        (metrics.RELEASE_GENERATION, (), stats["generation"]),
        (metrics.RELEASE_STALE, (), float(stats["stale"])),
        (metrics.RELEASE_FAILURES, (), stats["release_failures"]),
        (metrics.TRACES_EXPORTED, (), exported),
        (metrics.TRACES_FAILED, (), failed),
        (metrics.LINES_SHIPPED, (), shipped),
        (metrics.LINES_DROPPED, (), dropped),
        (metrics.ROUTE_STEP, (), stats.get("step", 0)),
        (metrics.ROUTE_WEIGHT, (), stats.get("weight", 0) / FULL),
        (metrics.SHADOW_DROPPED, (), stats.get("shadow_dropped", 0)),
    ]
    if stats["release"]:
        readings.append((metrics.RELEASE_INFO, (stats["release"],), 1.0))
    return readings


class Metrics:
    """The series of one product's service.

    Args:
        product: Value of every series' `product` label.
        scraped: Called at each scrape; gives the readings that others count.
        thresholds: Seconds that the product's service levels judge by: bounds of the latency's buckets, so that what
            was faster can be counted exactly.
    """

    def __init__(
        self,
        product: str,
        scraped: Callable[[], Iterable[Reading]] = tuple,
        thresholds: Iterable[float] = (),
    ) -> None:
        try:
            import prometheus_client as client
        except ModuleNotFoundError:
            raise MissingExtra("prometheus-client", "serving") from None
        client.disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, that nobody reads
        self._client = client
        self._product = product
        self._scraped = scraped
        self.registry = client.CollectorRegistry()
        self.rollout = RolloutCounts()
        self._requests = self._counter(metrics.REQUESTS)
        self._predictions = self._counter(metrics.PREDICTIONS)
        self._defaulted = self._counter(metrics.DEFAULTED)
        self._denied = self._counter(metrics.DENIED)
        self._seconds = Histogram(metrics.REQUEST_SECONDS, (*metrics.LATENCY_BUCKETS, *thresholds))
        self._histograms = [self._seconds]
        # Children by label values: `labels()` takes a lock and hashes on every call.
        self._children: dict[tuple[str, ...], Any] = {}
        self.registry.register(self)
        for register in (client.ProcessCollector, client.PlatformCollector, client.GCCollector):
            register(registry=self.registry)

    def request(self, path: str, code: int, seconds: float, rows: int, release: str, trace_id: str = "") -> None:
        """Count an answered request; `trace_id` is "" where it is not traced."""
        self._child(self._requests, path, str(code), release).inc()
        self._seconds.observe(seconds, path, trace_id=trace_id)
        if rows:
            self._child(self._predictions, release).inc(rows)

    def defaulted(self, rows: Mapping[str, int]) -> None:
        """Count feature rows served by their defaults, by view."""
        for view, count in rows.items():
            self._child(self._defaulted, view).inc(count)

    def denied(self, reason: str) -> None:
        """Count a request that was refused before it was read. `reason` is one of a few words, never what was sent."""
        self._child(self._denied, reason).inc()

    def collect(self) -> Iterable[Any]:
        """The readings of others, as Prometheus's registry asks for them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families: dict[str, Any] = {}
        for metric, labels, value in self._scraped():
            family = families.get(metric.name)
            if family is None:
                kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                family = families[metric.name] = kind(metric.name, metric.help, labels=metric.labels)
            family.add_metric((self._product, *labels), value)
        return [*families.values(), *map(self._histogram, self._histograms), *self._rollout()]

    def _histogram(self, histogram: Histogram) -> Any:
        return histogram_family(histogram, self._product)

    def _rollout(self) -> list[Any]:
        """The series of the newest rollout; none before the first."""
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        generation, counted = self.rollout.now()
        if not counted:
            return []
        families = [
            (HistogramMetricFamily if metric.kind == "histogram" else CounterMetricFamily)(
                metric.name, metric.help, labels=metric.labels
            )
            for metric in metrics.ROLLOUT
        ]
        for one in counted:
            cell = one.cell
            labels = (self._product, str(generation), str(cell.step), cell.arm, cell.release)
            values: tuple[Any, ...] = (
                (cell.requests,),
                (cell.errors,),
                (_buckets(LATENCY_BOUNDS, cell.latency), cell.busy_seconds),
                (_buckets(SCORE_BOUNDS, cell.scores), one.score_sum),
                (cell.rows,),
                (cell.defaulted,),
            )
            for family, value in zip(families, values, strict=True):
                family.add_metric(labels, *value)
        return families

    def describe(self) -> Iterable[Any]:
        """Nothing: the registry then does not scrape to learn the names."""
        return ()

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics and their content type: OpenMetrics, which has exemplars, where `accept` names it; else text."""
        return render(self.registry, accept)

    def _counter(self, metric: Metric) -> Any:
        return self._client.Counter(metric.name, metric.help, metric.labels, registry=self.registry)

    def _child(self, metric: Any, *labels: str) -> Any:
        key = (metric._name, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(self._product, *labels)
        return child


def render(registry: Any, accept: str = "") -> tuple[bytes, str]:
    """A registry's series and their content type. Not the client's own choice: that repeats what the header says.

    Args:
        registry: The client's registry.
        accept: The `Accept` header.
    """
    import prometheus_client
    from prometheus_client.openmetrics import exposition

    if "application/openmetrics-text" in accept:
        open_text: bytes = exposition.generate_latest(registry)  # type: ignore[no-untyped-call]
        return open_text, exposition.CONTENT_TYPE_LATEST
    text: bytes = prometheus_client.generate_latest(registry)
    return text, prometheus_client.CONTENT_TYPE_LATEST


def histogram_family(histogram: Histogram, *first: str) -> Any:
    """A histogram's series as the client has them. `first` are the values of its labels before those it counts by."""
    from prometheus_client.core import HistogramMetricFamily

    metric = histogram.metric
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for one in histogram.now():
        family.add_metric((*first, *one.labels), _with_exemplars(histogram.bounds, one), one.sum)
    return family


def _with_exemplars(bounds: tuple[float, ...], counted: Counted) -> list[Any]:
    """Buckets as the client wants them, each with its exemplar where it has one."""
    from prometheus_client.samples import Exemplar

    return [
        (bound, count)
        if traced is None
        else (bound, count, Exemplar({"trace_id": traced.trace_id}, traced.value, traced.at))
        for bound, count, traced in zip(
            (*map(metrics.le, bounds), "+Inf"), counted.cumulative, counted.traced, strict=True
        )
    ]


def _buckets(bounds: tuple[float, ...], counts: tuple[int, ...]) -> list[tuple[str, int]]:
    """Upper bound to the count of what is at most that, as Prometheus has histograms."""
    return list(zip((*map(repr, bounds), "+Inf"), accumulate(counts), strict=True))
