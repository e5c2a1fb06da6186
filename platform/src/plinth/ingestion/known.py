"""What one run of ingestion leaves for the next, and how it is kept between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from plinth.core.corpus import Chunk
from plinth.ingestion.port import Refused


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a file from the run before.

    Attributes:
        stamp: The source's stamp of it; "" is unknown.
        digest: sha256 of its bytes.
        chunks: Its chunks; none if it was refused.
        redacted: How much personal data of each kind was taken out.
        refused: Why it is quarantined, or None.
    """

    stamp: str
    digest: str
    chunks: tuple[Chunk, ...] = ()
    redacted: Mapping[str, int] = field(default_factory=dict)
    refused: Refused | None = None


def remember(documents: Mapping[str, Known], fingerprint: str) -> dict[str, Any]:
    """`Ingested.documents` as JSON, without the chunks: an index build holds those.

    Args:
        documents: By id.
        fingerprint: `Ingestor.fingerprint` of the run.
    """
    entries = {
        id: {
            "stamp": known.stamp, "digest": known.digest, "chunks": len(known.chunks),
            "redacted": dict(known.redacted), "refused": asdict(known.refused) if known.refused else None,
        }
        for id, known in documents.items()
    }  # fmt: skip
    return {"fingerprint": fingerprint, "documents": entries}


def recall(remembered: Mapping[str, Any], chunks: Iterable[Chunk], fingerprint: str) -> dict[str, Known]:
    """What `remember` gave, with the chunks of the index build that it stands beside: `previous` of the next run.

    A document whose chunks are not all there is left out and so read again. All are, after a run by other rules.

    Args:
        remembered: Of `remember`; an empty one is nothing known.
        chunks: The build's chunks; those of other documents (probes) are ignored.
        fingerprint: `Ingestor.fingerprint` of the next run.
    """
    if remembered.get("fingerprint") != fingerprint:
        return {}
    entries: Mapping[str, Any] = remembered["documents"]
    found: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        if chunk.document in entries:
            found.setdefault(chunk.document, []).append(chunk)
    documents = {}
    for id, entry in entries.items():
        own = sorted(found.get(id, []), key=lambda chunk: chunk.position)
        if len(own) == entry["chunks"] and all(chunk.version == entry["digest"] for chunk in own):
            refused = Refused(**entry["refused"]) if entry["refused"] else None
            documents[id] = Known(entry["stamp"], entry["digest"], tuple(own), entry["redacted"], refused)
    return documents
