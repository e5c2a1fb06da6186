"""What the story measured: `summary.json`, and one screen of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flight_delays.request import midnight
from flight_delays.rolling import as_json
from flight_delays.steps_data import Joined, load_frame
from flight_delays.training import Baseline, Window
from plinth.governance.code import code_ref
from plinth.models import evaluation, onnx
from plinth.monitoring import performance
from plinth.monitoring.duckdb import LogReader
from plinth.monitoring.labels import Labelled
from plinth.pipelines.files import FileRef

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from flight_delays.dataset import TrainingFrame
    from flight_delays.demo import Story
    from plinth.core.products import Product
    from plinth.wiring import Platform

LATE_LABELS = timedelta(days=3)
"""Predictions this close to the end of the replay may not have their outcome yet."""


def replay_log(platform: Platform, product: Product, until: date) -> Labelled:
    """Every prediction of the replay up to `until`, with the outcomes that were delivered."""
    end = midnight(until)
    folder = platform.settings.product_dir(product.name)
    return LogReader(folder, datetime(2013, 1, 1, tzinfo=UTC), end).labelled(end + LATE_LABELS)


def build(platform: Platform, product: Product, story: Story, log: Labelled, until: date) -> dict[str, Any]:
    """The summary, from the replay's log, the delivered outcomes and the ledger; every value is JSON."""
    folder = platform.settings.product_dir(product.name)
    frame = _frame(folder)
    periods = performance.by_month(log)
    releases = _releases(platform, story)
    rows = _lake_rows(folder)
    promoted = {told.release for told in story.rollouts if told.phase == "done"}
    back = next((switch.digest for switch in story.switches if switch.kind == "rolled back"), None)
    return {
        "product": product.name,
        "generated_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code_ref(platform.settings.home).model_dump(),
        "rows": sum(rows.values()),
        "rows_by_dataset": rows,
        "contract_violations": len(list((folder / "quarantine").glob("*/*/report.json"))),
        "predictions": story.predictions,
        "predictions_with_defaults": story.defaulted,
        "labels": story.labels,
        "auc": _by_month(periods, "auc"),
        "log_loss": _by_month(periods, "log_loss"),
        "mean_prediction": _by_month(periods, "mean_prediction"),
        "outcome_rate": _by_month(periods, "outcome_rate"),
        "baseline_auc": _baselines(platform, frame, periods),
        "backtest": story.first.metrics if story.first else {},
        "drift": [
            {
                "month": f"{seen.start:%Y-%m}",
                "release": seen.release,
                "features": list(seen.drift.drifted),
                "watched": list(seen.drift.counted),
                "calibration_gap": seen.calibration.gap if seen.calibration else None,
            }
            for seen in story.months
        ],
        "retrained": [
            {
                "day": retraining.day.isoformat(),
                "reason": retraining.reason,
                "release": retraining.outcome.release,
                "promoted": retraining.outcome.release in promoted,
                "failed_gates": list(retraining.outcome.failed_gates),
                "log_loss_difference": retraining.outcome.metrics.get("log_loss_difference"),
            }
            for retraining in story.retrained
        ],
        "rollouts": [as_json(told) for told in story.rollouts],
        "gain": _gain(platform, story, frame, log, until),
        "releases": releases,
        "rolled_back_to": back,
        "switches": [asdict(switch) for switch in story.switches],
        "drill": story.drill,
        "steps_skipped_as_unchanged": story.cached_steps,
        "seconds": {**story.seconds, "total": round(sum(story.seconds.values()), 1)},
        "peak_rss_mb": story.peak_rss_mb,
    }


def save(platform: Platform, product: str, summary: dict[str, Any]) -> Path:
    """Write `demo/<product>/summary.json` in the state folder."""
    path = platform.settings.state_dir / "demo" / product / "summary.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def _frame(folder: Path) -> TrainingFrame:
    data, plan = folder / "datasets" / "frame.npz", folder / "datasets" / "read_plan.json"
    return load_frame(Joined(FileRef.of(data), FileRef.of(plan), 0))


