"""Artefacts in a folder: a file is stored under its sha256 and checked against it whenever it is handed out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from plinth.core.digests import digest_bytes, digest_file
from plinth.core.failpoints import failpoint
from plinth.errors import Corrupt, InvalidInput, NotFound, Unavailable
from plinth.ledger.port import Leftover, Stored

HEX = frozenset("0123456789abcdef")
WRITING, COLLECTING, CORRUPT = ".writing-", ".collecting-", ".corrupt"


def is_digest(name: str) -> bool:
    """Whether a name is a sha256 in small hexadecimal characters, and so no path."""
    return len(name) == 64 and set(name) <= HEX


class ArtifactStore:
    """A content-addressed folder: `<root>/<first two characters>/<sha256>`.

    Args:
        root: The folder; made when first written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def put_file(self, path: Path) -> str:
        """Store a file's content; the same content is stored once. Returns the sha256.

        Raises:
            Unavailable: The disk is full or the folder cannot be written; nothing half-written stays.
        """
        return self.put_bytes(path.read_bytes())

    def put_bytes(self, data: bytes) -> str:
        """Store bytes; as `put_file`. What is stored already gets this moment as its time: somebody means to use it."""
        digest = digest_bytes(data)
        target = self._target(digest)
        if self._renewed(target, digest):
            return digest
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=WRITING)
        except OSError as error:
            raise self._unwritable(error) from error
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o444)
            failpoint("artifact.before-rename")
            temporary.rename(target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise self._unwritable(error) from error
        return digest

    def exists(self, digest: str) -> bool:
        """Whether an artefact of that digest is stored (its content is not checked)."""
        return self._target(digest).is_file()

    def path(self, digest: str) -> Path:
        """The file of that digest, its content checked now.

        Raises:
            NotFound: It is not stored.
            Corrupt: Its content is not what its digest says.
        """
        target = self._target(digest)
        if not target.is_file():
            raise NotFound(
                f"artefact {digest[:12]} is not stored",
                where=str(self.root),
                hint="restore it, or train and release again",
            )
        if digest_file(target) != digest:
            raise Corrupt(
                f"artefact {digest[:12]} is corrupt: its content does not match its digest",
                where=str(target),
                hint="delete the file and restore it, or train and release again; nothing loads it as it is",
            )
        return target

    def verify(self, digest: str) -> None:
        """As the port: the file is the one that `path` hands out."""
        self.path(digest)

    def copy_of(self, digest: str) -> bytes | None:
        """None: a folder holds each file once."""
        return None

    # Housekeeping -----------------------------------------------------------------------------------------------

    def stored(self) -> Iterator[Stored]:
        """Every artefact, in no order. Its content is not checked."""
        for path in self.root.glob("??/*"):
            if is_digest(path.name) and (found := _stat(path)):
                yield Stored(path.name, found.st_size, found.st_mtime)

    def leftovers(self) -> Iterator[Leftover]:
        """What a killed writer or collector left behind, and what was put aside as corrupt."""
        for path in self.root.glob("??/*"):
            kind = _kind(path.name)
            if kind and (found := _stat(path)):
                yield Leftover(str(path), kind, found.st_size, found.st_mtime)

    def discard(self, leftover: Leftover) -> bool:
        """Delete a leftover. Returns whether it was there.

        Raises:
            Unavailable: The folder cannot be written.
        """
        try:
            Path(leftover.where).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unwritable(error) from error
        return True

    def collect(self, digest: str, before: float) -> int:
        """Delete an artefact that nothing refers to, unless it was stored again since `before`.

        It is moved aside first, and its time looked at after: whoever stores it again meanwhile has either renewed the
        time that is looked at, or no longer finds it and writes it anew.

        Args:
            digest: Which.
            before: Seconds since 1970; a younger file stays, and so does one from the future.

        Returns:
            Bytes that were freed; 0 when it stays, or is not stored.

        Raises:
            Unavailable: The folder cannot be written.
        """
        target = self._target(digest)
        aside = target.with_name(f"{COLLECTING}{digest}")
        try:
            if target.stat().st_mtime >= before:
                return 0
            target.rename(aside)
            found = aside.stat()
            if found.st_mtime >= before:
                aside.rename(target)
                return 0
            aside.unlink()
        except FileNotFoundError:  # somebody else collects, or puts back what we moved aside
            return 0
        except OSError as error:
            raise self._unwritable(error) from error
        return found.st_size

    def put_back(self) -> int:
        """Put back what a killed collector had moved aside: whether to delete it is decided anew. Returns how many."""
        count = 0
        for path in self.root.glob(f"??/{COLLECTING}*"):
            try:
                path.rename(self._target(path.name.removeprefix(COLLECTING)))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._unwritable(error) from error
            count += 1
        return count

    def set_aside(self, digest: str) -> str:
        """As the port.

        Raises:
            Unavailable: The folder cannot be written.
        """
        target = self._target(digest)
        aside = target.with_name(f"{digest}{CORRUPT}")
        try:
            aside.unlink(missing_ok=True)
            os.link(target, aside)
        except OSError as error:
            raise self._unwritable(error) from error
        return aside.name

    def _renewed(self, target: Path, digest: str) -> bool:
        """Whether it is stored and intact, with a new time."""
        try:
            if digest_file(target) != digest:
                return False
            os.utime(target)
        except OSError:  # not there, collected at this moment, or not ours: write it
            return False
        return True

    def _target(self, digest: str) -> Path:
        if not is_digest(digest):
            raise InvalidInput(f"{digest!r} is no sha256", where=str(self.root), hint="give 64 hexadecimal characters")
        return self.root / digest[:2] / digest

    def _unwritable(self, error: OSError) -> Unavailable:
        return Unavailable(
            f"the artefact store cannot be written: {error.strerror}", where=str(self.root), hint="free disk space"
        )


def _kind(name: str) -> Literal["writing", "collecting", "corrupt", ""]:
    if name.startswith(WRITING):
        return "writing"
    if name.startswith(COLLECTING):
        return "collecting"
    return "corrupt" if name.endswith(CORRUPT) else ""


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:  # renamed or collected at this moment
        return None
