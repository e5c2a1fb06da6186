"""`plinth drift report`: how far the traffic lies from the training data, and how well the model has done."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from plinth.cli.command import Groups
from plinth.monitoring import DEFAULT_DAYS

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from plinth.cli.output import Output
    from plinth.core.products import Product
    from plinth.ledger.store import ReleaseRecord
    from plinth.monitoring.assessment import Assessment
    from plinth.monitoring.trigger import Decision
    from plinth.wiring import Platform

BEYOND = 3


def register(groups: Groups) -> None:
    """Declare the command."""
    group = groups.group("drift", help="Drift, performance and calibration of what serves.")
    command = group.command(
        "report",
        report,
        help="Compare the inference log with the training data, and the predictions with the labels that came.",
        example="plinth drift report flight-delays --from 2013-06-01 --to 2013-07-01 --html report.html",
    )
    command.add_argument("product")
    command.add_argument(
        "--from", dest="start", metavar="DATE", help=f"first day; default {DEFAULT_DAYS} days before --to"
    )
    command.add_argument("--to", dest="end", metavar="DATE", help="day after the last; default the end of the log")
    command.add_argument("--as-of", metavar="TIME", help="use labels known by then (UTC); default now")
    command.add_argument("--release", metavar="DIGEST", help="release to look at; default the one that serves")
    command.add_argument("--html", metavar="FILE", help="write the report with plots to this file")
    command.add_argument(
        "--fail-on-drift", action="store_true", help=f"exit with {BEYOND} when beyond the bounds (for CI)"
    )
    command.add_argument("--inline", action="store_true", help="retrain in this process, without the Prefect server")
    command.add_argument(
        "--trigger", action="store_true", help="retrain when beyond the bounds and not in the cool-down"
    )


def report(args: Namespace, out: Output) -> int:
    """Handler of `drift report`."""
    from pathlib import Path

    from plinth.monitoring import latest
    from plinth.monitoring import report as page
    from plinth.monitoring.assessment import assess_release
    from plinth.monitoring.trigger import trigger
    from plinth.wiring import Platform

    start, end, as_of = (_time(name, getattr(args, name)) for name in ("start", "end", "as_of"))
    platform = Platform.from_settings()
    product = platform.products.get(args.product).spec
    bounds = product.tabular().monitoring
    folder = platform.settings.product_dir(product.name)
    record = _release(platform, product, args.release)
    assessment = assess_release(product, folder, record, platform.artifacts, start=start, end=end, as_of=as_of)
    decision = None
    if args.trigger:
        # With --as-of the report is of the past, and so is the cool-down.
        decision = trigger(platform.ledger, product.name, assessment.signals, bounds, as_of)
    latest.keep(assessment, folder)
    if args.html:
        page.write(assessment, Path(args.html), decision)
    run = _retrain(platform, product, decision, args.inline, as_of, out) if decision and decision.fire else None
    _print(out, assessment, decision, run, Path(args.html) if args.html else None)
    return BEYOND if args.fail_on_drift and assessment.beyond else 0


def _time(flag: str, text: str | None) -> datetime | None:
    """A date or ISO 8601 time; without a zone it is UTC."""
    from datetime import UTC, datetime

    from plinth.errors import InvalidInput

    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        name = {"start": "--from", "end": "--to", "as_of": "--as-of"}[flag]
        raise InvalidInput(f"{name} {text!r} is no date", hint="write it as 2013-06-01 or 2013-06-01T12:00") from None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _release(platform: Platform, product: Product, wanted: str | None) -> ReleaseRecord:
    from plinth.errors import InvalidInput, NotFound

    if wanted is None:
        serving = platform.ledger.current(product.name)
        if serving is None:
            raise NotFound(
                f"{product.name} serves no release",
                hint=f"`plinth pipeline run {product.name} {product.pipelines[0].name}`, then `plinth release promote`",
            )
        wanted = serving.digest
    record = platform.ledger.release(wanted)
    if record.product != product.name:
        raise InvalidInput(f"release {record.digest[:12]} is of {record.product}, not of {product.name}")
    return record


def _retrain(
    platform: Platform,
    product: Product,
    decision: Decision,
    inline: bool,
    as_of: datetime | None,
    out: Output,
) -> str:
    """Run the product's first pipeline; returns the run's id. A run that did not start gives its trigger back."""
    from plinth.errors import PlinthError
    from plinth.monitoring.trigger import retract
    from plinth.pipelines.entry import takes
    from plinth.runtime.pipelines import run

    pipeline = product.pipelines[0]
    name = pipeline.name
    # Trained as of the report's time, where the pipeline can: it must not see what came after.
    params: dict[str, object] = {"as_of": as_of.date().isoformat()} if as_of and takes(pipeline, "as_of") else {}
    out.note(f"retraining: pipeline {name} of {product.name}")
    started = False

    def on_step(step: str, record: object) -> None:
        nonlocal started
        started = True

    try:
        return run(platform, product.name, name, params, inline=inline, on_step=on_step).run_id
    except PlinthError as error:
        if not started:
            retract(platform.ledger, product.name, decision, product.tabular().monitoring, error.what)
            out.note("the run did not start, so the trigger is taken back")
        else:
            out.note(f"the trigger stands; `plinth pipeline run {product.name} {name}` tries again")
        raise


def _print(out: Output, assessment: Assessment, decision: Decision | None, run: str | None, html: Path | None) -> None:
    document = assessment.as_dict()
    document["trigger"] = {**decision.as_dict(), "run_id": run} if decision else None
    document["html"] = str(html) if html else None
    out.data(document)
    drift, bounds = assessment.drift, assessment.bounds
    verdict = "BEYOND the bounds" if assessment.beyond else "within the bounds"
    out.text(f"{assessment.product.name}, release {assessment.release[:12]}: {verdict}")
    out.text(f"events {assessment.start:%Y-%m-%d} to {assessment.end:%Y-%m-%d}: {drift.rows:,} predictions")
    point = assessment.calibration
    if point is None:
        out.text(f"calibration: fewer than {bounds.minimum_labels:,} labels, nothing said")
    else:
        out.text(
            f"calibration: gap {point.gap:+.4f} over {point.days} days to {point.end} ({point.rows:,} labels), "
            f"bound {bounds.calibration_gap:g}"
        )
    out.text(f"drifted: {len(drift.drifted)} of {len(drift.features)} features, {len(drift.counted)} of them watched")
    out.table(
        ["feature", "verdict", "PSI", "noise", "JS", "KS", "missing", "findings"],
        [
            [
                f.name, f.status, f"{f.psi:.3f}", f"{f.noise:.3f}", f"{f.js:.3f}",
                "" if f.ks is None else f"{f.ks:.3f}", f"{f.missing:.1%}", "; ".join(f.findings),
            ]
            for f in sorted((*drift.features, *([drift.score] if drift.score else [])), key=lambda f: -f.psi)
        ],
    )  # fmt: skip
    if decision:
        out.text(f"trigger: {'fired' if decision.fire else 'not fired'}, {decision.reason}")
    if html:
        out.text(f"report: {html}")
