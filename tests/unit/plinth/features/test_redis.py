"""Feast's layout in Redis, as ours names it; what needs a server is in tests/contract/test_online_valkey.py."""

import subprocess
import sys
from urllib.parse import quote

import pytest
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.redis import RedisOnlineStore
from google.protobuf.timestamp_pb2 import Timestamp

from plinth.errors import InvalidInput
from plinth.features.feast_redis import RedisWriter
from plinth.features.readplan import ReadPlan
from plinth.features.redis import RedisReader, _seconds, feature_field
from plinth.features.redis_connections import Connections

URL = "redis://127.0.0.1:1/0"


def plan(*names):
    views = [
        {
            "name": name,
            "table": f"p_{name}",
            "join_keys": ["b", "a"],
            "ttl_seconds": 60,
            "features": [{"name": "f", "dtype": "float32", "default": 0.0}],
        }
        for name in names
    ]
    rest = {"feature_service": "s", "project": "p", "entity_key_version": 3, "store": {"type": "sqlite"}}
    return ReadPlan.from_dict({"schema": 1, **rest, "views": views})


@pytest.mark.parametrize("length", range(40))
def test_fields_are_named_as_feast_names_them(length):
    for seed in range(20):
        feature = "".join(chr(97 + (seed * 7 + i * i) % 26) for i in range(length))
        assert feature_field("view_ä", feature) == _mmh3(f"view_ä:{feature}")


@pytest.mark.parametrize("seconds", [0, 1, 127, 128, 1_370_000_000, 253_402_300_799, -5])
@pytest.mark.parametrize("nanos", [0, 7])
def test_times_are_read_as_protobuf_writes_them(seconds, nanos):
    assert _seconds(Timestamp(seconds=seconds, nanos=nanos).SerializeToString()) == seconds


@pytest.mark.parametrize("password", ['com,ma="x",db=3', "12345", "1e5", "true", 'qu"ote\\u002c', "ä:@/?#", "a=b"])
def test_passwords_of_any_kind_reach_feast_as_they_are(password):
    """Feast cuts its connection string at commas, and reads what looks like a number as one."""
    url = f"redis://{quote('us,er', safe='')}:{quote(password, safe='')}@host:6380/2"
    nodes, options = RedisOnlineStore._parse_connection_string(RedisWriter(url, "p").config()["connection_string"])
    assert nodes == [{"host": "host", "port": "6380"}]
    assert (options["password"], options["username"], options["db"]) == (password, "us,er", 2)


def test_tls_reaches_feast():
    config = RedisWriter("rediss://host/0", "p").config()["connection_string"]
    assert RedisOnlineStore._parse_connection_string(config)[1]["ssl"] is True


def test_features_that_share_a_field_are_refused():
    names = _same_field()
    with pytest.raises(InvalidInput, match="same field"):
        RedisReader(plan(*names), Connections(URL), patience=0)
    RedisReader(plan(names[0], "other"), Connections(URL), patience=0)


def _same_field():
    """Two views whose feature `f` has one field: of a few hundred thousand 32-bit hashes some are equal."""
    seen = {}
    for number in range(400_000):
        name = f"view_{number}"
        field = feature_field(name, "f")
        if field in seen:
            return seen[field], name
        seen[field] = name
    raise AssertionError("no two names share a field")


def test_an_entity_key_is_taken_apart_as_it_was_put_together():
    (view,) = plan("v").views
    for a, b in (("x", "y"), ("", "ß" * 40), ("y\0", "\U0001f600")):
        (key,) = view.entity_keys({"a": [a], "b": [b]})
        assert view.entity_of(key + b"project") == ((a, b), b"project")
        assert view.entity_of(key[:-1]) is None
    assert view.entity_of(b"plinth:online:p") is None


def test_a_service_on_files_imports_no_client_of_redis_and_a_service_on_either_no_feast():
    code = """
import sys
from plinth.settings import Settings
from plinth.wiring import Platform
plan = {plan}
Platform(Settings(online_store={url!r})).open_reader("p", plan)
print(*sorted({{name.split(".")[0] for name in sys.modules}} & {{"redis", "feast", "google", "mmh3", "pandas"}}))
"""
    views = [dict(vars(view), features=[vars(f) for f in view.features]) for view in plan("v").views]
    views = [
        {k: list(v) if isinstance(v, tuple) else v for k, v in view.items() if k != "key_prefix"} for view in views
    ]
    document = {"schema": 1, "feature_service": "s", "project": "p", "entity_key_version": 3}
    document |= {"store": {"type": "sqlite"}, "views": views}
    for url, expected in (("", ""), (URL, "redis")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(plan=document, url=url)], capture_output=True, text=True, timeout=60
        )
        assert done.stdout.strip() == expected, done.stderr
