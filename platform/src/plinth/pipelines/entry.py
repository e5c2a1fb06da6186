"""From a name in product.yaml to a pipeline's function, and from given parameters to ones that fit it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from plinth.core.durations import seconds
from plinth.core.products import Pipeline, Product
from plinth.errors import InvalidInput, NotFound
from plinth.pipelines.hints import hints
from plinth.pipelines.port import PipelineFunction, Runner, RunResult, StepListener


def load_entry(entry: str) -> PipelineFunction:
    """The function that `package.module:function` names.

    Raises:
        InvalidInput: The module does not import, or holds no such function.
    """
    module_name, _, name = entry.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InvalidInput(
            f"the module does not import: {error}",
            where=f"entry {entry!r}",
            hint="check `entry` in product.yaml and that the product is installed (`make install`)",
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InvalidInput(f"module {module_name!r} has no function {name!r}", where=f"entry {entry!r}")
    return function  # type: ignore[no-any-return]  # callable() is all that can be known of a name


def run_pipeline(
    runner: Runner,
    product: Product,
    name: str,
    params: Mapping[str, object] | None = None,
    *,
    wait: float = 60.0,
    on_step: StepListener | None = None,
) -> RunResult:
    """Run a pipeline as product.yaml declares it: its entry, its concurrency, its timeout.

    Raises:
        NotFound: The product has no pipeline of that name.
        PlinthError: As `Runner.run` says.
    """
    pipeline = find(product, name)
    return runner.run(
        load_entry(pipeline.entry), params, pipeline=name, concurrency=pipeline.concurrency,
        timeout=seconds(pipeline.timeout), wait=wait, on_step=on_step,
    )  # fmt: skip


def takes(pipeline: Pipeline, parameter: str) -> bool:
    """Whether a pipeline's entry has a parameter of that name.

    Raises:
        InvalidInput: As `load_entry` says.
    """
    return parameter in inspect.signature(load_entry(pipeline.entry)).parameters


def find(product: Product, name: str) -> Pipeline:
    """The product's pipeline of that name.

    Raises:
        NotFound: There is none.
    """
    pipeline = product.pipeline(name)
    if pipeline is None:
        known = ", ".join(sorted(item.name for item in product.pipelines))
        raise NotFound(f"product {product.name!r} has no pipeline {name!r}", hint=f"it has: {known}")
    return pipeline


def bind_params(function: PipelineFunction, params: Mapping[str, object]) -> dict[str, object]:
    """`params` with the types that the function's annotations ask for; missing ones keep the function's default.

    Raises:
        InvalidInput: A parameter is unknown, missing or of the wrong type.
    """
    where = f"{function.__module__}:{function.__qualname__}"
    signature = inspect.signature(function)
    names = list(signature.parameters)[1:]
    try:
        signature.bind(None, **params)
    except TypeError as error:
        raise InvalidInput(
            f"the parameters do not fit the pipeline: {error}",
            where=where,
            hint=f"it takes: {', '.join(names) or 'none'}",
        ) from error
    kinds = hints(function, params)
    return {name: _coerce(name, value, kinds.get(name, Any), where) for name, value in params.items()}


def _coerce(name: str, value: object, kind: Any, where: str) -> object:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InvalidInput(f"parameter {name!r} is {value!r}: {reason}", where=where) from error
