"""Running a product's pipeline as it is meant to be: as declared, with its lineage, its trace and its model card."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from plinth.errors import PlinthError
from plinth.governance.code import code_ref
from plinth.governance.lineage import record_run
from plinth.pipelines.entry import run_pipeline
from plinth.pipelines.port import RunResult, StepListener, StepRecord
from plinth.pipelines.prefect_client import check_server, server_answers
from plinth.pipelines.runlog import CURRENT_RUN
from plinth.runtime import health, mlflow, release_card
from plinth.wiring import Platform

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from plinth.telemetry.traces import Traces


def without_server(platform: Platform) -> bool:
    """Whether a run has to do without a Prefect server because none is up.

    Only where the server would be this machine's own. One that the settings name is shared: a run past it would be in
    nobody's history and outside the limits that hold on other machines, and nobody would notice that it is down.

    Raises:
        Unavailable: The settings name a server, and it does not answer.
        RefusedByPolicy: It does not take the auth string.
    """
    settings = platform.settings
    if settings.prefect_server:
        check_server(settings.prefect_api_url, settings.prefect_auth)
        return False
    return not server_answers(settings.prefect_api_url)


def run(
    platform: Platform,
    product: str,
    pipeline: str,
    params: Mapping[str, object] | None = None,
    *,
    inline: bool = False,
    wait: float = 60.0,
    on_step: StepListener | None = None,
) -> RunResult:
    """Run a pipeline, record in the ledger what it read and wrote, and trace it. A run that fails leaves both too.

    Args:
        platform: Where it runs.
        product: The product's name.
        pipeline: The pipeline's name in product.yaml.
        params: Parameters of its entry function.
        inline: In this process alone, without the Prefect server.
        wait: Seconds to wait for a slot under the pipeline's concurrency.
        on_step: Told of each step's start and end.

    Raises:
        NotFound: No such product or pipeline.
        PlinthError: As `plinth.pipelines.port.Runner.run` says.
    """
    spec = platform.products.get(product).spec
    runner = platform.runner(product, inline=inline)
    watch = Watch(product, pipeline, runner.name, on_step)
    commit = code_ref(platform.settings.home).commit
    state = platform.settings.product_dir(product)
    try:
        result = run_pipeline(runner, spec, pipeline, params, wait=wait, on_step=watch)
    except BaseException:
        failed = watch.failed(state)
        if failed is not None:
            # Whatever these say, the run's own error is the one to tell.
            with contextlib.suppress(PlinthError):
                record_run(platform.ledger, failed, state, commit=commit)
            hand_over(platform, product, watch, failed)
        raise
    record_run(platform.ledger, result, state, commit=commit)
    hand_over(platform, product, watch, result)
    try:
        release_card.leave(platform, product, result.run_id, result.folder)
    except (PlinthError, OSError) as error:
        # The release stands; `plinth release card` writes its card again.
        log.warning("the run's card could not be written: %s", error)
    return result


class Watch:
    """Listens to a run's steps: what a failed run did is known from here, and when each step ended."""

    def __init__(self, product: str, pipeline: str, runner: str, tell: StepListener | None) -> None:
        self._product = product
        self._pipeline = pipeline
        self._runner = runner
        self._tell = tell
        self._run_id = ""
        self._steps: list[StepRecord] = []
        self._marks = [("start", time.time_ns())]

    def __call__(self, name: str, record: StepRecord | None) -> None:
        """A step started (None) or ended."""
        self._run_id = CURRENT_RUN.get()
        if record is not None:
            self._steps.append(record)
            self._marks.append((name, time.time_ns()))
        if self._tell is not None:
            self._tell(name, record)

    def failed(self, state: Path) -> RunResult | None:
        """The record of a run that raised; None when no step had started."""
        if not self._run_id:
            return None
        began, now = self._marks[0][1] / 1e9, time.time()
        return RunResult(
            run_id=self._run_id, product=self._product, pipeline=self._pipeline, runner=self._runner, status="failed",
            steps=tuple(self._steps), output=None, params={}, started_at=_iso(began), finished_at=_iso(now),
            seconds=round(now - began, 3), folder=state / "runs" / self._run_id,
        )  # fmt: skip

    def record(self, traces: Traces, result: RunResult) -> str:
        """The run as a trace, one span a step, each from the end of the one before; returns the trace id."""
        attributes = {
            "plinth.product": result.product,
            "plinth.pipeline": result.pipeline,
            "plinth.run_id": result.run_id,
            "plinth.runner": result.runner,
            "plinth.cached_steps": result.cached_steps,
        }
        name, failed = f"pipeline {result.product}.{result.pipeline}", result.status == "failed"
        return traces.record(name, [*self._marks, ("end", time.time_ns())], attributes, failed=failed)


def hand_over(platform: Platform, product: str, watch: Watch, result: RunResult) -> None:
    """Send the run's trace to the profile's collector or MLflow server, where one is up and tracing is on."""
    settings = platform.settings
    if not settings.traces:
        return
    if not settings.otlp_url and not health.answers(mlflow.service(settings), 0, settings.state_dir / "run"):
        return
    from plinth.telemetry.traces import configure

    traces = configure(settings, product, sample=1.0)
    watch.record(traces, result)
    traces.close()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
