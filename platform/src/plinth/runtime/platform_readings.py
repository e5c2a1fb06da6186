"""What the ledger, the products' manifests and their files say, as readings for the controller's page of metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from plinth.core.products import Product
from plinth.core.rollouts import ENDED
from plinth.errors import PlinthError
from plinth.ledger.totals import totals
from plinth.monitoring import latest
from plinth.runtime import log_archive
from plinth.telemetry import metrics
from plinth.telemetry.prometheus import Reading
from plinth.wiring import Platform

EVENTS = ("retrain-trigger", "freshness", "openlineage")
"""Kinds of events that are counted from nothing, so that the first one is seen as a rise (Prometheus's `increase`)."""

MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError)
"""What reading a document raises that is JSON and not as it was written."""

QUALITY = ("auc", "log_loss", "mean_prediction", "outcome_rate")
"""What a drift report says of a month's labelled predictions."""


def ledger_readings(platform: Platform) -> Iterator[Reading]:
    """What the ledger counts, for every product of the workspace.

    Raises:
        Unavailable, Corrupt: As `Ledger`.
    """
    found, products = totals(platform.ledger), platform.products.names()
    yield metrics.AUDIT_ENTRIES, (), found.audit
    for product in products:
        yield metrics.RELEASES, (product,), found.releases.get(product, 0)
        yield metrics.PROJECTIONS_PENDING, (product,), found.pending.get(product, 0)
        yield metrics.APPROVALS_WAITING, (product,), found.running.get((product, "waiting"), 0)
    ended = {(product, phase): 0 for product in products for phase in sorted(ENDED)}
    for key, count in (ended | found.ended).items():
        yield metrics.ROLLOUTS_ENDED, key, count
    for key in found.running:
        yield metrics.ROLLOUT_PHASE, key, 1
    for key, count in ({(product, kind): 0 for product in products for kind in EVENTS} | found.events).items():
        yield metrics.EVENTS, key, count
    for product, evaluation in found.evaluations.items():
        for name, value in evaluation.items():
            yield metrics.EVALUATION, (product, name), value


def archive_readings(platform: Platform) -> Iterator[Reading]:
    """Hours of the logs that wait for the bucket; none without one.

    Raises:
        InvalidInput: As `Platform.objects`.
    """
    for product, hours in log_archive.waiting(platform).items():
        yield metrics.LOG_HOURS_WAITING, (product,), hours


def manifest_readings(product: Product) -> Iterator[Reading]:
    """What a manifest promises."""
    name, kind = product.name, "model" if product.assistant is None else "assistant"
    yield metrics.PRODUCT_INFO, (name, product.owner.team, str(product.tier), kind), 1
    yield metrics.BUDGET_MONTHLY, (name, product.budget.currency), product.budget.monthly
    yield metrics.BUDGET_CORE_HOUR, (name,), product.budget.core_hour
    for level in product.service_levels:
        yield metrics.OBJECTIVE, (name, level.name, level.indicator), level.objective


@dataclass
class Runs:
    """What the records of a product's runs add up to, each read once. It only grows while this process lives.

    Attributes:
        retries: Pipeline to tasks that were tried again.
        last: Pipeline to (end, seconds) of the run that ended last.
        success: Pipeline to the end of the last one that did well.
    """

    seen: set[str] = field(default_factory=set)
    retries: dict[str, int] = field(default_factory=dict)
    last: dict[str, tuple[float, float]] = field(default_factory=dict)
    success: dict[str, float] = field(default_factory=dict)

    def look(self, folder: Path) -> None:
        """Read the records that are new in `runs/`."""
        for path in folder.glob("*/run.json"):
            if path.parent.name in self.seen:
                continue
            record = _document(path)
            if record:
                self.seen.add(path.parent.name)
                with suppress(*MALFORMED):  # one record is no reason to show nothing of the others
                    self._add(record)

    def _add(self, record: dict[str, Any]) -> None:
        pipeline, ended = str(record["pipeline"]), datetime.fromisoformat(record["finished_at"]).timestamp()
        again = sum(max(0, int(step["attempts"]) - 1) for step in record["steps"])
        self.retries[pipeline] = self.retries.get(pipeline, 0) + again
        self.last[pipeline] = max(self.last.get(pipeline, (0.0, 0.0)), (ended, float(record["seconds"])))
        if record["status"] == "completed":
            self.success[pipeline] = max(self.success.get(pipeline, 0.0), ended)

    def readings(self, product: Product) -> Iterator[Reading]:
        """Of the pipelines that the manifest declares."""
        for pipeline in product.pipelines:
            key = product.name, pipeline.name
            yield metrics.PIPELINE_RETRIES, key, self.retries.get(pipeline.name, 0)
            if pipeline.name in self.last:
                yield metrics.PIPELINE_SECONDS, key, self.last[pipeline.name][1]
            if pipeline.name in self.success:
                yield metrics.PIPELINE_TIME, key, self.success[pipeline.name]


