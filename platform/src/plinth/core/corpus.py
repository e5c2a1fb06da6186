"""Documents, chunks, and who may read them. Plain data, no tool."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from plinth.core.digests import digest_json

SHARED_TENANT = "public"
"""The tenant whose chunks everybody reads, and whom a request without a key belongs to."""

PROBE_TENANT = "plinth-probe"
"""The tenant of the probe documents that freshness is measured with; no person's key belongs to it."""

EVERYBODY = "*"
"""The label that a store keeps for a chunk without labels: whoever is of the tenant reads it."""

_NAMESPACE = uuid.UUID("5f3a3f0e-5c0e-4d7e-9a8e-6b1f6f1c2d11")


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, list, table or code block of a document, below its headings (outermost first)."""

    text: str
    headings: tuple[str, ...] = ()
    kind: str = "text"


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed document.

    Attributes:
        source: Name of the source it comes from.
        path: Where it is in the source: a relative path with slashes, or a URL.
        title: Its title.
        blocks: Its content in reading order.
        digest: sha256 of the bytes it was parsed from: its version.
        modified: When it was changed last, seconds since 1970-01-01 UTC.
        tenant: Whose it is.
        labels: Who of the tenant may read it; empty is everybody.
    """

    source: str
    path: str
    title: str
    blocks: tuple[Block, ...]
    digest: str
    modified: float
    tenant: str = SHARED_TENANT
    labels: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Its name over all sources of a tenant."""
        return f"{self.source}/{self.path}"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document that is embedded and found as one.

    Attributes:
        document: The document's id.
        version: The document's digest.
        source: Name of the source.
        title: The document's title.
        headings: Of the place it stands at, outermost first.
        text: What is quoted.
        position: Its number in the document, from 0.
        tenant: Whose it is.
        labels: Who of the tenant may read it; empty is everybody.
        modified: When the document was changed last, seconds since 1970-01-01 UTC.
    """

    document: str
    version: str
    source: str
    title: str
    headings: tuple[str, ...]
    text: str
    position: int
    tenant: str = SHARED_TENANT
    labels: tuple[str, ...] = ()
    modified: float = 0.0

    @property
    def indexed_text(self) -> str:
        """What is embedded and indexed: the title and headings say what the text is about."""
        context = list(dict.fromkeys(part for part in (self.title, *self.headings) if part))
        return "\n".join([" > ".join(context), self.text] if context else [self.text])

    @property
    def content_digest(self) -> str:
        """sha256 of what is embedded: an equal digest is not embedded again."""
        return digest_json(self.indexed_text)

    @property
    def id(self) -> str:
        """A UUID: the same for the same content at the same place of the same tenant."""
        return str(uuid.uuid5(_NAMESPACE, digest_json([self.tenant, self.document, self.position, self.indexed_text])))

    def payload(self) -> dict[str, Any]:
        """What a store keeps beside the vectors."""
        return {
            "document": self.document,
            "version": self.version,
            "source": self.source,
            "title": self.title,
            "headings": list(self.headings),
            "text": self.text,
            "position": self.position,
            "tenant": self.tenant,
            "labels": list(self.labels) or [EVERYBODY],
            "modified": self.modified,
        }

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> Chunk:
        """The chunk of a store's payload."""
        labels = tuple(label for label in payload["labels"] if label != EVERYBODY)
        return cls(**{**payload, "headings": tuple(payload["headings"]), "labels": labels})


@dataclass(frozen=True, slots=True)
class Scope:
    """What a request may read. Made by the server of who asks, never of what the request says.

    A chunk is in it if its tenant is `tenant` or the shared one, it has no label or one of `labels`, and it was changed
    within the times given.

    Attributes:
        tenant: Who asks.
        labels: Labels that whoever asks holds.
        since: Documents changed at this time or later, seconds since 1970-01-01 UTC; None is any.
        until: Documents changed before this time; None is any.
    """

    tenant: str = SHARED_TENANT
    labels: frozenset[str] = field(default_factory=frozenset)
    since: float | None = None
    until: float | None = None

    @property
    def tenants(self) -> tuple[str, ...]:
        """The tenants whose chunks are in it. Nobody but the probes reads probe documents, and they nothing else."""
        if self.tenant in (SHARED_TENANT, PROBE_TENANT):
            return (self.tenant,)
        return (self.tenant, SHARED_TENANT)

    def holds(self, chunk: Chunk) -> bool:
        """Whether a chunk is in it."""
        return (
            chunk.tenant in self.tenants
            and (not chunk.labels or not self.labels.isdisjoint(chunk.labels))
            and (self.since is None or chunk.modified >= self.since)
            and (self.until is None or chunk.modified < self.until)
        )


def checksum(chunks: Sequence[Chunk]) -> str:
    """sha256 over what the chunks are, whatever their order."""
    return digest_json(sorted([chunk.id, chunk.version, sorted(chunk.labels)] for chunk in chunks))
