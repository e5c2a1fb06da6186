"""The archive of the products' logs: each closed hour of a log as one object of the bucket, all its rows, sorted.

    logs/<product>/<log>/date=2026-01-31/hour=23.parquet

What was archived stands in `<state>/products/<product>/<log>/.archive.json`: an hour's object with its sha256, and the
local files whose rows it has. An hour with other files than those is archived anew, whole, over the old object; one
whose local files were removed is never written again: what comes late then stays here. The list is changed after the
object was read back, so a kill at any point means that an hour is uploaded once more, with the same content.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plinth.core.digests import digest_file
from plinth.core.failpoints import failpoint
from plinth.core.files import write_whole
from plinth.core.findings import Finding, without
from plinth.core.log_files import LOGS, alone_with, ended, list_of
from plinth.errors import Conflict, Corrupt, NotFound, PlinthError, Unavailable
from plinth.ledger.obstore import Objects
from plinth.runtime import log_merge

if TYPE_CHECKING:
    from plinth.wiring import Platform

log = logging.getLogger(__name__)

MANIFEST = ".archive.json"
REMOVED_FROM = ("inference", "answers")
"""Logs whose archived hours may leave this machine. A rollout's verdict is read from the request log, which `plinth gc`
collects when its generation is over."""
DAY = 86_400.0
HOLDS = {"log.archived": "Every archived hour of a log is in the bucket as it was uploaded."}


@dataclass(frozen=True, slots=True)
class Hour:
    """An archived hour.

    Attributes:
        digest: sha256 of its object.
        size: Bytes.
        files: The local files whose rows it has, as partition/name; none once they are gone.
        removed: Whether they may be gone from this machine.
    """

    digest: str
    size: int
    files: tuple[str, ...]
    removed: bool = False


class Archive:
    """The archived hours of one log.

    Args:
        objects: The bucket.
        product: Whose log.
        folder: The log's folder in the product's state.
    """

    def __init__(self, objects: Objects, product: str, folder: Path) -> None:
        self.objects = objects
        self.folder = folder
        self._prefix = f"logs/{product}/{folder.name}"

    @property
    def where(self) -> str:
        """Where the objects are, for people."""
        return self.objects.where(self._prefix)

    def key(self, hour: str) -> str:
        """The object of an hour (20260131T23)."""
        return f"{self._prefix}/date={hour[:4]}-{hour[4:6]}-{hour[6:8]}/hour={hour[9:]}.parquet"

    def hours(self) -> dict[str, Hour]:
        """What was archived.

        Raises:
            Corrupt: The list cannot be read.
        """
        path = self.folder / MANIFEST
        try:
            listed = json.loads(path.read_bytes())
            return {hour: Hour(**{**one, "files": tuple(one["files"])}) for hour, one in listed.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Corrupt(
                "the list of archived logs cannot be read", where=str(path),
                hint="delete it: what is here is archived again",
            ) from error  # fmt: skip

    def due(self, now: float) -> list[str]:
        """Closed hours that are not in the bucket with all their rows."""
        return self._due(self._local(now))

    def waiting(self, now: float) -> int:
        """How many hours are due; all that are here where the list cannot be read: once it is mended, they are."""
        local = self._local(now)
        try:
            return len(self._due(local))
        except Corrupt:
            return len(local)

    def _due(self, local: Mapping[str, tuple[str, ...]]) -> list[str]:
        known = self.hours()
        return [
            hour
            for hour, files in sorted(local.items())
            if hour not in known or (not set(files) <= set(known[hour].files) and self._whole(known[hour]))
        ]

    def upload(self, now: float) -> int:
        """Archive what is due. Returns the hours. The caller holds the log.

        Raises:
            Unavailable: The bucket or the disk cannot be used; what was archived by then is listed.
            Conflict: The bucket has an object with more rows than are here.
        """
        local = self._local(now)
        due = self._due(local)
        return sum(self._upload(hour, local[hour]) for hour in due)

    def remove(self, now: float, days: float) -> int:
        """Remove local files of hours that ended so many days ago, each after its object was read again.

        Returns:
            The hours removed.
        """
        if self.folder.name not in REMOVED_FROM:
            return 0
        count, due = 0, self.due(now)
        for hour, one in self.hours().items():
            if ended(hour) + days * DAY > now or hour in due:
                continue
            there = [path for name in one.files if (path := self.folder / name).exists()]
            if not there or any(list_of(path).exists() for path in there):
                continue  # without a merged file, what it replaced and is still there would be seen again
            if not one.removed:
                self._check(hour, one)
                self._note(hour, replace(one, removed=True))
            for path in there:
                failpoint("log.before-remove")
                path.unlink(missing_ok=True)
            # Forgotten by name: what comes late may be merged into a file of the same name, which is in no object.
            self._note(hour, replace(one, removed=True, files=()))
            count += 1
        return count

    def drop_rows(self, column: str, value: str) -> int:
        """Write objects again without the rows whose column has a value. Returns how many rows there were.

        Raises:
            Unavailable: The bucket cannot be used: call again.
        """
        from plinth.assistants.pyarrow import drop_rows

        gone = 0
        for hour, one in self.hours().items():
            path = self.folder / f".hour-{hour}{log_merge.WRITING}"
            try:
                with path.open("wb") as file:
                    for piece in self.objects.get(self.key(hour)):
                        file.write(piece)
                count = drop_rows(path, column, value)
                gone += count
                if not path.exists():  # nothing else was in it
                    self.objects.delete(self.key(hour))
                    self._note(hour, None)
                    continue
                found = replace(one, digest=digest_file(path), size=path.stat().st_size)
                if count:
                    self._put(hour, path, found)
                self._note(hour, found)  # what a killed call has written is listed now
            except NotFound:
                continue
            finally:
                path.unlink(missing_ok=True)
        return gone

    def findings(self, *, thorough: bool) -> Iterator[Finding]:
        """What is wrong with the archive. Thorough is with the objects' content."""
        here = "its rows are on this machine: plinth fsck --repair archives them again"
        for hour, one, what in self._wrong(thorough):
            hint = here if self._replaceable(hour, one) else "restore it from a backup"
            yield Finding("log.archived", "violation", self.objects.where(self.key(hour)), what, hint)

    def forget_lost(self) -> int:
        """Let hours be archived again that are not in the bucket as they were, where their rows are here."""
        lost = [hour for hour, one, _ in self._wrong(thorough=True) if self._replaceable(hour, one)]
        for hour in lost:
            self.objects.delete(self.key(hour))
            self._note(hour, None)
        return len(lost)

    def _wrong(self, thorough: bool) -> Iterator[tuple[str, Hour, str]]:
        hours = self.hours()
        there = {found.key: found.size for found in self.objects.list(self._prefix)} if hours else {}
        for hour, one in hours.items():
            size = there.get(self.key(hour))
            if size is None:
                yield hour, one, "the archived hour is not in the bucket"
            elif size != one.size or (thorough and self._digest(hour) != one.digest):
                yield hour, one, "the archived hour is not what was uploaded"

    def _whole(self, one: Hour) -> bool:
        """Whether the rows of an archived hour are all here, or else it must not be archived again: `plinth gc` takes
        folders of the request log, and `remove` takes hours."""
        return not one.removed and all((self.folder / name).parent.is_dir() for name in one.files)

    def _replaceable(self, hour: str, one: Hour) -> bool:
        """Whether an hour's rows are here to be archived again: what is in the bucket may be all there is."""
        return self._whole(one) and hour in self._local(time.time())

    def _local(self, now: float) -> dict[str, tuple[str, ...]]:
        """Closed hour to its files here."""
        found: dict[str, list[str]] = {}
        for partition in log_merge.partitions(self.folder):
            for hour, names in log_merge.closed_hours(partition, now).items():
                found.setdefault(hour, []).extend(f"{partition.name}/{name}" for name in names)
        return {hour: tuple(sorted(files)) for hour, files in found.items()}

    def _upload(self, hour: str, files: tuple[str, ...]) -> bool:
        """Whether it was: an hour that has files which cannot be read waits for the next pass, without them."""
        import duckdb

        path = self.folder / f".hour-{hour}{log_merge.WRITING}"
        try:
            rows = log_merge.write_sorted([self.folder / name for name in files], path)
            if hour not in self.hours():
                self._refuse_fewer(hour, path, rows)
            self._put(hour, path, Hour(digest_file(path), path.stat().st_size, files))
        except duckdb.Error as error:
            if log_merge.set_aside(self.folder, hour, files):
                return False
            raise Unavailable(
                f"an hour cannot be archived: {str(error).splitlines()[0]}", where=str(self.folder), hint="plinth fsck"
            ) from error
        except OSError as error:
            raise Unavailable(
                f"an hour cannot be archived: {error.strerror}", where=str(self.folder), hint="free disk space"
            ) from error
        finally:
            path.unlink(missing_ok=True)
        log.info("log archived", extra={"object": self.objects.where(self.key(hour)), "rows": rows})
        return True

    def _put(self, hour: str, path: Path, one: Hour) -> None:
        failpoint("log.before-upload")
        self.objects.put(self.key(hour), path)
        failpoint("log.after-upload")
        self._check(hour, one)
        self._note(hour, one)

    def _check(self, hour: str, one: Hour) -> None:
        if self._digest(hour) != one.digest:
            raise Corrupt(
                "an archived hour is not what was uploaded", where=self.objects.where(self.key(hour)),
                hint="its rows are on this machine still; see to the object store",
            )  # fmt: skip

    def _digest(self, hour: str) -> str:
        state = hashlib.sha256()
        try:
            for piece in self.objects.get(self.key(hour)):
                state.update(piece)
        except NotFound:
            return ""
        return state.hexdigest()

    def _refuse_fewer(self, hour: str, path: Path, rows: int) -> None:
        """An object that nobody here knows of, such as when the list was lost, is only written over with more."""
        if self.objects.head(self.key(hour)) is None or self._digest(hour) == digest_file(path):
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            known = pq.ParquetFile(pa.BufferReader(self.objects.read(self.key(hour)))).metadata.num_rows
        except pa.ArrowException as error:
            raise Corrupt(
                "an archived hour that this machine knows nothing of cannot be read",
                where=self.objects.where(self.key(hour)), hint="move the object away: what is here is archived then",
            ) from error  # fmt: skip
        if known > rows:
            raise Conflict(
                f"the archive has {known} rows of an hour of which {rows} are here",
                where=self.objects.where(self.key(hour)), hint="move the object away if what is here is right",
            )  # fmt: skip

    def _note(self, hour: str, one: Hour | None) -> None:
        hours = {**self.hours(), hour: one}
        listed = {name: asdict(kept) for name, kept in sorted(hours.items()) if kept is not None}
        write_whole(self.folder / MANIFEST, json.dumps(listed).encode())


