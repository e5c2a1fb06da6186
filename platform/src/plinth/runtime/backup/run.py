"""Taking a backup, and putting one back.

The stores share no transaction, so a backup has no single moment. Its order makes it whole all the same: the ledger
is dumped first, and everything that it refers to (artefacts, models, vectors) is written before the ledger refers to
it and collected only after a grace period. What the stores know beyond the ledger, the controller makes agree
after a restore.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import plinth
from plinth.core.failpoints import failpoint
from plinth.core.files import held
from plinth.errors import Conflict, Corrupt, InvalidInput, PlinthError, Unavailable
from plinth.ledger.database import HEAD
from plinth.runtime.backup import manifest as manifests
from plinth.runtime.backup.manifest import BackupManifest, BackupPart
from plinth.runtime.backup.port import Part
from plinth.runtime.backup.stack import Stack
from plinth.wiring import Platform

if TYPE_CHECKING:
    from plinth.ledger.obstore import Objects
    from plinth.settings import Settings

Progress = Callable[[str], None]
BUCKETS = ("plinth", "mlflow")


def parts_of(platform: Platform, stack: Stack) -> list[Part]:
    """The parts of the profile that these settings describe, in the order they are dumped.

    Raises:
        InvalidInput: The profile keeps its state in files; a copy of the state folder is its backup.
    """
    from plinth.runtime.backup.folder import StatePart
    from plinth.runtime.backup.objects import ObjectsPart
    from plinth.runtime.backup.postgres import PostgresPart
    from plinth.runtime.backup.qdrant import QdrantPart
    from plinth.runtime.backup.redis import ValkeyPart

    settings = platform.settings
    if not settings.object_store:
        raise InvalidInput(
            "the embedded profile has no servers to back up",
            where=str(settings.state_dir),
            hint="stop it (`plinth down`) and copy that folder; for containers: plinth --profile compose backup",
        )
    parts: list[Part] = [
        PostgresPart(stack.exec),
        ObjectsPart({bucket: _bucket(settings, bucket) for bucket in BUCKETS}),
        ValkeyPart(settings.online_store.get_secret_value()),
    ]
    if settings.vector_store == "qdrant":
        parts.append(QdrantPart(settings.qdrant_url, settings.qdrant_api_key.get_secret_value()))
    return [*parts, StatePart(settings.state_dir)]


def _bucket(settings: Settings, name: str) -> Objects:
    from plinth.ledger.obstore import Objects

    return Objects(f"s3://{name}", settings.object_endpoint, settings.object_key, settings.object_secret)


def back_up(
    platform: Platform, folder: Path, parts: Sequence[Part], *, project: str, on_progress: Progress = lambda _: None
) -> BackupManifest:
    """Write a backup into a new folder. Everything goes on running meanwhile.

    Args:
        platform: Whose state.
        folder: Must not exist, or be empty. Without its manifest, which is written last, it is no backup.
        parts: What is dumped, in this order.
        project: Name of the compose project, for the manifest.
        on_progress: Called with the name of each part before it is dumped.

    Raises:
        InvalidInput: The folder lies in the state folder.
        Conflict: The folder holds something, or another backup or restore is at work.
        Unavailable: A server does not answer, or the disk is full; what was written is removed.
    """
    _check_apart(platform, folder)
    with alone(platform.settings.state_dir):
        return _back_up(platform, folder, parts, project, on_progress)


def _back_up(
    platform: Platform, folder: Path, parts: Sequence[Part], project: str, on_progress: Progress
) -> BackupManifest:
    head = platform.ledger.audit(1)
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise Conflict("the folder is not empty", where=str(folder), hint="give a folder that does not exist yet")
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # it holds everything, secrets of the tools' databases too
    except OSError as error:
        raise Unavailable(f"the folder cannot be used: {error.strerror}", where=str(folder)) from error
    done: list[BackupPart] = []
    try:
        for part in parts:
            on_progress(part.name)
            started = time.monotonic()
            (folder / part.name).mkdir()
            entries = part.dump(folder / part.name)
            files = tuple(manifests.files_of(folder, folder / part.name))
            done.append(
                BackupPart(name=part.name, entries=entries, seconds=round(time.monotonic() - started, 2), files=files)
            )
            failpoint("backup.part")
        made = BackupManifest(
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            plinth=plinth.__version__,
            project=project,
            ledger_revision=HEAD,
            audit_entries=head[-1].seq if head else 0,
            audit_head=head[-1].hash if head else "",
            vector_store=platform.settings.vector_store,
            parts=tuple(done),
        )
        manifests.write(folder, made)
    except (PlinthError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise Unavailable(
                f"the backup cannot be written: {error.strerror}", where=str(folder), hint="free disk space"
            ) from error
        raise
    platform.ledger.append_audit(platform.actor, "backup.made", project, {"bytes": made.size, "made_at": made.made_at})
    return made


def restore(
    platform: Platform, folder: Path, parts: Sequence[Part], stack: Stack, *, on_progress: Progress = lambda _: None
) -> BackupManifest:
    """Put a backup back: what the stack holds now is replaced. Everything is stopped meanwhile, then started.

    Args:
        platform: Whose state.
        folder: A backup.
        parts: What is restored.
        stack: The containers.
        on_progress: Called with what is done next.

    Raises:
        InvalidInput: The folder lies in the state folder, which is emptied; nothing was touched.
        NotFound, Corrupt: It is no whole backup; nothing was touched.
        Conflict: It is of a newer plinth, or of other stores than this stack has, or another backup or restore is at
            work; nothing was touched.
        Unavailable: A server failed; the stack is left stopped but for its stores. Run it again.
    """
    _check_apart(platform, folder)
    with alone(platform.settings.state_dir):
        return _restore(platform, folder, parts, stack, on_progress)


def _restore(
    platform: Platform, folder: Path, parts: Sequence[Part], stack: Stack, on_progress: Progress
) -> BackupManifest:
    on_progress("checking digests")
    found = manifests.check(folder)
    if found.ledger_revision > HEAD:
        raise Conflict(
            f"the backup's ledger has revision {found.ledger_revision}, newer than {HEAD}", where=str(folder),
            hint=f"restore it with plinth {found.plinth} or newer",
        )  # fmt: skip
    names = [part.name for part in parts]
    if missing := set(names) ^ {part.name for part in found.parts}:
        raise Conflict(
            f"the backup and this stack differ in {', '.join(sorted(missing))}", where=str(folder),
            hint=f"it was made with PLINTH_VECTOR_STORE={found.vector_store}",
        )  # fmt: skip
    on_progress("stopping writers")
    stack.stop_writers()
    on_progress("starting stores")
    stack.start_stores()
    for part in parts:
        on_progress(part.name)
        part.restore(folder / part.name)
        failpoint("restore.part")
    _check_chain(platform, found)
    on_progress("starting everything")
    stack.start()
    platform.ledger.append_audit(
        platform.actor, "backup.restored", found.project, {"made_at": found.made_at, "audit_head": found.audit_head}
    )
    return found


@contextlib.contextmanager
def alone(state: Path) -> Iterator[None]:
    """No other backup or restore of a state folder meanwhile: two restores would each put back half of what is left.

    The folder itself is locked: a file in it would be root's or the user's, whoever came first.

    Raises:
        Conflict: Another is at work.
        Unavailable: The state folder cannot be opened.
    """
    try:
        handle = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(
            f"the state folder cannot be opened: {error.strerror}", where=str(state),
            hint="`plinth init compose` makes it; else see to its permissions",
        ) from error  # fmt: skip
    busy = Conflict(
        "another backup or restore of this state folder is at work", where=str(state),
        hint="wait until it has ended, then run this again",
    )  # fmt: skip
    with held(handle, busy):
        yield


def _check_apart(platform: Platform, folder: Path) -> None:
    """A backup is not kept in what it is a backup of: containers write there, a restore and a reset empty it.

    Raises:
        InvalidInput: It is.
    """
    state = platform.settings.state_dir.resolve()
    if folder.resolve().is_relative_to(state):
        raise InvalidInput(
            "the folder lies in the state folder, which `restore` and `plinth reset compose` empty",
            where=str(folder), hint=f"a folder outside of {state}",
        )  # fmt: skip


def _check_chain(platform: Platform, found: BackupManifest) -> None:
    """The restored audit log is whole, and has the entry that the manifest saw."""
    platform.ledger.close()
    broken = platform.ledger.broken_entry()
    known = {entry.seq: entry.hash for entry in platform.ledger.audit()}
    if broken is not None or (found.audit_entries and known.get(found.audit_entries) != found.audit_head):
        raise Corrupt(
            "the restored audit log is not the one of the backup",
            where=f"entry {broken if broken is not None else found.audit_entries}",
            hint="plinth audit verify",
        )
