"""Every rule of a contract on one batch, in as few scans as it takes: the SQL of `sql.py`, run and read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from plinth.contracts import sql
from plinth.contracts.model import Column, Contract, Quality
from plinth.contracts.port import Violation, Window
from plinth.errors import InvalidInput

MASK = "(masked)"
_TEXT_LIMIT = 200
_ROW = "__row"


class QueryError(Exception):
    """A query that the engine cannot plan or run, for a reason that lies in the query."""


class Database(Protocol):
    """What the checks need of an engine."""

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Run a query of ours; the engine's own errors leave it."""
        ...

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Run a query whose text comes from the contract; raises QueryError."""
        ...


@dataclass
class Checks:
    """One check. `types` holds DuckDB's type of every column that is there."""

    contract: Contract
    path: Path
    window: Window | None
    limit: int
    rows: int = 0
    rules: int = 0
    types: dict[str, str] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def all(self, db: Database) -> None:
        """Run every check on the open database."""
        self.db = db
        self.skipped.extend(f"{item} (for people, not checked)" for item in self.contract.unchecked)
        casts = self._open()
        usable = self._schema()
        rules = [
            rule
            for column in usable
            for rule in (*casts.get(column.name, ()), *sql.row_rules(column, self.types[column.name]))
        ]
        usable_names = {column.name for column in usable}
        quality = [rule for rule in self.contract.quality if self._can_run(rule, usable_names)]
        self._rows(rules, quality)
        for key in sql.keys(self.contract):
            if usable_names.issuperset(key):
                self._unique(key)
            else:
                self.skipped.append(f"unique {', '.join(key)} (a column is missing or has another type)")
        for rule in quality:
            if rule.metric in ("duplicateValues", "rowCount", "sql"):
                self._dataset_rule(rule)
        self._freshness(usable_names)

    @property
    def _is_parquet(self) -> bool:
        return self.path.name.lower().endswith(".parquet")

    def _open(self) -> dict[str, list[sql.RowRule]]:
        """Makes the view `batch` and reads the columns' types. For CSV: text, cast as the contract says."""
        file = sql.literal(str(self.path))
        if self._is_parquet:
            self.types = self._describe(f"SELECT * FROM read_parquet({file})")
            self.db.rows(f"CREATE VIEW batch AS SELECT *, file_row_number AS {_ROW} FROM read_parquet({file})")
            return {}
        # The dialect is fixed (RFC 4180) and not guessed: a guess may take one row for another's header.
        dialect = "header = true, delim = ',', quote = '\"', escape = '\"', skip = 0, comment = ''"
        source = f"read_csv({file}, all_varchar = true, {dialect})"
        fields, casts = [], {}
        for name in self._describe(f"SELECT * FROM {source}"):
            column = self.contract.column(name)
            kind = sql.cast_type(column) if column else "VARCHAR"
            self.types[name] = kind
            quoted, raw = sql.identifier(name), sql.identifier(f"__text {name}")
            fields.append(f"TRY_CAST({quoted} AS {kind}) AS {quoted}, {quoted} AS {raw}")
            broken = f"{raw} IS NOT NULL AND {quoted} IS NULL"
            casts[name] = [sql.RowRule("type", name, f"is no {kind}", broken)]
        # Read once: text is slow to parse, and a table of more than the memory cap spills to disk.
        self.db.rows(
            f"CREATE TABLE batch AS SELECT {', '.join(fields)}, row_number() OVER () - 1 AS {_ROW} FROM {source}"
        )
        return casts

    def _describe(self, query: str) -> dict[str, str]:
        return {row[0]: row[1] for row in self.db.rows(f"DESCRIBE {query}")}

    def _schema(self) -> list[Column]:
        """Missing, extra and retyped columns; returns those whose values can be checked."""
        declared = {column.name for column in self.contract.columns}
        extra = [name for name in self.types if name not in declared]
        usable: list[Column] = []
        for column in self.contract.columns:
            self.rules += 1
            actual = self.types.get(column.name)
            if actual is None:
                same = [name for name in extra if sql.type_problem(column, self.types[name]) is None]
                twins = same if self._is_parquet else extra  # a CSV's columns have no type of their own
                hint = f" (renamed to {twins[0]}?)" if len(twins) == 1 else ""
                self._broken("schema", column.name, f"the column {column.name} is missing{hint}")
            elif problem := sql.type_problem(column, actual):
                self._broken("schema", column.name, f"the column {column.name} {problem}")
            else:
                usable.append(column)
        for name in extra:
            self._broken("schema", name, f"the column {name} ({self.types[name]}) is not in the contract")
        return usable

    def _broken(self, rule: str, column: str | None, message: str, count: int = 1) -> None:
        self.violations.append(Violation(rule, column, message, count))

    def _can_run(self, rule: Quality, usable: set[str]) -> bool:
        needed = {rule.column} if rule.column else set(rule.columns)
        if needed <= usable:
            return True
        self.skipped.append(f"{rule.name} (a column is missing or has another type)")
        return False

    def _rows(self, rules: list[sql.RowRule], quality: list[Quality]) -> None:
        """Every rule on single rows, and the library metrics that count rows, in one scan."""
        counted = [(rule, row) for rule in quality if (row := sql.quality_rule(rule)) is not None]
        predicates = [rule.predicate for rule in rules] + [row.predicate for _, row in counted]
        self._try(predicates)
        self.rows, *found = self.db.rows(sql.counts(predicates))[0]
        self.rules += len(predicates)
        for rule, count in zip(rules, found, strict=False):
            if count:
                self._add(rule, f"{rule.column} {rule.message}", count)
        for (quality_rule, row), count in zip(counted, found[len(rules) :], strict=True):
            observed = self._share(count) if quality_rule.percent else count
            if not quality_rule.holds(observed):
                self._add(row, f"{quality_rule.name}: {observed:g}, {quality_rule.bound}", count)

    def _try(self, predicates: list[str]) -> None:
        """Plans the scan on no row, so that a pattern or bound the engine cannot read is told from a bad file."""
        try:
            self.db.ask(sql.counts(predicates, source="(FROM batch LIMIT 0)"))
        except QueryError as error:
            what = f"a rule of the contract cannot be run: {error}"
            hint = "patterns are RE2 (no lookaround, no backreference); bounds of dates and times are ISO 8601 text"
            raise InvalidInput(what, where=self.contract.source, hint=hint) from error

    def _share(self, count: float) -> float:
        return 100 * count / self.rows if self.rows else 0.0

    def _add(self, rule: sql.RowRule, message: str, count: int) -> None:
        shown = self._samples(rule.predicate, rule.column)
        self.violations.append(Violation(rule.rule, rule.column, message, count, rule.severity, shown))

    def _samples(self, predicate: str, first: str | None) -> tuple[dict[str, str | None], ...]:
        """Rows that break a rule, the offending column first, sensitive columns masked."""
        names = sorted(self.types, key=lambda name: name != first)
        columns = {"row": _ROW}
        for name in names:
            raw = f"__text {name}"
            columns[name] = sql.identifier(name if self._is_parquet else raw)
        query = sql.samples(columns, predicate, self.limit)
        masked = {column.name for column in self.contract.columns if column.sensitive}
        return tuple(
            {
                name: value if value is None else MASK if name in masked else value[:_TEXT_LIMIT]
                for name, value in zip(columns, row, strict=True)
            }
            for row in self.db.rows(query)
        )

    def _unique(self, key: tuple[str, ...]) -> None:
        self.rules += 1
        count, shown = self._duplicates(key)
        if count:
            names = ", ".join(key)
            self.violations.append(Violation("unique", names, f"{names} repeats another row's", count, samples=shown))

    def _duplicates(self, key: tuple[str, ...]) -> tuple[int, tuple[dict[str, str | None], ...]]:
        self.db.rows(sql.suspects(key))
        if not self.db.rows("SELECT count(*) FROM suspects")[0][0]:
            return 0, ()
        count = int(self.db.rows(sql.duplicates(key))[0][0])
        names = ", ".join(sql.identifier(name) for name in key)
        predicate = f"hash({names}) IN (SELECT h FROM suspects ORDER BY h LIMIT {max(1, self.limit // 2)})"
        return count, self._samples(predicate, key[0]) if count else ()

    def _dataset_rule(self, rule: Quality) -> None:
        self.rules += 1
        shown: tuple[dict[str, str | None], ...] = ()
        if rule.metric == "rowCount":
            observed: float = self.rows
        elif rule.metric == "duplicateValues":
            observed, shown = self._duplicates(rule.columns)
            observed = self._share(observed) if rule.percent else observed
        else:
            answer = self._query(rule)
            if answer is None:
                return
            observed = answer
        if not rule.holds(observed):
            name = "row-count" if rule.metric == "rowCount" else "quality"
            message = f"{rule.name}: {observed:g}, {rule.bound}"
            self.violations.append(Violation(name, rule.column, message, 1, rule.severity, shown))

    def _query(self, rule: Quality) -> float | None:
        """The number an sql rule gives; None (and a note) when columns it may need are missing or retyped."""
        where = f"{self.contract.source}, rule {rule.name!r}"
        hint = "an sql rule is one SELECT over ${object} that gives one number"
        try:
            found = self.db.ask(sql.expand(rule.query or "", rule))
        except QueryError as error:
            if any(violation.rule == "schema" for violation in self.violations):
                self.skipped.append(f"{rule.name} (the schema is broken)")
                return None
            raise InvalidInput(f"the sql rule cannot be run: {error}", where=where, hint=hint) from error
        value = found[0][0] if len(found) == 1 and len(found[0]) == 1 else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidInput(f"the sql rule gave {value!r}, not one number", where=where, hint=hint)
        return float(value)

    def _freshness(self, usable: set[str]) -> None:
        """The newest row is young enough at the window's end, and no row lies outside the window by more than that."""
        rule = self.contract.freshness
        if rule is None:
            return
        if self.window is None or rule.column not in usable:
            reason = "the batch's window is unknown" if self.window is None else "its column cannot be used"
            self.skipped.append(f"freshness of {rule.column} ({reason})")
            return
        self.rules += 2
        at = f"epoch({sql.identifier(rule.column)})"
        start, end = self.window.start.timestamp(), self.window.end.timestamp()
        outside = f"{at} < {start - rule.seconds} OR {at} >= {end + rule.seconds}"
        newest, strays = self.db.rows(f"SELECT max({at}), count(*) FILTER (WHERE {outside}) FROM batch")[0]
        hours = rule.seconds / 3600
        if strays:
            message = f"{rule.column} lies more than {hours:g} h outside the batch's window"
            self._add(sql.RowRule("window", rule.column, message, outside), message, strays)
        if newest is None or newest < end - rule.seconds:
            age = "there is no row" if newest is None else f"the newest row is {(end - newest) / 3600:.1f} h old"
            self._broken("freshness", rule.column, f"{age} at the window's end, at most {hours:g} h are allowed")