def _lake_rows(folder: Path) -> dict[str, int]:
    import pyarrow.parquet as pq

    lake = folder / "lake"
    return {
        dataset: sum(pq.read_metadata(path).num_rows for path in sorted((lake / dataset).glob("*.parquet")))
        for dataset in ("flights", "weather")
    }


def _by_month(periods: list[performance.Period], name: str) -> dict[str, dict[str, float | None]]:
    table: dict[str, dict[str, float | None]] = {}
    for period in periods:
        table.setdefault(period.month, {})[period.release] = getattr(period, name)
    return table


def _baselines(
    platform: Platform, frame: TrainingFrame, periods: list[performance.Period]
) -> dict[str, dict[str, float | None]]:
    """The lookup fitted on each release's own training window, over the months in which that release served."""
    fitted: dict[str, Baseline] = {}
    month_of = frame.prediction_time.astype("datetime64[s]").astype("datetime64[M]").astype(str)
    table: dict[str, dict[str, float | None]] = {}
    for period in periods:
        if period.release not in fitted:
            fitted[period.release] = Baseline.fit(frame, _trained_on(platform, period.release).rows(frame))
        rows = month_of == period.month
        score = fitted[period.release].predict(frame, rows) if rows.any() else np.zeros(0)
        table.setdefault(period.month, {})[period.release] = evaluation.auc(frame.label[rows], score)
    return table


def _trained_on(platform: Platform, release: str) -> Window:
    manifest = platform.ledger.release(release).manifest
    start, end = next((ref.start, ref.end) for ref in manifest.data if ref.role == "train")
    return Window(date.fromisoformat(start), date.fromisoformat(end))


def _releases(platform: Platform, story: Story) -> list[dict[str, Any]]:
    digests = [outcome.release for outcome in (story.first, *(r.outcome for r in story.retrained)) if outcome]
    found = []
    for digest in dict.fromkeys(digests):
        record = platform.ledger.release(digest)
        served = [entry for entry in platform.ledger.history(record.product) if entry.digest == digest]
        found.append(
            {
                "digest": digest,
                "status": record.status,
                "model": f"{record.manifest.tabular().model.name}:{record.manifest.tabular().model.version}",
                "trained_on": {ref.role: [ref.start, ref.end, ref.rows] for ref in record.manifest.data},
                "failed_gates": [verdict.gate for verdict in record.manifest.failed_gates()],
                "generations": [entry.generation for entry in reversed(served)],
            }
        )
    return found


def _gain(platform: Platform, story: Story, frame: TrainingFrame, log: Labelled, until: date) -> dict[str, Any] | None:
    """What served since a retrained release answered everything, against the first release on the same flights."""
    days = [told.ended for told in story.rollouts if told.phase == "done" and told.ended is not None]
    end = until - LATE_LABELS
    if not days or story.first is None or days[0] >= end:
        return None
    start, stop = np.datetime64(days[0], "us"), np.datetime64(end, "us")
    served = log.between(start, stop).known
    times = frame.prediction_time.astype("datetime64[s]").astype("datetime64[us]")
    rows = (times >= start) & (times < stop)
    first = platform.ledger.release(story.first.release).manifest
    scores = onnx.score(platform.artifacts.path(first.artifacts["model.onnx"]), frame.matrix[rows])
    return {
        "from": days[0].isoformat(),
        "to": end.isoformat(),
        "served": _quality(served.label, served.score),
        "first_release": _quality(frame.label[rows], scores),
    }


def _quality(label: NDArray[Any], score: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "rows": len(label),
        "auc": evaluation.auc(label, score),
        "log_loss": evaluation.log_loss(label, score) if len(label) else None,
        "bias": float(score.mean() - label.mean()) if len(label) else None,
    }


