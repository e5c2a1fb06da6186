"""Vectors that were computed for a build that is not finished: who tries again does not compute them again.

One file a slice, `<folder>/<embedding>/<n>.npz`, written whole or not at all. They hold digests and numbers, no text;
a finished build empties the folder, because its vectors are in the store.
"""

from __future__ import annotations

import io
import logging
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from plinth.assistants.records import write_file
from plinth.retrieval.port import Vectors

log = logging.getLogger(__name__)


class VectorCache:
    """The slices of one embedding model.

    Args:
        folder: The product's folder of unfinished vectors.
        embedding: Digest of the embedding model: vectors of another one are never given out.
    """

    def __init__(self, folder: Path, embedding: str) -> None:
        self._root = folder
        self._folder = folder / embedding[:16]

    def save(self, digests: Sequence[str], vectors: Vectors) -> None:
        """Keep the vectors of a slice, one a digest.

        Raises:
            Unavailable: The disk is full.
        """
        buffer = io.BytesIO()
        np.savez(buffer, digests=np.array(digests, dtype="S64"), vectors=vectors.astype(np.float32, copy=False))
        number = 1 + max((int(path.stem) for path in self._paths()), default=0)
        write_file(self._folder / f"{number:06d}.npz", buffer.getvalue())

    def slices(self) -> Iterator[tuple[list[str], Vectors]]:
        """Every slice that can be read: digests and their vectors."""
        for path in self._paths():
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    digests = [str(digest, "ascii") for digest in arrays["digests"].tolist()]
                    vectors = arrays["vectors"]
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                log.warning("cached vectors are ignored: %s (%s)", error, path)
                continue
            if len(digests) == len(vectors):
                yield digests, vectors

    def clear(self) -> None:
        """Forget everything, of other embedding models too."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _paths(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.npz") if path.stem.isdigit())
