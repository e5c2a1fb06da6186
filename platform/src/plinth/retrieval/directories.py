"""Index builds as directories: who may write one, when it is complete, which one an alias names. No engine in sight.

<folder>/<build>/complete.json      written last: which shard it is, and a digest of each of its files
<folder>/<build>/shard-<id>/        the engine's files; another id after a tenant was removed
<folder>/alias-<name>               the build an alias points at
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from plinth.core.files import sync, write_whole
from plinth.errors import Conflict, Corrupt, InvalidInput, NotFound, Unavailable

COMPLETE = "complete.json"
# Files are mapped, and to write a page that the disk has no room for would kill the process.
SPARE_BYTES = 256 << 20
_ZEROS = bytes(1 << 20)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Card:
    """What `complete.json` says: the shard's directory, its dimension, and each file's digest by its path in it."""

    shard: str
    dimension: int
    files: dict[str, str]


class Directories:
    """The builds below a folder.

    Args:
        folder: Made on first use.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def home(self, build: str) -> Path:
        """The directory of a build."""
        return self.folder / _checked(build)

    def builds(self) -> dict[str, bool]:
        """Each build's id, and whether it is complete."""
        try:
            homes = [path for path in self.folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
        except FileNotFoundError:
            return {}
        return {path.name: (path / COMPLETE).is_file() for path in sorted(homes)}

    def is_complete(self, build: str) -> bool:
        """Whether it is there and complete."""
        return (self.home(build) / COMPLETE).is_file()

    def card(self, build: str) -> Card:
        """What a complete build says of itself.

        Raises:
            NotFound: There is no such build.
            Conflict: It is not complete.
            Corrupt: The card cannot be read.
        """
        path = self.home(build) / COMPLETE
        try:
            return Card(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise NotFound(f"there is no index build {build}", where=str(self.folder)) from None
            raise Conflict(
                f"index build {build} is not complete", where=str(path.parent), hint="build it again"
            ) from None
        except (ValueError, TypeError) as error:
            raise corrupt(path, f"it is no card of a build: {error}") from error

    def check(self, build: str, card: Card) -> Path:
        """The shard's directory, after every file in it was compared with its digest.

        Raises:
            Corrupt: A file is missing, changed or too many.
        """
        path = self.home(build) / card.shard
        found = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
        for name in sorted(found ^ set(card.files)):
            raise corrupt(path / name, "it is missing" if name in card.files else "nobody knows it")
        for name, expected in card.files.items():
            if digest(path / name) != expected:
                raise corrupt(path / name, "its bytes are not what its digest says")
        return path

    def mark_complete(self, build: str, shard: Path, dimension: int) -> None:
        """Write a build's card, after all that it names is on the disk."""
        files = {}
        for path in sorted(shard.rglob("*")):
            sync(path)
            if path.is_file():
                files[path.relative_to(shard).as_posix()] = digest(path)
        sync(shard)
        sync(shard.parent)
        card = Card(shard.name, dimension, files)
        write_whole(self.home(build) / COMPLETE, json.dumps(asdict(card), indent=1).encode())

    def new_shard(self, build: str) -> Path:
        """A new empty directory of a build."""
        path = self.home(build) / f"shard-{uuid.uuid4().hex[:12]}"
        path.mkdir(parents=True)
        return path

    def sweep(self, build: str, keep: str) -> None:
        """Delete every shard of a build but one: what a rewriting that was killed left."""
        for path in self.home(build).glob("shard-*"):
            if path.name != keep:
                shutil.rmtree(path)

    def own(self, build: str) -> int:
        """Lock a build for writing, until the handle is closed or the process ends.

        Raises:
            Conflict: Another process holds it.
        """
        handle = os.open(self.home(build), os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            where = str(self.home(build))
            raise Conflict(f"index build {build} is being written", where=where, hint="wait for it") from None
        return handle

    def drop(self, build: str) -> None:
        """Delete a build that the caller owns: first out of sight in one step, so that nobody sees half of one."""
        self.home(build).rename(self.folder / f".dropped-{uuid.uuid4().hex}")
        for dropped in self.folder.glob(".dropped-*"):
            shutil.rmtree(dropped, ignore_errors=True)

    def set_alias(self, name: str, build: str) -> None:
        """Point an alias at a complete build."""
        self.card(build)
        write_whole(self.folder / f"alias-{_checked(name)}", build.encode())

    def alias(self, name: str) -> str | None:
        """The build an alias points at, or None."""
        try:
            return (self.folder / f"alias-{_checked(name)}").read_text().strip()
        except FileNotFoundError:
            return None

    def check_room(self, more: int = 0) -> None:
        """Whether the disk has room for `more` bytes and some to spare.

        Raises:
            Unavailable: It has not.
        """
        free = shutil.disk_usage(self.folder).free
        if free < more + SPARE_BYTES:
            raise Unavailable(
                f"the disk is nearly full: {free >> 20} MiB are free, {more + SPARE_BYTES >> 20} MiB are needed",
                where=str(self.folder),
                hint="free disk space",
            )


def digest(path: Path) -> str:
    """sha256 of a file's content, where a MiB of nothing but zeros counts as one byte: the engine reserves many."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(len(_ZEROS)):
            state.update(b"\0" if block == _ZEROS else block)
        state.update(str(file.tell()).encode())
    return state.hexdigest()


def size(folder: Path) -> int:
    """Bytes that the files of a folder take up on the disk."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


@contextmanager
def on_disk(where: Path) -> Iterator[None]:
    """Errors of the file system as the port's."""
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"the index cannot be written: {error.strerror or error}", where=str(where), hint="free disk space"
        ) from error


def corrupt(path: Path, what: str) -> Corrupt:
    """A damaged build."""
    return Corrupt(
        f"{path.name} of the index is damaged: {what}",
        where=str(path),
        hint="roll back to a release before, or drop the build and build it again",
    )


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} names no index build or alias", hint="small letters, digits, dot, dash")
    return name
