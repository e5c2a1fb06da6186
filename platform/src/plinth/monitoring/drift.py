"""Drift: how far the current traffic lies from what the release was trained on, feature by feature, and the score.

The verdict is the manifest's: a feature has drifted when its PSI is above `drift_psi` and above what chance alone
gives at this sample size. The other distances say what kind of change it is, and are reported beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, Literal

from plinth.core.products import Monitoring
from plinth.errors import InvalidInput
from plinth.monitoring import distances
from plinth.monitoring.histogram import Histogram, Histograms

Status = Literal["ok", "drift", "small-sample"]

MINIMUM_ROWS = 200  # present values under which no verdict is given: ten groups of twenty
MISSING_CHANGE = 0.05  # change of the missing share that is flagged, when chance does not explain it
OUTSIDE_SHARE = 0.01  # share outside of the reference's range that is flagged
METHOD = (
    "PSI over deciles of the reference (discrete: over values), half a count added to every group; drifted when above "
    "the bound and above the 99.9% level of PSI without drift at this sample size (Yurdakul & Naranjo 2020)"
)


@dataclass(frozen=True)
class FeatureDrift:
    """One feature against its reference. Shares are of all rows, distances of the present values.

    `noise`: the PSI that chance alone stays under (99.9%). `ks` and `wasserstein` (in reference standard deviations)
    are None for discrete features, where an order of codes means nothing.
    """

    name: str
    kind: str
    status: Status
    watched: bool
    rows: int
    psi: float
    noise: float
    js: float
    ks: float | None
    wasserstein: float | None
    missing_reference: float
    missing: float
    below: float
    above: float
    findings: tuple[str, ...]


@dataclass(frozen=True)
class Drift:
    """All features and the score, and whether the bounds of the manifest are passed."""

    rows: int
    reference_rows: int
    bound: float
    allowed: int
    features: tuple[FeatureDrift, ...]
    score: FeatureDrift | None

    @property
    def drifted(self) -> tuple[str, ...]:
        """Names of the features that drifted, watched or not."""
        return tuple(feature.name for feature in self.features if feature.status == "drift")

    @property
    def counted(self) -> tuple[str, ...]:
        """Names of the drifted features that are watched: those that count towards the trigger."""
        return tuple(feature.name for feature in self.features if feature.status == "drift" and feature.watched)

    @property
    def beyond(self) -> bool:
        """Whether as many watched features drifted as the manifest says trigger retraining."""
        return len(self.counted) >= self.allowed

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "method": METHOD, "rows": self.rows, "reference_rows": self.reference_rows, "bound": self.bound,
            "allowed": self.allowed, "drifted": list(self.drifted), "counted": list(self.counted),
            "beyond": self.beyond, "features": [asdict(feature) for feature in self.features],
            "score": asdict(self.score) if self.score else None,
        }  # fmt: skip


def compare(reference: Histogram, current: Histogram, bound: float, *, watched: bool = True) -> FeatureDrift:
    """One feature: every distance that fits its type, the checks of missing values and range, and the verdict.

    Raises:
        InvalidInput: The two are on different grids.
    """
    if (reference.name, reference.grid) != (current.name, current.grid):
        raise InvalidInput(
            "the current counts are not on the reference's grid",
            where=current.name,
            hint="count with `reference.count(matrix)`",
        )
    p, q = distances.grouped(reference, current)
    psi, noise = distances.psi(p, q), distances.psi_noise(p.size, float(p.sum()), float(q.sum()))
    small = min(reference.present, current.present) < MINIMUM_ROWS
    ordered = reference.grid.kind != "discrete"
    return FeatureDrift(
        name=reference.name,
        kind=reference.grid.kind,
        status="small-sample" if small else "drift" if psi > bound and psi > noise else "ok",
        watched=watched,
        rows=current.rows,
        psi=psi,
        noise=noise,
        js=distances.jensen_shannon(p, q),
        ks=distances.kolmogorov_smirnov(reference, current) if ordered else None,
        wasserstein=distances.wasserstein(reference, current) if ordered else None,
        missing_reference=_share(reference.missing, reference.rows),
        missing=_share(current.missing, current.rows),
        below=_share(current.below, current.rows),
        above=_share(current.above, current.rows),
        findings=tuple(_findings(reference, current)),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _findings(reference: Histogram, current: Histogram) -> list[str]:
    """What the checks of missing values and of the range have to say."""
    found: list[str] = []
    if current.rows < MINIMUM_ROWS or not reference.rows:
        return found
    before, now = _share(reference.missing, reference.rows), _share(current.missing, current.rows)
    pooled = (reference.missing + current.missing) / (reference.rows + current.rows)
    error = sqrt(pooled * (1 - pooled) * (1 / reference.rows + 1 / current.rows))
    if abs(now - before) > max(MISSING_CHANGE, 3 * error):
        found.append(f"missing {now:.1%} of rows, {before:.1%} in the reference")
    low, high = reference.grid.lo, reference.grid.hi
    for share, side in (
        (_share(current.below, current.rows), f"below {low:.4g}"),
        (_share(current.above, current.rows), f"above {high:.4g}"),
    ):
        if share > OUTSIDE_SHARE:
            found.append(f"{share:.1%} of rows {side}, where the reference has none")
    if _share(current.other, current.rows) > OUTSIDE_SHARE + _share(reference.other, reference.rows):
        found.append(f"{_share(current.other, current.rows):.1%} of rows hold no whole code")
    return found


def drift(
    reference: Histograms,
    current: Histograms,
    bounds: Monitoring,
    scores: tuple[Histogram, Histogram] | None = None,
) -> Drift:
    """All features of `current` against `reference`, under the manifest's bounds.

    Args:
        reference: Stored with the release.
        current: Counted with `reference.count(matrix)`.
        bounds: The product's monitoring section. With `watch` empty no feature triggers, all are reported.
        scores: The score's reference and current histogram.

    Raises:
        InvalidInput: The features differ, or `watch` names a feature that is not there.
    """
    if reference.names != current.names:
        raise InvalidInput("the current features are not the reference's", where=_difference(reference, current))
    unknown = sorted(set(bounds.watch) - set(reference.names))
    if unknown:
        raise InvalidInput(
            f"monitoring watches features the release does not have: {', '.join(unknown)}",
            where="product.yaml, monitoring.watch",
            hint="the release has: " + ", ".join(reference.names),
        )
    features = tuple(
        compare(old, new, bounds.drift_psi, watched=old.name in bounds.watch)
        for old, new in zip(reference.columns, current.columns, strict=True)
    )
    return Drift(
        rows=current.rows,
        reference_rows=reference.rows,
        bound=bounds.drift_psi,
        allowed=bounds.drifted_features,
        features=features,
        score=compare(*scores, bounds.drift_psi, watched=False) if scores else None,
    )


def _difference(reference: Histograms, current: Histograms) -> str:
    names: Sequence[str] = sorted(set(reference.names) ^ set(current.names))
    return ", ".join(names) or "the order of features"
