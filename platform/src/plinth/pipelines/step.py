"""Steps: plain, typed, versioned functions that a pipeline is made of.

Outside a run a step is just its function. Inside a run the active runner executes it: with its retries, its timeout
and its cache.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast

from plinth.errors import InvalidInput

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Table = Sequence[Mapping[str, Any]]


class Executor(Protocol):
    """What a runner does for the steps of the run that is going on."""

    def call(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one step call."""

    def artifact(self, key: str, markdown: str | None, table: Table | None) -> None:
        """Keep a document of the run."""


ACTIVE: ContextVar[Executor | None] = ContextVar("plinth_pipeline_executor", default=None)


class Step(Generic[P, R]):
    """A function with a version, retries, a timeout and a cache. Made by `step`."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str,
        version: str,
        retries: int,
        retry_delay: float,
        timeout: float | None,
        cache: bool,
        ignore: tuple[str, ...],
        uses: tuple[ModuleType, ...],
        returns: Any = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name
        self.version = version
        self.retries = retries
        self.retry_delay = retry_delay
        self.timeout = timeout
        self.cache = cache
        self.ignore = ignore
        self.uses = uses
        self.returns = returns
        self.signature = inspect.signature(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the step under the active runner, or as a plain function when there is none."""
        executor = ACTIVE.get()
        if executor is None:
            return self.function(*args, **kwargs)
        return cast("R", executor.call(self, args, kwargs))


def step(
    *,
    version: str = "1",
    name: str = "",
    retries: int = 0,
    retry_delay: float = 1.0,
    timeout: float | None = None,
    cache: bool = True,
    ignore: Sequence[str] = (),
    uses: Sequence[ModuleType] = (),
) -> Callable[[Callable[P, R]], Step[P, R]]:
    """Mark a function as a step.

    Arguments and result are JSON values, frozen dataclasses, pydantic objects, paths or `FileRef`s. A step is skipped
    when its name, version, module source and arguments are those of an earlier call whose result is still there.
    `PipelineContext` arguments are never part of that key.

    Args:
        version: Raise it when the step's meaning changes and its source does not show it.
        name: Default: the function's name with dashes.
        retries: Further attempts after a failure. Refusals and bad input are never retried.
        retry_delay: Seconds between attempts.
        timeout: Seconds one attempt may take.
        cache: False for steps with effects that have to happen each time.
        ignore: Names of arguments that do not decide the result, such as ports.
        uses: Modules whose source decides the result too, beside the function's own.

    Raises:
        InvalidInput: The function has no return annotation, so a cached result could not be given its type back.
    """

    def mark(function: Callable[P, R]) -> Step[P, R]:
        label = name or function.__name__.replace("_", "-")
        if cache and "return" not in function.__annotations__:
            raise InvalidInput(
                f"step {label!r} has no return annotation",
                where=f"{function.__module__}:{function.__qualname__}",
                hint="annotate what it returns, or mark it with cache=False",
            )
        return Step(
            function, name=label, version=version, retries=retries, retry_delay=retry_delay, timeout=timeout,
            cache=cache, ignore=tuple(ignore), uses=tuple(uses),
        )  # fmt: skip

    return mark


def map_chunked(each: Step[[T], R], items: Sequence[T], chunk: int = 100) -> list[R]:
    """`[each(item) for item in items]`, as one step call a chunk, since a task costs far more than most items.

    Retries, the timeout and the cache hold for a chunk as a whole.

    Raises:
        InvalidInput: `chunk` is not positive.
    """
    if chunk < 1:
        raise InvalidInput(f"a chunk holds at least one item, not {chunk}", where=f"map_chunked({each.name})")
    whole = _chunk_step(each)
    results: list[R] = []
    for start in range(0, len(items), chunk):
        results.extend(whole(list(items[start : start + chunk])))
    return results


@functools.lru_cache(maxsize=256)
def _chunk_step(each: Step[[T], R]) -> Step[[list[T]], list[R]]:
    def run_chunk(items: list[T]) -> list[R]:
        return [each.function(item) for item in items]

    run_chunk.__module__ = each.function.__module__
    run_chunk.__wrapped__ = each.function  # type: ignore[attr-defined]  # names the source that the cache key covers
    chunk_step = Step(
        run_chunk, name=f"{each.name}-chunk", version=each.version, retries=each.retries,
        retry_delay=each.retry_delay, timeout=each.timeout, cache=each.cache, ignore=(), uses=each.uses, returns=each,
    )  # fmt: skip
    chunk_step.signature = inspect.Signature([inspect.Parameter("items", inspect.Parameter.POSITIONAL_OR_KEYWORD)])
    return chunk_step


def artifact(key: str, *, markdown: str | None = None, table: Table | None = None) -> None:
    """Keep a Markdown document or a table with the run: in its folder, and in Prefect's UI when run through it.

    Outside a run this does nothing, so that steps stay plain functions.

    Args:
        key: Lower-case letters, digits and dashes; one document a key and run.
        markdown: The text; or
        table: Rows, one mapping each.

    Raises:
        InvalidInput: The key does not fit, or not exactly one of `markdown` and `table` is given.
    """
    if not key or not set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-"):
        raise InvalidInput(f"artifact key {key!r} is not lower-case letters, digits and dashes", where="artifact()")
    if (markdown is None) == (table is None):
        raise InvalidInput("an artifact is either markdown or a table", where=f"artifact {key!r}")
    executor = ACTIVE.get()
    if executor is not None:
        executor.artifact(key, markdown, table)
