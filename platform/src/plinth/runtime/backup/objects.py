"""S3: every object of the buckets, stored by its content, with the keys beside."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from plinth.errors import Corrupt

if TYPE_CHECKING:
    from plinth.ledger.obstore import Objects

KEYS = "keys.json"
THREADS = 8


class ObjectsPart:
    """The objects of some buckets: artefacts, MLflow's files, archived logs.

    Args:
        buckets: Each by its name.
    """

    name = "objects"

    def __init__(self, buckets: Mapping[str, Objects]) -> None:
        self._buckets = dict(buckets)

    def dump(self, folder: Path) -> int:
        """As Part.dump. The same content is written once."""
        found: dict[str, dict[str, str]] = {}
        with ThreadPoolExecutor(THREADS, "plinth-backup") as pool:
            for name, bucket in self._buckets.items():
                keys = [meta.key for meta in bucket.list("")]
                digests = pool.map(lambda key, bucket=bucket: _fetch(bucket, key, folder), keys)
                found[name] = dict(zip(keys, digests, strict=True))
        (folder / KEYS).write_text(json.dumps(found, indent=1, sort_keys=True), encoding="utf-8")
        return sum(len(keys) for keys in found.values())

    def restore(self, folder: Path) -> int:
        """As Part.restore: objects that the backup does not know are removed after the others were written."""
        try:
            found = json.loads((folder / KEYS).read_text(encoding="utf-8"))
            todo = [(self._buckets[name], key, digest) for name, keys in found.items() for key, digest in keys.items()]
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise Corrupt(f"the list of objects cannot be read: {error!r}", where=str(folder / KEYS)) from error
        with ThreadPoolExecutor(THREADS, "plinth-restore") as pool:
            list(pool.map(lambda one: one[0].put(one[1], folder / one[2]), todo))
        for name, bucket in self._buckets.items():
            for key in [meta.key for meta in bucket.list("") if meta.key not in found.get(name, {})]:
                bucket.delete(key)
        return len(todo)


def _fetch(bucket: Objects, key: str, folder: Path) -> str:
    """Stream an object into a file that is named by its digest; memory stays flat."""
    handle, name = tempfile.mkstemp(dir=folder, prefix=".writing-")
    digest = sha256()
    with os.fdopen(handle, "wb") as file:
        for part in bucket.get(key):
            digest.update(part)
            file.write(part)
    os.replace(name, folder / digest.hexdigest())
    return digest.hexdigest()
