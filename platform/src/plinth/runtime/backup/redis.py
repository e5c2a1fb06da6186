"""Valkey: every key as the server itself serializes it (DUMP and RESTORE), with what is left of its life."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from plinth.errors import Corrupt, Unavailable

BATCH = 500
FILE = "keys.jsonl"


class ValkeyPart:
    """The online features.

    Args:
        url: `redis://:password@host:port/db`.
    """

    name = "valkey"

    def __init__(self, url: str) -> None:
        self._url = url

    def dump(self, folder: Path) -> int:
        """As Part.dump. A key that goes away meanwhile is left out."""
        count = 0
        with _translated(), self._client() as client, (folder / FILE).open("w", encoding="ascii") as file:
            keys = client.scan_iter(count=BATCH)
            while batch := list(islice(keys, BATCH)):
                pipe = client.pipeline(transaction=False)
                for key in batch:
                    pipe.dump(key)
                    pipe.pttl(key)
                answers = pipe.execute()
                for key, value, left in zip(batch, answers[::2], answers[1::2], strict=True):
                    if value is not None:
                        row = {"key": _text(key), "value": _text(value), "ttl": max(left, 0)}
                        file.write(json.dumps(row) + "\n")
                        count += 1
        return count

    def restore(self, folder: Path) -> int:
        """As Part.restore: the database is emptied first."""
        count = 0
        with _translated(), self._client() as client:
            client.flushdb()
            rows = _rows(folder / FILE)
            while batch := list(islice(rows, BATCH)):
                pipe = client.pipeline(transaction=False)
                for key, value, ttl in batch:
                    pipe.restore(key, ttl, value, replace=True)
                pipe.execute()
                count += len(batch)
        return count

    def _client(self) -> Any:
        import redis

        return redis.Redis.from_url(self._url, socket_timeout=30, socket_connect_timeout=5)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    import redis

    try:
        yield
    except redis.RedisError as error:  # its text names no password
        raise Unavailable(f"Valkey failed: {error}", where="valkey", hint="is it running?") from error


def _rows(path: Path) -> Iterator[tuple[bytes, bytes, int]]:
    try:
        with path.open(encoding="ascii") as file:
            for line in file:
                row = json.loads(line)
                yield base64.b64decode(row["key"]), base64.b64decode(row["value"]), int(row["ttl"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"the dump of Valkey cannot be read: {error!r}", where=str(path)) from error


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