class Files:
    """Readings of what products keep on disk, and of their manifests.

    Args:
        platform: Whose products.
        manifest: A product's manifest as it is now.
    """

    def __init__(self, platform: Platform, manifest: Callable[[str], Product]) -> None:
        self._platform = platform
        self._manifest = manifest
        self._runs: dict[str, Runs] = {}

    def __call__(self) -> Iterator[Reading]:
        """Of every product; one whose manifest does not fit has none."""
        for name in self._platform.products.names():
            try:
                product = self._manifest(name)
            except PlinthError:
                continue  # `plinth product validate` says what is wrong with it
            folder = self._platform.settings.product_dir(name)
            yield from manifest_readings(product)
            runs = self._runs.setdefault(name, Runs())
            runs.look(folder / "runs")
            yield from runs.readings(product)
            if product.assistant is None:
                yield from contract_readings(product, folder)
                yield from drift_readings(name, folder)
            else:
                yield metrics.INDEX_BUILDS, (name,), sum(1 for _ in folder.glob("builds/*/build.json"))


def contract_readings(product: Product, folder: Path) -> Iterator[Reading]:
    """Violations of the batches in quarantine that no later delivery settled, by the folder of their dataset."""
    found = {Path(contract).name.partition(".")[0]: 0 for contract in product.contracts}
    for report in folder.glob("quarantine/*/*/report.json"):
        batch = report.parent
        if batch.name.startswith(".") or batch.suffix == ".resolved":
            continue
        dataset = batch.parent.name
        violations = _document(report).get("violations")
        found[dataset] = found.get(dataset, 0) + max(1, len(violations) if isinstance(violations, list) else 0)
    for dataset, count in found.items():
        yield metrics.CONTRACT_VIOLATIONS, (product.name, dataset), count


def drift_readings(product: str, folder: Path) -> Iterator[Reading]:
    """The numbers of the last drift report (monitoring/latest.py); none before the first.

    A report that is not as it was written is of no time at all, and so too old: an alert says to make another.
    """
    report = _document(path := latest.path_in(folder))
    if not report and not path.is_file():
        return
    try:
        yield from list(_drift_numbers(product, report))
    except MALFORMED:
        yield metrics.REPORT_TIME, (product,), 0


def _drift_numbers(product: str, report: dict[str, Any]) -> Iterator[Reading]:
    drift = report["drift"]
    yield metrics.REPORT_TIME, (product,), float(report["made_at"])
    for feature in drift["features"]:
        if (psi := _psi(feature, drift["bound"])) is not None:
            yield metrics.DRIFT_PSI, (product, str(feature["name"])), psi
    if drift["score"] and (psi := _psi(drift["score"], drift["bound"])) is not None:
        yield metrics.DRIFT_SCORE, (product,), psi
    if report["calibration"]:
        yield metrics.CALIBRATION_GAP, (product,), float(report["calibration"]["gap"])
    months = [month for month in report["months"] if month["release"] == report["release"] and month["labelled"]]
    for name in QUALITY if months else ():
        if months[-1][name] is not None and math.isfinite(months[-1][name]):
            yield metrics.QUALITY, (product, name), months[-1][name]


def _psi(found: dict[str, Any], bound: float) -> float | None:
    """The index as its verdict reads it: of a few rows nothing, and what may be noise is not beyond the bound."""
    if found["status"] == "small-sample":
        return None
    psi = float(found["psi"])
    return psi if found["status"] == "drift" else min(psi, float(bound))


def _document(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is none, or none that can be read now (it is being written)."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
