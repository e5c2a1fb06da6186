"""What a backup is made of: one part a server."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Part(Protocol):
    """What one server holds."""

    @property
    def name(self) -> str:
        """Also the name of its folder in a backup."""
        ...

    def dump(self, folder: Path) -> int:
        """Write everything into an empty folder. Returns how many entries.

        Raises:
            Unavailable: The server does not answer, or the folder cannot be written.
        """
        ...

    def restore(self, folder: Path) -> int:
        """Put back what `dump` wrote; what the server holds now is replaced. Returns how many entries.

        Raises:
            Unavailable: The server does not answer.
            Corrupt: The folder holds something else.
        """
        ...
