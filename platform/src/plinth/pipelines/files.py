"""Files by path and digest: how a step names what it read and wrote, so that a cached result can be trusted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializationInfo, model_serializer

from plinth.core.digests import digest_file
from plinth.errors import Corrupt, NotFound

IN_KEY = {"plinth": "cache-key"}


class FileRef(BaseModel):
    """A file and the sha256 of its content.

    In a cache key only the file's name and digest count, so moving the state folder does not invalidate results.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileRef:
        """The reference to a file as it is now.

        Raises:
            NotFound: There is no such file.
        """
        try:
            return cls(path=path, sha256=digest_file(path))
        except (FileNotFoundError, IsADirectoryError) as error:
            raise NotFound("the file does not exist", where=str(path)) from error

    def intact(self) -> bool:
        """Whether the file is still there with the same content."""
        try:
            return digest_file(self.path) == self.sha256
        except OSError:
            return False

    def checked(self) -> Path:
        """The path, once the content has been compared with the digest.

        Raises:
            Corrupt: The file is gone or its content is another one.
        """
        if not self.intact():
            raise Corrupt("the file is missing or its content changed", where=str(self.path), hint="run the step again")
        return self.path

    @model_serializer(mode="plain")
    def _serialize(self, info: SerializationInfo) -> dict[str, str]:
        if info.context == IN_KEY:
            return {"file": self.path.name, "sha256": self.sha256}
        return {"path": str(self.path), "sha256": self.sha256}


def file_refs(value: Any) -> Iterator[FileRef]:
    """Every `FileRef` inside a value: mappings, sequences, dataclasses and pydantic objects are searched."""
    if isinstance(value, FileRef):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from file_refs(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from file_refs(item)
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from file_refs(getattr(value, name))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from file_refs(getattr(value, field.name))
