"""Merging the files of a log's closed hours, where they lie. What readers see at any moment: plinth.core.log_files.

Killed at any point, the next pass goes on: a half-written file has a hidden name, and a list without its merged file
replaces nothing.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plinth.core.failpoints import failpoint
from plinth.core.files import sync, write_whole
from plinth.core.log_files import KEPT_SECONDS, current_names, ended, hour_of, is_merged, list_of, replaced_by
from plinth.errors import MissingExtra, Unavailable

if TYPE_CHECKING:
    import duckdb

log = logging.getLogger(__name__)

SETTLED_SECONDS = 300.0
"""After an hour's end, before it counts as closed: a writer takes a file's name before it writes it."""
BATCH = 300
"""Files that are read at once: DuckDB keeps the description of each in memory."""
WRITING = ".writing"
UNREADABLE = ".unreadable.json"
ORDER = ("event_time", "at", "clock", "request_id", "entity_id")
_OPTIONS = "union_by_name = true, hive_partitioning = false, filename = true, file_row_number = true"


def partitions(folder: Path) -> list[Path]:
    """The folders of a log that hold its files."""
    return sorted(path for path in folder.glob("[!.]*") if path.is_dir())


def closed_hours(partition: Path, now: float) -> dict[str, list[str]]:
    """Hour to the current files that were written in it; those that cannot be read are left out."""
    bad = set(_unreadable(partition))
    found: dict[str, list[str]] = {}
    for name in current_names(partition):
        hour = hour_of(name)
        if hour and name not in bad and ended(hour) + SETTLED_SECONDS <= now:
            found.setdefault(hour, []).append(name)
    return found


def merge_due(folder: Path, now: float) -> bool:
    """Whether `merge` has anything to do in a log."""
    return any(
        any(len(names) > 1 for names in closed_hours(partition, now).values()) or any(_over(partition, now))
        for partition in partitions(folder)
    )


def merge(folder: Path, now: float | None = None) -> int:
    """Merge what can be merged in a log, and delete what was replaced long enough ago. Returns the files merged away.

    The caller holds the log (`log_files.alone_with`).

    Raises:
        Unavailable: The disk is full, or DuckDB fails.
        MissingExtra: DuckDB is not installed.
    """
    now = time.time() if now is None else now
    count = 0
    tidy(folder)
    for partition in partitions(folder):
        try:
            _drop_replaced(partition, now)
            for hour, names in closed_hours(partition, now).items():
                if len(names) > 1:
                    count += _merge(partition, hour, names)
        except FileNotFoundError:  # collected meanwhile: a generation that is long over
            continue
        except OSError as error:
            raise Unavailable(
                f"a log cannot be merged: {error.strerror}", where=str(partition), hint="free disk space"
            ) from error
    return count


def tidy(folder: Path) -> None:
    """Delete what a killed merge left: nobody else is at work, so every half-written file is nobody's."""
    for place in (folder, *partitions(folder)):
        lists = (path for path in place.glob(".hour-*.json") if not place.joinpath(f"{path.stem[1:]}.parquet").exists())
        for path in (*place.glob(f".hour-*{WRITING}"), *lists):
            path.unlink(missing_ok=True)
        for spill in place.glob(".spill-merge*"):
            shutil.rmtree(spill, ignore_errors=True)


def _merge(partition: Path, hour: str, names: Sequence[str]) -> int:
    """Merge files, and find out by halves which of them cannot be read."""
    import duckdb

    number = 1 + max(
        (int(path.stem.rpartition("-")[2]) for path in partition.glob(f"hour-{hour}-*.parquet")), default=-1
    )
    target = partition / f"hour-{hour}-{number}.parquet"
    hidden = target.with_name(f".{target.stem}{WRITING}")
    paths = [partition / name for name in names]
    try:
        rows = write_sorted(paths, hidden)
    except duckdb.Error as error:
        hidden.unlink(missing_ok=True)
        for path in paths:
            path.stat()  # one that is gone says nothing of the others
        if len(names) == 1:
            log.warning("a file of a log cannot be read", extra={"file": str(paths[0]), "reason": str(error)[:200]})
            _write_list(partition / UNREADABLE, [*_unreadable(partition), *names])
            return 0
        half = len(names) // 2
        return _merge(partition, hour, names[:half]) + _merge(partition, hour, names[half:])
    if len(names) == 1:  # it was only tried
        hidden.unlink()
        return 0
    newest = max(path.stat().st_mtime for path in paths)
    os.utime(hidden, (newest, newest))  # as old as its rows, for whoever collects what is old
    replaced = set(names).union(*(replaced_by(path) for path in paths if is_merged(path.name)))
    _write_list(list_of(target), sorted(replaced))
    failpoint("log.before-merge")
    hidden.rename(target)
    sync(partition)
    failpoint("log.after-merge")
    log.info("log merged", extra={"file": str(target), "files": len(names), "rows": rows})
    return len(names)


