"""The runner with a server: a pipeline is a Prefect flow, each step call a task run, both kept by a standing server.

Never Prefect's ephemeral mode: when measured, a fifth of its task-run records were lost. Without a server this
runner refuses to start.

Prefect reads its settings when it is first imported, so `prepare_environment` comes before any import of it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic

from pydantic import SecretStr

from plinth.errors import Conflict, MissingExtra, Unavailable
from plinth.pipelines.cache import StepCache
from plinth.pipelines.entry import bind_params
from plinth.pipelines.execution import Bench, Call, Execution, pipeline_name, retryable
from plinth.pipelines.port import PipelineFunction, Ports, RunResult, StepListener
from plinth.pipelines.prefect_client import NO_AUTH, check_server, prepare_environment, server_answers, server_errors
from plinth.pipelines.runlog import CURRENT_RUN
from plinth.pipelines.slots import slot
from plinth.pipelines.step import ACTIVE, Step, Table

log = logging.getLogger(__name__)

# A killed run holds its slot on the server until its lease ends; Prefect renews it at three quarters of this.
LEASE_SECONDS = 60.0
DELIVERY_SECONDS = 20.0
SETTLE_SECONDS = 60.0


class PrefectExecution(Execution[Ports]):
    """One run inside a Prefect flow run."""

    runner = "prefect"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tasks: dict[Step[..., Any], Any] = {}

    def call(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the step as a Prefect task, with Prefect's retries; the timeout is ours, as inline."""
        with self.recorded(step, args, kwargs) as call:
            self._task(step)(call)
            return call.value

    def artifact(self, key: str, markdown: str | None, table: Table | None) -> None:
        """Write the document into the run's folder, and show it in Prefect's UI."""
        from prefect.artifacts import create_markdown_artifact, create_table_artifact

        super().artifact(key, markdown, table)
        try:
            if markdown is not None:
                create_markdown_artifact(markdown, key=key)
            else:
                create_table_artifact([dict(row) for row in table or ()], key=key)
        except server_errors() as error:
            log.warning("artifact %s is in the run's folder only: %s", key, type(error).__name__)

    def _task(self, step: Step[..., Any]) -> Any:
        if step not in self._tasks:
            import prefect
            from prefect.cache_policies import NO_CACHE

            decorate = prefect.task(
                name=step.name, version=step.version, retries=step.retries, retry_delay_seconds=step.retry_delay,
                retry_condition_fn=_retry, cache_policy=NO_CACHE, persist_result=False,
            )  # fmt: skip
            self._tasks[step] = decorate(self._body)
        return self._tasks[step]

    def _body(self, call: Call) -> Any:
        """The task: the value stays in our hands, Prefect is told how it came about."""
        call.value = self.timed_attempt(call)
        if not call.cached:
            return None
        from prefect.states import Completed

        return Completed(name="Cached", message="nothing changed since an earlier run")


def _retry(_task: Any, _run: Any, state: Any) -> bool:
    return not isinstance(state.data, BaseException) or retryable(state.data)


