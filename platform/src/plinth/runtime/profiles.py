"""Where the platform runs, as commands and stories see it: one port, chosen by the setting `profile`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from plinth.runtime.port import Progress, Status

if TYPE_CHECKING:
    from plinth.wiring import Platform


class Profile(Protocol):
    """The running platform: processes on this machine, or containers."""

    standing: bool
    """Whether a story leaves it alone: it neither starts nor ends what stands."""

    def up(self, *, on_progress: Progress | None = None, timeout: float | None = None) -> Status:
        """Start what does not run, and wait until everything is healthy."""

    def down(self) -> int:
        """End it; returns how many processes or containers there were. Data stays."""

    def status(self) -> Status:
        """How each service is."""

    def running(self) -> bool:
        """Whether it runs."""

    def ensure(self, on_progress: Progress | None = None) -> Status:
        """Have it run for a story: start it, or refuse where it is for its user to start."""

    def last_lines(self, name: str, count: int) -> tuple[list[str], Path | None]:
        """What a service said last, and the file it stands in where there is one."""

    def follow(self, name: str) -> Iterator[str]:
        """What a service says from now on."""


class Embedded:
    """Supervised processes on this machine (runtime/embedded.py)."""

    standing = False

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def up(self, *, on_progress: Progress | None = None, timeout: float | None = None) -> Status:
        """Raises as `embedded.up`."""
        from plinth.runtime import embedded

        seconds = embedded.START_SECONDS if timeout is None else timeout
        return embedded.up(self._platform, on_progress=on_progress, timeout=seconds)

    def down(self) -> int:
        """Raises as `embedded.down`."""
        from plinth.runtime import embedded

        return embedded.down(self._platform)

    def status(self) -> Status:
        """Raises as `embedded.status`."""
        from plinth.runtime import embedded

        return embedded.status(self._platform)

    def running(self) -> bool:
        """Whether its supervisor runs."""
        from plinth.runtime import embedded

        return embedded.running(self._platform)

    def ensure(self, on_progress: Progress | None = None) -> Status:
        """Start it. Raises as `embedded.up`."""
        return self.up(on_progress=on_progress)

    def last_lines(self, name: str, count: int) -> tuple[list[str], Path | None]:
        """Raises as `embedded.log_file`."""
        from plinth.runtime import embedded, logs

        path = embedded.log_file(self._platform, name)
        return logs.last_lines(path, count), path

    def follow(self, name: str) -> Iterator[str]:
        """Raises as `embedded.log_file`."""
        from plinth.runtime import embedded, logs

        return logs.follow(embedded.log_file(self._platform, name))


def profile(platform: Platform) -> Profile:
    """The profile of a platform, by its settings."""
    if platform.settings.profile == "compose":
        from plinth.runtime.compose import Compose, Project

        return Compose(Project(platform.settings.home))
    return Embedded(platform)
