"""One run, as far as both runners agree: the cache, the records, the run's folder and log, and what errors become."""

from __future__ import annotations

import json
import logging
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic

from plinth.core.failpoints import failpoint
from plinth.errors import InvalidInput, MissingExtra, NotFound, PlinthError, RefusedByPolicy, Unavailable
from plinth.pipelines.cache import StepCache, step_key
from plinth.pipelines.deadline import DeadlineExceeded, deadline
from plinth.pipelines.files import FileRef, file_refs
from plinth.pipelines.port import PipelineContext, PipelineFunction, Ports, RunResult, Status, StepListener, StepRecord
from plinth.pipelines.runlog import logging_to
from plinth.pipelines.step import ACTIVE, Step, Table

log = logging.getLogger(__name__)

# What another attempt cannot cure.
FINAL = (RefusedByPolicy, InvalidInput, NotFound, MissingExtra)


class Call:
    """One step call that is going on. No dataclass: Prefect walks through arguments that it can open."""

    def __init__(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.step = step
        self.args = args
        self.kwargs = kwargs
        self.key = step_key(step, args, kwargs) if step.cache else ""
        self.attempts = 0
        self.cached = False
        self.value: Any = None
        self.outputs: tuple[FileRef, ...] = ()


@dataclass(frozen=True)
class Bench(Generic[Ports]):
    """What stays the same for all runs of a product: its name, its folders, its ports."""

    product: str
    state: Path
    cache: StepCache
    ports: Ports

    @property
    def runs(self) -> Path:
        """The folder of the product's runs, one folder each."""
        return self.state / "runs"


class Execution(ABC, Generic[Ports]):
    """One run. A runner subclasses it and says how a step call is carried out."""

    runner = ""

    def __init__(
        self, bench: Bench[Ports], pipeline: str, timeout: float, on_step: StepListener | None, run_id: str = ""
    ) -> None:
        self.bench = bench
        self.pipeline = pipeline
        self.run_id = run_id or str(uuid.uuid4())
        self.folder = bench.runs / self.run_id
        self.steps: list[StepRecord] = []
        self.url: str | None = None
        self._timeout = timeout
        self._ends = time.monotonic() + timeout
        self._tell = on_step or (lambda _name, _record: None)

    def run(self, function: PipelineFunction, params: dict[str, object]) -> RunResult:
        """Call the pipeline's function with this run active, and keep the record.

        Raises:
            PlinthError: As `Runner.run` says.
        """
        started, clock = _now(), time.monotonic()
        context = PipelineContext(self.bench.product, self.bench.state, self.run_id, self.folder, self.bench.ports)

        def result(status: Status, output: object) -> RunResult:
            return RunResult(
                run_id=self.run_id, product=self.bench.product, pipeline=self.pipeline, runner=self.runner,
                status=status, steps=tuple(self.steps), output=output, params=params, started_at=started,
                finished_at=_now(), seconds=round(time.monotonic() - clock, 3), folder=self.folder, url=self.url,
            )  # fmt: skip

        self._prepare_folder()
        token = ACTIVE.set(self)
        try:
            with logging_to(self.folder / "run.log", self.run_id, packages=("plinth", function.__module__)):
                log.info("run of %s/%s started", self.bench.product, self.pipeline)
                try:
                    output = function(context, **params)
                except BaseException as error:
                    self._keep(result("failed", None), error)
                    log.error("run failed: %s: %s", type(error).__name__, error)
                    raise
                log.info("run completed, %d steps", len(self.steps))
        except PlinthError:
            raise
        except Exception as error:
            raise PlinthError(
                f"pipeline {self.pipeline!r} failed outside its steps: {type(error).__name__}: {error}",
                where=f"{function.__module__}:{function.__qualname__}, run {self.run_id}",
                hint=f"see {self.folder / 'run.log'}",
            ) from error
        finally:
            ACTIVE.reset(token)
        done = result("completed", output)
        self._keep(done, None)
        return done

    @abstractmethod
    def call(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Carry out one step call with the step's retries and timeout, inside `recorded`."""

    def artifact(self, key: str, markdown: str | None, table: Table | None) -> None:
        """Write a document into the run's folder: `artifacts/<key>.md` or `artifacts/<key>.json`."""
        folder = self.folder / "artifacts"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if markdown is not None:
                (folder / f"{key}.md").write_text(markdown, encoding="utf-8")
            else:
                rows = json.dumps([dict(row) for row in table or ()], indent=1, default=str, ensure_ascii=False)
                (folder / f"{key}.json").write_text(rows, encoding="utf-8")
        except OSError as error:
            raise Unavailable(f"artifact {key!r} cannot be written: {error.strerror}", where=str(folder)) from error

    def timed_attempt(self, call: Call) -> Any:
        """One attempt within its limit: the step's timeout, or what is left of the run's if that is less.

        Raises:
            TimeoutError: It took longer.
            Unavailable: Nothing is left of the run's time.
        """
        limit = self._limit(call.step)
        try:
            with deadline(limit):
                return self._attempt(call)
        except DeadlineExceeded as error:
            raise TimeoutError(f"step {call.step.name!r} took longer than {limit:.3g} s") from error

    def _limit(self, step: Step[..., Any]) -> float:
        left = self._ends - time.monotonic()
        if left <= 0:
            raise Unavailable(
                f"the run took longer than its {self._timeout:g} s",
                where=f"{self.bench.product}/{self.pipeline} before step {step.name!r}",
                hint="raise the pipeline's `timeout` in product.yaml",
            )
        return left if step.timeout is None else min(step.timeout, left)

    def _attempt(self, call: Call) -> Any:
        """The cached result if there is one, else the function's, which is then kept."""
        call.cached = False
        if call.step.cache and call.attempts == 0:
            hit = self.bench.cache.get(call.step, call.key)
            if hit is not None:
                call.cached = True
                call.outputs = tuple(file_refs(hit.value))
                return hit.value
        call.attempts += 1
        value = call.step.function(*call.args, **call.kwargs)
        failpoint("step.after-run")
        if call.step.cache:
            value = self.bench.cache.put(call.step, call.key, value)
        call.outputs = tuple(file_refs(value))
        return value

    @contextmanager
    def recorded(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Call]:
        """Time and record a step call, tell the listener, and translate what goes wrong inside it."""
        call = Call(step, args, kwargs)
        self._tell(step.name, None)
        clock = time.monotonic()
        status: Status = "failed"
        try:
            yield call
            status = "completed"
        except PlinthError:
            raise
        except TimeoutError as error:
            raise Unavailable(
                str(error) or f"step {step.name!r} timed out",
                where=f"{self.bench.product}/{self.pipeline}, run {self.run_id}",
                hint="raise the step's or the pipeline's timeout, or give it less to do",
            ) from error
        except Exception as error:
            log.exception("step %s failed", step.name)
            raise PlinthError(
                f"step {step.name!r} failed after {call.attempts} attempt(s): {type(error).__name__}: {error}",
                where=f"{step.function.__module__}:{step.function.__qualname__}, run {self.run_id}",
                hint=f"see {self.folder / 'run.log'}",
            ) from error
        finally:
            record = StepRecord(
                step.name, step.version, call.cached, round(time.monotonic() - clock, 4), call.attempts, status,
                call.key, tuple(file_refs([args, kwargs])), call.outputs,
            )  # fmt: skip
            self.steps.append(record)
            self._tell(step.name, record)

    def _prepare_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"the run folder cannot be made: {error.strerror}", where=str(self.folder)) from error

    def _keep(self, result: RunResult, error: BaseException | None) -> None:
        """Write `run.json`. Best effort: the run's outcome is the caller's, a full disk does not change it."""
        record = asdict(result)
        del record["output"]
        if error is not None:
            plain = {"kind": type(error).__name__, "what": str(error)}
            record["error"] = error.as_dict() if isinstance(error, PlinthError) else plain
        try:
            text = json.dumps(record, indent=1, default=_plain, ensure_ascii=False)
            (self.folder / "run.json").write_text(text, encoding="utf-8")
        except OSError as problem:
            log.warning("run record not written: %s (%s)", problem, self.folder)


def retryable(error: BaseException) -> bool:
    """Whether another attempt may end differently."""
    return not isinstance(error, FINAL)


def pipeline_name(function: Callable[..., object], given: str) -> str:
    """The pipeline's name: the one given, else the function's with dashes."""
    return given or function.__name__.replace("_", "-")


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
