"""A contract as DuckDB SQL over the view `batch`: pure text, run by `duckdb.py`.

Row rules become one scan: each is a predicate that is true on a row that breaks it (null means "not broken"), counted
with count_if (half the time of FILTER on 80 rules). The values themselves are scanned: asking with WHERE would be
faster still, because DuckDB then believes the minimum and maximum that the file's writer noted, and a contract must
not. Uniqueness is two scans, so that its memory does not grow with the keys' width: first the 64-bit hashes that occur
twice, then the exact count on the rows of those hashes alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plinth.contracts.model import Column, Contract, Quality, Scalar, Severity

_INTEGERS = {
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
    "UHUGEINT",
}
_FLOATS = {"FLOAT", "DOUBLE"}
_TIMESTAMPS = {"TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"}

# DuckDB's name of a type for the names people write in contracts (SQL's, Arrow's and Parquet's).
_ALIASES = {
    "INT": "INTEGER", "INT4": "INTEGER", "INT32": "INTEGER", "INT8": "BIGINT", "INT64": "BIGINT", "LONG": "BIGINT",
    "INT16": "SMALLINT", "SHORT": "SMALLINT", "STRING": "VARCHAR", "TEXT": "VARCHAR", "CHAR": "VARCHAR",
    "FLOAT64": "DOUBLE", "FLOAT8": "DOUBLE", "DOUBLE PRECISION": "DOUBLE", "REAL": "FLOAT", "FLOAT32": "FLOAT",
    "FLOAT4": "FLOAT", "BOOL": "BOOLEAN", "TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE", "DATETIME": "TIMESTAMP",
    "NUMERIC": "DECIMAL", "BYTES": "BLOB", "BINARY": "BLOB", "VARBINARY": "BLOB",
}  # fmt: skip


@dataclass(frozen=True)
class RowRule:
    """A rule on single rows: `predicate` is true where it is broken."""

    rule: str
    column: str
    message: str
    predicate: str
    severity: Severity = "error"


def identifier(name: str) -> str:
    """A column's name, quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: Scalar | None) -> str:
    """A value, quoted for SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        return repr(value)
    return "'" + value.replace("'", "''") + "'"


def physical(written: str) -> str:
    """DuckDB's name of a physical type; lengths are dropped (`VARCHAR(2)`), precisions of decimals kept."""
    name = re.sub(r"\s+", " ", written.strip().upper())
    base, bracket, rest = name.partition("(")
    base = _ALIASES.get(base.strip(), base.strip())
    return (
        f"{base}({rest.replace(' ', '')}"
        if bracket and base == "DECIMAL"
        else base
        if bracket
        else _ALIASES.get(name, name)
    )


def cast_type(column: Column) -> str:
    """The type a CSV's text is read as."""
    if column.physical_type:
        return physical(column.physical_type)
    logical = {
        "integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN", "date": "DATE",
        "timestamp": "TIMESTAMP WITH TIME ZONE", "time": "TIME",
    }  # fmt: skip
    return logical.get(column.logical_type, "VARCHAR")


def type_problem(column: Column, actual: str) -> str | None:
    """Why a column of DuckDB type `actual` does not fit, or None."""
    if column.physical_type:
        expected = physical(column.physical_type)
        fits = actual == expected or (expected == "DECIMAL" and actual.startswith("DECIMAL("))
        return None if fits else f"is {actual}, the contract says {expected}"
    families = {
        "string": actual in ("VARCHAR", "UUID") or actual.startswith("ENUM"),
        "integer": actual in _INTEGERS,
        "number": actual in _INTEGERS | _FLOATS or actual.startswith("DECIMAL"),
        "boolean": actual == "BOOLEAN",
        "date": actual == "DATE",
        "timestamp": actual in _TIMESTAMPS,
        "time": actual.startswith("TIME") and actual not in _TIMESTAMPS,
        "array": actual.endswith("]"),
        "vector": actual.endswith("]"),
        "object": actual.startswith("STRUCT"),
        "map": actual.startswith("MAP"),
    }
    return None if families.get(column.logical_type) else f"is {actual}, the contract says {column.logical_type}"


