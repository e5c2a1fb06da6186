"""`plinth gc`: retire releases that nobody will go back to, and delete what no release needs any more.

The order makes a kill at any point harmless: first releases are retired, each in a transaction, so that nothing can
serve them; then artefacts that no other release needs are deleted; what a kill left is found by the next run. A file is
deleted only when nobody stored it for the grace period: a pipeline that makes a release of an artefact which is stored
already renews its time before it registers the release. Index builds that no release needs go last, in the same way.
Model files that were fetched from a server lie in a cache of this machine: a loss there costs a download.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from plinth.core.files import clear
from plinth.core.findings import Progress, silent
from plinth.errors import InvalidInput, RefusedByPolicy, Unavailable
from plinth.ledger.artifacts import is_digest
from plinth.ledger.port import Artifacts, Leftover
from plinth.ledger.retention import KEEP, Bundle, Retention
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger
from plinth.models.rules import DOWNLOADING
from plinth.retrieval.port import VectorStore
from plinth.runtime.index_retention import collect_builds, spare_builds

GRACE_SECONDS = 7 * 86_400
LEAST_GRACE_SECONDS = 3600
"""Longer than a pipeline takes between storing an artefact and registering its release."""

FOREVER_SECONDS = 1e11

BATCH = 100
"""Artefacts that are deleted while every other writer of the ledger waits: milliseconds."""


@dataclass(frozen=True)
class Collection:
    """What a collection did, or would do.

    Attributes:
        applied: Whether it was done; otherwise it is what would be.
        kept: Releases that keep their artefacts, by digest, and why.
        retired: Releases that can serve no more.
        artifacts: Digest to bytes of artefacts that no release needs.
        others: Path to bytes of what killed processes left, of request logs of generations long over, and of fetched
            model files that no release needs.
        builds: Product and id to bytes of index builds that no release needs.
    """

    applied: bool
    kept: dict[str, str]
    retired: tuple[Bundle, ...]
    artifacts: dict[str, int]
    others: dict[str, int]
    builds: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def freed(self) -> int:
        """Bytes."""
        return sum(self.artifacts.values()) + sum(self.others.values()) + sum(self.builds.values())


def collect(
    ledger: Ledger,
    store: Artifacts,
    folders: Mapping[str, Path],
    *,
    actor: str,
    apply: bool = False,
    grace: float = GRACE_SECONDS,
    keep: int = KEEP,
    indexes: Mapping[str, VectorStore] | None = None,
    cache: Path | None = None,
    now: float | None = None,
    on_progress: Progress | None = None,
) -> Collection:
    """Collect garbage. Without `apply` nothing is changed.

    Kept are what serves, what is in a rollout that has not ended, the `keep` releases accepted last and the `keep` that
    served last of every product, and whatever is younger than the grace period. A time in the future counts as young,
    so a clock that went back deletes nothing.

    Args:
        ledger: The ledger.
        store: The artefacts.
        folders: Product to its state folder, which holds `requests/`.
        actor: Who collects, for the audit log.
        apply: Do it.
        grace: Seconds; an hour at least.
        keep: 3 at least.
        indexes: Product to its vector store, of assistants.
        cache: The folder of model files that were fetched from a server, one folder a digest.
        now: Seconds since 1970; default this moment.
        on_progress: Told of batches of artefacts.

    Raises:
        InvalidInput: `keep` or `grace` is too small.
        Corrupt: A manifest cannot be read, so nobody knows what it needs.
        Unavailable: The ledger or a folder cannot be used.
    """
    if grace < LEAST_GRACE_SECONDS:
        raise InvalidInput(
            f"a grace period of {grace:g} s could delete what a running pipeline is about to release",
            hint="give 1h or more",
        )
    before = max(0.0, (time.time() if now is None else now) - min(grace, FOREVER_SECONDS))
    since = datetime.fromtimestamp(before, UTC).isoformat(timespec="microseconds")
    retention = Retention(ledger, keep=keep, since=since)
    due = retention.due()
    if apply:
        store.put_back()
        due = [bundle for bundle in due if _retired(retention, bundle, actor)]
    kept = retention.kept()
    needed = {digest for one in kept.values() for digest in one.bundle.artifacts.values()}
    spare = {one.digest: one.size for one in store.stored() if one.digest not in needed and one.at < before}
    if apply:
        spare = _collected(retention, store, sorted(spare), before, actor, on_progress or silent)
    left = list(_leftovers(store, before))
    spent = _cached_models(cache, needed, before) if cache is not None else {}
    for product, folder in folders.items():
        spent |= _request_logs(ledger, product, folder, before)
    others = {one.where: one.size for one in left} | {str(path): size for path, size in spent.items()}
    builds = _index_builds(retention, indexes or {}, folders, before, actor if apply else "")
    if apply and others:
        names = ["/".join(where.split("/")[-3:]) for where in others]
        ledger.append_audit(actor, "files.collect", "files", {"files": names[:BATCH], "count": len(names)})
        for one in left:
            store.discard(one)
        for path in spent:
            _delete(path)
    return Collection(
        apply, {digest: one.why for digest, one in kept.items()},
        tuple(bundle for bundle in due if bundle.status in {"accepted", "drill"}), spare,
        others, builds,
    )  # fmt: skip


def _retired(retention: Retention, bundle: Bundle, actor: str) -> bool:
    try:
        return retention.retire(bundle.digest, actor)
    except RefusedByPolicy:  # somebody rolled it back into service at this moment
        return False


def _collected(
    retention: Retention, store: Artifacts, digests: list[str], before: float, actor: str, tell: Progress
) -> dict[str, int]:
    freed: dict[str, int] = {}
    for start in range(0, len(digests), BATCH):
        tell("artefacts", start, len(digests))
        freed |= retention.collect(store, digests[start : start + BATCH], before, actor)
    return freed


def _index_builds(
    retention: Retention, indexes: Mapping[str, VectorStore], folders: Mapping[str, Path], before: float, actor: str
) -> dict[tuple[str, str], int]:
    """The spare builds of every product; deleted where there is an actor."""
    found: dict[tuple[str, str], int] = {}
    for product, store in indexes.items():
        spare = spare_builds(retention, store, product, folders[product], before)
        gone = collect_builds(retention, store, product, folders[product], spare, actor) if actor and spare else spare
        found |= {(product, build): spare[build] for build in gone}
    return found


def _leftovers(store: Artifacts, before: float) -> Iterator[Leftover]:
    """Half-written files, and copies that were put aside as corrupt. What a collector moved aside is put back."""
    return (left for left in store.leftovers() if left.kind != "collecting" and left.size and left.at < before)


def _cached_models(cache: Path, needed: Container[str], before: float) -> dict[Path, int]:
    """What was fetched for no release that is kept, and what killed downloads left. An open file stays its reader's."""
    found = {}
    for path in cache.glob("*"):
        ours = is_digest(path.name) or path.name.startswith(DOWNLOADING)
        if not ours or path.name in needed or path.is_symlink() or not path.is_dir():
            continue
        try:
            files = [file.stat() for file in path.rglob("*")]
            last = max(state.st_mtime for state in (path.stat(), *files))
        except OSError:  # somebody is at work there, or it is somebody else's
            continue
        if last < before:
            found[path] = sum(file.st_size for file in files)
    return found


def _request_logs(ledger: Ledger, product: str, folder: Path, before: float) -> dict[Path, int]:
    """The request logs of generations that are over: their rollout has ended, and its verdicts are in the ledger."""
    serving = ledger.current(product)
    if serving is None:
        return {}
    running = {rollout.generation for rollout in Rollouts(ledger).unfinished() if rollout.product == product}
    found = {}
    for path in folder.glob("requests/generation=*"):
        number = path.name.partition("=")[2]
        if not number.isdecimal() or int(number) >= serving.generation or int(number) in running:
            continue
        if not path.is_dir():  # a drill's, which keeps this generation from being logged
            continue
        try:
            files = [file.stat() for file in path.iterdir()]
        except FileNotFoundError:  # somebody is at work there
            continue
        if all(file.st_mtime < before for file in files):
            found[path] = sum(file.st_size for file in files)
    return found


def _delete(path: Path) -> None:
    try:
        clear(path)
        path.rmdir()
    except OSError as error:
        raise Unavailable(
            f"it cannot be deleted: {error.strerror}", where=str(path), hint="see to its permissions"
        ) from error
