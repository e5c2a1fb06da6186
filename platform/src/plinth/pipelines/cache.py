"""The step cache: results by what decides them. A corrupt entry is a miss with a warning, never a wrong answer."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from plinth.core.digests import canonical_json, digest_bytes, digest_file, digest_json
from plinth.core.files import new_file
from plinth.errors import InvalidInput
from plinth.pipelines.files import IN_KEY, file_refs
from plinth.pipelines.hints import hints
from plinth.pipelines.port import PipelineContext
from plinth.pipelines.step import Step

log = logging.getLogger(__name__)
SCHEMA = 1


@dataclass(frozen=True)
class Hit:
    """A result found in the cache."""

    value: Any


def step_key(step: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """sha256 over the step's name, its version, its code and its canonical arguments.

    Raises:
        InvalidInput: The arguments do not fit the step, or one of them has no JSON form.
    """
    try:
        bound = step.signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InvalidInput(f"step {step.name!r} called wrongly: {error}", where=step.function.__module__) from error
    bound.apply_defaults()
    arguments = {
        name: value
        for name, value in bound.arguments.items()
        if name not in step.ignore and not isinstance(value, PipelineContext)
    }
    return digest_json(
        {"step": step.name, "version": step.version, "code": code_digest(step), "arguments": _jsonable(step, arguments)}
    )


def _jsonable(step: Step[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        plain = to_jsonable_python(arguments, context=IN_KEY)
        canonical_json(plain)
    except (PydanticSerializationError, ValueError, TypeError) as error:
        raise InvalidInput(
            f"an argument of step {step.name!r} has no canonical JSON form: {error}",
            where=f"{step.function.__module__}:{step.function.__qualname__}",
            hint="pass JSON values, frozen dataclasses, pydantic objects or FileRefs; name ports in `ignore`",
        ) from error
    return plain


def code_digest(step: Step[..., Any]) -> str:
    """sha256 over the source of the step's module and of the modules it names in `uses`."""
    sources = [_source_digest(inspect.unwrap(step.function)), *(_module_digest(module) for module in step.uses)]
    return sources[0] if len(sources) == 1 else digest_json(sources)


def _source_digest(function: Any) -> str:
    path = inspect.getsourcefile(function)
    if path and Path(path).is_file():
        return _file_digest(path, os.stat(path).st_mtime_ns)
    try:
        return digest_bytes(inspect.getsource(function).encode())
    except OSError:
        # Typed at a prompt: there is no source, its bytecode decides.
        return digest_bytes(function.__code__.co_code + repr(function.__code__.co_consts).encode())


def _module_digest(module: types.ModuleType) -> str:
    path = inspect.getsourcefile(module)
    if not path:
        raise InvalidInput(f"module {module.__name__!r} has no source file", where="step(uses=...)")
    return _file_digest(path, os.stat(path).st_mtime_ns)


@functools.lru_cache(maxsize=512)
def _file_digest(path: str, _modified: int) -> str:
    return digest_file(Path(path))


@functools.lru_cache(maxsize=512)
def _adapter(step: Step[..., Any]) -> TypeAdapter[Any]:
    """Gives a result its declared type back. A chunked step returns a list of what its single step returns."""
    kind = _returns(step.returns) if isinstance(step.returns, Step) else _returns(step)
    if isinstance(step.returns, Step):
        kind = types.GenericAlias(list, (kind,))
    return TypeAdapter(kind)


def _returns(step: Step[..., Any]) -> Any:
    return hints(step.function, ["return"])["return"]


class StepCache:
    """One JSON file a result, named by its key, under `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, step: Step[..., Any], key: str) -> Hit | None:
        """The result under `key`, or None when there is none that can be trusted."""
        path = self._path(key)
        try:
            entry = json.loads(path.read_bytes())
            if entry["schema"] != SCHEMA or entry["sha256"] != _result_digest(entry["result"]):
                raise ValueError("its content is not what its digest says")
            value = _adapter(step).validate_python(entry["result"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            log.warning("cached result of step %s ignored: %s (%s)", step.name, error, path)
            return None
        gone = next((ref for ref in file_refs(value) if not ref.intact()), None)
        if gone is not None:
            log.info("cached result of step %s ignored: %s is gone or changed", step.name, gone.path)
            return None
        return Hit(value)

    def put(self, step: Step[..., Any], key: str, value: Any) -> Any:
        """Keep a result, and give it back as a later run would read it.

        A disk that cannot be written costs the next run its time, not this run its result: that is a warning.

        Raises:
            InvalidInput: The result has no JSON form, or is not what the step says it returns.
        """
        try:
            result = to_jsonable_python(value, round_trip=True)
            read_back = _adapter(step).validate_python(json.loads(json.dumps(result)))
        except (PydanticSerializationError, ValidationError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"the result of step {step.name!r} cannot be kept: {error}",
                where=f"{step.function.__module__}:{step.function.__qualname__}",
                hint="return JSON values, frozen dataclasses, pydantic objects or FileRefs, or mark it cache=False",
            ) from error
        entry = {"schema": SCHEMA, "step": step.name, "version": step.version, "result": result}
        entry["sha256"] = _result_digest(result)
        try:
            _write_atomically(self._path(key), json.dumps(entry).encode())
        except OSError as error:
            log.warning("result of step %s not cached: %s (%s)", step.name, error, self.folder)
        return read_back

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def _result_digest(result: Any) -> str:
    # Not canonical_json: a metric may be NaN, which Python's own JSON keeps.
    return digest_bytes(json.dumps(result, sort_keys=True).encode())


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = new_file(path.parent, ".tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
