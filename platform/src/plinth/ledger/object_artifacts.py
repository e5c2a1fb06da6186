"""Artefacts in S3: `artifacts/sha256/<first two characters>/<sha256>`, with a cache of files on this machine.

A bucket knows no rename, no time that can be set and no delete under a condition. So what is stored again is written
again, and a collector says first what it is about to delete: it leaves a mark, looks at the object's time, deletes, and
takes the mark away. Whoever stores looks for the mark after the object is written. Either he sees it and waits for the
end of it, or the collector began later and sees the object's new time. A collector that is stopped for longer than
`STALE_SECONDS` gives up; what remains is one that is stopped between that last look at its watch and its delete, and
there the grace period protects all that was not stored again in these very minutes.

The cache is never collected by what the bucket lacks: where a bucket is lost, it may hold the only copies.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from plinth.core.digests import digest_bytes, digest_file
from plinth.core.failpoints import failpoint
from plinth.core.files import new_file
from plinth.errors import Corrupt, InvalidInput, NotFound, Unavailable
from plinth.ledger.artifacts import WRITING, is_digest
from plinth.ledger.obstore import Meta, Objects
from plinth.ledger.port import Leftover, Stored

STORED, MARKS, ASIDE = "artifacts/sha256", "artifacts/collecting", "artifacts/corrupt"
YOUNG_SECONDS = 600.0
"""Of what was stored within this, nothing is uploaded again: the least grace period is six times as long."""
STALE_SECONDS = 60.0
"""A mark older than this is a killed collector's: one that lives gives up long before."""
PATIENCE_SECONDS = 15.0
"""How long whoever stores waits for a collector: it works for milliseconds."""


