"""Where documents come from: a folder, or a list of pages."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from plinth.errors import InvalidInput, NotFound, RefusedByPolicy, Unavailable
from plinth.ingestion.limits import MAX_FILE_BYTES, TooLarge
from plinth.ingestion.port import Listed

SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__"})
"""Left out beside every folder and file whose name begins with a dot (.git, .venv, .plinth)."""


class FolderSource:
    """Files below a folder.

    Links to other files of the folder are followed; those that lead outside are refused when they are read.

    Args:
        name: The source's name.
        folder: The folder.
        include: Patterns of files to read, relative to the folder: `*` within a name, `**` over folders, `?`. Case is
            ignored.
        exclude: Patterns of files or folders to leave out.
        max_bytes: Size of a file at most.
    """

    def __init__(
        self, name: str, folder: Path, include: Sequence[str] = ("**/*",), exclude: Sequence[str] = (), *,
        max_bytes: int = MAX_FILE_BYTES,
    ) -> None:  # fmt: skip
        self.name = name
        self._folder = folder
        self._include = [_regex(pattern) for pattern in include]
        self._exclude = [_regex(pattern) for pattern in exclude]
        self._max_bytes = max_bytes

    def list(self) -> Iterator[Listed]:
        """Every file that the patterns choose, sorted by path; see the port.

        An empty folder counts as not there: an unmounted disk looks like that, and must not delete a corpus.
        """
        try:
            root = self._folder.resolve(strict=True)
            empty = next(os.scandir(root), None) is None
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(
                "the folder of the source is not there", where=f"{self.name}: {self._folder}", hint="check its path"
            ) from None
        except OSError as error:
            raise Unavailable(f"the folder cannot be read: {error.strerror}", where=str(self._folder)) from error
        if empty:
            raise NotFound(
                "the folder of the source is empty", where=f"{self.name}: {self._folder}",
                hint="mount it, or take the source out of product.yaml to drop its documents",
            )  # fmt: skip
        yield from sorted(self._walk(root, root), key=lambda listed: listed.path)

    def read(self, path: str) -> bytes:
        """The content of a file; see the port."""
        where = f"{self.name}: {path}"
        try:
            root = self._folder.resolve(strict=True)
            target = (root / path).resolve(strict=True)
            if not target.is_relative_to(root):
                raise RefusedByPolicy("the file leads outside of the source's folder", where=where)
            # A named pipe would block the open; a link put there since is not followed.
            with open(os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                state = os.fstat(file.fileno())
                if stat.S_ISDIR(state.st_mode):
                    raise Unavailable("the folder cannot be listed", where=where, hint="let this user read it")
                if not stat.S_ISREG(state.st_mode):
                    raise RefusedByPolicy("it is no regular file", where=where)
                # One byte more than allowed tells a file that grew since it was listed.
                data = file.read(self._max_bytes + 1) if state.st_size <= self._max_bytes else None
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound("the file is gone", where=where) from None
        except (PermissionError, RuntimeError):
            raise InvalidInput("the file may not be read", where=where, hint="let this user read it") from None
        except OSError as error:
            raise Unavailable(f"the file cannot be read: {error.strerror}", where=where) from error
        if data is None or len(data) > self._max_bytes:
            raise TooLarge(f"the file is larger than {self._max_bytes >> 20} MiB", where=where)
        return data

    def _walk(self, folder: Path, root: Path) -> Iterator[Listed]:
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            return
        except OSError:
            # Reading it fails as well, and so what was known below it is kept.
            yield Listed(folder.relative_to(root).as_posix(), 0.0, "")
            return
        for entry in entries:
            path = Path(entry.path).relative_to(root).as_posix()
            if entry.name.startswith(".") or any(pattern.fullmatch(path) for pattern in self._exclude):
                continue
            if not _is_text(path):
                continue  # a name that is no UTF-8 cannot be an id
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in SKIPPED_FOLDERS:
                    yield from self._walk(Path(entry.path), root)
            elif entry.is_symlink() and Path(entry.path).is_dir():
                # Of a link inside, the files are listed where they are.
                if not Path(entry.path).resolve().is_relative_to(root):
                    yield Listed(path, 0.0, "")
            elif any(pattern.fullmatch(path) for pattern in self._include):
                yield _listed(entry, path)


def _listed(entry: os.DirEntry[str], path: str) -> Listed:
    try:
        state = entry.stat()
    except OSError:
        return Listed(path, 0.0, "")
    return Listed(path, state.st_mtime, f"{state.st_size}-{state.st_mtime_ns}-{state.st_ino}")


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _regex(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression. `**/` is any number of folders, a `**` at the end everything below."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.removeprefix("./").rstrip("/"))
    words = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts), re.IGNORECASE | re.DOTALL)
