"""The port of the pipeline engine: what a pipeline is given, what a run leaves behind, what a runner does.

A pipeline is a plain function `def train(context: PipelineContext[Ports], **params) -> ...` that calls steps
(`plinth.pipelines.step`). The same function runs inline or through a Prefect server, with the same results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

from plinth.pipelines.files import FileRef

Ports = TypeVar("Ports")
Status = Literal["completed", "failed"]


@dataclass(frozen=True)
class PipelineContext(Generic[Ports]):
    """What a pipeline's function is given first. Never part of a step's cache key.

    Args:
        product: Name of the product.
        state: Folder of the product's state (lake, features, inference log, reports).
        run_id: The run's UUID; through Prefect it is the flow run's.
        folder: Folder of this run: `run.json`, `run.log`, `artifacts/`.
        ports: What the wiring gives (ledger, registry, features), passed through untouched.
    """

    product: str
    state: Path
    run_id: str
    folder: Path
    ports: Ports


@dataclass(frozen=True)
class StepRecord:
    """What one step call did.

    `seconds` is wall-clock time of all attempts and the delays between them; `attempts` is 0 when the answer came
    from the cache. `inputs` and `outputs` are the files named in its arguments and its result, for lineage.
    """

    name: str
    version: str
    cached: bool
    seconds: float
    attempts: int
    status: Status
    key: str = ""
    inputs: tuple[FileRef, ...] = ()
    outputs: tuple[FileRef, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """What a run did; the same is kept in `folder/run.json`, less the output.

    `started_at` and `finished_at` are ISO 8601 in UTC. `url` is the run's page in Prefect's UI, None when inline.
    """

    run_id: str
    product: str
    pipeline: str
    runner: str
    status: Status
    steps: tuple[StepRecord, ...]
    output: object
    params: dict[str, object]
    started_at: str
    finished_at: str
    seconds: float
    folder: Path
    url: str | None = None

    @property
    def cached_steps(self) -> int:
        """How many steps were skipped because nothing had changed."""
        return sum(step.cached for step in self.steps)


StepListener = Callable[[str, StepRecord | None], None]
"""Called with a step's name when it starts (None) and when it ended (its record)."""

PipelineFunction = Callable[..., object]


class Runner(Protocol):
    """Runs the pipelines of one product."""

    @property
    def name(self) -> str:
        """`inline` or `prefect`."""

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
        """Run a pipeline to its end.

        Args:
            function: The pipeline's function; called with a `PipelineContext` and `params`.
            params: Keyword arguments, checked against the function's annotations.
            pipeline: Name of the pipeline; default the function's, with dashes.
            concurrency: How many runs of the product's pipelines may go on at once.
            timeout: Seconds after which no step goes on.
            wait: Seconds to wait for a slot under `concurrency`.
            on_step: Told of each step's start and end.

        Raises:
            InvalidInput: `params` do not fit the function.
            Conflict: No slot became free within `wait`.
            Unavailable: A step or the run took too long, or the runner's server cannot be reached.
            RefusedByPolicy: A step refused; never retried, and raised as it is.
            PlinthError: A step failed for another reason, after its retries.
        """
