"""Which sources a running service has to call stale: what freshness knows, against the build that answers."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from plinth.assistants import freshness
from plinth.assistants.freshness import SourceFreshness
from plinth.assistants.records import BuildRecord, build_folder, read_build
from plinth.core.assistants import SourceSpec
from plinth.errors import PlinthError

POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class SourceState:
    """What is known of a source of the build that answers.

    Attributes:
        age: Seconds since what it holds was all there was.
        lag: How long the last change took to become searchable, in seconds; None when none was measured.
        late: Why it is beyond its objective; "" when it is not.
    """

    age: float
    lag: float | None
    late: str


class Staleness:
    """Reads what freshness knows, in the background, so that no answer waits for a file.

    Args:
        state: The product's state folder.
        specs: The product's sources: of which tenant they are (nobody else learns of them), and their objectives.
    """

    def __init__(self, state: Path, specs: Sequence[SourceSpec]) -> None:
        self._state = state
        self._tenants = {spec.name: spec.tenant for spec in specs}
        self._objectives = freshness.objectives(specs)
        self._known: dict[str, SourceFreshness] = {}
        self._builds: dict[str, BuildRecord | None] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Read once, and go on reading."""
        self.look()
        self._thread = threading.Thread(target=self._watch, name="plinth-freshness", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop reading."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def look(self) -> None:
        """Read what is known now. What was known stays where the file is gone."""
        self._known = freshness.read(self._state) or self._known
        self._builds = {build: _record(self._state, build) for build in self._builds}

    def sources(self, build: str, now: datetime | None = None) -> dict[str, SourceState]:
        """Each source of the build that answers. A build that no refresh measured is as old as it is."""
        now = now or datetime.now(UTC)
        states = {}
        for name, entry in freshness.of_serving(self._known, self._record(build), self._objectives).items():
            try:
                states[name] = SourceState(entry.age(now), entry.lag_seconds, entry.late(now))
            except (ValueError, TypeError):  # a time that is none
                continue
        return states

    def stale(self, build: str, tenants: Collection[str]) -> tuple[str, ...]:
        """Names of the sources beyond their objective, of those that these tenants read."""
        record = self._record(build)
        owners = self._tenants | {name: held.tenant for name, held in (record.sources if record else {}).items()}
        late = [name for name, state in self.sources(build).items() if state.late]
        return tuple(sorted(name for name in late if owners.get(name) in tenants))

    def made_at(self, build: str) -> datetime | None:
        """When the build was made, if that is known."""
        record = self._record(build)
        return datetime.fromisoformat(record.made_at) if record else None

    def without(self, build: str) -> tuple[str, ...]:
        """Tenants that were deleted from a build after it was made."""
        record = _record(self._state, build)
        return record.without if record else ()

    def _record(self, build: str) -> BuildRecord | None:
        if build not in self._builds:
            self._builds = {**self._builds, build: _record(self._state, build)}
        return self._builds[build]

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self.look()


def _record(state: Path, build: str) -> BuildRecord | None:
    try:
        return read_build(build_folder(state, build))
    except PlinthError:
        return None  # it stands beside the index for others; answers do not need it
