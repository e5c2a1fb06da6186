"""Which releases keep their artefacts, and retiring those that do not.

A release is retired before its artefacts go, in a transaction that refuses while it serves or is rolled out, and what
makes a release serve refuses a retired one: whichever comes first, nothing ever serves without its artefacts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from plinth.errors import Corrupt, InvalidInput, RefusedByPolicy
from plinth.ledger import schema
from plinth.ledger.port import Artifacts
from plinth.ledger.store import Ledger, Status

Role = Literal["serving", "candidate", "accepted", ""]

KEEP = 3
"""Releases that a product keeps at least, of those accepted last and of those that served last."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A release's files: name in the bundle to sha256.

    `role` says why they have to be there: the release serves, is one of a rollout that has not ended, or may be
    promoted at any time. `recorded_at` is when it was registered last.
    """

    digest: str
    product: str
    status: Status
    role: Role
    recorded_at: str
    artifacts: Mapping[str, str]
    model: tuple[str, str, str] | None = None
    """Name, version and run of its model in the registry; None of an assistant's."""
    index: str = ""
    """An assistant's index build; "" of a model's."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Why a release keeps its artefacts."""

    bundle: Bundle
    why: str


def bundles(ledger: Ledger) -> list[Bundle]:
    """Every release's files.

    Raises:
        Corrupt: A manifest cannot be read.
    """
    with ledger.read() as connection:
        return _bundles(connection)


def _bundles(connection: sa.Connection) -> list[Bundle]:
    rollout, audit = schema.rollout, schema.audit
    serving = set(connection.execute(sa.select(schema.serving.c.digest)).scalars())
    rolled: set[str] = set()
    for row in connection.execute(sa.select(rollout).where(rollout.c.ended_at.is_(None))):
        rolled |= {row.candidate, row.serving}
    again = connection.execute(
        sa.select(audit.c.subject, sa.func.max(audit.c.at))
        .where(audit.c.action == "release.register")
        .group_by(audit.c.subject)
    )
    recorded: dict[str, str] = {row[0]: row[1] for row in again}
    found = []
    for row in connection.execute(sa.select(schema.release).order_by(schema.release.c.created_at.desc())):
        role: Role = "accepted" if row.status == "accepted" else ""
        role = "serving" if row.digest in serving else "candidate" if row.digest in rolled else role
        try:
            manifest = json.loads(row.manifest)
            found.append(
                Bundle(
                    row.digest, row.product, row.status, role,
                    max(row.created_at, recorded.get(row.digest, "")), dict(manifest["artifacts"]),
                    *_pinned(manifest),
                )
            )  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(
                f"the manifest of release {row.digest[:12]} cannot be read", where="ledger", hint="plinth fsck"
            ) from error
    return found


def _pinned(manifest: Mapping[str, Any]) -> tuple[tuple[str, str, str] | None, str]:
    if "assistant" in manifest:
        return None, str(manifest["assistant"]["index"]["build"])
    model = manifest["model"]
    return (str(model["name"]), str(model["version"]), str(model["run_id"])), ""


