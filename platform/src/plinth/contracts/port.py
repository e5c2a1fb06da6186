"""The port of the contracts room: an engine that checks a batch file against a contract."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from plinth.contracts.model import Contract, Severity


@dataclass(frozen=True)
class Window:
    """The stretch of time a batch covers, half open: [start, end), in UTC. Freshness is measured against `end`."""

    start: datetime
    end: datetime

    @classmethod
    def of_batch(cls, name: str) -> Window | None:
        """The window of a batch named by its year, month or day (`2013`, `2013-01`, `2013-01-31`); None otherwise."""
        match = re.fullmatch(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", name)
        if match is None:
            return None
        year, month, day = (int(part) if part else None for part in match.groups())
        try:
            start = datetime(year or 0, month or 1, day or 1, tzinfo=UTC)
            if day:
                return cls(start, start + timedelta(days=1))
            if month:
                return cls(start, datetime(start.year + month // 12, month % 12 + 1, 1, tzinfo=UTC))
            return cls(start, datetime(start.year + 1, 1, 1, tzinfo=UTC))
        except ValueError:
            return None


@dataclass(frozen=True)
class Violation:
    """One broken rule.

    `rule` is one of: unreadable, schema, type, required, not-finite, range, length, pattern, enumeration, unique,
    row-count, freshness, window, quality. `count` is the rows that break it (1 for a rule on the whole batch);
    `samples` are some of them as text by column, with `row` (from 0) and sensitive columns masked.
    """

    rule: str
    column: str | None
    message: str
    count: int
    severity: Severity = "error"
    samples: tuple[dict[str, str | None], ...] = ()


@dataclass(frozen=True)
class CheckResult:
    """What a check found. `skipped` names what could not be checked, and why: nothing passes unseen."""

    contract: str
    version: str
    digest: str
    dataset: str
    batch: str
    path: str
    rows: int
    rules: int
    violations: tuple[Violation, ...]
    skipped: tuple[str, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether no rule of severity error is broken."""
        return not any(violation.severity == "error" for violation in self.violations)

    def as_dict(self) -> dict[str, Any]:
        """The result as stable JSON."""
        return {"passed": self.passed, **asdict(self)}


class ContractEngine(Protocol):
    """Checks batch files against contracts."""

    def check(self, contract: Contract, path: Path, window: Window | None = None) -> CheckResult:
        """Check every rule of `contract` on the Parquet or CSV file at `path`.

        A file that cannot be read as its suffix says breaks the rule `unreadable`; that is a finding, not an error.

        Raises:
            NotFound: There is no such file.
            InvalidInput: The file is neither Parquet nor CSV by its name, or a rule of the contract cannot be run.
            Unavailable: The machine has not enough memory or disk for the check.
        """
        ...