def row_rules(column: Column, actual: str) -> list[RowRule]:
    """The rules on the values of one column whose type fits."""
    name = identifier(column.name)
    rules: list[RowRule] = []

    def add(rule: str, message: str, predicate: str) -> None:
        rules.append(RowRule(rule, column.name, message, predicate))

    if column.required:
        add("required", "is null", f"{name} IS NULL")
    finite = ""
    if actual in _FLOATS:
        add("not-finite", "is NaN or infinite", f"NOT isfinite({name})")
        finite = f"isfinite({name}) AND "
    for bound, operator, word in (
        (column.minimum, "<", "below"), (column.exclusive_minimum, "<=", "at or below"),
        (column.maximum, ">", "above"), (column.exclusive_maximum, ">=", "at or above"),
    ):  # fmt: skip
        if bound is not None:
            value = f"CAST({literal(bound)} AS {actual})" if isinstance(bound, str) else literal(bound)
            add(
                "range",
                f"is {word} {bound}{f' {column.unit}' if column.unit else ''}",
                f"{finite}{name} {operator} {value}",
            )
    if column.multiple_of is not None:
        add("range", f"is no multiple of {column.multiple_of}", f"{finite}{name} % {literal(column.multiple_of)} <> 0")
    if column.min_length is not None:
        add("length", f"is shorter than {column.min_length}", f"length({name}) < {int(column.min_length)}")
    if column.max_length is not None:
        add("length", f"is longer than {column.max_length}", f"length({name}) > {int(column.max_length)}")
    if column.pattern is not None:
        add("pattern", f"does not match {column.pattern}", f"NOT regexp_matches({name}, {literal(column.pattern)})")
    if column.values is not None:
        listed = ", ".join(literal(value) for value in column.values)
        add("enumeration", f"is none of the {len(column.values)} allowed values", f"{name} NOT IN ({listed})")
    return rules


def quality_rule(rule: Quality) -> RowRule | None:
    """The row predicate behind a library metric of one column; None for metrics of the whole dataset."""
    name = identifier(rule.column or "")
    broken = []
    if rule.metric == "nullValues":
        broken = [f"{name} IS NULL"]
    elif rule.metric == "missingValues":
        plain = ", ".join(literal(value) for value in rule.values if value is not None)
        broken = ([f"{name} IS NULL"] if None in rule.values else []) + (
            [f"CAST({name} AS VARCHAR) IN ({plain})"] if plain else []
        )
    elif rule.metric == "invalidValues":
        listed = ", ".join(literal(value) for value in rule.values)
        broken = ([f"{name} NOT IN ({listed})"] if listed else []) + (
            [f"NOT regexp_matches({name}, {literal(rule.pattern)})"] if rule.pattern else []
        )
    if not broken:
        return None
    return RowRule("quality", rule.column or "", f"{rule.metric} {rule.bound}", " OR ".join(broken), rule.severity)


def counts(predicates: Sequence[str], source: str = "batch") -> str:
    """One scan: the rows, then the rows that break each predicate."""
    fields = ["count(*)", *(f"count_if({predicate})" for predicate in predicates)]
    return f"SELECT {', '.join(fields)} FROM {source}"


def samples(columns: Mapping[str, str], predicate: str, limit: int) -> str:
    """The first rows that break a predicate, every column as text (`columns`: output name to expression)."""
    fields = ", ".join(f"CAST({expression} AS VARCHAR) AS {identifier(name)}" for name, expression in columns.items())
    return f"SELECT {fields} FROM batch WHERE {predicate} LIMIT {int(limit)}"


def suspects(key: Sequence[str]) -> str:
    """A table `suspects` of the key hashes that occur more than once; nulls are no duplicates of each other (SQL)."""
    names = ", ".join(identifier(name) for name in key)
    present = " AND ".join(f"{identifier(name)} IS NOT NULL" for name in key)
    return (
        f"CREATE OR REPLACE TEMP TABLE suspects AS SELECT hash({names}) AS h FROM batch WHERE {present} "
        "GROUP BY h HAVING count(*) > 1"
    )


def duplicates(key: Sequence[str]) -> str:
    """How many rows repeat the key of another one (each further row counts), exactly, given `suspects`."""
    names = ", ".join(identifier(name) for name in key)
    present = " AND ".join(f"{identifier(name)} IS NOT NULL" for name in key)
    return (
        f"SELECT coalesce(sum(n) - count(*), 0) FROM (SELECT count(*) AS n FROM batch WHERE {present} "
        f"AND hash({names}) IN (SELECT h FROM suspects) GROUP BY {names} HAVING count(*) > 1)"
    )


def expand(query: str, rule: Quality) -> str:
    """An sql rule with the standard's placeholders (`${object}`, `${table}`, `${property}`, `${column}`) filled in."""
    text = query.strip().rstrip(";")
    for word in ("object", "table", "model", "schema"):
        text = text.replace("${" + word + "}", "batch").replace("{" + word + "}", "batch")
    for word in ("property", "column", "field"):
        name = identifier(rule.column or "")
        text = text.replace("${" + word + "}", name).replace("{" + word + "}", name)
    return text


def keys(contract: Contract) -> list[tuple[str, ...]]:
    """Column groups whose values must be unique."""
    found = [contract.key] if contract.key else []
    return found + [(column.name,) for column in contract.columns if column.unique and (column.name,) not in found]
