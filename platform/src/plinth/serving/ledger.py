"""The ledger as a release source: what is promoted, and where its artefacts are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plinth.ledger.artifacts import ArtifactStore
from plinth.ledger.store import Ledger
from plinth.serving.port import Wanted


class LedgerReleases:
    """Releases of one product, from the ledger and the artefact store."""

    def __init__(self, ledger: Ledger, store: ArtifactStore, product: str) -> None:
        self._ledger = ledger
        self._store = store
        self._product = product

    def current(self) -> Wanted | None:
        """The promoted release, or None."""
        serving = self._ledger.current(self._product)
        return Wanted(serving.digest, serving.generation) if serving else None

    def artifacts(self, digest: str) -> Mapping[str, tuple[Path, str]]:
        """File name to path and sha256; the store checks each file's content."""
        manifest = self._ledger.release(digest).manifest
        return {name: (self._store.path(sha), sha) for name, sha in manifest.artifacts.items()}
