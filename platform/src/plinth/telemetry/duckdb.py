"""A rollout's signals from the request log (`requests/generation=<g>/part-*.parquet`), read with DuckDB.

The log grows by a file a second and is asked every second, so each file is read once: what the signals need of it is
kept in an in-memory database, one for each product's newest asked generation.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plinth.core.evidence import ARMS, LATENCY_BOUNDS, SCORE_BINS, SCORE_BOUNDS, Arm, Cell, Outcomes
from plinth.core.log_files import current_names, hour_of, is_merged, replaced_by
from plinth.errors import MissingExtra, Unavailable

SETTLED_NS = 100_000_000
"""A folder's time of change is the kernel's, which ticks: two files may come within one tick of it."""

_TABLES = """
    SET enable_progress_bar = false;
    CREATE TABLE request (
        step INTEGER, arm VARCHAR, release VARCHAR, clock DOUBLE, failed BOOLEAN, seconds DOUBLE,
        rows INTEGER, defaulted INTEGER);
    CREATE TABLE scored (step INTEGER, arm VARCHAR, release VARCHAR, clock DOUBLE, entity_id VARCHAR, score DOUBLE);
    CREATE TABLE told (entity_id VARCHAR, label TINYINT, known_at TIMESTAMPTZ);
    CREATE TABLE outcome (entity_id VARCHAR, label TINYINT);
"""
_READ = """
    CREATE OR REPLACE TEMP TABLE fresh AS
    SELECT CAST(step AS INTEGER) AS step, CAST(arm AS VARCHAR) AS arm, CAST(release AS VARCHAR) AS release,
        CAST(clock AS DOUBLE) AS clock, code >= 500 AS failed, CAST(seconds AS DOUBLE) AS seconds,
        CAST(rows AS INTEGER) AS rows, CAST(defaulted AS INTEGER) AS defaulted,
        CAST(entity_ids AS VARCHAR[]) AS entity_ids, CAST(scores AS DOUBLE[]) AS scores
    FROM read_parquet($files, hive_partitioning = false)
    WHERE generation = $generation AND step >= 1 AND arm IN ('serving', 'candidate', 'shadow')
"""
_KEEP = """
    INSERT INTO request SELECT step, arm, release, clock, failed, seconds, rows, defaulted FROM fresh;
    CREATE OR REPLACE TEMP TABLE newly AS
    SELECT step, arm, entity_id, unnest(min_by({'release': release, 'clock': clock, 'score': score}, clock)) FROM (
        SELECT step, arm, release, clock, unnest(entity_ids) AS entity_id, unnest(scores) AS score
        FROM fresh WHERE NOT failed
    )
    WHERE entity_id IS NOT NULL AND isfinite(score) GROUP BY step, arm, entity_id;
    DELETE FROM scored USING newly
    WHERE scored.step = newly.step AND scored.arm = newly.arm AND scored.entity_id = newly.entity_id
        AND newly.clock < scored.clock;
    INSERT INTO scored BY NAME FROM newly ANTI JOIN scored USING (step, arm, entity_id);
    DROP TABLE fresh;
    DROP TABLE newly;
"""
_REQUESTS = """
    SELECT step, arm, release, count(*), count(*) FILTER (failed), histogram(seconds, $bounds),
        coalesce(sum(rows) FILTER (NOT failed), 0), coalesce(sum(defaulted) FILTER (NOT failed), 0), sum(seconds)
    FROM request WHERE clock BETWEEN $since AND $until GROUP BY step, arm, release
"""
_SCORES = """
    SELECT step, arm, release, histogram(score, $bounds)
    FROM scored WHERE clock BETWEEN $since AND $until GROUP BY step, arm, release
"""
# As monitoring has it: the label known last, whatever it says.
_LABELS = """
    INSERT INTO told SELECT CAST(entity_id AS VARCHAR), CAST(label AS TINYINT), known_at
    FROM read_parquet($files, hive_partitioning = false) WHERE label IN (0, 1)
"""
_LATEST = """
    CREATE OR REPLACE TABLE outcome AS SELECT entity_id, label FROM told
    QUALIFY row_number() OVER (PARTITION BY entity_id ORDER BY known_at DESC, label DESC) = 1;
    TRUNCATE told;
"""
_OUTCOMES = """
    SELECT score, label FROM (
        SELECT entity_id, min_by(score, clock) AS score, min(clock) AS clock
        FROM scored SEMI JOIN outcome USING (entity_id) WHERE arm = $arm GROUP BY entity_id
    ) JOIN outcome USING (entity_id) ORDER BY clock, entity_id
