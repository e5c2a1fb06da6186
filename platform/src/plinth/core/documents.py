"""YAML documents that people write: read safely, with the line of every value, so that a problem can be pointed at.

Only what JSON can say is accepted (mappings with string keys, lists, strings, finite numbers, booleans, null). Refused,
because they surprise or attack: duplicate keys, aliases (they multiply: the "billion laughs"), tags, several documents
in a file, and documents beyond the caps below.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from plinth.errors import InvalidInput, NotFound, PlinthError

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_NODES = 50_000

Location = tuple[str | int, ...]

# libyaml's parser is some ten times faster; the pure Python one stands in where PyYAML was built without it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq")}
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


@dataclass(frozen=True)
class Problem:
    """Something wrong in a document: where it stands and what it is."""

    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


@dataclass(frozen=True)
class Document:
    """A parsed document. `lines` maps the path of a value, such as `("owner", "team")`, to its line (from 1)."""

    value: dict[str, Any]
    lines: dict[Location, int]
    source: str

    def line(self, path: Iterable[str | int]) -> int:
        """The line of the value at `path`, or of the nearest value above it that is there."""
        known = tuple(path)
        while known and known not in self.lines:
            known = known[:-1]
        return self.lines.get(known, 1)

    def path(self, location: Iterable[str | int]) -> Location:
        """A validator's `location` without the steps that are not in the document (the tags of a tagged union)."""
        path: Location = ()
        rest = list(location)
        for index, step in enumerate(rest):
            if (*path, step) in self.lines or index == len(rest) - 1:
                path = (*path, step)
        return path


def read_text(path: Path) -> str:
    """The text of a document on disk.

    Raises:
        NotFound: There is no such file.
        InvalidInput: It is larger than `MAX_BYTES`, cannot be read, or is not UTF-8.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidInput(f"the document is larger than {MAX_BYTES:,} bytes", where=str(path), hint="split it")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound("no such file", where=str(path), hint="check the path") from None
    except UnicodeDecodeError as error:
        raise InvalidInput("the document is not UTF-8", where=str(path), hint="save it as UTF-8") from error
    except OSError as error:
        raise InvalidInput(
            f"the document cannot be read: {error.strerror}", where=str(path), hint="check it"
        ) from error


def parse_document(text: str, source: str) -> Document:
    """A YAML mapping with the lines of its values.

    Args:
        text: The document.
        source: Its name in messages, usually the path.

    Raises:
        InvalidInput: The text is not YAML, or not the safe part of it that this module accepts.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise _refused(source, 1, f"the document is larger than {MAX_BYTES:,} bytes")
    try:
        _check_events(text, source)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _refused(source, line, f"not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, UnicodeError, ValueError) as error:
        raise _refused(source, 1, f"not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(node, yaml.MappingNode):
        raise _refused(source, 1, "the document is not a mapping of keys to values")
    lines: dict[Location, int] = {(): 1}
    return Document(_build(node, (), lines, source), lines, source)


def problems_error(
    error: type[PlinthError], what: str, problems: Iterable[Problem], *, source: str, hint: str
) -> PlinthError:
    """One `error` that lists every problem as `file:line: field: message`, for the caller to raise."""
    ordered = sorted(set(problems), key=lambda problem: (problem.line, problem.field))
    listed = "\n".join(f"  {source}:{problem.line}: {problem}" for problem in ordered)
    return error(f"{what}\n{listed}", where=f"{source}:{ordered[0].line if ordered else 1}", hint=hint)


def _refused(source: str, line: int, message: str) -> InvalidInput:
    return InvalidInput(message, where=f"{source}:{line}", hint="correct the line and try again")


def _check_events(text: str, source: str) -> None:
    """Caps and aliases, on the event stream: before anything is built, and without recursion."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_LOADER)):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise _refused(source, line, "aliases (*name) are not accepted")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise _refused(source, line, f"nested deeper than {MAX_DEPTH} levels")
        if count > MAX_NODES:
            raise _refused(source, line, f"more than {MAX_NODES:,} values")


def _build(node: yaml.Node, path: Location, lines: dict[Location, int], source: str) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if node.tag not in _TAGS:
        raise _refused(source, line, f"the tag {node.tag} is not accepted")
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(node, path, lines, source)
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, index), lines, source) for index, item in enumerate(node.value)]
    if node.tag == _TIMESTAMP:
        return node.value  # kept as it was written: JSON has no dates, and ODCS wants text
    try:
        value = yaml.constructor.SafeConstructor().construct_object(node)
    except (ValueError, yaml.YAMLError) as error:
        raise _refused(source, line, f"{node.value!r} is no value") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise _refused(source, line, f"{node.value} is not a finite number")
    return value


def _build_mapping(node: yaml.MappingNode, path: Location, lines: dict[Location, int], source: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
            raise _refused(source, line, f"the key {getattr(key_node, 'value', '')!r} is not text; put it in quotes")
        key = key_node.value
        if key in result:
            raise _refused(source, line, f"the key {key!r} stands twice (first in line {lines[(*path, key)]})")
        lines[(*path, key)] = line
        result[key] = _build(value_node, (*path, key), lines, source)
    return result
