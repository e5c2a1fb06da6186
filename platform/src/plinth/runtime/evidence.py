"""Evidence of a running rollout, gathered from where the profile keeps it: signals, inference log, quarantine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from plinth.core.evidence import Cell, Evidence
from plinth.core.products import Product
from plinth.core.rollout_gates import windows
from plinth.core.rollout_policy import Contract, Drift, Quality
from plinth.errors import NotFound, PlinthError
from plinth.ledger.port import Artifacts
from plinth.ledger.rollouts import Rollout
from plinth.ledger.store import Ledger
from plinth.telemetry.signals import SignalSource

LOOK_SECONDS = 10.0
"""Drift is measured this often: it changes slowly, and reading the inference log costs more than the counts."""


class Collector:
    """A rollout's evidence. A source that cannot be read is a `problem` and no error: then nothing is proven.

    Args:
        signals: Gives the source of what each release did; called when a rollout runs, not before.
        ledger: Names the artefacts of a release.
        artifacts: Holds them.
        folder_of: A product's state folder.
        product: A product's manifest.
        clock: Monotonic seconds; tests give their own.
    """

    def __init__(
        self,
        signals: Callable[[], SignalSource],
        *,
        ledger: Ledger,
        artifacts: Artifacts,
        folder_of: Callable[[str], Path],
        product: Callable[[str], Product],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._signals = signals
        self._ledger = ledger
        self._artifacts = artifacts
        self._folder_of = folder_of
        self._product = product
        self._clock = clock
        self._drift: tuple[int, float, Mapping[str, float] | None] = (0, 0.0, None)

    def __call__(self, rollout: Rollout) -> Evidence:
        """The evidence as it is now."""
        kinds = {type(gate) for gate in rollout.plan.gates}
        name, generation = rollout.product, rollout.generation

        def cells(window: float | None = None) -> tuple[Cell, ...]:
            # A ledger that was put back counts its generations again: what the other releases left is not ours.
            ours = {"serving": rollout.serving, "candidate": rollout.candidate, "shadow": rollout.candidate}
            found = signals.cells(name, generation, window=window)
            return tuple(cell for cell in found if cell.release == ours[cell.arm])

        try:
            signals = self._signals()
            broken = violations(self._folder_of(name), rollout.started_at) if Contract in kinds else None
            return Evidence(
                cells=cells(),
                windows={seconds: cells(float(seconds)) for seconds in windows(rollout.plan)},
                outcomes=signals.outcomes(name, generation) if Quality in kinds else None,
                drift=self._drift_of(rollout) if Drift in kinds else None,
                contract_violations=broken,
            )
        except (PlinthError, OSError) as error:
            return Evidence(problem=str(error))

    def _drift_of(self, rollout: Rollout) -> Mapping[str, float] | None:
        number, at, known = self._drift
        if number != rollout.id or self._clock() - at >= LOOK_SECONDS:
            known = self._measure_drift(rollout)
            self._drift = (rollout.id, self._clock(), known)
        return known

    def _measure_drift(self, rollout: Rollout) -> Mapping[str, float] | None:
        """PSI of the watched features in the candidate's answers since the rollout began; None without enough rows."""
        # Imported here: DuckDB is needed for rollouts with this gate only.
        from plinth.monitoring.drift import MINIMUM_ROWS, compare
        from plinth.monitoring.duckdb import LogReader
        from plinth.monitoring.reference import FILE, Reference

        monitoring = self._product(rollout.product).tabular().monitoring
        artifacts = self._ledger.release(rollout.candidate).manifest.artifacts
        if FILE not in artifacts:
            return None
        reference = Reference.load(self._artifacts.path(artifacts[FILE])).features
        begin, end = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
        try:
            log = LogReader(self._folder_of(rollout.product), begin, end, rollout.candidate)
        except NotFound:
            return None
        # An earlier rollout of the same release left rows, too. Event times are the requests' own; files have ours.
        log.files = [path for path in log.files if _written_at(path) >= _seconds(rollout.started_at)]
        if not log.files:
            return None
        current = reference.count_chunks(matrix for matrix, _ in log.features(reference.names))
        if current.rows < MINIMUM_ROWS:
            return None
        return {
            old.name: compare(old, new, monitoring.drift_psi).psi
            for old, new in zip(reference.columns, current.columns, strict=True)
            if old.name in monitoring.watch
        }


def violations(folder: Path, since: str) -> int:
    """Batches that were quarantined since a time (ISO 8601) and are not settled by a later delivery.

    Their reports say what and not when, so the files' times are taken: both clocks are this machine's wall clock, and
    one that was set back in between hides a batch. The contract itself is enforced where the batch comes in.
    """
    batches = [path.parent for path in folder.glob("quarantine/*/*/report.json")]
    standing = [batch for batch in batches if not batch.name.startswith(".") and batch.suffix != ".resolved"]
    return sum(_written_at(batch / "report.json") >= _seconds(since) for batch in standing)


def _written_at(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):  # moved away since it was listed
        return path.stat().st_mtime
    return 0.0


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
