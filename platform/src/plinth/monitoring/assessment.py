"""One look at a product: the log of a time against its release's reference, and the labels that have come."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from plinth.core.durations import seconds
from plinth.core.products import Monitoring, Product
from plinth.errors import InvalidInput, NotFound
from plinth.ledger.port import Artifacts
from plinth.ledger.store import ReleaseRecord
from plinth.monitoring import DEFAULT_DAYS, performance
from plinth.monitoring.drift import Drift, drift
from plinth.monitoring.duckdb import LogReader
from plinth.monitoring.histogram import Histogram, Histograms, score_histogram
from plinth.monitoring.labels import LogHealth
from plinth.monitoring.reference import FILE, Reference
from plinth.monitoring.trigger import Signals

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, eq=False)
class Assessment:
    """What was seen. `drift` covers start to end of `release`; performance covers the log up to `end`, all releases.

    `trails`: calibration over trailing windows, by release. `calibration`: the last whole window of `release`, None
    with too few labels.
    """

    product: Product
    release: str
    start: datetime
    end: datetime
    as_of: datetime
    reference: Reference
    current: Histograms
    current_score: Histogram
    drift: Drift
    months: list[performance.Period]
    trails: dict[str, list[performance.Calibration]]
    calibration: performance.Calibration | None
    health: LogHealth

    @property
    def bounds(self) -> Monitoring:
        """What the manifest allows."""
        return self.product.tabular().monitoring

    @property
    def signals(self) -> Signals:
        """What the trigger looks at."""
        return Signals(self.drift, self.calibration)

    @property
    def miscalibrated(self) -> bool:
        """Whether the calibration gap is beyond the manifest's bound."""
        return self.calibration is not None and abs(self.calibration.gap) > self.bounds.calibration_gap

    @property
    def beyond(self) -> bool:
        """Whether any bound of the manifest is passed."""
        return self.drift.beyond or self.miscalibrated

    def as_dict(self) -> dict[str, Any]:
        """The assessment as JSON."""
        return {
            "product": self.product.name,
            "release": self.release,
            "from": self.start.isoformat(),
            "to": self.end.isoformat(),
            "as_of": self.as_of.isoformat(),
            "beyond": self.beyond,
            "drift": self.drift.as_dict(),
            "calibration": self.calibration.as_dict() if self.calibration else None,
            "calibration_bound": self.bounds.calibration_gap,
            "months": [asdict(period) for period in self.months],
            "log": asdict(self.health),
        }


def assess(
    product: Product,
    folder: Path,
    release: str,
    reference: Reference,
    *,
    start: datetime,
    end: datetime,
    as_of: datetime,
    dropped: int | None = None,
) -> Assessment:
    """Look at a product's log and labels.

    Args:
        product: Its manifest, for the bounds.
        folder: Its state folder, with `inference/` and `labels/`.
        release: Digest of the release that is looked at.
        reference: That release's drift reference.
        start: First event time of the drift window (inclusive), UTC.
        end: Last event time (exclusive), UTC.
        as_of: Labels known later are not used.
        dropped: Rows the service could not log, when known.

    Raises:
        InvalidInput: The times are out of order or without a zone, or the log does not fit the reference.
        NotFound: There is no log in this time.
        Unavailable: The log cannot be read.
    """
    for time in (start, end, as_of):
        if time.tzinfo is None:
            raise InvalidInput(f"the time {time.isoformat()} has no zone", hint="pass UTC times")
    if start >= end:
        raise InvalidInput(f"the window ends ({end:%Y-%m-%d}) before it starts ({start:%Y-%m-%d})", hint="swap them")
    bounds = product.tabular().monitoring
    log = LogReader(folder, start, end, release)
    current, current_score = _count(log, reference)
    scores = (reference.score, current_score) if reference.score else None
    everything = LogReader(folder, EPOCH, end).labelled(as_of)
    days = max(1, seconds(bounds.calibration_window) // 86_400)
    mature = min(_naive(end), performance.mature_end(_naive(as_of)))
    complete = everything.where(everything.event_time < mature)
    releases = list(dict.fromkeys(everything.release))
    return Assessment(
        product=product,
        release=release,
        start=start,
        end=end,
        as_of=as_of,
        reference=reference,
        current=current,
        current_score=current_score,
        drift=drift(reference.features, current, bounds, scores),
        months=performance.by_month(everything),
        trails={name: performance.trailing(complete.of(name), days, bounds.minimum_labels) for name in releases},
        calibration=performance.calibration_at(complete.of(release), mature, days, bounds.minimum_labels),
        health=log.health(dropped),
    )


def assess_release(
    product: Product,
    folder: Path,
    record: ReleaseRecord,
    artifacts: Artifacts,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    as_of: datetime | None = None,
) -> Assessment:
    """Assess a release against the drift reference that it keeps.

    Args:
        product: What is watched.
        folder: Its state folder, with `inference/` and `labels/`.
        record: The release.
        artifacts: Where its artefacts are.
        start: First event time (inclusive), UTC; default `DEFAULT_DAYS` before the end.
        end: Last event time (exclusive), UTC; default the end of the log.
        as_of: Labels known later are not used; default now.

    Raises:
        NotFound: The release keeps no reference, or there is no log in this time.
        InvalidInput: As `assess`.
        Unavailable: The log or the artefacts cannot be read.
    """
    digest = record.manifest.artifacts.get(FILE)
    if digest is None:
        raise NotFound(
            "the release keeps no drift reference",
            where=f"release {record.digest[:12]}, artefact {FILE}",
            hint="train and release again",
        )
    reference = Reference.load(artifacts.path(digest))
    as_of = as_of or datetime.now(UTC)
    if end is None:
        span = log_span(folder)
        end = min(span[1], as_of) if span else as_of
    start = start or end - timedelta(days=DEFAULT_DAYS)
    return assess(product, folder, record.digest, reference, start=start, end=end, as_of=as_of)


def _naive(time: datetime) -> np.datetime64:
    return np.datetime64(time.astimezone(UTC).replace(tzinfo=None), "us")


def _count(log: LogReader, reference: Reference) -> tuple[Histograms, Histogram]:
    """Features and scores of the log on the reference's grids, chunk by chunk."""
    features, score = reference.features.empty(), score_histogram(np.zeros(0))
    for matrix, scores in log.features(reference.features.names):
        features = features.merge(reference.features.count(matrix))
        score = score.merge(score_histogram(scores))
    return features, score


def log_span(folder: Path) -> tuple[datetime, datetime] | None:
    """First day of the inference log and the day after its last, from its folders' names; None without a log."""
    days = sorted(path.name.removeprefix("date=") for path in (folder / "inference").glob("date=????-??-??"))
    if not days:
        return None
    try:
        first, last = (datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC) for day in (days[0], days[-1]))
    except ValueError:
        return None
    return first, datetime.fromtimestamp(last.timestamp() + 86_400, UTC)
