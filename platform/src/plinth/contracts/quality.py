"""ODCS quality rules (`quality:` of a dataset or a column) as `Quality`, refusing what could not be checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

from plinth.contracts.model import Metric, Operator, Quality, Severity

if TYPE_CHECKING:
    from open_data_contract_standard.model import DataQuality

Location = tuple[str | int, ...]
Report = Callable[[Location, str], None]

_METRICS = set(get_args(Metric)) - {"sql"}
_SEVERITIES = set(get_args(Severity))


class QualityReader:
    """Reads rules one list at a time; `rules` grows, problems go to `report`."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.rules: list[Quality] = []
        self.unchecked: list[str] = []

    def pattern(self, value: Any, path: Location) -> str | None:
        """A regular expression, checked as far as Python's syntax goes."""
        if value is None:
            return None
        try:
            re.compile(str(value))
        except re.error as error:
            self.report(path, f"not a regular expression: {error}")
        return str(value)

    def read(self, listed: list[DataQuality], path: Location, *, column: str | None, known: set[str]) -> None:
        """Add the rules of one dataset (`column` None) or one column."""
        for index, item in enumerate(listed):
            where = (*path, "quality", index)
            kind = item.type or "library"
            if kind == "text":
                # Documentation for people, by definition of the standard.
                self.unchecked.append(f"text rule: {item.description or item.name or ''}")
                continue
            if kind not in ("library", "sql"):
                self.report(where, f"rules of type {kind!r} cannot be checked here; use library or sql")
            elif not (item.severity is None or item.severity in _SEVERITIES):
                self.report((*where, "severity"), f"{item.severity!r} is none of error, warning, info")
            elif (rule := self._rule(item, where, column, known)) is not None and enumeration(item) is None:
                self.rules.append(rule)

    def _rule(self, item: DataQuality, where: Location, column: str | None, known: set[str]) -> Quality | None:
        metric: Any = "sql" if item.type == "sql" else item.metric or item.rule
        comparison = _comparison(item)
        if comparison is None:
            self.report(where, "exactly one of mustBe, mustBeLessThan, ... with a number is needed")
            return None
        if metric != "sql" and metric not in _METRICS:
            self.report((*where, "metric"), f"{metric!r} is none of {', '.join(sorted(_METRICS))}")
            return None
        arguments = item.arguments or {}
        problem = _misuse(metric, item, arguments, column, known)
        if problem:
            self.report(where, problem)
            return None
        operator, threshold = comparison
        return Quality(
            name=item.name or item.id or " ".join(filter(None, (column, metric))),
            metric=metric,
            operator=operator,
            threshold=threshold,
            column=column,
            columns=tuple(arguments.get("properties") or ([column] if column else [])),
            values=tuple(arguments.get("validValues") or arguments.get("missingValues") or ()),
            pattern=self.pattern(arguments.get("pattern"), (*where, "arguments", "pattern")),
            query=item.query if metric == "sql" else None,
            percent=(item.unit or "rows").lower() in ("percent", "%"),
            severity=item.severity or "error",  # type: ignore[arg-type]  # checked in read()
            description=item.description or "",
        )


def enumeration(item: DataQuality) -> tuple[Any, ...] | None:
    """The allowed values, when the rule says no more than that: `invalidValues mustBe 0` with `validValues`."""
    arguments = item.arguments or {}
    hard = item.mustBe == 0 and not isinstance(item.mustBe, bool) and (item.severity or "error") == "error"
    if item.metric == "invalidValues" and hard and arguments.get("validValues") and not arguments.get("pattern"):
        return tuple(arguments["validValues"])
    return None


def _comparison(item: DataQuality) -> tuple[Operator, tuple[float, ...]] | None:
    found: list[tuple[Operator, tuple[float, ...]]] = []
    for operator in get_args(Operator):
        value = getattr(item, operator)
        if value is None:
            continue
        numbers = tuple(value) if isinstance(value, list) else (value,)
        if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
            return None
        found.append((operator, tuple(float(number) for number in numbers)))
    return found[0] if len(found) == 1 else None


def _misuse(
    metric: str, item: DataQuality, arguments: dict[str, Any], column: str | None, known: set[str]
) -> str | None:
    if metric == "sql":
        query = (item.query or "").strip().rstrip(";")
        if not re.match(r"(?is)(select|with)\b", query) or ";" in query:
            return "an sql rule needs one SELECT under query"
    elif metric == "rowCount" and column is not None:
        return "rowCount is a rule of the dataset, not of a column"
    elif metric in ("nullValues", "missingValues", "invalidValues") and column is None:
        return f"{metric} is a rule of a column"
    elif metric == "invalidValues" and not (arguments.get("validValues") or arguments.get("pattern")):
        return "invalidValues needs arguments.validValues or arguments.pattern"
    elif metric == "missingValues" and not arguments.get("missingValues"):
        return "missingValues needs arguments.missingValues"
    elif metric == "duplicateValues" and column is None:
        properties = arguments.get("properties") or []
        unknown = [name for name in properties if name not in known]
        if not properties or unknown:
            return f"duplicateValues needs arguments.properties, columns of the dataset (unknown: {unknown})"
    return None
