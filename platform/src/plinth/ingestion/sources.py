"""Where documents come from: a folder, or a list of pages."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path

from plinth.errors import InvalidInput, NotFound, RefusedByPolicy, Unavailable
from plinth.ingestion.fetch import Fetcher
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


class UrlSource:
    """Pages listed in a file: one URL a line; empty lines and those that begin with # are left out.

    A page's stamp is what its server says of its version (ETag, else Last-Modified), asked for with HEAD; where it says
    nothing the page is fetched each time and its content compared.

    Args:
        name: The source's name.
        file: The list.
        fetcher: Fetches pages; the default refuses every address that is not public.
    """

    def __init__(self, name: str, file: Path, fetcher: Fetcher | None = None) -> None:
        self.name = name
        self._file = file
        self._fetcher = fetcher or Fetcher()

    def list(self) -> Iterator[Listed]:
        """Every page of the list, in its order; see the port. A page that its server denies is not there.

        Raises:
            InvalidInput: The list is not UTF-8.
        """
        try:
            text = self._file.read_text("utf-8-sig")
        except FileNotFoundError:
            raise NotFound(
                "the list of pages is not there", where=f"{self.name}: {self._file}", hint="check its path"
            ) from None
        except UnicodeDecodeError:
            raise InvalidInput("the list of pages is not UTF-8", where=f"{self.name}: {self._file}") from None
        except OSError as error:
            raise Unavailable(f"the list cannot be read: {error.strerror}", where=str(self._file)) from error
        lines = (line.strip() for line in text.splitlines())
        for url in dict.fromkeys(line for line in lines if line and not line.startswith("#")):
            try:
                headers = self._fetcher.head(url).headers
            except NotFound:
                continue
            except (InvalidInput, RefusedByPolicy, Unavailable):
                headers = {}  # reading it says why
            yield Listed(_without_credentials(url), _changed(headers), _stamp(headers))

    def read(self, path: str) -> bytes:
        """A page; see the port.

        Raises:
            InvalidInput: Its URL is not one of http or https, or carries credentials.
        """
        if path.startswith(_CREDENTIALS):
            raise InvalidInput("the URL carries credentials", where=self.name, hint="list pages that need none")
        return self._fetcher.get(path).body


_CREDENTIALS = "credentials@"


def _without_credentials(url: str) -> str:
    """The URL as an id: credentials in it must reach no log and no record."""
    return re.sub(r"\A(?:[a-z]+:)?(?://)?[^/?#]*@", _CREDENTIALS, url, flags=re.IGNORECASE)


def _stamp(headers: Mapping[str, str]) -> str:
    return headers.get("etag") or headers.get("last-modified") or ""


def _changed(headers: Mapping[str, str]) -> float:
    """When a page was changed last, by its server; 0 where it does not say."""
    try:
        return parsedate_to_datetime(headers.get("last-modified", "")).timestamp()
    except (TypeError, ValueError, OverflowError):
        return 0.0


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