"""


class RequestLog:
    """The signals of the embedded profile.

    Requests are counted as they are logged, from step 1 on: step 0 is the time before any traffic moved. Rows and
    defaulted rows are those of requests that did not fail. Of scores, an entity counts once in each cell, with the
    first one that the arm gave it in that step: a thousand questions about one flight are one point, and a count once
    made never changes. Not once in the generation: gates compare the arms within a step, and an arm that had seen its
    entities in the step before would be left with the rare ones. Scores that are not finite are rows without a score.

    The window is that of the log's monotonic clock, so a wall clock that jumps changes nothing.

    Args:
        folder_of: A product's name to its state folder.
        clock: Monotonic seconds, the clock the services log by; tests give their own.
    """

    def __init__(self, folder_of: Callable[[str], Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._folder_of = folder_of
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}

    def cells(self, product: str, generation: int, *, window: float | None = None) -> tuple[Cell, ...]:
        """As the port. A repeated entity's score lies where it was first given in its step.

        Raises:
            Unavailable: None of the generation's files can be read, or DuckDB fails.
            MissingExtra: DuckDB is not installed.
        """
        with self._current(product, generation) as held:
            if held is None:
                return ()
            now = self._clock()
            bounds = {
                "since": -math.inf if window is None else now - window,
                "until": math.inf if window is None else now,
            }
            return held.cells(bounds)

    def outcomes(self, product: str, generation: int) -> Mapping[Arm, Outcomes]:
        """As the port: an entity's first score by each arm with the label known last, in the order of the answers.

        Raises:
            Unavailable: None of the generation's or the labels' files can be read, or DuckDB fails.
            MissingExtra: DuckDB is not installed.
        """
        with self._current(product, generation) as held:
            return {} if held is None else held.outcomes(self._folder_of(product) / "labels")

    def close(self) -> None:
        """Let go of everything held in memory; a later call reads anew."""
        with self._lock:
            for product in list(self._held):
                self._held.pop(product).close()

    @contextmanager
    def _current(self, product: str, generation: int) -> Iterator[_Held | None]:
        """What is held of a generation with what was logged since; None when it has no log."""
        duckdb = _duckdb()
        folder = self._folder_of(product) / "requests" / f"generation={generation}"
        with self._lock:
            held = self._held.get(product)
            try:
                identity = _identity(folder)
                if held is not None and held.identity != identity:
                    self._held.pop(product).close()
                    held = None
                if identity is None:
                    yield None
                    return
                if held is not None and not held.update():
                    self._held.pop(product).close()
                    held = None
                if held is None:
                    held = self._held[product] = _Held(folder, generation, identity)
                    held.update()
                yield held
            except (duckdb.Error, OSError) as error:
                if product in self._held:  # what it holds may be half of something
                    self._held.pop(product).close()
                raise Unavailable(
                    f"the request log cannot be read: {str(error).splitlines()[0]}",
                    where=str(folder),
                    hint="check the disk and its files",
                ) from error


class _Held:
    """One generation's log in memory."""

    def __init__(self, folder: Path, generation: int, identity: tuple[str, int, int]) -> None:
        self.identity = identity
        self._folder = folder
        self._generation = generation
        self._files: set[str] = set()
        self._listed = 0
        self._unreadable: set[str] = set()
        self._labels: frozenset[tuple[str, int, int]] = frozenset()
        # DuckDB makes this folder when it has to spill, and removes it.
        spill = folder.parent / f".spill-{os.getpid()}-{generation}"
        self._connection = _duckdb().connect(
            config={
                "memory_limit": "512MiB", "threads": 2, "temp_directory": str(spill),
                "preserve_insertion_order": False,
            }
        )  # fmt: skip
        self._connection.execute(_TABLES)

    def close(self) -> None:
        self._connection.close()

    def update(self) -> bool:
        """Read the files that came since the last time. Returns False when they must all be read anew.

        Raises:
            Unavailable: There are files, and none of them can be read.
        """
        changed = self._folder.stat().st_mtime_ns
        if changed == self._listed and not self._unreadable:
            return True
        # A tick asks for many windows, and a day of a rollout is 86,400 files.
        self._listed = changed if time.time_ns() - changed > SETTLED_NS else 0
        new = [self._folder / name for name in current_names(self._folder) if name not in self._files]
        if not all(self._knows_or_lacks(path) for path in new if is_merged(path.name)):
            return False
        new = [path for path in new if path.name not in self._files]
        batches = [[path] for path in new if path.name in self._unreadable]  # by itself: it would fail the others
        batches.append([path for path in new if path.name not in self._unreadable])
        for batch in batches:
            self._files.update(path.name for path in self._load(self._requests, batch))
        if new and not self._files:
            raise Unavailable(
                f"none of the {len(new)} files of the request log can be read",
                where=str(self._folder),
                hint="they are damaged or no Parquet files; see the log of the service that wrote them",
            )
        return True

    def _knows_or_lacks(self, merged: Path) -> bool:
        """Whether the rows of a merged file are all held already, or none of them: it is read where none is."""
        replaced = replaced_by(merged)
        if replaced and replaced <= self._files:
            self._files.add(merged.name)
            return True
        return not any(hour_of(name) == hour_of(merged.name) for name in self._files)

    def cells(self, clocks: dict[str, float]) -> tuple[Cell, ...]:
        scores = {
            key: _counts(counted, SCORE_BOUNDS)
            for *key_, counted in self._connection.execute(_SCORES, {**clocks, "bounds": SCORE_BOUNDS}).fetchall()
            for key in [tuple(key_)]
        }
        found = [
            Cell(
                step, arm, release, requests, errors, _counts(latency, LATENCY_BOUNDS),
                scores.get((step, arm, release), (0,) * SCORE_BINS), int(rows), int(defaulted), busy,
            )
            for step, arm, release, requests, errors, latency, rows, defaulted, busy in self._connection.execute(
                _REQUESTS, {**clocks, "bounds": LATENCY_BOUNDS}
            ).fetchall()
        ]  # fmt: skip
        return tuple(sorted(found, key=lambda cell: (cell.step, ARMS.index(cell.arm), cell.release)))

    def outcomes(self, folder: Path) -> dict[Arm, Outcomes]:
        self._update_labels(folder)
        found: dict[Arm, Outcomes] = {}
        for arm in ARMS:
            columns = self._connection.execute(_OUTCOMES, {"arm": arm}).fetchnumpy()
            if len(columns["score"]):
                found[arm] = Outcomes(tuple(columns["score"].tolist()), tuple(columns["label"].tolist()))
        return found

    def _update_labels(self, folder: Path) -> None:
        files = [folder / name for name in current_names(folder)]
        signature = frozenset((path.name, at.st_size, at.st_mtime_ns) for path in files for at in [path.stat()])
        if signature == self._labels:
            return
        self._connection.execute("TRUNCATE told")
        if files and not self._load(self._told, files):
            raise Unavailable(
                f"none of the {len(files)} files of labels can be read", where=str(folder), hint="write them anew"
            )
        self._connection.execute(_LATEST)
        self._labels = signature

    def _load(self, read: Callable[[list[str]], None], files: list[Path]) -> list[Path]:
        """Read files, and leave out those that cannot be, telling it once. Returns those read."""
        whole = []
        for path in files:
            if _is_parquet(path):
                whole.append(path)
            else:
                self._refuse(path, "it does not begin and end as Parquet does")
        return self._load_whole(read, whole)

    def _load_whole(self, read: Callable[[list[str]], None], files: list[Path]) -> list[Path]:
        duckdb = _duckdb()
        if not files:
            return []
        try:
            read([str(path) for path in files])
        except (duckdb.FatalException, duckdb.InternalException, duckdb.OutOfMemoryException):
            raise
        except duckdb.Error as error:
            if len(files) == 1:
                self._refuse(files[0], str(error).splitlines()[0])
                return []
            half = len(files) // 2
            return self._load_whole(read, files[:half]) + self._load_whole(read, files[half:])
        return files

    def _requests(self, files: list[str]) -> None:
        self._connection.execute(_READ, {"files": files, "generation": self._generation})
        self._connection.execute(f"BEGIN; {_KEEP} COMMIT")

    def _told(self, files: list[str]) -> None:
        self._connection.execute(_LABELS, {"files": files})

    def _refuse(self, path: Path, reason: str) -> None:
        if path.name not in self._unreadable:
            self._unreadable.add(path.name)
            logging.getLogger("plinth.telemetry").warning(
                "a file of a rollout's signals cannot be read", extra={"file": str(path), "reason": reason}
            )


def _duckdb() -> Any:
    try:
        import duckdb
    except ModuleNotFoundError:
        raise MissingExtra("duckdb", "contracts") from None
    return duckdb


def _counts(histogram: Mapping[float, int], bounds: tuple[float, ...]) -> tuple[int, ...]:
    """DuckDB's histogram: counts under the bounds they are at most, and what is above all under infinity."""
    return tuple(histogram.get(bound, 0) for bound in (*bounds, math.inf))


def _identity(folder: Path) -> tuple[str, int, int] | None:
    """What tells this folder from another one made later in its place; None when there is none."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return str(folder), found.st_dev, found.st_ino


def _is_parquet(path: Path) -> bool:
    """Whether the file begins and ends as Parquet does: a file cut off by a crash does not."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(-4, 2)
            return head == b"PAR1" == file.read(4)
    except OSError:
        return False
