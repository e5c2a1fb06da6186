"""Contracts in the Open Data Contract Standard, version 3 (https://bitol-io.github.io/open-data-contract-standard/).

A document passes three gates: safe YAML, the standard's own JSON Schema (which knows a misspelt key), and what this
platform can really check. A rule that could not be checked is refused here, so that it never looks checked.
One contract describes one dataset: one entry under `schema`.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plinth.contracts.model import LOGICAL_TYPES, Column, Contract, Freshness
from plinth.contracts.quality import QualityReader, enumeration
from plinth.core.digests import digest_json
from plinth.core.documents import Document, Problem, parse_document, problems_error, read_text
from plinth.errors import InvalidInput, MissingExtra, RefusedByPolicy

if TYPE_CHECKING:
    from open_data_contract_standard.model import OpenDataContractStandard, SchemaObject, SchemaProperty

HINT = "correct the lines; docs/how-to/data-contracts.md shows every rule with an example"

# ODCS: "Units use the ISO standard"; its examples write d, day, days.
_SECONDS = {
    "s": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600,
    "d": 86400, "day": 86400, "w": 604800, "week": 604800,
}  # fmt: skip
_OPTIONS = {
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern",
    "format", "timezone", "defaultTimezone",
}  # fmt: skip
_NUMERIC = ("integer", "number")


def load(path: Path) -> Contract:
    """The contract in a file; `parse` says what it raises beyond a missing file (NotFound)."""
    return parse(read_text(path), str(path))


def parse(text: str, source: str) -> Contract:
    """The contract that an ODCS document declares.

    Raises:
        InvalidInput: Not YAML, not ODCS v3, or a rule that cannot be checked; every problem as `file:line`.
        RefusedByPolicy: Nobody owns the contract (`team.name`).
    """
    document = parse_document(text, source)
    _refuse(_schema_problems(document), source, "the document is not an ODCS v3 contract")
    standard = _standard(document)
    reader = _Reader(document)
    contract = reader.read(standard)
    _refuse(reader.problems, source, "the contract cannot be checked as it stands")
    if not contract.owner:
        where = f"{source}:{document.line(('team',))}"
        raise RefusedByPolicy("unowned contract: no team.name", where=where, hint="name the team that owns the data")
    return contract


def _refuse(problems: list[Problem], source: str, what: str) -> None:
    if problems:
        raise problems_error(InvalidInput, what, problems, source=source, hint=HINT)


def _schema_problems(document: Document) -> list[Problem]:
    try:
        from jsonschema import Draft201909Validator  # type: ignore[import-untyped]

        schema = json.loads((resources.files("open_data_contract_standard") / "schema.json").read_text("utf-8"))
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "open-data-contract-standard", "contracts") from None
    api = str(document.value.get("apiVersion", ""))
    if not api.startswith("v3."):
        return [Problem(document.line(("apiVersion",)), "apiVersion", f"{api or 'nothing'} is not a version 3 of ODCS")]
    found = list(Draft201909Validator(schema).iter_errors(document.value))
    # A rule that fits no form of the schema is also reported as full of unknown fields: that says nothing new.
    shapeless = {tuple(error.absolute_path) for error in found if error.validator == "oneOf"}
    problems = []
    for error in found:
        path = tuple(error.absolute_path)
        if error.validator in ("additionalProperties", "unevaluatedProperties"):
            unknown = [(*path, key) for key in error.instance if f"'{key}'" in error.message and path not in shapeless]
            problems += [Problem(document.line(key), _field(key), "is no known field of ODCS") for key in unknown]
        else:
            problems.append(Problem(document.line(path), _field(path), _message(error)))
    return problems


def _message(error: Any) -> str:
    if error.validator == "required" and "properties" in error.absolute_path and "logicalType" not in error.instance:
        return "logicalType is missing: every column has a type"
    if error.validator == "oneOf" and "quality" in error.absolute_path:
        return "exactly one of mustBe, mustBeLessThan, mustBeBetween, ... is needed"
    return error.message if len(error.message) <= 200 else f"does not fit ODCS's rule {error.validator!r}"


def _standard(document: Document) -> OpenDataContractStandard:
    from open_data_contract_standard.model import OpenDataContractStandard
    from pydantic import ValidationError

    try:
        return OpenDataContractStandard.model_validate(document.value)
    except ValidationError as error:
        found = [(document.path(item["loc"]), item["msg"]) for item in error.errors()]
        problems = [Problem(document.line(path), _field(path), message) for path, message in found]
        what = "the document is not an ODCS v3 contract"
        raise problems_error(InvalidInput, what, problems, source=document.source, hint=HINT) from None


def _field(path: tuple[Any, ...]) -> str:
    return ".".join(str(step) for step in path)


class _Reader:
    """Translates the standard's object model into ours, collecting what this platform could not check."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self.unchecked: list[str] = []

    def problem(self, path: tuple[str | int, ...], message: str) -> None:
        self.problems.append(Problem(self.document.line(path), _field(path), message))

    def read(self, standard: OpenDataContractStandard) -> Contract:
        schema = standard.schema_ or []
        if len(schema) != 1:
            self.problem(("schema",), f"holds {len(schema)} datasets; a contract describes exactly one")
            _refuse(self.problems, self.document.source, "the contract cannot be checked as it stands")
        dataset = schema[0]
        quality = QualityReader(self.problem)
        columns = tuple(self._columns(dataset, quality))
        names = {column.name for column in columns}
        freshness = self._freshness(standard, names)
        quality.read(dataset.quality or [], ("schema", 0), column=None, known=names)
        from open_data_contract_standard.model import Team

        return Contract(
            id=str(standard.id),
            version=str(standard.version),
            status=str(standard.status or "draft"),
            dataset=str(dataset.physicalName or dataset.name),
            columns=columns,
            owner=(standard.team.name or "") if isinstance(standard.team, Team) else "",
            digest=digest_json(self.document.value),
            source=self.document.source,
            name=str(standard.name or standard.id),
            description=str(dataset.description or ""),
            consumers=self._consumers(standard),
            quality=tuple(quality.rules),
            freshness=freshness,
            unchecked=(*self.unchecked, *quality.unchecked),
        )

    def _columns(self, dataset: SchemaObject, quality: QualityReader) -> list[Column]:
        base: tuple[str | int, ...] = ("schema", 0, "properties")
        properties = dataset.properties or []
        if not properties:
            self.problem(base, "no columns are declared")
        columns: list[Column] = []
        for index, prop in enumerate(properties):
            path = (*base, index)
            name = prop.physicalName or prop.name or ""
            if name.lower() in {column.name.lower() for column in columns}:
                self.problem((*path, "name"), f"the column {name!r} stands twice (names are compared without case)")
            if not name.isprintable() or not name.strip():
                self.problem((*path, "name"), "the column's name is empty or not printable")
            columns.append(self._column(prop, name, path, quality))
        for index, prop in enumerate(properties):
            known = {column.name for column in columns}
            quality.read(prop.quality or [], (*base, index), column=columns[index].name, known=known)
        return columns

    def _column(self, prop: SchemaProperty, name: str, path: tuple[str | int, ...], quality: QualityReader) -> Column:
        logical = prop.logicalType or ""
        if logical not in LOGICAL_TYPES:
            self.problem((*path, "logicalType"), "logicalType is missing: every column has a type")
        options = prop.logicalTypeOptions or {}
        for option in sorted(set(options) - _OPTIONS):
            self.problem((*path, "logicalTypeOptions", option), f"the option {option!r} cannot be checked")
        self._bounds(options, logical, (*path, "logicalTypeOptions"))
        if prop.properties or prop.items or prop.map:
            self.problem(path, "the inner structure of a nested column cannot be checked here; declare it flat")
        self.unchecked.extend(f"relationship of {name}" for _ in prop.relationships or [])
        if "format" in options:
            self.unchecked.append(f"format of {name}")
        return Column(
            name=name,
            logical_type=logical,
            physical_type=prop.physicalType,
            required=bool(prop.required or prop.primaryKey),
            unique=bool(prop.unique),
            key=(prop.primaryKeyPosition or int(path[-1]) + 1) if prop.primaryKey else 0,
            minimum=options.get("minimum"),
            maximum=options.get("maximum"),
            exclusive_minimum=options.get("exclusiveMinimum"),
            exclusive_maximum=options.get("exclusiveMaximum"),
            multiple_of=options.get("multipleOf"),
            min_length=options.get("minLength"),
            max_length=options.get("maxLength"),
            pattern=quality.pattern(options.get("pattern"), (*path, "logicalTypeOptions", "pattern")),
            values=_enumeration(prop),
            unit=_custom(prop.customProperties, "unit"),
            classification=prop.classification,
            description=prop.description or "",
        )

    def _bounds(self, options: dict[str, Any], logical: str, path: tuple[str | int, ...]) -> None:
        for low_key, high_key in (("minimum", "maximum"), ("minLength", "maxLength")):
            low, high = options.get(low_key), options.get(high_key)
            if low is not None and high is not None and type(low) in (int, float, str) and str(low) != str(high):
                numeric = isinstance(low, int | float) and isinstance(high, int | float)
                if (numeric and low > high) or (isinstance(low, str) and isinstance(high, str) and low > high):
                    self.problem((*path, low_key), f"{low_key} {low} is above {high_key} {high}")
        for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            value = options.get(key)
            if value is not None and (isinstance(value, bool) or isinstance(value, str) == (logical in _NUMERIC)):
                self.problem((*path, key), f"{value!r} is no bound for the type {logical}")

    def _consumers(self, standard: OpenDataContractStandard) -> tuple[str, ...]:
        listed = _custom(standard.customProperties, "consumers") or []
        if not isinstance(listed, list):
            self.problem(("customProperties",), "consumers is a list of teams")
            return ()
        return tuple(str(item.get("team", item) if isinstance(item, dict) else item) for item in listed)

    def _freshness(self, standard: OpenDataContractStandard, names: set[str]) -> Freshness | None:
        found = None
        for index, sla in enumerate(standard.slaProperties or []):
            if sla.property not in ("freshness", "latency"):
                self.unchecked.append(f"service level {sla.property}")
                continue
            path = ("slaProperties", index)
            unit = _SECONDS.get((sla.unit or "").lower().removesuffix("s") or "s")
            column = (sla.element or standard.slaDefaultElement or "").rpartition(".")[2]
            if column not in names:
                self.problem((*path, "element"), f"the {sla.property} element {column!r} is no column")
            elif unit is None or not sla.unit or isinstance(sla.value, bool) or not isinstance(sla.value, int | float):
                self.problem((*path, "value"), f"{sla.value!r} {sla.unit or ''} is no span; write value: 2 and unit: d")
            elif found is not None:
                self.problem(path, "freshness is stated twice")
            else:
                found = Freshness(column, float(sla.value) * unit)
        return found


def _enumeration(prop: SchemaProperty) -> tuple[Any, ...] | None:
    """The allowed values: `enum` (ODCS 3.2), or a rule `invalidValues mustBe 0` with `validValues` (ODCS 3.0)."""
    if prop.enum:
        return tuple(item.value for item in prop.enum)
    return next((found for rule in prop.quality or [] if (found := enumeration(rule)) is not None), None)


def _custom(properties: Any, name: str) -> Any:
    return next((item.value for item in properties or [] if item.property == name), None)
