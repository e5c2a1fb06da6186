"""Alerts that every product has: its service, its releases, its rollouts, its cost."""

from __future__ import annotations

from plinth.core.products import Product
from plinth.telemetry import metrics, recorded
from plinth.telemetry.alerts.model import Alert, owned
from plinth.telemetry.expressions import increase, risen, series, total


def alerts(product: Product) -> list[Alert]:
    """The alerts of a product, whatever it serves."""
    return [*_service(product), *_releases(product), *_rollouts(product), *_cost(product)]


def _service(product: Product) -> list[Alert]:
    name, labels = product.name, owned(product)
    denied = total(increase(metrics.DENIED, "10m", product=name), "product")
    return [
        Alert(
            "ServiceDown", f"absent({series(metrics.RELEASE_GENERATION, product=name)})", "1m", "page",
            f"{name}: its service gives no metrics",
            f"Prometheus has seen nothing of the service for a minute: it is down, or cannot be reached. "
            f"`plinth status` shows its state, `plinth logs {name}` what it said last.",
            "services", labels,
        ),
        Alert(
            "RequestsDenied", f"{denied} > 100", "5m", "ticket",
            f"{name}: {{{{ $value | humanize }}}} requests were refused in 10 minutes",
            "Requests without a valid token, from a foreign host or origin. A client with an expired token, or "
            "somebody "
            "who tries doors: the dashboard names the reasons, `plinth audit tail` who presented a bad token.",
            "services", labels,
        ),
        Alert(
            "SpansNotExported", f"{increase(metrics.TRACES_FAILED, '15m', product=name)} > 0", "15m", "ticket",
            f"{name}: traces do not reach the collector",
            "Answers go on, their traces are lost. Check the collector (`plinth status`) and PLINTH_OTLP_URL of "
            f"{name}.",
            "services", labels,
        ),
    ]  # fmt: skip


def _releases(product: Product) -> list[Alert]:
    name, labels = product.name, owned(product)
    return [
        Alert(
            "ReleaseStale", f"{series(metrics.RELEASE_STALE, product=name)} == 1", "5m", "ticket",
            f"{name}: serves an older release than the ledger wants",
            "The wanted release cannot be loaded, or the ledger cannot be read. The last good one goes on serving; "
            f"`plinth status` says why, `plinth fsck` checks {name}'s artefacts.",
            "releases", labels,
        ),
        Alert(
            "ReleaseLoadFails", f"{increase(metrics.RELEASE_FAILURES, '10m', product=name)} > 5", "5m", "ticket",
            f"{name}: looks for its release and fails, again and again",
            "The ledger or the artefact store does not answer the service. `plinth doctor` checks both.",
            "releases", labels,
        ),
        Alert(
            "ProjectionsPending", f"{series(metrics.PROJECTIONS_PENDING, product=name)} > 0", "15m", "ticket",
            f"{name}: MLflow does not show the ledger's decision",
            "The release is served all the same; only the alias lags. `plinth fsck` names it; the controller tries "
            "again "
            "until MLflow answers.",
            "releases", labels,
        ),
    ]  # fmt: skip


def _rollouts(product: Product) -> list[Alert]:
    name, labels = product.name, owned(product)
    phase = {"product": name}
    running = series(metrics.ROLLOUT_PHASE, **phase, phase="~shadow|canary|full")
    seen = total(increase(metrics.ROLLOUT_REQUESTS, "5m", product=name, arm="~candidate|shadow"), "product")
    back = risen(metrics.ROLLOUTS_ENDED, "15m", metrics.LEDGER_UP, product=name, outcome="~rolled.back")
    return [
        Alert(
            "RolloutPaused", f"{series(metrics.ROLLOUT_PHASE, **phase, phase='paused')} == 1", "30m", "ticket",
            f"{name}: its rollout is paused",
            f"A gate could not decide in time, or somebody paused it. `plinth rollout status {name}` says which; then "
            f"`plinth rollout resume {name}` or `plinth rollout abort {name}`.",
            "rollouts", labels,
        ),
        Alert(
            "ApprovalWaiting", f"{series(metrics.APPROVALS_WAITING, product=name)} > 0", "4h", "ticket",
            f"{name}: a rollout waits for an approval",
            f"`plinth rollout status {name}` shows the release, `plinth approve {name} DIGEST` consents.",
            "rollouts", labels,
        ),
        Alert(
            "RolledBack", back, "0s", "info",
            f"{name}: a rollout was rolled back",
            f"The release before serves again. `plinth rollout status {name}` has the verdicts that decided it.",
            "rollouts", labels,
        ),
        Alert(
            "CandidateUnseen", f"{running} == 1 unless on (product) {seen} > 0", "10m", "ticket",
            f"{name}: a rollout runs, and its candidate has no metrics",
            "There is no traffic, or Prometheus does not scrape the service. Nothing is promoted without evidence: the "
            "rollout pauses or goes back when its patience ends.",
            "rollouts", labels,
        ),
    ]  # fmt: skip


def _cost(product: Product) -> list[Alert]:
    cost, budget = (series(one, product=product.name) for one in (recorded.COST, metrics.BUDGET_MONTHLY))
    return [
        Alert(
            "CostAboveBudget", f"{cost} > on (product) (max by (product) ({budget}) > 0)", "1h", "ticket",
            f"{product.name}: at this speed a month costs more than its budget",
            f"The last hour's cores and model calls, for a month, against {product.budget.monthly:g} "
            f"{product.budget.currency}. The product's dashboard splits it by model.",
            "cost", owned(product),
        )
    ]  # fmt: skip
