"""The contract engine on DuckDB: Parquet files are scanned, CSV files are read once into a table that may spill.

Memory is capped (`memory_limit`), what does not fit spills to a temporary folder. The connection may read that one
file and nothing else, so an sql rule of a contract cannot reach the machine's files or the network.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plinth.contracts import sql
from plinth.contracts.checks import Checks, QueryError
from plinth.contracts.model import Contract
from plinth.contracts.port import CheckResult, Violation, Window
from plinth.errors import InvalidInput, MissingExtra, NotFound, Unavailable

SUFFIXES = (".parquet", ".csv", ".csv.gz")


class DuckDBEngine:
    """Checks contracts with DuckDB.

    Args:
        memory: DuckDB's memory cap, e.g. `512MB`; the process needs some 100 MB beside it.
        threads: Threads of the scan.
        samples: Rows shown for each broken rule.
    """

    def __init__(self, *, memory: str = "512MB", threads: int = 2, samples: int = 5) -> None:
        self.memory = memory
        self.threads = threads
        self.samples = samples

    def check(self, contract: Contract, path: Path, window: Window | None = None) -> CheckResult:
        """See `ContractEngine.check`."""
        duckdb = _import()
        started = time.perf_counter()
        if not path.is_file():
            raise NotFound("no such batch file", where=str(path), hint="check the path")
        if not path.name.lower().endswith(SUFFIXES):
            raise InvalidInput(
                f"{path.name} is no batch file", where=str(path), hint=f"use one of {', '.join(SUFFIXES)}"
            )
        run = Checks(contract, path, window, self.samples)
        try:
            with self._connect(path) as connection:
                run.all(_Database(connection))
        except duckdb.OutOfMemoryException as error:
            raise Unavailable(
                f"the check needs more than {self.memory} of memory", where=str(path), hint="raise the engine's memory"
            ) from error
        except duckdb.Error as error:
            if "No space left" in str(error):
                raise Unavailable(
                    "the disk is full", where=tempfile.gettempdir(), hint="free space in the temporary folder"
                ) from error
            run.violations = [Violation("unreadable", None, f"the file cannot be read: {_first_line(error)}", 1)]
        return CheckResult(
            contract=contract.id,
            version=contract.version,
            digest=contract.digest,
            dataset=contract.dataset,
            batch=path.name.split(".")[0],
            path=str(path),
            rows=run.rows,
            rules=run.rules,
            violations=tuple(run.violations),
            skipped=tuple(run.skipped),
            seconds=round(time.perf_counter() - started, 3),
        )

    @contextmanager
    def _connect(self, path: Path) -> Iterator[Any]:
        duckdb = _import()
        with tempfile.TemporaryDirectory(prefix="plinth-contract-") as spill:
            config = {"memory_limit": self.memory, "threads": self.threads, "temp_directory": spill}
            with duckdb.connect(":memory:", config=config) as db:
                db.execute("SET TimeZone = 'UTC'")
                # It prints on standard output, where answers go. In a notebook without ipywidgets DuckDB draws none and
                # refuses the setting.
                with contextlib.suppress(duckdb.InvalidInputException):
                    db.execute("SET enable_progress_bar = false")
                db.execute(f"SET allowed_paths = [{sql.literal(str(path))}]")
                db.execute("SET enable_external_access = false")
                db.execute("SET lock_configuration = true")
                yield db


class _Database:
    """A connection as `checks.Database`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        result: list[tuple[Any, ...]] = self._connection.execute(query).fetchall()
        return result

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        duckdb = _import()
        try:
            return self.rows(query)
        except (duckdb.OutOfMemoryException, duckdb.IOException):
            raise
        except duckdb.Error as error:
            raise QueryError(_first_line(error)) from error


def _import() -> Any:
    try:
        import duckdb
    except ModuleNotFoundError:
        raise MissingExtra("duckdb", "contracts") from None
    return duckdb


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
