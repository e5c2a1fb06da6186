"""The working files of the products: lake, feature tables, logs, index builds. Caches can be made anew."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

from plinth.errors import Corrupt, Unavailable

FILE = "state.tar.gz"
LEFT_OUT = frozenset({"cache", "logs", "run", "backups", "models"})
"""Of the state folder: what is made anew, or belongs to processes."""


class StatePart:
    """The state folder that the host shares with the products' containers.

    Args:
        state: The folder.
    """

    name = "state"

    def __init__(self, state: Path) -> None:
        self._state = state

    def dump(self, folder: Path) -> int:
        """As Part.dump. Files that are being written (`.writing-`) are left out."""
        count = 0

        def wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
            nonlocal count
            if Path(info.name).name.startswith(".") or not (info.isfile() or info.isdir()):
                return None
            count += info.isfile()
            return info

        try:
            with tarfile.open(folder / FILE, "w:gz", compresslevel=1) as archive:
                for path in sorted(self._state.iterdir()):
                    if path.name not in LEFT_OUT:
                        archive.add(path, arcname=path.name, filter=wanted)
        except OSError as error:
            raise Unavailable(f"the state folder cannot be backed up: {error}", where=str(self._state)) from error
        return count

    def restore(self, folder: Path) -> int:
        """As Part.restore."""
        for path in self._state.iterdir() if self._state.is_dir() else ():
            if path.name not in LEFT_OUT and not path.name.startswith("."):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        try:
            with tarfile.open(folder / FILE) as archive:
                members = archive.getmembers()
                archive.extractall(self._state, members=members, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise Corrupt(f"the state's archive cannot be read: {error}", where=str(folder / FILE)) from error
        except OSError as error:
            raise Unavailable(f"the state folder cannot be written: {error}", where=str(self._state)) from error
        self._give_back()
        return sum(member.isfile() for member in members)

    def _give_back(self) -> None:
        """To whom the folder belongs: root restores for the containers' user."""
        import os

        owner = self._state.stat()
        if os.getuid() != 0:
            return
        for path in self._state.rglob("*"):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
            if path.is_dir() and not path.is_symlink():
                path.chmod(path.stat().st_mode | owner.st_mode & 0o2070)