class PrefectRunner(Generic[Ports]):
    """Runs a product's pipelines in the calling process, as flows of a standing Prefect server.

    Args:
        product: Name of the product.
        state: Folder of the product's state; runs are kept under `runs/`.
        cache: Folder of the step cache.
        ports: Passed to pipelines as `context.ports`.
        api_url: Address of the server's API.
        home: Folder for Prefect's own files.
        auth: The server's user:password; empty is none.
    """

    name = "prefect"

    def __init__(
        self,
        *,
        product: str,
        state: Path,
        cache: Path,
        ports: Ports,
        api_url: str,
        home: Path,
        auth: SecretStr = NO_AUTH,
    ) -> None:
        self._bench = Bench(product, state, StepCache(cache), ports)
        self._api_url = api_url
        self._home = home
        self._auth = auth

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
        """As `Runner.run` says. Inside a flow run of this server (a schedule's) it becomes that run."""
        bound = bind_params(function, params or {})
        name = pipeline_name(function, pipeline)
        with self._server(), slot(self._bench.runs, limit=concurrency, wait=wait):
            results: list[RunResult] = []

            def body(**params: object) -> None:  # named so, and unused: Prefect shows them
                run_id = _flow_run_id()
                execution: PrefectExecution[Ports] = PrefectExecution(self._bench, name, timeout, on_step, run_id)
                execution.url = f"{self._api_url.removesuffix('/api')}/runs/flow-run/{run_id}"
                with self._server_slot(concurrency, wait), _logs_to_server(function):
                    results.append(execution.run(function, bound))

            try:
                self._as_flow_run(body, name, function.__doc__, bound)
            except server_errors() as error:
                if not results:
                    raise
                self._settle(results[0].run_id, error)
            finally:
                if ACTIVE.get() is None:
                    # In a thread of its own: under a running event loop (a notebook's) draining would not wait.
                    with ThreadPoolExecutor(1) as pool:
                        pool.submit(_deliver).result()
            return results[0]

    def _as_flow_run(
        self, body: Callable[..., None], name: str, description: str | None, params: dict[str, object]
    ) -> None:
        import prefect

        # A flow run without an active executor is one that a schedule started: it is this run. With one, this is a
        # pipeline that was started by another pipeline: a flow run of its own below the other.
        if _flow_run_id() and ACTIVE.get() is None:
            body()
            return
        decorate = prefect.flow(
            name=f"{self._bench.product}.{name}", description=description, validate_parameters=False,
            persist_result=False, log_prints=False,
        )  # fmt: skip
        decorate(body)(**params)

    def _settle(self, run_id: str, error: Exception) -> None:
        """The run ended well while the server was away: wait for it, and tell it then."""
        from uuid import UUID

        from prefect.client.orchestration import get_client
        from prefect.states import Completed

        log.warning("the Prefect server was away when run %s ended (%s); waiting for it", run_id, type(error).__name__)
        until = time.monotonic() + SETTLE_SECONDS
        while not server_answers(self._api_url):
            if time.monotonic() > until:
                log.warning("the Prefect server stays away; its history of run %s is incomplete", run_id)
                return
            time.sleep(1)
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(run_id), Completed(), force=True)

    @contextlib.contextmanager
    def _server(self) -> Iterator[None]:
        """The settings of our server; its absence is an error before anything starts, its loss one in between."""
        check_server(self._api_url, self._auth)
        prepare_environment(self._home, self._api_url, self._auth)
        try:
            from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
        except ImportError as error:
            raise MissingExtra("prefect", "pipelines") from error
        shown = self._auth.get_secret_value() or None
        with temporary_settings({PREFECT_API_URL: self._api_url, PREFECT_API_AUTH_STRING: shown}):
            try:
                yield
            except server_errors() as error:
                raise Unavailable(
                    f"the Prefect server failed: {type(error).__name__}: {error}",
                    where=self._api_url,
                    hint="plinth doctor; plinth logs prefect",
                ) from error

    @contextlib.contextmanager
    def _server_slot(self, limit: int, wait: float) -> Iterator[None]:
        """One of the product's slots in Prefect's own limit, which also holds on other machines."""
        from prefect.client.orchestration import get_client
        from prefect.concurrency.sync import concurrency

        name = f"plinth-{self._bench.product}"
        with get_client(sync_client=True) as client:
            client.upsert_global_concurrency_limit_by_name(name, limit)
        held = concurrency(
            name, timeout_seconds=wait + LEASE_SECONDS, lease_duration=LEASE_SECONDS, strict=True,
            raise_on_lease_renewal_failure=False,
        )  # fmt: skip
        stack = contextlib.ExitStack()
        try:
            stack.enter_context(held)
        except TimeoutError as error:
            raise Conflict(
                f"{limit} run(s) of this product's pipelines are going on already",
                where=f"Prefect concurrency limit {name!r}",
                hint="wait for it to end, or raise the pipeline's `concurrency` in product.yaml",
            ) from error
        try:
            yield
        finally:
            try:
                stack.close()
            except server_errors() as error:
                log.warning("slot %s not given back (%s): its lease ends by itself", name, type(error).__name__)


def _deliver() -> None:
    """Wait until the server has this run's events (of which it makes its task-run records) and its log.

    Prefect does so when the process exits, which is too late for one that is killed or that changes servers: its
    background workers stay with the server they were started for.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all(timeout=DELIVERY_SECONDS)
    APILogWorker.drain_all(timeout=DELIVERY_SECONDS)


def _flow_run_id() -> str:
    """The flow run that is going on, or an empty text."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    return str(context.flow_run.id) if context is not None and context.flow_run is not None else ""


@contextlib.contextmanager
def _logs_to_server(function: PipelineFunction) -> Iterator[None]:
    """Send what the platform and the product log to the server too, under the flow run."""
    from prefect.logging.handlers import APILogHandler

    handler = APILogHandler()
    handler.addFilter(lambda _record: bool(CURRENT_RUN.get()))
    loggers = [logging.getLogger(name) for name in {"plinth", function.__module__.partition(".")[0]}]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
