"""What a data contract promises about one dataset, as plain data. Read from ODCS by `odcs.py`; no tool in sight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]
Scalar = str | int | float | bool

LOGICAL_TYPES = (
    "string",
    "integer",
    "number",
    "boolean",
    "date",
    "timestamp",
    "time",
    "object",
    "array",
    "map",
    "vector",
)

Metric = Literal["nullValues", "missingValues", "invalidValues", "duplicateValues", "rowCount", "sql"]
Operator = Literal[
    "mustBe", "mustNotBe", "mustBeGreaterThan", "mustBeGreaterOrEqualTo",
    "mustBeLessThan", "mustBeLessOrEqualTo", "mustBeBetween", "mustNotBeBetween",
]  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column. Bounds are inclusive unless `exclusive_*`; `key` is its place in the primary key (0: no part of it).

    `values` is the enumeration, None when any value goes. `unit` is the ODCS custom property `unit`.
    """

    name: str
    logical_type: str
    physical_type: str | None = None
    required: bool = False
    unique: bool = False
    key: int = 0
    minimum: Scalar | None = None
    maximum: Scalar | None = None
    exclusive_minimum: Scalar | None = None
    exclusive_maximum: Scalar | None = None
    multiple_of: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    values: tuple[Scalar, ...] | None = None
    unit: str | None = None
    classification: str | None = None
    description: str = ""

    @property
    def sensitive(self) -> bool:
        """Whether its values must not be shown in a report."""
        return (self.classification or "").lower() in {"confidential", "restricted", "sensitive", "pii", "secret"}


@dataclass(frozen=True)
class Quality:
    """A rule of ODCS's quality library, or an SQL query whose one number is compared (`metric` "sql").

    `threshold` is one number, or two for the `Between` operators; `percent` says it is a share of the rows.
    """

    name: str
    metric: Metric
    operator: Operator
    threshold: tuple[float, ...]
    column: str | None = None
    columns: tuple[str, ...] = ()
    values: tuple[Scalar | None, ...] = ()
    pattern: str | None = None
    query: str | None = None
    percent: bool = False
    severity: Severity = "error"
    description: str = ""

    def holds(self, observed: float) -> bool:
        """Whether the observed number satisfies the rule."""
        first = self.threshold[0]
        low, high = min(self.threshold), max(self.threshold)
        match self.operator:
            case "mustBe":
                return observed == first
            case "mustNotBe":
                return observed != first
            case "mustBeGreaterThan":
                return observed > first
            case "mustBeGreaterOrEqualTo":
                return observed >= first
            case "mustBeLessThan":
                return observed < first
            case "mustBeLessOrEqualTo":
                return observed <= first
            case "mustBeBetween":
                return low <= observed <= high
            case "mustNotBeBetween":
                return not low <= observed <= high

    @property
    def bound(self) -> str:
        """The rule's bound in words, such as `must be between 1900 and 2232`."""
        words = "".join(f" {char.lower()}" if char.isupper() else char for char in self.operator)
        unit = " percent" if self.percent else ""
        return f"{words} {' and '.join(f'{value:g}' for value in self.threshold)}{unit}"


@dataclass(frozen=True)
class Freshness:
    """The newest value of `column` lies at most `seconds` before the end of the batch's window."""

    column: str
    seconds: float


@dataclass(frozen=True)
class Contract:
    """A contract on one dataset.

    `digest` is the sha256 of the document's content, whatever its formatting. `unchecked` names what the document
    says for people only, so that no report claims to have checked it.
    """

    id: str
    version: str
    status: str
    dataset: str
    columns: tuple[Column, ...]
    owner: str
    digest: str
    source: str
    name: str = ""
    description: str = ""
    consumers: tuple[str, ...] = ()
    quality: tuple[Quality, ...] = ()
    freshness: Freshness | None = None
    unchecked: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """Columns of the primary key, in order; empty when the contract names none."""
        return tuple(column.name for column in sorted(self.columns, key=lambda item: item.key) if column.key)

    def column(self, name: str) -> Column | None:
        """The column of that name, or None."""
        return next((column for column in self.columns if column.name == name), None)
