"""Deleting a tenant: its documents leave every index build, its answers the log, its keys the door; then it is proven.

Killed in the middle, the same command goes on: every step does nothing where it was done. What is looked for at the end
are windows of the tenant's texts, kept as hashes from the beginning on (`canaries`).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plinth.assistants import tenants
from plinth.assistants.builds import alone
from plinth.assistants.canaries import Canaries
from plinth.assistants.pyarrow import drop_rows, without_tenant
from plinth.assistants.records import (
    BUILD,
    CHUNKS,
    DOCUMENTS,
    BuildRecord,
    build_folder,
    described,
    forget,
    read_build,
    unfinished,
    write_file,
    write_json,
)
from plinth.assistants.tombstones import bury, deleted_tenants
from plinth.core import log_files
from plinth.core.corpus import PROBE_TENANT, SHARED_TENANT
from plinth.errors import InvalidInput, NotFound, PlinthError, RefusedByPolicy
from plinth.ledger.store import Ledger
from plinth.retrieval.port import VectorStore

log = logging.getLogger(__name__)

EVENT = "tenant-deletion-proven"
PATIENCE_SECONDS = 60.0
"""For whoever merges or archives the answer log at this moment."""


@dataclass(frozen=True)
class Removed:
    """What a deletion did and proved.

    Attributes:
        tenant: Whose it was.
        builds: Build to chunks that were taken out of it now.
        answers: Rows of the answer log that were taken out now.
        files: Files that were searched.
        size: Their bytes.
        windows: Windows of the tenant's texts that were searched for.
        findings: Files that hold one: none, or the deletion is not complete.
    """

    tenant: str
    builds: dict[str, int]
    answers: int
    files: int
    size: int
    windows: int
    findings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Stable JSON."""
        return asdict(self)


def remove_tenant(
    ledger: Ledger,
    store: VectorStore,
    product: str,
    state: Path,
    tenant: str,
    *,
    replace: Callable[[], None],
    flush: Callable[[], None] = lambda: None,
    archived: Callable[[], int] = lambda: 0,
    caches: Sequence[Path] = (),
    actor: str,
) -> Removed:
    """Delete everything of a tenant, and prove it.

    Args:
        ledger: Remembers that the tenant is deleted: no later build takes its documents.
        store: The product's index builds.
        product: The product's name.
        state: Its state folder.
        tenant: Whose documents go.
        replace: Makes and promotes a release without the tenant, where the serving one has it. Called at most once.
        flush: Makes a running service write the answers that it holds in memory: they are taken out with the others.
        archived: Takes the tenant's rows out of answers that are kept elsewhere; returns how many.
        caches: Folders outside the state folder that may hold its texts: files that do are deleted.
        actor: Who deletes.

    Raises:
        InvalidInput: The tenant is everybody's, or the probes'.
        NotFound: There is no such tenant: no key, no chunk, no tombstone.
        RefusedByPolicy: A release with the tenant serves still, or a window of its texts was found afterwards.
        Conflict: An index build is being made.
        Unavailable: A service runs and does not write its answers.
    """
    if tenant in (SHARED_TENANT, PROBE_TENANT):
        raise InvalidInput(f"{tenant!r} is no tenant that can be deleted", where=product)
    has_key = any(known.name == tenant for known in tenants.tenants(state))
    held = [record for record in described(state) if _holds(record, tenant)]
    if not has_key and not held and tenant not in deleted_tenants(ledger, product):
        raise NotFound(f"no tenant {tenant!r}", where=product, hint=f"`plinth tenant list {product}` names them")
    remembered = state / "removals" / f"{tenant}.json"
    canaries = _collect(store, state, tenant, remembered)
    bury(ledger, product, tenant, actor)
    if has_key:
        tenants.remove(state, tenant)
    if _serves(ledger, state, product, tenant):
        replace()
        if _serves(ledger, state, product, tenant):
            raise RefusedByPolicy(
                f"a release with documents of {tenant} serves still", where=product,
                hint="see why the one without was not promoted, then run the same command again",
            )  # fmt: skip
    with alone(state):
        builds = _scrub_builds(store, state, tenant)
        shutil.rmtree(state / "cache" / "vectors", ignore_errors=True)
    flush()
    with log_files.alone_with(state / "answers", wait=PATIENCE_SECONDS):  # who merges holds rows of what he replaces
        answers = max(archived(), _scrub_answers(state, tenant))
    _scrub_caches(canaries, (state / "runs", *caches))
    found = canaries.search([path for path in (state, *caches) if path.is_dir()])
    removed = Removed(tenant, builds, answers, found.files, found.size, len(canaries.sure), found.findings)
    ledger.record_event(product, EVENT, {**removed.as_dict(), "findings": len(found.findings)})
    if found.findings:
        raise RefusedByPolicy(
            f"texts of {tenant} stand in {len(found.findings)} files still: {', '.join(found.findings[:3])}",
            where=product, hint="delete these files, then run the same command again",
        )  # fmt: skip
    remembered.unlink(missing_ok=True)
    return removed


