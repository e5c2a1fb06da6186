"""Artefacts by content: a file is stored under its sha256 and checked against it whenever it is handed out."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from plinth.core.digests import digest_bytes, digest_file
from plinth.errors import Corrupt, InvalidInput, NotFound, Unavailable


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
        """Store bytes; as `put_file`."""
        digest = digest_bytes(data)
        target = self._target(digest)
        if target.exists() and digest_file(target) == digest:
            return digest
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=".writing-")
        except OSError as error:
            raise self._unwritable(error) from error
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o444)
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

    def _target(self, digest: str) -> Path:
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise InvalidInput(f"{digest!r} is no sha256", where=str(self.root), hint="give 64 hexadecimal characters")
        return self.root / digest[:2] / digest

    def _unwritable(self, error: OSError) -> Unavailable:
        return Unavailable(
            f"the artefact store cannot be written: {error.strerror}", where=str(self.root), hint="free disk space"
        )
