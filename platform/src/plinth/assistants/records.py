"""What stands beside an index build: `<state>/products/<product>/builds/<build>/`.

    build.json        what the build is made of, written last: without it there is no build
    chunks.parquet    its chunks without their text
    documents.json    what ingestion goes by to leave unchanged files alone
    checks.json       what the last checks found

Anybody may read these without opening the engine.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plinth.core.assistants import IndexRef, SourceSpec
from plinth.core.corpus import SHARED_TENANT
from plinth.core.files import write_whole
from plinth.core.releases import ReleaseManifest
from plinth.errors import Corrupt, InvalidInput, NotFound, Unavailable

BUILD, CHUNKS, DOCUMENTS, CHECKS = "build.json", "chunks.parquet", "documents.json", "checks.json"
_ID = re.compile(r"[0-9a-f]{16}")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceRecord(_Frozen):
    """What a build holds of a source.

    Attributes:
        as_of: When the source was listed: what changed before is in the build (UTC, ISO 8601).
        documents: How many documents.
        chunks: How many chunks.
        refused: How many files were quarantined.
        probe: Token of its probe document; it changes whenever the source's chunks do.
        changed_at: When the oldest change since the build before happened, as far as files tell; "" where none did.
        away: Why it could not be read: its documents are those of the build before. "" when it could.
        tenant: Whose documents these are.
        labels: Who of the tenant may read them; none is everybody.
        given: What was named for this build, where it is not the source of product.yaml: a refresh reads it again.
    """

    as_of: str
    documents: int = Field(ge=0)
    chunks: int = Field(ge=0)
    refused: int = Field(0, ge=0)
    probe: str = ""
    changed_at: str = ""
    away: str = ""
    tenant: str = SHARED_TENANT
    labels: tuple[str, ...] = ()
    given: SourceSpec | None = None


class RefusedRecord(_Frozen):
    """A file that is not in the build, and why."""

    source: str
    path: str
    digest: str
    kind: str
    reason: str


class BuildRecord(_Frozen):
    """The file `build.json`.

    Attributes:
        index: What a release pins.
        made_at: When it was complete (UTC, ISO 8601).
        run: The pipeline run that made it.
        avg_len: What the sparse vectors were made with.
        sources: What it holds of each source.
        refused: Files that were quarantined.
        embedded: Chunks whose vectors were computed for it; those of the others were known.
        without: Tenants that were deleted from it after it was made.
    """

    schema_version: int = 1
    index: IndexRef
    made_at: str
    run: str = ""
    avg_len: float = Field(gt=0)
    sources: dict[str, SourceRecord]
    refused: tuple[RefusedRecord, ...] = ()
    embedded: int = Field(0, ge=0)
    without: tuple[str, ...] = ()

    @property
    def expected(self) -> dict[str, tuple[int, str]]:
        """Tenant to chunks and checksum that it has to have now: of tenants that were deleted, none."""
        index = self.index
        return {
            tenant: (count, index.checksum[tenant])
            for tenant, count in index.chunks.items()
            if tenant not in self.without
        }


def builds_folder(state: Path) -> Path:
    """Where a product's builds are described; `state` is the product's state folder."""
    return state / "builds"


def build_folder(state: Path, build: str) -> Path:
    """Where one build is described.

    Raises:
        InvalidInput: That is no build's id.
    """
    if not _ID.fullmatch(build):
        raise InvalidInput(
            f"{build!r} is no index build", hint="16 hexadecimal characters; `plinth index list PRODUCT` names them"
        )
    return builds_folder(state) / build


def read_build(folder: Path) -> BuildRecord:
    """What a build is made of.

    Raises:
        NotFound: There is none, or it was never finished.
        Corrupt: Its description cannot be read.
    """
    try:
        return BuildRecord.model_validate_json((folder / BUILD).read_bytes())
    except FileNotFoundError:
        raise NotFound(
            f"no index build {folder.name}", where=str(folder.parent), hint="`plinth index list PRODUCT` names them"
        ) from None
    except (OSError, ValidationError) as error:
        raise Corrupt(
            f"the description of index build {folder.name} cannot be read", where=str(folder / BUILD),
            hint="`plinth index build PRODUCT` makes it again; `plinth fsck` looks at the others",
        ) from error  # fmt: skip


def described(state: Path) -> list[BuildRecord]:
    """The product's finished builds, newest first; those that cannot be read are left out.

    `unfinished` names what was begun and not finished, `read_build` says what is wrong with one.
    """
    found = []
    for folder in _folders(state):
        try:
            found.append(read_build(folder))
        except (NotFound, Corrupt):
            continue
    return sorted(found, key=lambda record: record.made_at, reverse=True)


def unfinished(state: Path) -> list[str]:
    """Ids of builds that were begun and have no readable `build.json`."""
    finished = {record.index.build for record in described(state)}
    return sorted(folder.name for folder in _folders(state) if folder.name not in finished)


def _folders(state: Path) -> list[Path]:
    folder = builds_folder(state)
    return [path for path in folder.iterdir() if _ID.fullmatch(path.name)] if folder.is_dir() else []


def kept(manifests: Iterable[ReleaseManifest]) -> dict[str, IndexRef]:
    """The index builds that releases pin, by id: those have to be there, complete, with the pinned counts."""
    return {
        manifest.assistant.index.build: manifest.assistant.index
        for manifest in manifests
        if manifest.assistant is not None
    }


def read_checks(state: Path, build: str) -> list[dict[str, Any]] | None:
    """What the last checks of a build found: `{"check", "passed", "reason"}` each; None where it was never checked."""
    try:
        return list(json.loads((build_folder(state, build) / CHECKS).read_bytes())["checks"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget(state: Path, build: str) -> None:
    """Remove a build's description: its `build.json` first, so that a half-removed build is none."""
    folder = build_folder(state, build)
    (folder / BUILD).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def write_file(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a file whole or not at all, durably. Of the mode, the umask takes its part.

    Raises:
        Unavailable: The disk is full or the folder cannot be written; nothing half-written stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data, mode=mode)
    except OSError as error:
        raise Unavailable(
            f"{path.name} cannot be written: {error.strerror or error}", where=str(path.parent), hint="free disk space"
        ) from error


def write_json(path: Path, value: object, *, mode: int = 0o666) -> None:
    """As `write_file`, as JSON with sorted keys."""
    write_file(path, json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False).encode(), mode=mode)
