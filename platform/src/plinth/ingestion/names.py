"""Names of files that hold what must not be shown: a name becomes an id, and an id stands in every record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from plinth.core.digests import digest_bytes
from plinth.core.privacy import Detector, redact
from plinth.errors import PlinthError, RefusedByPolicy
from plinth.ingestion.port import Listed, Source

_LONGEST_SUFFIX = 9


class HarmlessNames:
    """A source whose paths hold no personal data and no secrets: each finding is replaced by its kind, and some of the
    path's digest keeps two files apart. A file with a secret in its path is listed, and refused when it is read.

    Args:
        source: What is listed and read.
        personal_data: Finds what is redacted.
        secrets: Finds what makes a file refused.
    """

    def __init__(self, source: Source, personal_data: Detector, secrets: Detector) -> None:
        self.name = source.name
        self._source = source
        self._personal_data = personal_data
        self._secrets = secrets
        self._paths: dict[str, str] = {}

    def list(self) -> Iterator[Listed]:
        """As the source; see the port."""
        for listed in self._source.list():
            shown = self._shown(listed.path)
            if shown != listed.path:
                self._paths[shown] = listed.path
                listed = replace(listed, path=shown)
            yield listed

    def read(self, path: str) -> bytes:
        """As the source; see the port.

        Raises:
            RefusedByPolicy: Its path holds a secret.
        """
        own = self._paths.get(path, path)
        if found := self._secrets.find(own):
            raise RefusedByPolicy(
                f"its path holds a secret of kind {found[0].kind}", where=f"{self.name}: {path}", hint="rename the file"
            )
        try:
            return self._source.read(own)
        except PlinthError as error:
            error.where = error.where.replace(own, path)
            raise

    def _shown(self, path: str) -> str:
        shown = redact(path, self._secrets.find(path)).text
        shown = redact(shown, self._personal_data.find(shown)).text
        if shown == path:
            return path
        suffix = PurePosixPath(path).suffix
        suffix = suffix if len(suffix) <= _LONGEST_SUFFIX else ""
        return f"{shown.removesuffix(suffix)}~{digest_bytes(path.encode())[:8]}{suffix}"
