"""Alerts of pipelines and of the data they check."""

from __future__ import annotations

from plinth.core.durations import seconds
from plinth.core.products import Pipeline, Product
from plinth.telemetry import metrics
from plinth.telemetry.alerts.model import Alert, owned
from plinth.telemetry.alerts.schedule import longest_gap
from plinth.telemetry.expressions import risen, series, since


def alerts(product: Product) -> list[Alert]:
    """The alerts of a product's pipelines."""
    late = [_late(product, pipeline) for pipeline in product.pipelines if pipeline.schedule]
    # An assistant's contract is judged within its build, which fails: nothing is kept in quarantine.
    data = [_contracts(product)] if product.assistant is None else []
    return [*_runs(product), *late, *data]


def _runs(product: Product) -> list[Alert]:
    name, labels = product.name, owned(product)
    failed = risen(metrics.PIPELINE_RUNS, "30m", metrics.PREFECT_UP, product=name, state="~(?i)failed|crashed|timedout")
    queued, running = (
        series(metric, product=name) for metric in (metrics.PIPELINE_QUEUED, metrics.PIPELINE_RUNNING)
    )  # fmt: skip
    stuck = f"sum by (product) ({queued}) > 0 unless on (product) sum by (product) ({running}) > 0"
    return [
        Alert(
            "PipelineFailed", failed, "0s", "ticket",
            f"{name}: its pipeline {{{{ $labels.pipeline }}}} failed",
            "What serves goes on. The run's page in Prefect has its log; `plinth pipeline run` starts another, which "
            "skips "
            "the steps that were done.",
            "pipelines", labels,
        ),
        Alert(
            "PipelineQueueStuck", stuck, "15m", "ticket",
            f"{name}: runs are due and none is at work",
            "The worker is down, or cannot reach Prefect. `plinth status` shows the worker, `plinth logs pipelines` "
            "what it "
            "said.",
            "pipelines", labels,
        ),
    ]  # fmt: skip


def _late(product: Product, pipeline: Pipeline) -> Alert:
    allowed = 2 * longest_gap(pipeline.schedule or "") + seconds(pipeline.timeout)
    return Alert(
        "PipelineLate",
        f"{since(metrics.PIPELINE_TIME, product=product.name, pipeline=pipeline.name)} > {allowed:g}", "5m", "ticket",
        f"{product.name}: {pipeline.name} last succeeded {{{{ $value | humanizeDuration }}}} ago",
        f"Two of its times ({pipeline.schedule}) went by without a success. `plinth pipeline list` shows it, "
        f"`plinth pipeline run {product.name} {pipeline.name}` tries at once.",
        "pipelines", owned(product, pipeline=pipeline.name),
    )  # fmt: skip


def _contracts(product: Product) -> Alert:
    return Alert(
        "ContractViolated", f"{series(metrics.CONTRACT_VIOLATIONS, product=product.name)} > 0", "0s", "ticket",
        f"{product.name}: data breaks the contract {{{{ $labels.contract }}}}",
        "The batch is quarantined and nothing is trained on it. "
        f"`plinth contract check {product.name}` names the rules and rows.",
        "pipelines", owned(product),
    )  # fmt: skip
