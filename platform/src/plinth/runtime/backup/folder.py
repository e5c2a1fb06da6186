"""The working files of the products: lake, feature tables, logs, index builds. Caches can be made anew."""

from __future__ import annotations

import contextlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from plinth.core.files import clear
from plinth.errors import Corrupt, Unavailable

FILE = "state.tar.gz"
LEFT_OUT = frozenset({"cache", "logs", "run", "models"})
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
        """As Part.dump. Files that are being written (`.writing-`) are left out, and so are those that go meanwhile."""
        count = 0
        try:
            with tarfile.open(folder / FILE, "w:gz", compresslevel=1) as archive:
                for path in _files(self._state):
                    with contextlib.suppress(FileNotFoundError):  # a log that was merged, a build that was collected
                        count += self._add(archive, path)
        except OSError as error:
            raise Unavailable(f"the state folder cannot be backed up: {error}", where=str(self._state)) from error
        return count

    def _add(self, archive: tarfile.TarFile, path: Path) -> bool:
        """Add a folder or file as it is when it is opened; what is added to the file meanwhile is left out."""
        name = path.relative_to(self._state).as_posix()
        if path.is_dir():
            archive.add(path, arcname=name, recursive=False)
            return False
        # Not a link that was put there since: who writes in the state folder may not read what root reads.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            archive.addfile(archive.gettarinfo(arcname=name, fileobj=file), file)
        return True

    def restore(self, folder: Path) -> int:
        """As Part.restore."""
        try:
            if self._state.is_dir():
                hidden = {path.name for path in self._state.glob(".*")}
                clear(self._state, keep=LEFT_OUT | hidden)
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
        owner = self._state.stat()
        if os.getuid() != 0:
            return
        for path in self._state.rglob("*"):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
            if path.is_dir() and not path.is_symlink():
                path.chmod(path.stat().st_mode | owner.st_mode & 0o2070)


def _files(state: Path) -> Iterator[Path]:
    """Folders, each before what it holds, and files; no links, nothing hidden, nothing that is left out."""
    for root, folders, files in os.walk(state):
        above = Path(root)
        left_out = LEFT_OUT if above == state else frozenset()
        folders[:] = sorted(
            name for name in folders if not (name.startswith(".") or name in left_out or (above / name).is_symlink())
        )
        yield from (above / name for name in folders)
        yield from (path for name in sorted(files) if _is_plain(path := above / name))


def _is_plain(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_file() and not path.is_symlink()