def set_aside(folder: Path, hour: str, names: Sequence[str]) -> int:
    """Note which files of a closed hour cannot be read, so that the hour goes on without them. Returns how many.

    Args:
        folder: The log.
        hour: The hour.
        names: Its files, each as `partition/name`.

    Raises:
        Unavailable: The disk is full.
    """
    count = 0
    for one in names:
        place, _, name = one.partition("/")
        partition = folder / place
        before = len(_unreadable(partition))
        _merge(partition, hour, [name])  # of one file it is a try
        count += len(_unreadable(partition)) - before
    return count


def _over(partition: Path, now: float) -> Iterator[tuple[Path, frozenset[str]]]:
    """Merged files that replaced others long enough ago, and what they replaced."""
    for listed in partition.glob(".hour-*.json"):
        merged = partition / f"{listed.stem[1:]}.parquet"
        with suppress(FileNotFoundError):
            if merged.exists() and now - listed.stat().st_mtime >= KEPT_SECONDS:
                yield merged, replaced_by(merged)


def _drop_replaced(partition: Path, now: float) -> None:
    """Delete files that were replaced, and in a later pass the list of them: who listed both needs it till then."""
    for merged, names in sorted(_over(partition, now)):
        there = [path for name in sorted(names) if (path := partition / name).exists()]
        for path in there:
            path.unlink(missing_ok=True)
            failpoint("log.before-remove")
        if there:
            os.utime(list_of(merged))
        else:
            list_of(merged).unlink(missing_ok=True)


def write_sorted(paths: Sequence[Path], target: Path) -> int:
    """Write the rows of Parquet files into one, sorted, in bounded memory; durable when this returns. Returns the rows.

    Raises:
        duckdb.Error: A file cannot be read.
        Unavailable: The disk is full, or DuckDB fails for another reason than the files.
    """
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    if len(batches) < 2:
        rows = _write_sorted(paths, target)
        sync(target)
        return rows
    parts = [target.with_name(f".hour-batch{number}{WRITING}") for number in range(len(batches))]
    try:
        rows = sum(_write_sorted(batch, part) for batch, part in zip(batches, parts, strict=True))
        if write_sorted(parts, target) != rows:
            raise Unavailable("rows were lost on the way", where=str(target), hint="nothing was replaced")
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    return rows


def _write_sorted(paths: Sequence[Path], target: Path) -> int:
    files = [str(path) for path in paths]
    with _connected(target.parent) as connection:
        source = f"read_parquet($files, {_OPTIONS})"
        columns = [row[0] for row in connection.execute(f"DESCRIBE FROM {source}", {"files": files}).fetchall()]
        keys = [f'"{name}"' for name in ORDER if name in columns]
        place = str(target).replace("'", "''")
        connection.execute(
            f"COPY (SELECT * EXCLUDE (filename, file_row_number) FROM {source} "
            f"ORDER BY {', '.join([*keys, 'filename', 'file_row_number'])}) "
            f"TO '{place}' (FORMAT parquet, COMPRESSION zstd)",
            {"files": files},
        )
        count = "SELECT count(*) FROM read_parquet($files, hive_partitioning = false)"
        wanted, written = (
            connection.execute(count, {"files": given}).fetchall()[0][0] for given in (files, [str(target)])
        )
    if wanted != written:
        raise Unavailable(f"{written} of {wanted} rows were written", where=str(target), hint="nothing was replaced")
    return int(written)


@contextmanager
def _connected(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    try:
        import duckdb
    except ModuleNotFoundError:
        raise MissingExtra("duckdb", "contracts") from None
    spill = folder / f".spill-merge-{os.getpid()}"
    options: dict[str, Any] = {"memory_limit": "256MiB", "threads": 1, "temp_directory": str(spill)}
    connection = duckdb.connect(config=options)
    try:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        yield connection
    except (duckdb.FatalException, duckdb.InternalException, duckdb.OutOfMemoryException) as error:
        raise Unavailable(f"a log cannot be merged: {str(error).splitlines()[0]}", where=str(folder)) from error
    except duckdb.Error as error:
        if "No space left" in str(error) or "Could not write" in str(error):
            raise Unavailable("a log cannot be merged: the disk is full", where=str(folder)) from error
        raise
    finally:
        connection.close()
        shutil.rmtree(spill, ignore_errors=True)


def _unreadable(partition: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads((partition / UNREADABLE).read_bytes())]
    except (FileNotFoundError, ValueError):
        return []


def _write_list(path: Path, names: Sequence[str]) -> None:
    write_whole(path, json.dumps(list(names)).encode())
