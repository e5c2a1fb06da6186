"""Files that are there whole or not at all, and locks on them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Container, Iterator
from pathlib import Path

from plinth.errors import Conflict


def write_whole(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a file in one step, durably: whoever reads it, and whatever is killed, sees the old content or the new.

    Args:
        path: The file.
        data: Its content.
        mode: Its permissions, of which the umask takes some away, as of any new file's.

    Raises:
        OSError: It cannot be written; nothing half-written stays.
    """
    handle, name = new_file(path.parent, ".writing-", mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync(path.parent)


def new_file(folder: Path, prefix: str, mode: int = 0o666) -> tuple[int, str]:
    """A new file of a name of its own, to be renamed when it is whole: its open handle and its path.

    `tempfile.mkstemp` would make it readable to its owner alone, and so it stays after the rename: what root's command
    line writes into the compose profile's state is read by containers that run as another user.

    Raises:
        OSError: It cannot be made.
    """
    while True:
        name = str(folder / f"{prefix}{secrets.token_hex(8)}")
        try:
            handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except FileExistsError:
            continue
        if (heir := _heir(folder)) is not None:
            os.fchown(handle, heir, -1)
        return handle, name


def _heir(folder: Path) -> int | None:
    """Whose a file is that root writes into a folder which is handed down (setgid): the user's above who is not root.

    So is the compose profile's state where root commands it; nowhere else does a file change hands.
    """
    if os.geteuid() != 0:
        return None
    for above in (folder.absolute(), *folder.absolute().parents):
        found = above.stat()
        if not found.st_mode & stat.S_ISGID:
            return None
        if found.st_uid != 0:
            return found.st_uid
    return None


def clear(folder: Path, keep: Container[str] = ()) -> None:
    """Remove what a folder holds, but for some names; of a link the link.

    Raises:
        OSError: Something cannot be removed.
    """
    for path in folder.iterdir():
        if path.name in keep:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def held(handle: int, busy: Conflict, wait: float = 0.0) -> Iterator[None]:
    """Hold the exclusive lock of an open file or folder, and close it at the end. Raises as `locked`."""
    try:
        if not _lock_within(handle, wait):
            raise busy
        yield
    finally:
        os.close(handle)  # which drops the lock, as the kernel does when its holder dies


def _lock_within(handle: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
        time.sleep(0.1)


@contextlib.contextmanager
def locked(path: Path, busy: Conflict, wait: float = 0.0, mode: int = 0o600) -> Iterator[None]:
    """Hold the exclusive lock of a file, which is made where there is none and stays.

    Args:
        path: The file. Not a link: who may write in its folder must not choose what is opened.
        busy: Raised when somebody else holds it for `wait` seconds.
        wait: Seconds.
        mode: Permissions of a new file, of which the umask takes some away.

    Raises:
        Conflict: `busy`.
        OSError: The file cannot be opened.
    """
    with held(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode), busy, wait):
        yield


def sync(path: Path) -> None:
    """Bring a file or directory to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
