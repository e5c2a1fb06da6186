"""Feast's Redis online store as it is written, on Valkey or Redis.

Its traps: it skips a row of the same instant, so that corrected tables would never show (`skip_dedup`); it finds a
project's keys by the end of their names, so that `delays` would take those of `flight_delays` (it may delete nothing);
and it writes view after view, so that a request in between sees two hours (`RedisWriter.write` is one transaction).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import redis
from feast.infra.key_encoding_utils import serialize_entity_key
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]

from plinth.errors import Unavailable
from plinth.features.readplan import ViewPlan
from plinth.features.redis import BEGUN, HOUR, RedisOnline, feature_field, written_key
from plinth.features.redis_connections import address, unavailable
from plinth.features.writer import ViewRows


class RedisWriter:
    """The online store in Valkey or Redis.

    Args:
        url: `redis://:password@host:port/db`.
        project: Feast's project.
    """

    errors: tuple[type[Exception], ...] = (redis.RedisError,)
    shared = secret = True

    def __init__(self, url: str, project: str) -> None:
        self.online = RedisOnline(url, project)
        self._options, _ = address(url)
        self._project = project.encode()
        self._written = written_key(project)

    def unavailable(self, error: Exception) -> Unavailable:
        """What the server's error means."""
        return unavailable(error, self.online.where)

    def config(self) -> dict[str, Any]:
        """The online store's part of Feast's configuration."""
        options = self._options
        parts = [f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"]
        given = {name: options[name] for name in ("db", "username", "password") if options.get(name) is not None}
        if "connection_class" in options:  # of rediss://
            given["ssl"] = True
        given |= {"socket_timeout": 10, "socket_connect_timeout": 2}
        # Feast cuts this at commas and reads values as JSON, so a password goes in as JSON without a comma.
        parts += [f"{name}={json.dumps(value).replace(',', chr(92) + 'u002c')}" for name, value in given.items()]
        return {
            "type": "redis", "connection_string": ",".join(parts), "skip_dedup": True, "full_scan_for_deletion": False,
        }  # fmt: skip

    def prepare(self) -> None:
        """Nothing: keys need no tables."""

    def opened(self, store: Any) -> None:
        """Nothing: times are stored as protobuf's, in UTC."""

    def newest(self, store: Any, views: Callable[[], Sequence[Any]]) -> datetime | None:
        """The hour that was written last; None when the rows of the last filling are not all there."""
        return self.online.written()

    def write(self, store: Any, rows: ViewRows, hour: datetime) -> None:
        """In one transaction, so that nobody sees a part of an hour, and one that is killed has written none."""
        with self.online.client.pipeline(transaction=True) as pipe:
            for view, data in rows:
                names = {field.name: feature_field(view.name, field.name) for field in view.features}
                stamp = f"_ts:{view.name}"
                for key, values, at, _ in data:
                    fields: dict[Any, Any] = {names[name]: value.SerializeToString() for name, value in values.items()}
                    fields[stamp] = _timestamp(at)
                    name = serialize_entity_key(key, entity_key_serialization_version=3) + self._project
                    pipe.hset(name, mapping=fields)
            pipe.hset(self._written, mapping={HOUR: int(hour.timestamp())})
            pipe.execute()

    @contextlib.contextmanager
    def filling(self, store: Any, end: datetime) -> Iterator[None]:
        """Notes that a materialization began, and takes the note back when it came to its end."""
        client, at = self.online.client, int(end.timestamp())
        client.hset(self._written, mapping={BEGUN: at})
        yield
        before = client.hget(self._written, HOUR)
        with client.pipeline(transaction=True) as pipe:
            pipe.hset(self._written, mapping={HOUR: max(at, int(before or at))})
            pipe.hdel(self._written, BEGUN)
            pipe.execute()

    def clear(self, store: Any, views: Sequence[Any]) -> None:
        """Removes the project's keys, and only those: a name that merely ends like one belongs to somebody else."""
        entities = {tuple(sorted(view.join_keys)) for view in views}
        plans = [ViewPlan("", "", keys, 0, ()) for keys in entities]
        ours = [
            key
            for key in self.online.hashes()
            if any((found := plan.entity_of(key)) and found[1] == self._project for plan in plans)
        ]
        for start in range(0, len(ours), 1000):
            self.online.client.unlink(*ours[start : start + 1000])
        self.online.client.delete(self._written)  # last: one that is killed before has not cleared


def _timestamp(at: datetime) -> bytes:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    encoded: bytes = stamp.SerializeToString()
    return encoded