class ObjectArtifacts:
    """The artefacts of a bucket.

    Args:
        objects: The bucket.
        cache: Folder on this machine for what was fetched; made when first written to.
        clock: Seconds since 1970, for the age of what is stored.
    """

    def __init__(self, objects: Objects, cache: Path, clock: Callable[[], float] = time.time) -> None:
        self.objects = objects
        self.cache = cache
        self._clock = clock

    # Storing ----------------------------------------------------------------------------------------------------

    def put_file(self, path: Path) -> str:
        """As the port."""
        return self.put_bytes(path.read_bytes())

    def put_bytes(self, data: bytes) -> str:
        """As the port."""
        digest = digest_bytes(data)
        key = self._key(digest)
        if not self._as_good_as_new(self.objects.head(key), data):
            self.objects.put(key, data)
        failpoint("artifact.before-rename")
        self._outlast_collector(digest, data)
        with contextlib.suppress(Unavailable):  # the disk is full: it is stored all the same
            self._keep(digest, iter((data,)))
        return digest

    def _as_good_as_new(self, found: Meta | None, data: bytes) -> bool:
        """Whether the object is this content and young by far. Large ones have no md5, and are uploaded again."""
        if found is None or found.size != len(data):
            return False
        if found.etag != hashlib.md5(data, usedforsecurity=False).hexdigest():
            return False
        return abs(self._clock() - found.at) < YOUNG_SECONDS

    def _outlast_collector(self, digest: str, data: bytes) -> None:
        """Return when no collector deletes what was just written.

        Raises:
            Unavailable: One is at work on it for longer than it should be.
        """
        mark, key = f"{MARKS}/{digest}", self._key(digest)
        until = time.monotonic() + PATIENCE_SECONDS
        while (marked := self.objects.head(mark)) is not None:
            self.objects.put(key, data)
            found = self.objects.head(key)
            if found is not None and found.at - marked.at > STALE_SECONDS:  # both by the server's clock
                self.objects.delete(mark)
            elif time.monotonic() > until:
                raise Unavailable(
                    f"artefact {digest[:12]} is being collected at this moment", where=self.objects.where(key),
                    hint="try again in a minute",
                )  # fmt: skip
            time.sleep(0.1)
        if self.objects.head(key) is None:  # the collector came first
            self.objects.put(key, data)

    # Reading ----------------------------------------------------------------------------------------------------

    def exists(self, digest: str) -> bool:
        """As the port: in the bucket, whatever the cache holds."""
        return self.objects.head(self._key(digest)) is not None

    def path(self, digest: str) -> Path:
        """As the port: the cached file, when its content is right; else it is fetched, and refused when it is not."""
        self._key(digest)
        target = self._cached(digest)
        if self._intact(target, digest):
            return target
        try:
            return self._keep(digest, self.objects.get(self._key(digest)))
        except NotFound:
            raise self._missing(digest) from None

    def verify(self, digest: str) -> None:
        """As the port."""
        state = hashlib.sha256()
        try:
            for piece in self.objects.get(self._key(digest)):
                state.update(piece)
        except NotFound:
            raise self._missing(digest) from None
        if state.hexdigest() != digest:
            raise self._corrupt(digest)

    def copy_of(self, digest: str) -> bytes | None:
        """As the port: what the cache holds."""
        self._key(digest)
        try:
            data = self._cached(digest).read_bytes()
        except OSError:
            return None
        return data if digest_bytes(data) == digest else None

    def _keep(self, digest: str, content: Iterator[bytes]) -> Path:
        """Write content to the cache, whole or not at all, and only when it is what the digest says."""
        target = self._cached(digest)
        if self._intact(target, digest):
            return target
        state, temporary = hashlib.sha256(), None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = new_file(target.parent, WRITING)
            temporary = Path(name)
            with os.fdopen(handle, "wb") as file:
                for piece in content:
                    state.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            if state.hexdigest() != digest:
                raise self._corrupt(digest)
            temporary.chmod(0o444)
            temporary.rename(target)
        except OSError as error:
            raise Unavailable(
                f"an artefact cannot be kept on this machine: {error.strerror}", where=str(self.cache),
                hint="free disk space",
            ) from error  # fmt: skip
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
        return target

    # Housekeeping -----------------------------------------------------------------------------------------------

    def stored(self) -> Iterator[Stored]:
        """As the port."""
        for found in self.objects.list(STORED):
            name = found.key.rpartition("/")[2]
            if is_digest(name):
                yield Stored(name, found.size, found.at)

    def leftovers(self) -> Iterator[Leftover]:
        """As the port: marks of killed collectors, corrupt copies, and half files of the cache."""
        for found in self.objects.list(MARKS):
            if self._clock() - found.at > STALE_SECONDS:
                yield Leftover(self.objects.where(found.key), "collecting", found.size, found.at)
        for found in self.objects.list(ASIDE):
            yield Leftover(self.objects.where(found.key), "corrupt", found.size, found.at)
        for path in self.cache.glob(f"??/{WRITING}*"):
            try:
                state = path.stat()
            except FileNotFoundError:
                continue
            yield Leftover(str(path), "writing", state.st_size, state.st_mtime)

    def discard(self, leftover: Leftover) -> bool:
        """As the port."""
        if leftover.kind == "writing":
            try:
                Path(leftover.where).unlink()
            except FileNotFoundError:
                return False
            except OSError as error:
                raise Unavailable(f"it cannot be deleted: {error.strerror}", where=leftover.where) from error
            return True
        self.objects.delete(leftover.where.removeprefix(self.objects.where()).lstrip("/"))
        return True

    def collect(self, digest: str, before: float) -> int:
        """As the port. Collectors do not meet: each works within a write transaction of the ledger."""
        key, mark = self._key(digest), f"{MARKS}/{digest}"
        found = self.objects.head(key)
        if found is None or found.at >= before:
            return 0
        until = time.monotonic() + STALE_SECONDS / 2
        if not self.objects.create(mark, b""):  # a killed collector's: `put_back` takes it away
            return 0
        failpoint("artifact.marked")
        found = self.objects.head(key)
        goes = found is not None and found.at < before and time.monotonic() < until
        if goes:
            self.objects.delete(key)
        self.objects.delete(mark)  # not when the delete failed: it may be on its way still
        if found is None or not goes:
            return 0
        with contextlib.suppress(OSError):
            self._cached(digest).unlink(missing_ok=True)
        return found.size

    def put_back(self) -> int:
        """As the port: takes the marks of killed collectors away."""
        marks = [left for left in self.leftovers() if left.kind == "collecting"]
        return sum(self.discard(mark) for mark in marks)

    def set_aside(self, digest: str) -> str:
        """As the port."""
        aside = f"{ASIDE}/{digest}"
        self.objects.copy(self._key(digest), aside)
        return aside.rpartition("/")[2] + ".corrupt"

    def _key(self, digest: str) -> str:
        if not is_digest(digest):
            raise InvalidInput(
                f"{digest!r} is no sha256", where=self.objects.where(STORED), hint="give 64 hexadecimal characters"
            )
        return f"{STORED}/{digest[:2]}/{digest}"

    def _cached(self, digest: str) -> Path:
        return self.cache / digest[:2] / digest

    def _intact(self, path: Path, digest: str) -> bool:
        try:
            return digest_file(path) == digest
        except OSError:
            return False

    def _missing(self, digest: str) -> NotFound:
        return NotFound(
            f"artefact {digest[:12]} is not stored", where=self.objects.where(self._key(digest)),
            hint="restore it, or train and release again",
        )  # fmt: skip

    def _corrupt(self, digest: str) -> Corrupt:
        return Corrupt(
            f"artefact {digest[:12]} is corrupt: its content does not match its digest",
            where=self.objects.where(self._key(digest)),
            hint="`plinth fsck --repair` where a copy is known, or train and release again; nothing loads it as it is",
        )