def render(console: Console, platform: Platform, summary: dict[str, Any], path: Path, page: Path) -> None:
    """One screen: what happened, the numbers, where to look."""
    months = list(summary["auc"])
    console.rule(f"[bold]flight-delays, {months[0]} to {months[-1]}[/bold]" if months else "[bold]flight-delays[/bold]")
    console.print(
        f"{summary['rows']:,} rows landed, {summary['contract_violations']} contract violations; "
        f"{summary['predictions']:,} predictions over HTTP, {summary['labels']:,} late labels"
    )
    console.print(_months_table(summary))
    outcomes = {told["release"]: told for told in summary["rollouts"]}
    for retraining in summary["retrained"]:
        told = outcomes.get(retraining["release"])
        verdict = (
            f"refused by {', '.join(retraining['failed_gates'])}"
            if told is None
            else f"rolled out from then to {told['ended']}: {told['phase']}"
        )
        console.print(f"{retraining['day']}  retrained: {verdict}\n            {retraining['reason']}", highlight=False)
    gain = summary["gain"]
    if gain:
        first, served = gain["first_release"], gain["served"]
        console.print(
            f"[bold]Gain since {gain['from']}[/bold]: log loss {first['log_loss']:.4f} -> {served['log_loss']:.4f}, "
            f"bias {first['bias']:+.4f} -> {served['bias']:+.4f}, AUC {first['auc']:.4f} -> {served['auc']:.4f} "
            f"({served['rows']:,} flights; left: had the first release stayed)",
            highlight=False,
        )
    for switch in summary["switches"]:
        console.print(
            f"{switch['kind']} to {switch['digest'][:12]} in {switch['seconds']:.2f} s, {switch['failed']} of "
            f"{switch['requests']} requests failed",
            highlight=False,
        )
    drilled = summary["drill"]
    if drilled:
        recovered = drilled["seconds_to_recover"]
        console.print(
            f"drill {drilled['fault']}: "
            + (f"recovered after {recovered:.1f} s" if recovered is not None else "NOT recovered")
            + f", {drilled['requests_harmed']} of {drilled['requests_total']} requests harmed",
            highlight=False,
        )
    seconds = ", ".join(f"{name} {value:.0f}" for name, value in summary["seconds"].items())
    console.print(f"seconds: {seconds}; peak memory {summary['peak_rss_mb']:,.0f} MiB", highlight=False)
    console.print("[bold]Where to look[/bold]")
    serving = platform.ledger.current(summary["product"])
    lines = [
        ("numbers", path),
        ("drift report", page),
        ("release", f"plinth release show {serving.digest[:12]}" if serving else "plinth release list flight-delays"),
        ("model card", "plinth model card flight-delays"),
        ("runs and tables", f"{platform.settings.prefect_api_url.removesuffix('/api')} (Prefect, while up)"),
        ("models and traces", f"{platform.settings.mlflow_url} (MLflow, while up)"),
        ("look around", "plinth up, or plinth demo flight-delays --keep-up"),
    ]
    for name, where in lines:
        console.print(f"  {name:18} {where}", highlight=False, soft_wrap=True)


def _months_table(summary: dict[str, Any]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        "month", "release", "AUC", "baseline", "log loss", "mean prediction", "outcome", "drifted", box=box.SIMPLE_HEAD
    )
    drifted = {(entry["month"], entry["release"]): len(entry["features"]) for entry in summary["drift"]}
    for month, by_release in summary["auc"].items():
        for release, auc in by_release.items():
            others = [summary[name][month][release] for name in ("log_loss", "mean_prediction", "outcome_rate")]
            numbers = [auc, summary["baseline_auc"][month][release], *others]
            table.add_row(
                month,
                release[:12],
                *("" if number is None else f"{number:.4f}" for number in numbers),
                f"{drifted[month, release]} features" if (month, release) in drifted else "",
            )
    return table
