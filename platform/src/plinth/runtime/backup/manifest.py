"""What a backup holds: the manifest that is written last, and its check against the files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from plinth.core.digests import digest_file
from plinth.core.files import write_whole
from plinth.errors import Corrupt, NotFound

MANIFEST = "manifest.json"


class BackupFile(BaseModel):
    """A file of a backup, by its path below the backup's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    sha256: str
    size: int


class BackupPart(BaseModel):
    """What one server held. `entries` counts its databases, objects, keys, collections or files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    entries: int
    seconds: float
    files: tuple[BackupFile, ...]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files)


class BackupManifest(BaseModel):
    """A whole backup. Only a backup that was ended has one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    made_at: str
    plinth: str
    project: str
    ledger_revision: str
    audit_entries: int
    audit_head: str
    vector_store: str
    parts: tuple[BackupPart, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(part.size for part in self.parts)

    def part(self, name: str) -> BackupPart | None:
        """One part, if the backup has it."""
        return next((part for part in self.parts if part.name == name), None)


def files_of(folder: Path, part: Path) -> Iterator[BackupFile]:
    """The files below a part's folder, with their digests; sorted by path."""
    for path in sorted(path for path in part.rglob("*") if path.is_file()):
        yield BackupFile(path=path.relative_to(folder).as_posix(), sha256=digest_file(path), size=path.stat().st_size)


def write(folder: Path, manifest: BackupManifest) -> None:
    """Write the manifest; the backup is whole from then on."""
    write_whole(folder / MANIFEST, json.dumps(manifest.model_dump(mode="json"), indent=2).encode() + b"\n")


def read(folder: Path) -> BackupManifest:
    """The manifest of a backup.

    Raises:
        NotFound: There is none: no backup, or one that was not ended.
        Corrupt: It cannot be read.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except OSError:
        raise NotFound(
            "there is no whole backup", where=str(folder), hint="give a folder that `plinth backup` has written"
        ) from None
    try:
        found = BackupManifest.model_validate_json(text)
    except ValidationError as error:
        raise Corrupt(f"the backup's manifest cannot be read: {error.errors()[0]['msg']}", where=str(path)) from None
    if found.schema_version != 1:
        raise Corrupt(
            f"the backup has schema {found.schema_version}", where=str(path), hint="restore it with a newer plinth"
        )
    return found


def check(folder: Path) -> BackupManifest:
    """The manifest, every file of it checked against its digest.

    Raises:
        NotFound, Corrupt: As `read`; or a file is missing or is not what the manifest says.
    """
    manifest = read(folder)
    for file in (file for part in manifest.parts for file in part.files):
        path = _inside(folder, file.path)
        if not path.is_file():
            raise Corrupt("a file of the backup is missing", where=str(path), hint="take another backup")
        if path.stat().st_size != file.size or digest_file(path) != file.sha256:
            raise Corrupt("a file of the backup was changed", where=str(path), hint="take another backup")
    return manifest


def _inside(folder: Path, path: str) -> Path:
    found = (folder / path).resolve()
    if not found.is_relative_to(folder.resolve()):
        raise Corrupt(f"the backup names a file outside of itself: {path!r}", where=str(folder / MANIFEST))
    return found


def as_dict(folder: Path, manifest: BackupManifest) -> dict[str, Any]:
    """Stable JSON of a backup: its folder, times, sizes and parts without their files."""
    return {
        "folder": str(folder),
        "made_at": manifest.made_at,
        "plinth": manifest.plinth,
        "project": manifest.project,
        "bytes": manifest.size,
        "audit_entries": manifest.audit_entries,
        "audit_head": manifest.audit_head,
        "parts": [
            {
                "name": part.name,
                "entries": part.entries,
                "bytes": part.size,
                "seconds": part.seconds,
            }
            for part in manifest.parts
        ],
    }
