"""S3: every object of the buckets, stored by its content, with the keys beside."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

from plinth.errors import Corrupt, Unavailable

KEYS = "keys.json"
THREADS = 8


class ObjectsPart:
    """The objects of some buckets: artefacts, MLflow's files, archived logs.

    Args:
        open_bucket: Gives obstore's store of a bucket.
        buckets: Which.
    """

    name = "objects"

    def __init__(self, open_bucket: Callable[[str], Any], buckets: tuple[str, ...] = ("plinth", "mlflow")) -> None:
        self._open = open_bucket
        self._buckets = buckets

    def dump(self, folder: Path) -> int:
        """As Part.dump. The same content is written once."""
        import obstore

        found: dict[str, dict[str, str]] = {}
        with _translated(), ThreadPoolExecutor(THREADS, "plinth-backup") as pool:
            for bucket in self._buckets:
                store = self._open(bucket)
                keys = [meta["path"] for batch in obstore.list(store) for meta in batch]
                digests = pool.map(lambda key, store=store: self._fetch(store, key, folder), keys)
                found[bucket] = dict(zip(keys, digests, strict=True))
        (folder / KEYS).write_text(json.dumps(found, indent=1, sort_keys=True), encoding="utf-8")
        return sum(len(keys) for keys in found.values())

    def restore(self, folder: Path) -> int:
        """As Part.restore: objects that the backup does not know are removed after the others were written."""
        import obstore

        try:
            found = json.loads((folder / KEYS).read_text(encoding="utf-8"))
            todo = [(bucket, key, digest) for bucket, keys in found.items() for key, digest in keys.items()]
        except (OSError, ValueError, AttributeError) as error:
            raise Corrupt(f"the list of objects cannot be read: {error!r}", where=str(folder / KEYS)) from error
        with _translated(), ThreadPoolExecutor(THREADS, "plinth-restore") as pool:
            stores = {bucket: self._open(bucket) for bucket in found}
            list(pool.map(lambda one: obstore.put(stores[one[0]], one[1], folder / one[2]), todo))
            for bucket, store in stores.items():
                extra = [m["path"] for batch in obstore.list(store) for m in batch if m["path"] not in found[bucket]]
                if extra:
                    obstore.delete(store, extra)
        return len(todo)

    def _fetch(self, store: Any, key: str, folder: Path) -> str:
        """Stream an object into a file that is named by its digest; memory stays flat."""
        import obstore

        handle, name = tempfile.mkstemp(dir=folder, prefix=".writing-")
        digest = sha256()
        with os.fdopen(handle, "wb") as file:
            for part in _parts(obstore.get(store, key)):
                digest.update(part)
                file.write(part)
        os.replace(name, folder / digest.hexdigest())
        return digest.hexdigest()


def _parts(answer: Any) -> Iterator[bytes]:
    yield from (bytes(part) for part in answer.stream(min_chunk_size=1 << 20))


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        first = str(error).splitlines()[0][:300]
        raise Unavailable(f"S3 failed: {first}", where="seaweedfs", hint="is it running?") from error
