"""Which index builds `plinth gc` deletes: those that no release needs, old enough, of products where nobody builds.

Builds are dropped while their maker's lock is held, so what is being made is never touched; the description goes first,
then the build itself, so that a kill in between leaves a build that the next collection finds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from plinth.assistants.builds import alone
from plinth.assistants.records import BUILD, build_folder, builds_folder, described, forget, unfinished
from plinth.errors import Conflict
from plinth.ledger.retention import Retention
from plinth.retrieval.port import VectorStore
from plinth.rollouts.projection import INDEX, Alias
from plinth.rollouts.targets import index_alias


def spare_builds(retention: Retention, store: VectorStore, product: str, state: Path, before: float) -> dict[str, int]:
    """The builds that may go, by id, and the bytes they take on this machine.

    Args:
        retention: Says which builds releases need.
        store: The product's vector store.
        product: Whose builds.
        state: The product's state folder.
        before: Seconds since 1970; a younger build stays: its release may be about to be registered.
    """
    aliases: tuple[Alias, ...] = ("serving", "candidate")
    needed = retention.builds(product) | {store.alias(index_alias(f"{INDEX}{product}", alias)) for alias in aliases}
    there = {*store.builds(), *unfinished(state), *(record.index.build for record in described(state))}
    return {
        build: sum(_size(path) for path in _places(state, build))
        for build in sorted(there - needed)
        if _changed(state, build) < before
    }


def collect_builds(
    retention: Retention, store: VectorStore, product: str, state: Path, builds: Iterable[str], actor: str
) -> list[str]:
    """Delete builds that no release needs by now; none where somebody makes a build. Returns those that are gone."""

    def drop(build: str) -> None:
        forget(state, build)
        store.drop(build)

    try:
        with alone(state):
            return [build for build in builds if retention.collect_build(product, build, drop, actor)]
    except Conflict:
        return []


def _places(state: Path, build: str) -> tuple[Path, Path]:
    """Its description, and in the embedded profile the build itself."""
    return build_folder(state, build), state / "index" / build


def _changed(state: Path, build: str) -> float:
    """When a build was finished, or found again by whoever would have made it; of others, when anything of it changed.

    What stands on no disk of this machine and was never described has no time: it counts as young.
    """
    try:
        return (build_folder(state, build) / BUILD).stat().st_mtime
    except FileNotFoundError:
        found = [
            file.stat().st_mtime
            for place in _places(state, build)
            for file in (place, *place.rglob("*"))
            if file.exists()
        ]
        return max(found, default=time.time())


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def has_builds(state: Path) -> bool:
    """Whether a product ever had an index build on this machine."""
    return builds_folder(state).is_dir() or (state / "index").is_dir()
