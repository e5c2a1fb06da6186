"""What is different between two index builds: documents, chunks, settings. Read from what stands beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plinth.assistants.pyarrow import read_chunks
from plinth.assistants.records import CHUNKS, build_folder, read_build
from plinth.core.corpus import PROBE_TENANT


@dataclass(frozen=True)
class Difference:
    """From one build to another. Documents by id; `settings` are those that differ, with both values."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    chunks_added: int
    chunks_removed: int
    chunks_kept: int
    settings: dict[str, tuple[Any, Any]]

    def as_dict(self) -> dict[str, Any]:
        """Stable JSON."""
        return {
            "documents": {"added": list(self.added), "removed": list(self.removed), "changed": list(self.changed)},
            "chunks": {"added": self.chunks_added, "removed": self.chunks_removed, "kept": self.chunks_kept},
            "settings": {name: list(values) for name, values in self.settings.items()},
        }


def compare(state: Path, before: str, after: str) -> Difference:
    """What changed from one build to the other.

    Args:
        state: The product's state folder.
        before: Id of a build.
        after: Id of the other.

    Raises:
        NotFound: One of them is not there.
        Corrupt: One of them cannot be read.
    """
    one, other = (read_build(build_folder(state, build)) for build in (before, after))
    old, new = (_documents(state, build) for build in (before, after))
    old_ids, new_ids = (_ids(documents) for documents in (old, new))
    mine, theirs = (
        {
            "embedding": record.index.embedding, "dimension": record.index.dimension,
            "chunking": record.index.chunking, "avg_len": record.avg_len,
            "sources": sorted(record.sources), "without": sorted(record.without),
        }
        for record in (one, other)
    )  # fmt: skip
    return Difference(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(id for id in new.keys() & old.keys() if new[id] != old[id])),
        chunks_added=len(new_ids - old_ids),
        chunks_removed=len(old_ids - new_ids),
        chunks_kept=len(old_ids & new_ids),
        settings={name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]},
    )


def _documents(state: Path, build: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Document to its version and its chunks."""
    found: dict[str, tuple[str, set[str]]] = {}
    for row in read_chunks(build_folder(state, build) / CHUNKS, ("id", "document", "version", "tenant", "labels")):
        if row["tenant"] != PROBE_TENANT:
            marks = f"{row['id']} {','.join(row['labels'])}"
            found.setdefault(row["document"], (row["version"], set()))[1].add(marks)
    return {id: (version, frozenset(chunks)) for id, (version, chunks) in found.items()}


def _ids(documents: dict[str, tuple[str, frozenset[str]]]) -> set[str]:
    return {marks for _, chunks in documents.values() for marks in chunks}