# Every log of a platform --------------------------------------------------------------------------------------------


def log_folders(platform: Platform) -> Iterator[tuple[str, Path]]:
    """Product and folder of every log there is."""
    for product in sorted((platform.settings.state_dir / "products").glob("*")):
        for name in LOGS:
            if (product / name).is_dir():
                yield product.name, product / name


def archives(platform: Platform) -> Iterator[Archive]:
    """The archive of every log; none where there is no bucket."""
    if platform.objects is not None:
        for product, folder in log_folders(platform):
            yield Archive(platform.objects, product, folder)


def due(platform: Platform, now: float | None = None) -> bool:
    """Whether `keep` has anything to do. Looks at names only."""
    now = time.time() if now is None else now
    return any(log_merge.merge_due(folder, now) for _, folder in log_folders(platform)) or any(
        archive.waiting(now) for archive in archives(platform)
    )


def waiting(platform: Platform, now: float | None = None) -> dict[str, int]:
    """Product to the hours of its logs that are due for the archive: of each of the workspace, and of each that left
    logs here. A product with a log that cannot be looked at is left out. Looks at names only.
    """
    if platform.objects is None:
        return {}
    now = time.time() if now is None else now
    found, unknown = dict.fromkeys(platform.products.names(), 0), set()
    for product, folder in log_folders(platform):
        try:
            hours = Archive(platform.objects, product, folder).waiting(now)
        except FileNotFoundError:  # collected meanwhile
            hours = 0
        except OSError:  # some of its hours alone would look like few
            unknown.add(product)
            continue
        found[product] = found.get(product, 0) + hours
    return {product: hours for product, hours in found.items() if product not in unknown}


