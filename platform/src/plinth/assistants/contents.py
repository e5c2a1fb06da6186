"""From sources to what goes into a build: only what changed is read, and a probe document a source is put beside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plinth.assistants.builds import Contents
from plinth.assistants.freshness import probe_of, stamp
from plinth.assistants.records import DOCUMENTS, BuildRecord, RefusedRecord, SourceRecord, build_folder
from plinth.core.assistants import SourceSpec
from plinth.core.corpus import PROBE_TENANT, Chunk
from plinth.errors import Corrupt, PlinthError, RefusedByPolicy
from plinth.ingestion.port import Refused, Source
from plinth.ingestion.read import Ingested, Ingestor, Known, Progress
from plinth.retrieval.port import VectorStore

log = logging.getLogger(__name__)

NEVER = stamp(0.0)


@dataclass(frozen=True)
class Before:
    """A build that the next one goes on from."""

    record: BuildRecord
    fingerprint: str
    documents: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, state: Path, record: BuildRecord) -> Before:
        """What stands beside a build.

        Raises:
            Corrupt: It cannot be read.
        """
        path = build_folder(state, record.index.build) / DOCUMENTS
        try:
            value = json.loads(path.read_bytes())
            return cls(record, str(value["fingerprint"]), dict(value["documents"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"{DOCUMENTS} cannot be read: {error}", where=str(path)) from error


class Remembered(Mapping[str, Known]):
    """The files of a build as ingestion knew them, with their chunks from the store. Those not whole are left out.

    Raises:
        PlinthError: The store cannot open the build.
    """

    def __init__(self, before: Before, store: VectorStore) -> None:
        self._documents = before.documents
        self._chunks: dict[str, list[Chunk]] = {}
        index = store.open(before.record.index.build)
        try:
            for point in index.points():
                if point.chunk.tenant != PROBE_TENANT:
                    self._chunks.setdefault(point.chunk.document, []).append(point.chunk)
        finally:
            index.close()

    def __getitem__(self, id: str) -> Known:
        entry = self._documents[id]
        chunks = tuple(sorted(self._chunks.get(id, ()), key=lambda chunk: chunk.position))
        if len(chunks) != entry["chunks"]:
            raise KeyError(id)
        refused = entry.get("refused")
        return Known(
            entry["stamp"], entry["digest"], chunks, entry.get("redacted", {}), Refused(**refused) if refused else None
        )

    def __iter__(self) -> Iterator[str]:
        return (id for id, entry in self._documents.items() if len(self._chunks.get(id, ())) == entry["chunks"])

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Read:
    """What reading the sources gave.

    Attributes:
        contents: What goes into the build.
        read: Files that were parsed; the others were known.
        removed: Files that are gone.
        redacted: Personal data that was taken out, by kind.
    """

    contents: Contents
    read: int
    removed: int
    redacted: Mapping[str, int]


def read_sources(
    specs: Sequence[SourceSpec],
    ingestor: Ingestor,
    store: VectorStore,
    before: Before | None,
    on_progress: Progress | None = None,
) -> Read:
    """Read what changed since a build.

    Args:
        specs: The sources that `ingestor` reads.
        ingestor: Reads them.
        store: Holds the build before.
        before: The build to go on from; one that was read or cut in another way is not.
        on_progress: Told of each file.

    Raises:
        RefusedByPolicy: There is nothing to index: no source could be read, or none has a file that can.
        PlinthError: A source cannot be read, and neither can the build that has its documents.
    """
    known = before if before is not None and before.fingerprint == ingestor.fingerprint else None
    remembered, lost = _remembered(known, store)
    if lost is not None:
        known = None
    ingested = ingestor.run(remembered, on_progress)
    away = [name for name, found in ingested.sources.items() if found.problem]
    if lost is not None and away:  # its documents would vanish with it
        raise lost
    if not any(found.chunks for found in ingested.documents.values()):
        why = "; ".join(f"{name}: {found.problem}" for name, found in ingested.sources.items() if found.problem)
        raise RefusedByPolicy(
            f"there is nothing to index: {why or 'no source has a file that can be read'}",
            where=", ".join(spec.name for spec in specs), hint="check the sources in product.yaml",
        )  # fmt: skip
    chunks, sources = [], {}
    for spec in specs:
        own = [item for id, item in ingested.documents.items() if id.startswith(f"{spec.name}/")]
        own_chunks = [chunk for item in own for chunk in item.chunks]
        token, probe = probe_of(spec.name, own_chunks)
        chunks += [*own_chunks, probe]
        sources[spec.name] = _source(spec, ingested, known, own, token)
    contents = Contents(
        chunks,
        sources,
        tuple(RefusedRecord(**asdict(refused)) for refused in ingested.refused),
        {
            "fingerprint": ingestor.fingerprint,
            "documents": {id: _remember(item) for id, item in ingested.documents.items()},
        },
    )
    return Read(contents, ingested.read, len(ingested.removed), ingested.redacted)


def _remembered(before: Before | None, store: VectorStore) -> tuple[Remembered | None, PlinthError | None]:
    if before is None:
        return None, None
    try:
        return Remembered(before, store), None
    except PlinthError as error:
        log.warning("build %s cannot be read, every file is read again: %s", before.record.index.build, error)
        return None, error


def _source(
    spec: SourceSpec, ingested: Ingested, before: Before | None, own: Sequence[Known], token: str
) -> SourceRecord:
    state = ingested.sources[spec.name]
    earlier = before.record.sources.get(spec.name) if before else None
    as_of = stamp(state.as_of) if state.as_of is not None else earlier.as_of if earlier else NEVER
    return SourceRecord(
        as_of=as_of,
        documents=sum(bool(item.chunks) for item in own),
        chunks=sum(len(item.chunks) for item in own),
        refused=sum(item.refused is not None for item in own),
        probe=token,
        changed_at=_changed_at(spec.name, ingested, before, earlier),
        away=state.problem,
        tenant=spec.tenant,
        labels=spec.labels,
    )


def _changed_at(source: str, ingested: Ingested, before: Before | None, earlier: SourceRecord | None) -> str:
    """When the oldest change since the build before happened: files that were moved here may claim an older time."""
    if before is None or earlier is None:
        return ""
    changed = [
        stamp(item.chunks[0].modified)
        for id, item in ingested.documents.items()
        if item.chunks and id.startswith(f"{source}/") and before.documents.get(id, {}).get("digest") != item.digest
    ]
    return min((at for at in changed if at > earlier.as_of), default="")


def _remember(known: Known) -> dict[str, Any]:
    entry: dict[str, Any] = {"stamp": known.stamp, "digest": known.digest, "chunks": len(known.chunks)}
    if known.redacted:
        entry["redacted"] = dict(known.redacted)
    if known.refused is not None:
        entry["refused"] = asdict(known.refused)
    return entry


def unchanged(
    specs: Sequence[SourceSpec], open_source: Callable[[SourceSpec], Source], before: Before, clock: Callable[[], float]
) -> dict[str, str] | None:
    """Source to when it was listed, where nothing changed since a build; None where anything may have.

    Cheap: files are listed and not opened. A source whose listing does not tell versions may always have changed.
    """
    listed: dict[str, str] = {}
    held = before.record.sources
    if {spec.name: (spec.tenant, spec.labels) for spec in specs} != {
        name: (source.tenant, source.labels) for name, source in held.items()
    }:
        return None
    if any(source.away for source in held.values()):
        return None
    for spec in specs:
        began = clock()
        known = {id: entry["stamp"] for id, entry in before.documents.items() if id.startswith(f"{spec.name}/")}
        try:
            now = {f"{spec.name}/{item.path}": item.stamp for item in open_source(spec).list()}
        except PlinthError:
            return None
        if now != known or not all(now.values()):
            return None
        listed[spec.name] = stamp(began)
    return listed
