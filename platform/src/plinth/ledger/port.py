"""The port of an artefact store: files by the sha256 of their content, of which a release names several."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Stored:
    """An artefact as a store lists it.

    Attributes:
        digest: Its sha256.
        size: Bytes.
        at: When it was stored last, seconds since 1970 by the store's clock.
    """

    digest: str
    size: int
    at: float


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a killed process left, or what was put aside.

    Attributes:
        where: Its place, for people, and for `Artifacts.discard`.
        kind: `writing`: half of a file; `collecting`: a collector was at work on it; `corrupt`: put aside on purpose.
        size: Bytes.
        at: When it was written, seconds since 1970.
    """

    where: str
    kind: Literal["writing", "collecting", "corrupt"]
    size: int
    at: float


class Artifacts(Protocol):
    """Stores content under its sha256. Every method that takes a digest raises InvalidInput when it is none.

    A store that cannot be reached or written raises Unavailable within a bounded time, from every method but `path` of
    what this machine holds already.
    """

    def put_file(self, path: Path) -> str:
        """Store a file's content; as `put_bytes`."""

    def put_bytes(self, data: bytes) -> str:
        """Store bytes and return their sha256. The same content is stored once, and is young again: who stores it
        means to use it, so no collector takes it within the grace period. What was corrupt is whole again."""

    def exists(self, digest: str) -> bool:
        """Whether an artefact of that digest is stored (its content is not checked)."""

    def path(self, digest: str) -> Path:
        """A file on this machine with that content, checked now. It may stem from a copy that was fetched before.

        Raises:
            NotFound: It is not stored.
            Corrupt: Its content is not what its digest says.
        """

    def verify(self, digest: str) -> None:
        """Look at the stored content itself, past every copy. Raises as `path`."""

    def copy_of(self, digest: str) -> bytes | None:
        """An intact copy that is not the stored one, to restore it from; None where there is none."""

    # Housekeeping -----------------------------------------------------------------------------------------------

    def stored(self) -> Iterator[Stored]:
        """Every artefact, in no order. Its content is not checked."""

    def leftovers(self) -> Iterator[Leftover]:
        """What killed writers and collectors left behind, and what was put aside as corrupt."""

    def discard(self, leftover: Leftover) -> bool:
        """Delete a leftover. Returns whether it was there."""

    def collect(self, digest: str, before: float) -> int:
        """Delete an artefact that nothing refers to, unless it was stored again since `before`.

        Args:
            digest: Which.
            before: Seconds since 1970; a younger one stays, and so does one from the future.

        Returns:
            Bytes that were freed; 0 when it stays, or is not stored.
        """

    def put_back(self) -> int:
        """Undo what killed collectors had begun: whether to delete is decided anew. Returns how many."""

    def set_aside(self, digest: str) -> str:
        """Keep a copy of a corrupt artefact under another name, for whoever wants to know what happened to it.

        The corrupt one stays in its place until a good copy replaces it (`put_bytes`): nothing at all would say less.

        Returns:
            The other name.
        """
