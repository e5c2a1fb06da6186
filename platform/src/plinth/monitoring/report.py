"""The drift report: one HTML file without scripts or outside assets, the verdict on top."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from pathlib import Path

import numpy as np

from plinth.errors import Unavailable
from plinth.monitoring import svg
from plinth.monitoring.assessment import Assessment
from plinth.monitoring.drift import METHOD, FeatureDrift
from plinth.monitoring.performance import Period
from plinth.monitoring.style import CSS
from plinth.monitoring.trigger import Decision

MONTH = np.timedelta64(1, "M")


def write(assessment: Assessment, path: Path, decision: Decision | None = None) -> None:
    """Write the report; a file that is there is replaced whole.

    Raises:
        Unavailable: The file cannot be written.
    """
    temporary = path.with_name(path.name + ".writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(html(assessment, decision), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Unavailable(
            f"the report cannot be written: {error.strerror}",
            where=str(path),
            hint="free disk space or name another file",
        ) from error


def html(assessment: Assessment, decision: Decision | None = None) -> str:
    """The report as one page."""
    a = assessment
    title = f"{a.product.title}: drift and performance"
    body = [
        _header(a),
        _verdict(a, decision),
        _section("Calibration over time", _calibration(a)),
        _section("Performance by month", _months(a)),
        _section("Drift by feature", _drift(a)),
        _section("Score", _score(a)),
        _section("Missing values and range", _checks(a)),
        _section("Inference log", _log(a)),
        _section("Method and ownership", _method(a)),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: int = 1) -> str:
    """A table of ready-made cells; from column `numeric` on they are set right-aligned."""
    head = "".join(f'<th scope="col"{_right(i, numeric)}>{escape(name)}</th>' for i, name in enumerate(columns))
    lines = "".join(
        "<tr>" + "".join(f"<td{_right(i, numeric)}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _right(index: int, numeric: int) -> str:
    return ' class="n"' if index >= numeric else ""


def _day(time: datetime) -> str:
    return f"{time:%Y-%m-%d}"


def _header(a: Assessment) -> str:
    facts = {
        "Product": a.product.name,
        "Release": a.release[:12],
        "Events": f"{_day(a.start)} to {_day(a.end)}",
        "Labels known by": f"{a.as_of:%Y-%m-%d %H:%M} UTC",
        "Predictions": f"{a.drift.rows:,}",
        "Reference": f"{a.drift.reference_rows:,} training rows",
    }
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    return f"<header><h1>{escape(a.product.title)}</h1><p>Drift and performance</p></header><dl>{items}</dl>"


def _verdict(a: Assessment, decision: Decision | None) -> str:
    bounds = a.bounds
    lines = [_calibration_line(a)]
    counted, drifted = len(a.drift.counted), len(a.drift.drifted)
    lines.append(
        f"{drifted} of {len(a.drift.features)} features drifted (PSI above {bounds.drift_psi:g}); "
        + (
            f"{counted} of them watched, {bounds.drifted_features} trigger{'s' if bounds.drifted_features == 1 else ''}"
            if bounds.watch
            else "none is watched: drift is reported here and triggers nothing"
        )
    )
    found = [f.name for f in a.drift.features if f.findings]
    lines.append(f"Missing values or range: {', '.join(found) if found else 'nothing found'}")
    if decision is not None:
        lines.append(
            ("Retraining was triggered: " if decision.fire else "Retraining was not triggered: ") + decision.reason
        )
    small = [f for f in a.drift.features if f.status == "small-sample"]
    if a.beyond:
        css, word = "bad", "Beyond the bounds"
    elif len(small) == len(a.drift.features):
        css, word = "unsure", "Too little data to say"
    else:
        css, word = "good", "Within the bounds"
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="verdict {css}" role="status"><strong>{word}</strong><ul>{items}</ul></div>'


def _calibration_line(a: Assessment) -> str:
    bounds, point = a.bounds, a.calibration
    if point is None:
        window = bounds.calibration_window
        return f"Calibration: fewer than {bounds.minimum_labels:,} labels in the last {window}, so nothing is said"
    error = f" ± {point.error:.3f}" if point.error is not None else ""
    return (
        f"Calibration gap {point.gap:+.3f}{error} over {point.days} days to {point.end} ({point.rows:,} labels, "
        f"{point.coverage:.0%} of the predictions); the bound is ±{bounds.calibration_gap:g}"
    )


def _key(entries: Iterable[tuple[str, str]]) -> str:
    return (
        '<p class="key">'
        + "".join(f'<span><i class="{css}"></i>{escape(text)}</span>' for css, text in entries)
        + "</p>"
    )


def _css(a: Assessment, release: str) -> str:
    """The colour of a release: the assessed one is first."""
    others = [name for name in a.trails if name != a.release]
    return "s0" if release == a.release else f"s{1 + others.index(release) % 3}" if release in others else "s1"


def _calibration(a: Assessment) -> str:
    bounds = a.bounds
    series = []
    for release, points in a.trails.items():
        if points:
            days = [float(np.datetime64(p.end, "D").astype(int)) for p in points]
            band = [1.96 * (p.error or 0.0) for p in points]
            series.append(svg.Series(release[:12], days, [p.gap for p in points], band, _css(a, release)))
    if not series:
        return f'<p class="note">No window has {bounds.minimum_labels:,} labels yet.</p>'
    first, last = min(min(s.x) for s in series), max(max(s.x) for s in series)
    chart = svg.lines(
        series,
        ticks=_day_ticks(first, last),
        bounds=(bounds.calibration_gap, -bounds.calibration_gap),
        zero=True,
        label="Calibration gap over trailing windows",
    )
    key = [(s.css, f"release {s.name}") for s in series] + [("bound", f"bound ±{bounds.calibration_gap:g}")]
    return (
        f"<p>Mean prediction minus outcome rate over the trailing {bounds.calibration_window}, labelled predictions "
        "only. Above zero the model predicts too much, below too little. Bands: 95%, days as blocks.</p>"
        + chart + _key(key)
    )  # fmt: skip


def _day_ticks(first: float, last: float) -> list[tuple[float, str]]:
    start = np.datetime64(int(first), "D")
    days = int(last - first)
    if days > 70:
        months = np.arange(
            start.astype("datetime64[M]") + MONTH, np.datetime64(int(last), "D").astype("datetime64[M]") + MONTH
        )
        months = months[:: max(1, len(months) // 8)]
        return [(float(m.astype("datetime64[D]").astype(int)), str(m)) for m in months]
    step = max(1, days // 5)
    return [(first + offset, str(start + offset)[5:]) for offset in range(0, days + 1, step)]


def _months(a: Assessment) -> str:
    labelled = [p for p in a.months if p.labelled]
    names = sorted({p.month for p in a.months})
    place = {name: float(index) for index, name in enumerate(names)}
    ticks = [(place[name], name) for name in names]
    charts = []
    for field, title in (("auc", "AUC"), ("log_loss", "Log loss")):
        series = []
        for release in dict.fromkeys(p.release for p in labelled):
            values = [
                (place[p.month], getattr(p, field))
                for p in labelled
                if p.release == release and getattr(p, field) is not None
            ]
            if values:
                x, y = zip(*values, strict=True)
                series.append(svg.Series(f"{title} of {release[:12]}", x, y, [0.0] * len(x), _css(a, release)))
        if series and len(names) > 1:
            chart = svg.lines(series, ticks=ticks, height=200, span=0.05, label=f"{title} by month", dots=True)
            charts.append(f"<figure><figcaption>{title}</figcaption>{chart}</figure>")
    table = _table(
        ["Month", "Release", "Predictions", "Labelled", "AUC", "Log loss", "Mean prediction", "Outcome rate", "Gap"],
        (_month_row(a, p) for p in a.months),
        numeric=2,
    )
    return (f'<div class="pair">{"".join(charts)}</div>' if charts else "") + table


def _month_row(a: Assessment, p: Period) -> list[str]:
    gap = None if p.mean_prediction is None or p.outcome_rate is None else p.mean_prediction - p.outcome_rate
    return [
        p.month, f'<i class="dot {_css(a, p.release)}"></i><code>{escape(p.release[:12])}</code>', f"{p.rows:,}",
        f"{p.labelled:,}", _float(p.auc, 3), _float(p.log_loss, 3), _float(p.mean_prediction, 3),
        _float(p.outcome_rate, 3), "–" if gap is None else f"{gap:+.3f}",
    ]  # fmt: skip


def _float(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


STATUS = {"drift": "drift", "ok": "ok", "small-sample": "too few"}


def _drift(a: Assessment) -> str:
    order = sorted(a.drift.features, key=lambda f: -f.psi)
    rows = (_drift_row(a, feature) for feature in order)
    table = _table(
        ["Feature", "Reference and current", "Verdict", "PSI", "Noise", "JS", "KS", "Wasserstein"], rows, numeric=3
    )
    key = _key([("ref", "reference (training data)"), ("cur", "current")])
    return f"<p>By falling PSI. Noise: what PSI stays under by chance (99.9%) at this sample size.</p>{key}{table}"


def _drift_row(a: Assessment, f: FeatureDrift) -> list[str]:
    reference, current = a.reference.features.column(f.name), a.current.column(f.name)
    picture = ""
    if reference is not None and current is not None:
        data = svg.bars(reference, current)
        picture = (
            svg.overlay(data, 180, 40, f"{f.name}: reference and current distribution")
            + f'<span class="ends"><span>{data.left}</span><span>{data.right}</span></span>'
        )
    watched = ' <span class="tag">watched</span>' if f.watched else ""
    return [
        f"<code>{escape(f.name)}</code>{watched}", picture,
        f'<span class="pill {f.status}">{STATUS[f.status]}</span>', _float(f.psi, 3), _float(f.noise, 3),
        _float(f.js, 3), _float(f.ks, 3), _float(f.wasserstein, 2),
    ]  # fmt: skip


def _score(a: Assessment) -> str:
    score = a.drift.score
    if score is None or a.reference.score is None:
        return '<p class="note">The release keeps no reference of its scores.</p>'
    data = svg.bars(a.reference.score, a.current_score, most=60)
    status = f'<span class="pill {score.status}">{STATUS[score.status]}</span>'
    return (
        f"<p>{status} PSI {score.psi:.3f} (noise {score.noise:.3f}), KS {_float(score.ks, 3)}, "
        f"Wasserstein {_float(score.wasserstein, 2)} standard deviations.</p>"
        + f'<div class="wide">{svg.overlay(data, 760, 150, "Score: reference and current distribution")}'
        + f'<span class="ends"><span>{data.left}</span><span>probability</span><span>{data.right}</span></span></div>'
        + _key([("ref", "reference (held-out rows)"), ("cur", "current")])
    )


QUIET = '<span class="quiet">nothing found</span>'


def _checks(a: Assessment) -> str:
    rows = [
        [
            f"<code>{escape(f.name)}</code>", f'<div class="text">{escape("; ".join(f.findings)) or QUIET}</div>',
            f"{f.missing_reference:.1%}", f"{f.missing:.1%}", f"{f.below:.1%}", f"{f.above:.1%}",
        ]
        for f in sorted(a.drift.features, key=lambda f: (not f.findings, f.name))
    ]  # fmt: skip
    return _table(["Feature", "Finding", "Missing then", "Missing now", "Below range", "Above range"], rows, numeric=2)


def _log(a: Assessment) -> str:
    health = a.health
    items = [
        f"{health.rows:,} rows in the window, {health.duplicates:,} of them duplicates that count once",
        "rows dropped by the service: " + ("not reported" if health.dropped is None else f"{health.dropped:,}"),
        f"files that could not be read: {', '.join(health.unreadable) if health.unreadable else 'none'}",
    ]
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def _method(a: Assessment) -> str:
    product, bounds = a.product, a.bounds
    return (
        f"<p>{escape(METHOD)}. JS: Jensen-Shannon distance, base 2. KS and Wasserstein (in standard deviations of the "
        "reference) from the binned distributions; discrete codes have no order, so they have neither. "
        "Histograms of the reference were stored with the release; its data were not read again.</p>"
        f"<p>A trigger fires at most once in {escape(bounds.cool_down)}. Retrain by hand: "
        f"<code>plinth pipeline run {escape(product.name)} {escape(product.pipelines[0].name)}</code>; go back: "
        f"<code>plinth release rollback {escape(product.name)}</code>. "
        "Runbook: <code>docs/explanation/monitoring.md</code>.</p>"
        f"<p>Owner: {escape(product.owner.team)} ({escape(product.owner.contact)}), on call: "
        f"{escape(product.owner.on_call)}, tier {product.tier}.</p>"
    )
