"""Feast's Redis online store as it is read: every entity of every view in one round trip, values decoded in bulk.

The layout is that of `feast/infra/online_stores/redis.py` of Feast 0.67: a hash for each entity, named by the
serialized entity key and the project after it; a field for each feature, named by a hash of `view:feature`; and a field
`_ts:view` with the row's time as a protobuf Timestamp. Views of one entity share its hash.

Rows are not remembered, as those in SQLite are: Valkey has nothing as cheap as `PRAGMA data_version`, and asking it
whether anything changed takes as long as reading the product's seven views (measured: 50 to 90 µs of 70 to 200).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray

from plinth.errors import Corrupt, InvalidInput
from plinth.features.reader import ABSENT, FLOAT_BYTES, Keys, Reader, decode_floats, decode_value
from plinth.features.readplan import ReadPlan, ViewPlan
from plinth.features.redis_connections import PATIENCE, Connections, unavailable

SCAN_COUNT = 2_000
_MULTI, _EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"
HOUR, BEGUN = b"hour", b"begun"
"""Fields of `written_key`: the last full hour that is online, and what a materialization that is going on leads to."""


def written_key(project: str) -> bytes:
    """The key that says what was written; no key of Feast's begins like it."""
    return f"plinth:online:{project}".encode()


class RedisOnline:
    """The online store of a project in Valkey or Redis.

    Args:
        url: `redis://:password@host:port/db`.
        project: Feast's project; others may share the server.
    """

    def __init__(self, url: str, project: str) -> None:
        self.connections = Connections(url)
        self.where = self.connections.where
        self.project = project
        self._url = url

    def open(self, plan: ReadPlan, *, patient: bool = True) -> RedisReader:
        """A reader. An impatient one waits for no connection: whoever serves from an event loop tries again instead."""
        self.connections.prepare()
        return RedisReader(plan, self.connections, patience=PATIENCE if patient else 0.0)

    @cached_property
    def client(self) -> Any:
        """redis-py's client, for everything but reading features; its types know no bytes as keys."""
        return redis.Redis.from_url(self._url, socket_timeout=10.0, socket_connect_timeout=PATIENCE)

    def hashes(self) -> Iterator[bytes]:
        """Every hash of the project, and of those whose name ends with its name: `entity_of` tells them apart."""
        pattern = b"*" + self.project.encode()
        try:
            yield from self.client.scan_iter(pattern, count=SCAN_COUNT, _type="hash")
        except redis.RedisError as error:
            raise unavailable(error, self.where) from error

    def entities(self, plan: ReadPlan, view: ViewPlan) -> Iterator[tuple[tuple[str, ...], int]]:
        """Each entity of a view, by its join keys' values in their names' order, and its row's event time.

        Raises:
            Unavailable: The store does not answer.
        """
        project = self.project.encode()
        found = {key: entity for key in self.hashes() if (entity := view.entity_of(key)) and entity[1] == project}
        names = sorted(found)
        for start in range(0, len(names), SCAN_COUNT):
            some = names[start : start + SCAN_COUNT]
            try:
                with self.client.pipeline(transaction=False) as pipe:
                    for key in some:
                        pipe.hget(key, f"_ts:{view.name}")
                    stamps = pipe.execute()
            except redis.RedisError as error:
                raise unavailable(error, self.where) from error
            yield from ((found[key][0], _seconds(at)) for key, at in zip(some, stamps, strict=True) if at is not None)

    def written(self) -> datetime | None:
        """The last hour that is online; None when there is none, or a materialization did not come to its end.

        Raises:
            Unavailable: The store does not answer.
        """
        try:
            found: dict[bytes, bytes] = self.client.hgetall(written_key(self.project))
        except redis.RedisError as error:
            raise unavailable(error, self.where) from error
        if BEGUN in found or HOUR not in found:
            return None
        return datetime.fromtimestamp(int(found[HOUR]), UTC)

    def problem(self, plan: ReadPlan, through: datetime | None) -> str:
        """What a service that reads the plan would miss, in words; "" for nothing.

        Args:
            plan: What is to be read.
            through: The last hour that was written, as far as anybody wrote it down.

        Raises:
            Unavailable: The store does not answer.
        """
        written = self.written()
        if through is None or (written is not None and written >= through):
            return ""
        is_there = (
            f"holds rows through {written:%Y-%m-%d %H:%M}" if written else "was emptied, or not filled to its end"
        )
        return f"the online store {is_there}, after it was filled through {through:%Y-%m-%d %H:%M}"


class RedisReader(Reader):
    """Reads feature rows.

    Args:
        plan: What to read.
        connections: To the server; shared by all readers of a process.
        patience: Seconds to wait for a connection, and to try again. Services give 0.

    Raises:
        InvalidInput: Two features of one entity share a field, and so overwrite each other.
    """

    def __init__(self, plan: ReadPlan, connections: Connections, *, patience: float) -> None:
        super().__init__(plan)
        self._connections = connections
        self._patience = patience
        entities: dict[tuple[str, ...], list[int]] = {}
        for position, view in enumerate(plan.views):
            entities.setdefault(tuple(sorted(view.join_keys)), []).append(position)
        self._entities = [_Entity(plan, positions) for positions in entities.values()]

    def close(self) -> None:
        """Nothing: connections belong to the process."""

    def _read_all(self, keys: Keys, values: NDArray[np.float64], stamps: NDArray[np.int64]) -> None:
        asked = [entity.ask(keys) for entity in self._entities]
        commands = [command for part, _ in asked for command in part]
        replies: list[Any]
        if len(commands) > 1:  # MULTI: a read sees an hour whole, or not at all
            exchange = b"".join((_MULTI, *commands, _EXEC))
            replies = self._connections.ask(exchange, len(commands) + 2, patience=self._patience)[-1]
        elif commands:
            replies = self._connections.ask(commands[0], 1, patience=self._patience)
        else:
            replies = []
        at = 0
        for entity, (part, places) in zip(self._entities, asked, strict=True):
            entity.put(replies[at : at + len(part)], places, values, stamps)
            at += len(part)


