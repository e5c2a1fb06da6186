"""The files of a log: what writers make of a second is merged into one file of an hour, and no reader sees a row twice.

A folder (`date=2026-01-31/`, `generation=3/`) holds

    part-<ns>-<pid>-<n>.parquet         what a service wrote, under the moment it did
    hour-<YYYYMMDDTHH>-<n>.parquet      rows of files that were merged
    .hour-<YYYYMMDDTHH>-<n>.json        the names of those files

The list is written first, then the merged file appears by a rename, and the files it replaces go a quarter of an hour
later: whoever listed the folder before goes on reading them, whoever lists it after leaves out what is replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from plinth.core.files import locked
from plinth.errors import Conflict

LOGS = ("requests", "inference", "answers")
"""The folders of a product's state that hold a log each."""
KEPT_SECONDS = 900.0
"""How long a replaced file stays for those who listed it."""

_PART = re.compile(r"part-(\d{16,20})-\d+-\d+\.parquet")
_HOUR = re.compile(r"hour-(\d{8}T\d\d)-(\d+)\.parquet")


def hour_of(name: str) -> str:
    """The hour (UTC) that a file was written in, as 20260131T23; "" of a file with another name."""
    if merged := _HOUR.fullmatch(name):
        return merged[1]
    if part := _PART.fullmatch(name):
        with contextlib.suppress(ValueError, OverflowError):
            return datetime.fromtimestamp(int(part[1]) / 1e9, UTC).strftime("%Y%m%dT%H")
    return ""


def ended(hour: str) -> float:
    """When an hour ended, seconds since 1970."""
    return datetime.strptime(hour, "%Y%m%dT%H").replace(tzinfo=UTC).timestamp() + 3600


def is_merged(name: str) -> bool:
    """Whether a file holds the rows of others."""
    return _HOUR.fullmatch(name) is not None


def list_of(path: Path) -> Path:
    """Where a merged file's list of what it replaces is."""
    return path.with_name(f".{path.stem}.json")


def replaced_by(path: Path) -> frozenset[str]:
    """The names that a merged file replaces; none when they have long been deleted."""
    try:
        return frozenset(json.loads(list_of(path).read_bytes()))
    except (FileNotFoundError, ValueError):
        return frozenset()


def current(paths: Iterable[Path]) -> list[Path]:
    """Files of a listing, in order, without those that a merged one of the same listing replaces."""
    found = sorted(paths)
    gone = {path.with_name(name) for path in found if is_merged(path.name) for name in replaced_by(path)}
    return [path for path in found if path not in gone]


def current_names(folder: Path) -> list[str]:
    """Names of the finished files of a folder, without those that are replaced. None without a folder."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    finished = (folder / name for name in names if name.endswith(".parquet") and not name.startswith("."))
    return [path.name for path in current(finished)]


@contextlib.contextmanager
def alone_with(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Nobody else merges, archives or edits the files of this log meanwhile. Writers write on.

    Args:
        folder: The log's folder; nothing is locked when there is none.
        wait: Seconds to wait for somebody else.

    Raises:
        Conflict: Somebody else is still at work.
    """
    busy = Conflict("somebody else is at work on this log", where=str(folder), hint="try again in a minute")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FileNotFoundError):
            stack.enter_context(locked(folder / ".alone", busy, wait, 0o666))
        yield
