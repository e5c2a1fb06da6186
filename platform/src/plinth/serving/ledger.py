"""The ledger as a release source: how traffic is split, and where the releases' artefacts are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plinth.core.routes import Route
from plinth.ledger.port import Artifacts
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger


class LedgerReleases:
    """Releases of one product, from the ledger and the artefact store."""

    def __init__(self, ledger: Ledger, store: Artifacts, product: str) -> None:
        self._ledger = ledger
        self._rollouts = Rollouts(ledger)
        self._store = store
        self._product = product

    def current(self) -> Route | None:
        """The route of what is promoted or rolled out, read in one transaction; None before the first promotion."""
        return self._rollouts.route(self._product)

    def artifacts(self, digest: str) -> Mapping[str, tuple[Path, str]]:
        """File name to path and sha256; the store checks each file's content."""
        manifest = self._ledger.release(digest).manifest
        return {name: (self._store.path(sha), sha) for name, sha in manifest.artifacts.items()}