class _Entity:
    """The views of one entity: their common command, prepared once, and their decoder.

    Fields are asked for in one order: the features of the first view, of the second, and so on, then the times.
    """

    def __init__(self, plan: ReadPlan, positions: list[int]) -> None:
        views = [plan.views[position] for position in positions]
        self.view = views[0]
        self.positions = positions
        self.columns = np.concatenate([np.arange(plan.slices[p].start, plan.slices[p].stop) for p in positions])
        ends = np.cumsum([len(view.features) for view in views]).tolist()
        self.slices = [slice(end - len(view.features), end) for view, end in zip(views, ends, strict=True)]
        self.width = ends[-1]
        self.all_floats = all(feature.dtype == "float32" for view in views for feature in view.features)
        fields = [feature_field(view.name, feature.name) for view in views for feature in view.features]
        if len(set(fields)) < len(fields):
            raise InvalidInput(
                "two features of one entity have the same field in Redis, and overwrite each other",
                where=", ".join(view.name for view in views), hint="rename one of them",
            )  # fmt: skip
        fields += [f"_ts:{view.name}".encode() for view in views]
        self._project = plan.project.encode()
        self._head = b"*%d\r\n$5\r\nHMGET\r\n" % (len(fields) + 2)
        self._tail = b"".join(b"$%d\r\n%s\r\n" % (len(field), field) for field in fields)

    def ask(self, keys: Keys) -> tuple[list[bytes], list[int]]:
        """The commands, one for each different key, and for each row which of them is its own; -1 for none."""
        head, tail, project = self._head, self._tail, self._project
        commands: list[bytes] = []
        known: dict[bytes | None, int] = {None: -1}
        places = []
        for key in self.view.entity_keys(keys):
            place = known.get(key)
            if place is None:
                assert key is not None  # noqa: S101  (None is known)
                place = known[key] = len(commands)
                name = key + project
                commands.append(b"%s$%d\r\n%s\r\n%s" % (head, len(name), name, tail))
            places.append(place)
        return commands, places

    def put(
        self, replies: list[Any], places: list[int], values: NDArray[np.float64], stamps: NDArray[np.int64]
    ) -> None:
        """Puts what was answered in place."""
        decoded = np.full((len(replies) + 1, self.width), np.nan)  # the last row is that of no key
        times = np.full((len(replies) + 1, len(self.positions)), ABSENT, dtype=np.int64)
        if not self._decode_whole(replies, decoded, times):
            for row, reply in enumerate(replies):
                self._decode_row(reply, decoded[row], times[row])
        index = np.array(places)
        values[:, self.columns] = decoded[index]
        stamps[:, self.positions] = times[index]

    def _decode_whole(self, replies: list[Any], decoded: NDArray[np.float64], times: NDArray[np.int64]) -> bool:
        """All rows at once, where all are there and nothing in them is null; says whether that was so."""
        if not self.all_floats or not replies:
            return False
        width = self.width
        try:
            blobs = b"".join([b"".join(reply[:width]) for reply in replies])
            stamps = [[_seconds(at) for at in reply[width:]] for reply in replies]
        except TypeError:  # a None among them
            return False
        if len(blobs) != len(replies) * width * FLOAT_BYTES:
            return False
        floats = decode_floats(blobs)
        if floats is None:
            return False
        decoded[:-1] = floats.reshape(len(replies), width)
        times[:-1] = stamps
        return True

    def _decode_row(self, reply: Any, decoded: NDArray[np.float64], times: NDArray[np.int64]) -> None:
        if not isinstance(reply, list):  # an error within a transaction
            raise Corrupt(f"an entity cannot be read: {reply}", where=str(self.view.join_keys), hint="materialize anew")
        for place, columns in enumerate(self.slices):
            at = reply[self.width + place]
            if at is None:
                continue
            times[place] = _seconds(at)
            decoded[columns] = [float("nan") if blob is None else decode_value(blob) for blob in reply[columns]]


def _seconds(timestamp: bytes) -> int:
    """Seconds of a serialized protobuf Timestamp; its field 1 is a varint, which is left out when it is 0."""
    if timestamp[:1] != b"\x08":
        return 0
    value = shift = 0
    for byte in timestamp[1:]:
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value - (1 << 64) if value >= 1 << 63 else value


def feature_field(view: str, feature: str) -> bytes:
    """The field of a feature in its entity's hash: MurmurHash3 (32 bits) of `view:feature`, little end first."""
    return struct.pack("<I", _murmur3(f"{view}:{feature}".encode()))


def _murmur3(data: bytes) -> int:
    """The hash that Feast takes from the package mmh3, here without it: it is made when a plan is opened, not later."""

    def mixed(k: int) -> int:
        k = k * 0xCC9E2D51 & 0xFFFFFFFF
        return (k << 15 | k >> 17) * 0x1B873593 & 0xFFFFFFFF

    whole = len(data) // 4
    h = 0
    for k in struct.unpack(f"<{whole}I", data[: 4 * whole]):
        h ^= mixed(k)
        h = ((h << 13 | h >> 19) & 0xFFFFFFFF) * 5 + 0xE6546B64 & 0xFFFFFFFF
    if rest := data[4 * whole :]:
        h ^= mixed(int.from_bytes(rest, "little"))
    h ^= len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ h >> 16
