"""Where a batch goes after its check: the lake or the quarantine, whole or not at all.

Layout: `<lake>/<dataset>/<batch>.parquet` and `<quarantine>/<dataset>/<batch>/` with the batch's file, `report.json`
and `report.html`. Everything is written beside its place and renamed into it, so a reader never sees half a file and
a full disk leaves what was there before.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plinth.contracts import report
from plinth.contracts.port import CheckResult
from plinth.errors import Unavailable


def accept(batch: Path, target: Path) -> None:
    """Move a batch to `target`, atomically, replacing an older one.

    Raises:
        Unavailable: The disk is full or cannot be written; the batch stays where it was.
    """
    with _disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(batch, target)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        # Another file system: copy beside the target, then rename, then forget the source.
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            with batch.open("rb") as source, partial.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
                copy.flush()
                os.fsync(copy.fileno())
            os.replace(partial, target)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        batch.unlink()


def isolate(batch: Path, folder: Path, result: CheckResult) -> Path:
    """Move a broken batch into its quarantine folder, with the reports; returns the path of report.html.

    Done twice it leaves the same: the newest delivery of a batch replaces the older one.

    Raises:
        Unavailable: The disk is full or cannot be written; the batch stays where it was, no folder is left half-made.
    """
    with _disk(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            (partial / "report.json").write_text(report.to_json(result), encoding="utf-8")
            (partial / "report.html").write_text(report.to_html(result), encoding="utf-8")
            # The data goes last: until here, a failure leaves the batch untouched in its place.
            accept(batch, partial / batch.name)
        except (OSError, Unavailable):
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _swap(partial, folder)
    return folder / "report.html"


def resolve(folder: Path) -> None:
    """Set an earlier quarantine of a batch aside as `<batch>.resolved`: a later delivery passed. Takes no disk space.

    Raises:
        Unavailable: The folder cannot be renamed.
    """
    if folder.is_dir():
        settled = folder.with_name(f"{folder.name}.resolved")
        with _disk(settled):
            shutil.rmtree(settled, ignore_errors=True)
            folder.rename(settled)


def _swap(partial: Path, folder: Path) -> None:
    """Put the finished folder in place. A folder can't be replaced in one step, so the old one steps aside first."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _disk(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"the batch cannot be stored: {error.strerror or error}",
            where=str(target),
            hint="free space or correct the rights, then run again; nothing is lost",
        ) from error