def _holds(record: BuildRecord, tenant: str) -> bool:
    return tenant in record.expected


def _collect(store: VectorStore, state: Path, tenant: str, remembered: Path) -> Canaries:
    """Windows of the tenant's texts in every build, less those that stand in texts that stay; hashes only.

    What a killed try collected is kept: its texts may be gone by now.
    """
    known = Canaries()
    if remembered.is_file():
        known = Canaries.from_dict(json.loads(remembered.read_bytes()))
    fresh = Canaries()
    builds = [build for build, complete in store.builds().items() if complete]
    for build in builds:
        for chunk in _chunks(store, build, tenant):
            fresh.add(chunk)
    if fresh.sure:
        for build in builds:
            for tenants_ in _others(store, build, tenant):
                fresh.spare(tenants_)
    known.quick |= fresh.quick
    known.sure |= fresh.sure
    write_json(remembered, known.as_dict(), mode=0o600)
    return known


def _chunks(store: VectorStore, build: str, tenant: str) -> list[str]:
    index = store.open(build)
    try:
        return [point.chunk.text for point in index.points(tenant)]
    finally:
        index.close()


def _others(store: VectorStore, build: str, tenant: str) -> list[str]:
    """Texts of everybody else, joined by the hundred: looked through at once."""
    index = store.open(build)
    try:
        texts = [point.chunk.indexed_text for point in index.points() if point.chunk.tenant != tenant]
    finally:
        index.close()
    return ["\n".join(texts[start : start + 100]) for start in range(0, len(texts), 100)]


def _serves(ledger: Ledger, state: Path, product: str, tenant: str) -> bool:
    """Whether the serving release's index holds the tenant's chunks still."""
    serving = ledger.current(product)
    pinned = ledger.release(serving.digest).manifest.assistant if serving else None
    if pinned is None or not pinned.index.chunks.get(tenant):
        return False
    try:
        return _holds(read_build(build_folder(state, pinned.index.build)), tenant)
    except PlinthError:
        return True


def _scrub_builds(store: VectorStore, state: Path, tenant: str) -> dict[str, int]:
    """Take the tenant out of every build, of the store and of what stands beside it; unfinished ones are dropped."""
    gone: dict[str, int] = {}
    for build, complete in store.builds().items():
        if complete:
            count = store.remove_tenant(build, tenant)
            if count:
                gone[build] = count
        else:
            store.drop(build)
    for build in unfinished(state):
        forget(state, build)
    for record in described(state):
        _scrub_record(state, record, tenant)
    return gone


def _scrub_record(state: Path, record: BuildRecord, tenant: str) -> None:
    folder = build_folder(state, record.index.build)
    sources = {name for name, held in record.sources.items() if held.tenant == tenant}
    if tenant not in record.index.chunks and not sources:
        return
    without_tenant(folder / CHUNKS, tenant)
    remembered = folder / DOCUMENTS
    if remembered.is_file():
        value = json.loads(remembered.read_bytes())
        value["documents"] = {
            id: entry for id, entry in value["documents"].items() if id.partition("/")[0] not in sources
        }
        write_json(remembered, value)
    record = record.model_copy(
        update={
            "without": tuple(sorted({*record.without, tenant})),
            "refused": tuple(refused for refused in record.refused if refused.source not in sources),
            "sources": {name: held for name, held in record.sources.items() if name not in sources},
        }
    )
    write_file(folder / BUILD, record.model_dump_json(indent=1).encode())


def _scrub_answers(state: Path, tenant: str) -> int:
    """Take the tenant's rows out of the answer log, and out of what a killed merge left of it. Returns how many."""
    folder = state / "answers"
    for path in folder.rglob(".hour-*.writing"):
        path.unlink(missing_ok=True)
    files = [path for path in sorted(folder.rglob("*.parquet")) if path.is_file()]
    rows = {path: drop_rows(path, "tenant", tenant) for path in files}
    return sum(rows[path] for path in log_files.current(files))


def _scrub_caches(canaries: Canaries, folders: Sequence[Path]) -> None:
    """Delete cached files and logs of runs that hold a window of the tenant's texts: they can be made again."""
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if path.is_file() and not path.is_symlink() and canaries.in_file(path):
                log.info("deleted, because it held texts of a deleted tenant: %s", path)
                path.unlink(missing_ok=True)