def keep(platform: Platform, now: float | None = None) -> dict[str, int]:
    """Merge every log's closed hours, archive them, and remove what may go. What fails on one log stops no other.

    Returns:
        `merged` files, hours `archived` and `removed`, logs that `failed`.
    """
    now = time.time() if now is None else now
    done = {"merged": 0, "archived": 0, "removed": 0, "failed": 0}
    for product, folder in log_folders(platform):
        try:
            with alone_with(folder):
                done["merged"] += log_merge.merge(folder, now)
                if platform.objects is not None:
                    archive = Archive(platform.objects, product, folder)
                    done["archived"] += archive.upload(now)
                    if days := platform.settings.log_days:
                        done["removed"] += archive.remove(now, days)
        except (PlinthError, OSError) as error:
            done["failed"] += 1
            log.warning("a log cannot be kept", extra={"product": product, "log": folder.name, "reason": str(error)})
    return done


def drop_answers(platform: Platform, product: str, tenant: str) -> int:
    """Take a tenant's rows out of the archived answers. Returns how many. The caller holds the log.

    Raises:
        Unavailable: The bucket cannot be used: then nothing is proven.
    """
    folder = platform.settings.product_dir(product) / "answers"
    return 0 if platform.objects is None else Archive(platform.objects, product, folder).drop_rows("tenant", tenant)


def check_archive(platform: Platform, *, thorough: bool) -> list[Finding]:
    """Whether what was archived is in the bucket; without one, nothing was."""
    found: list[Finding] = []
    for archive in archives(platform):
        try:
            found += archive.findings(thorough=thorough)
        except PlinthError as error:
            found.append(Finding("log.archived", "violation", error.where, error.what, error.hint))
    return found + without(HOLDS, found)


def repair_archive(platform: Platform) -> list[Finding]:
    """Archive hours again that the bucket lost, where their rows are here."""
    done = []
    for archive in archives(platform):
        try:
            with alone_with(archive.folder, wait=10.0):
                if lost := archive.forget_lost():
                    archive.upload(time.time())
                    done.append(Finding("log.archived", "repaired", archive.where, f"{lost} hours archived again"))
        except PlinthError as error:
            done.append(Finding("log.archived", "warning", error.where, f"no repair: {error.what}", error.hint))
    return done


def main() -> int:
    """The controller's helper process: one pass, in a process of its own, whose memory is given back."""
    from plinth.telemetry import logs
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    handler = logs.configure("log-archive", platform.settings.log_level)
    try:
        done: Mapping[str, Any] = keep(platform)
        print(json.dumps(done))  # noqa: T201  (for whoever runs it by hand)
        return 1 if done["failed"] else 0
    finally:
        handler.close()


if __name__ == "__main__":
    sys.exit(main())
