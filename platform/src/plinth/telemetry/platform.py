"""The controller's own page of metrics: what others read for it, and its ticks, as Prometheus has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from plinth.errors import MissingExtra
from plinth.telemetry import metrics
from plinth.telemetry.histograms import Histogram
from plinth.telemetry.prometheus import Reading, histogram_family, render

TICK_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""


class PlatformMetrics:
    """The series of the controller.

    Args:
        scraped: Called at each scrape: metrics of `metrics.PLATFORM`, the values of all their labels, and their values.
    """

    def __init__(self, scraped: Callable[[], Iterable[Reading]]) -> None:
        try:
            import prometheus_client as client
        except ModuleNotFoundError:
            raise MissingExtra("prometheus-client", "serving") from None
        self._scraped = scraped
        self._ticks = Histogram(metrics.CONTROLLER_TICK_SECONDS, TICK_BUCKETS)
        self._results = {"leads": 0, "follows": 0, "failed": 0}
        self._registry = client.CollectorRegistry()
        self._registry.register(self)
        for register in (client.ProcessCollector, client.PlatformCollector, client.GCCollector):
            register(registry=self._registry)

    def tick(self, result: str, seconds: float) -> None:
        """Count one look at the rollouts: `leads`, `follows` or `failed`. From one thread."""
        self._results[result] += 1
        self._ticks.observe(seconds)

    def collect(self) -> Iterable[Any]:
        """The readings, as Prometheus's registry asks for them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families: dict[str, Any] = {}
        ticks = [(metrics.CONTROLLER_TICKS, (result,), float(count)) for result, count in self._results.items()]
        for metric, labels, value in (*ticks, *self._scraped()):
            family = families.get(metric.name)
            if family is None:
                kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                family = families[metric.name] = kind(metric.name, metric.help, labels=metric.labels)
            family.add_metric(labels, value)
        return [*families.values(), histogram_family(self._ticks)]

    def describe(self) -> Iterable[Any]:
        """Nothing: the registry then does not scrape to learn the names."""
        return ()

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics, and their content type: as the `Accept` header asks."""
        return render(self._registry, accept)
