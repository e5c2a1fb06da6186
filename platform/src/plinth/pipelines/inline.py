"""The runner without a server: steps run in this process, one after the other, with real retries and timeouts."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic

from plinth.pipelines.cache import StepCache
from plinth.pipelines.entry import bind_params
from plinth.pipelines.execution import Bench, Execution, pipeline_name, retryable
from plinth.pipelines.port import PipelineFunction, Ports, RunResult, StepListener
from plinth.pipelines.slots import slot
from plinth.pipelines.step import Step

log = logging.getLogger(__name__)


class InlineExecution(Execution[Ports]):
    """One run in this process."""

    runner = "inline"

    def call(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Attempt the step until it succeeds, refuses, or has no retries left."""
        with self.recorded(step, args, kwargs) as call:
            for left in range(step.retries, 0, -1):
                try:
                    return self.timed_attempt(call)
                except Exception as error:
                    if not retryable(error):
                        raise
                    log.warning(
                        "step %s failed (%s: %s), %d retries left", step.name, type(error).__name__, error, left
                    )
                    time.sleep(step.retry_delay)
            return self.timed_attempt(call)


class InlineRunner(Generic[Ports]):
    """Runs a product's pipelines in the calling process.

    Args:
        product: Name of the product.
        state: Folder of the product's state; runs are kept under `runs/`.
        cache: Folder of the step cache.
        ports: Passed to pipelines as `context.ports`.
    """

    name = "inline"

    def __init__(self, *, product: str, state: Path, cache: Path, ports: Ports) -> None:
        self._bench = Bench(product, state, StepCache(cache), ports)

    def run(
        self,
        function: PipelineFunction,
        params: Mapping[str, object] | None = None,
        *,
        pipeline: str = "",
        concurrency: int = 1,
        timeout: float = 3600.0,
        wait: float = 60.0,
        on_step: StepListener | None = None,
    ) -> RunResult:
        """As `Runner.run` says."""
        bound = bind_params(function, params or {})
        with slot(self._bench.runs, limit=concurrency, wait=wait):
            execution = InlineExecution(self._bench, pipeline_name(function, pipeline), timeout, on_step)
            return execution.run(function, bound)