class Retention:
    """The rule of what is kept, and its consequences.

    Args:
        ledger: The ledger.
        keep: Releases a product keeps at least, of those accepted last and of those that served last.
        since: Releases registered after this are kept (UTC, ISO 8601 with microseconds).

    Raises:
        InvalidInput: `keep` is below 3.
    """

    def __init__(self, ledger: Ledger, *, keep: int = KEEP, since: str) -> None:
        if keep < KEEP:
            raise InvalidInput(f"{keep} releases are too few to roll back to", hint=f"keep {KEEP} or more")
        self._ledger = ledger
        self._keep = keep
        self._since = since

    def kept(self) -> dict[str, Kept]:
        """The releases that keep their artefacts, by digest."""
        with self._ledger.read() as connection:
            return self._kept(connection)

    def due(self) -> list[Bundle]:
        """Releases whose artefacts may go: to be retired first, but those that gates rejected."""
        with self._ledger.read() as connection:
            kept = self._kept(connection)
            return [b for b in _bundles(connection) if b.digest not in kept and b.status != "retired"]

    def retire(self, digest: str, actor: str) -> bool:
        """Let no one promote the release any more, so that its artefacts can go. Returns False when it was so already.

        Raises:
            RefusedByPolicy: It is kept: it serves, is rolled out, or is one of the last.
        """
        table = schema.release
        with self._ledger.write() as connection:
            kept = self._kept(connection).get(digest)
            if kept is not None:
                raise RefusedByPolicy(f"release {digest[:12]} is kept: {kept.why}", where=kept.bundle.product)
            row = connection.execute(sa.select(table).where(table.c.digest == digest)).one()
            if row.status not in {"accepted", "drill"}:
                return False
            connection.execute(table.update().where(table.c.digest == digest).values(status="retired"))
            self._ledger.seal(
                connection, actor, "release.retire", digest, {"product": row.product, "status": row.status}
            )
        return True

    def collect(self, store: Artifacts, digests: Iterable[str], before: float, actor: str) -> dict[str, int]:
        """Delete artefacts that no release needs, unless one was registered with them meanwhile.

        No release can be registered while this looks and deletes: both are write transactions of the ledger. What
        somebody stores again and has not registered yet stays by its age.

        Args:
            store: The artefacts.
            digests: Which.
            before: Seconds since 1970; younger files stay.
            actor: Who collects.

        Returns:
            Digest to bytes, of what was deleted.
        """
        wanted = sorted(digests)
        if not wanted:
            return {}
        self._ledger.append_audit(actor, "artifact.collect", "artifacts", {"digests": wanted})
        with self._ledger.write() as connection:
            kept = self._kept(connection)
            needed = {
                digest
                for bundle in _bundles(connection)
                if bundle.digest in kept or bundle.status in {"accepted", "drill"}
                for digest in bundle.artifacts.values()
            }
            freed = {digest: store.collect(digest, before) for digest in wanted if digest not in needed}
        return {digest: size for digest, size in freed.items() if size}

    def builds(self, product: str) -> set[str]:
        """The index builds of a product's releases that are kept."""
        return {one.bundle.index for one in self.kept().values() if one.bundle.product == product and one.bundle.index}

    def collect_build(self, product: str, build: str, drop: Callable[[str], None], actor: str) -> bool:
        """Drop an index build unless a release needs it. No release can be registered meanwhile, as in `collect`.

        Args:
            product: Whose.
            build: Its id.
            drop: Deletes it; what it was killed in must be found again by the next collection.
            actor: Who collects.
        """
        with self._ledger.write() as connection:
            kept = self._kept(connection)
            needed = {
                bundle.index
                for bundle in _bundles(connection)
                if bundle.product == product and (bundle.digest in kept or bundle.status in {"accepted", "drill"})
            }
            if build in needed:
                return False
            self._ledger.seal(connection, actor, "index.collect", product, {"build": build})
            drop(build)
        return True

    def _kept(self, connection: sa.Connection) -> dict[str, Kept]:
        found = _bundles(connection)
        promotion = schema.promotion
        served: dict[str, list[str]] = {}
        for row in connection.execute(sa.select(promotion).order_by(promotion.c.generation.desc())):
            last = served.setdefault(row.product, [])
            if row.digest not in last:
                last.append(row.digest)
        accepted: dict[str, int] = {}
        kept: dict[str, Kept] = {}
        for bundle in found:  # newest first
            rank = 0
            if bundle.status == "accepted":
                rank = accepted[bundle.product] = accepted.get(bundle.product, 0) + 1
            why = ""
            if bundle.role == "serving":
                why = "it serves"
            elif bundle.role == "candidate":
                why = "a rollout that has not ended needs it"
            elif bundle.recorded_at >= self._since:
                why = "it is younger than the grace period"
            elif 1 <= rank <= self._keep:
                why = f"it is one of the {self._keep} accepted last"
            elif bundle.status == "accepted" and bundle.digest in served.get(bundle.product, [])[: self._keep]:
                why = f"it is one of the {self._keep} that served last"
            if why:
                kept[bundle.digest] = Kept(bundle, why)
        return kept
