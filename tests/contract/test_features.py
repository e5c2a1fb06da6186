"""The features port, held by the Feast adapter on files and on servers, and the read plan against Feast's own read."""

import os
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import uuid
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plinth.errors import Conflict, InvalidInput, NotFound
from plinth.features.online import filled_through
from plinth.features.readplan import MISSING, OK, STALE, ReadPlan
from plinth.features.skew import compare, sample

START = datetime(2013, 3, 1, tzinfo=UTC)
HOURS = 96
SHOPS = [f"s{number}" for number in range(12)]
ITEMS = ["i0", "i1", "ä2"]


def definitions(features):
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
    from feast.types import Float32, Float64, Int64, String

    shop, item = (Entity(name=n, join_keys=[n], value_type=ValueType.STRING) for n in ("shop", "item"))

    def view(name, entities, ttl, fields):
        return FeatureView(
            name=name,
            entities=entities,
            ttl=ttl,
            schema=[*(Field(name=entity.name, dtype=String) for entity in entities), *fields],
            source=FileSource(name=name, path=str(features / f"{name}.parquet"), timestamp_field="event_timestamp"),
            owner="shops@plinth.example",
        )

    sales = view(
        "sales",
        [shop, item],
        timedelta(hours=3),
        [
            Field(name="sold", dtype=Int64, tags={"default": "-1"}),
            Field(name="price", dtype=Float32, tags={"default": "0.5"}),
            Field(name="exact", dtype=Float64),
        ],
    )
    rates = view("rates", [shop], timedelta(hours=2), [Field(name=f"rate_{n}", dtype=Float32) for n in (2, 0, 1)])
    return [shop, item, sales, rates, FeatureService(name="shops_v1", features=[sales, rates])]


def write_tables(folder, seed=0):
    """Hourly rows with gaps, nulls and extreme values."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    hours = [START + timedelta(hours=n) for n in range(HOURS)]
    stamp = pa.timestamp("us", tz="UTC")

    def table(keys, columns, share):
        rows = [(hour, *key) for hour in hours for key in keys if rng.random() < share]
        names = ["event_timestamp", *columns["keys"]]
        data = {name: [row[i] for row in rows] for i, name in enumerate(names)}
        data["event_timestamp"] = pa.array(data["event_timestamp"], stamp)
        return pa.table({**data, **{name: make(len(rows)) for name, make in columns["values"].items()}})

    def floats(kind):
        def make(n):
            values = rng.normal(size=n) * 10.0 ** rng.integers(-20, 20, n)
            return pa.array(values.astype(kind), from_pandas=True, mask=rng.random(n) < 0.05)

        return make

    sales = {"keys": ["shop", "item"], "values": {
        "sold": lambda n: pa.array(rng.integers(-(2**40), 2**40, n)),
        "price": floats(np.float32), "exact": floats(np.float64),
    }}  # fmt: skip
    rates = {"keys": ["shop"], "values": {f"rate_{i}": floats(np.float32) for i in range(3)}}
    pq.write_table(table([(s, i) for s in SHOPS for i in ITEMS], sales, 0.5), folder / "sales.parquet")
    pq.write_table(table([(s,) for s in SHOPS], rates, 0.9), folder / "rates.parquet")


class Files:
    """SQLite and a file as registry, both in the product's folder."""

    project = "shops"

    def make(self, folder, project=None):
        from plinth.features.feast import FeastFeatures

        return FeastFeatures(folder, project or self.project, "shops_v1", definitions)

    def stored(self, store):
        """Every stored row by view, entity and feature, with its time."""
        query = "SELECT hex(entity_key), feature_name, hex(value), value_text, event_ts FROM {} ORDER BY 1, 2"
        with sqlite3.connect(store.online.path) as db:
            return {view: db.execute(query.format(f"{store.project}_{view}")).fetchall() for view in ("sales", "rates")}

    def stamps(self, store, view):
        """The times of a view's rows."""
        with sqlite3.connect(store.online.path) as db:
            return {at for (at,) in db.execute(f"SELECT event_ts FROM {store.project}_{view}")}

    def lose(self, store, view, at):
        """As if a writer had died before it wrote a view's rows of that time."""
        with sqlite3.connect(store.online.path) as db:
            db.execute(f"DELETE FROM {store.project}_{view} WHERE event_ts = ?", [at])

    def empty(self, store):
        """The store loses everything."""
        with sqlite3.connect(store.online.path) as db:
            for view in ("sales", "rates"):
                db.execute(f"DELETE FROM {store.project}_{view}")


class Servers:
    """Valkey and PostgreSQL, a project of its own for each test."""

    def __init__(self, valkey, postgres):
        self.valkey, self.postgres = valkey, postgres
        self.project = f"shops_{uuid.uuid4().hex[:10]}"

    def make(self, folder, project=None):
        from plinth.features.feast import FeastFeatures
        from plinth.features.feast_redis import RedisWriter
        from plinth.features.feast_registry import SqlRegistry

        project = project or self.project
        writer, registry = RedisWriter(self.valkey, project), SqlRegistry(self.postgres)
        return FeastFeatures(folder, project, "shops_v1", definitions, writer, registry)

    def _hashes(self, store):
        client = store.online.client
        return {key: client.hgetall(key) for key in client.scan_iter("*" + store.project) if b"plinth" not in key}

    def stored(self, store):
        return self._hashes(store)

    def stamps(self, store, view):
        from google.protobuf.timestamp_pb2 import Timestamp

        found = [row.get(f"_ts:{view}".encode()) for row in self._hashes(store).values()]
        return {Timestamp.FromString(at).seconds for at in found if at is not None}

    def lose(self, store, view, at):
        from plinth.features.redis import feature_field

        (view,) = (one for one in ReadPlan.from_dict(store.compile_plan()).views if one.name == view)
        fields = [feature_field(view.name, feature.name) for feature in view.features]
        for entity, stamp in store.online.entities(None, view):
            if stamp == at:
                (key,) = view.entity_keys({n: [v] for n, v in zip(sorted(view.join_keys), entity, strict=True)})
                store.online.client.hdel(key + store.project.encode(), f"_ts:{view.name}", *fields)

    def empty(self, store):
        store.online.client.flushdb()


@pytest.fixture
def servers_place(valkey_url, postgres_url):
    return Servers(valkey_url, postgres_url)


@pytest.fixture(params=["files", "servers"])
def place(request):
    if request.param == "files":
        return Files()
    return request.getfixturevalue("servers_place")


@pytest.fixture
def store(tmp_path, place):
    write_tables(tmp_path / "features")
    store = place.make(tmp_path)
    store.apply()
    return store


def some_rows(n=500, seed=1):
    rng = np.random.default_rng(seed)
    minutes = rng.integers(-600, HOURS * 60 + 600, n)
    return pd.DataFrame(
        {
            "shop": rng.choice([*SHOPS, "unknown"], n),
            "item": rng.choice([*ITEMS, None], n),
            "event_timestamp": [START + timedelta(minutes=int(m)) for m in minutes],
        },
        index=rng.permutation(n) + 1000,
    )


def by_hand(folder, view, keys, row, ttl):
    table = pq.read_table(folder / f"{view}.parquet").to_pandas()
    known = table[(table["event_timestamp"] <= row["event_timestamp"])]
    known = known[known["event_timestamp"] + ttl >= row["event_timestamp"]]
    for key in keys:
        known = known[known[key] == row[key]]
    return None if known.empty else known.sort_values("event_timestamp").iloc[-1]


def test_the_join_keeps_row_order_count_and_index_and_matches_one_made_by_hand(store):
    rows = some_rows()
    joined = store.historical(rows)
    assert joined.index.equals(rows.index)
    assert list(joined.columns) == ReadPlan.from_dict(store.compile_plan()).columns
    for index, row in rows.head(120).iterrows():
        for view, keys, ttl in (("sales", ["shop", "item"], 3), ("rates", ["shop"], 2)):
            expected = by_hand(store.tables, view, keys, row, timedelta(hours=ttl))
            for name in [name for name in joined.columns if name.startswith(view)]:
                value = joined.loc[index, name]
                wanted = np.nan if expected is None else expected[name.split("__")[1]]
                assert value == wanted or (pd.isna(value) and pd.isna(wanted)), (index, name)


def test_chunks_do_not_change_the_join(store, monkeypatch):
    from plinth.features import feast as adapter

    rows = some_rows(300, seed=2)
    whole = store.historical(rows)
    monkeypatch.setattr(adapter, "CHUNK_ROWS", 37)
    pd.testing.assert_frame_equal(store.historical(rows), whole)


def test_the_callers_frame_is_left_alone_and_no_row_gives_no_row(store):
    rows = some_rows(20)
    before = rows.copy(deep=True)
    store.historical(rows)
    pd.testing.assert_frame_equal(rows, before)
    empty = store.historical(rows.head(0))
    assert len(empty) == 0
    assert "sales__sold" in empty.columns


def read_both(store, at, pairs):
    plan = ReadPlan.from_dict(store.compile_plan())
    reader = store.online.open(plan)
    keys = {"shop": [shop for shop, _ in pairs], "item": [item for _, item in pairs]}
    block = reader.read(keys, np.full(len(pairs), int(at.timestamp())))
    reader.close()
    theirs = store.get_online_features([{"shop": shop, "item": item} for shop, item in pairs])
    return plan, block, theirs


def assert_equal_values(plan, block, theirs):
    """Where a row is fresh ours is theirs; where theirs is null ours is the default."""
    for position, columns in enumerate(plan.slices):
        for column in range(columns.start, columns.stop):
            for row, value in enumerate(theirs[plan.columns[column]]):
                if block.status[row, position] == OK and value is not None:
                    assert block.values[row, column] == value, (plan.columns[column], row)
                else:
                    assert block.values[row, column] == plan.defaults[column]
                if block.status[row, position] == MISSING:
                    assert value is None


def test_the_read_plan_equals_feasts_own_online_read_for_random_keys(store):
    end = START + timedelta(hours=50)
    store.materialize(START, end)
    rng = np.random.default_rng(3)
    for size in (1, 2, 7, 150):
        pairs = [(str(rng.choice([*SHOPS, "gone"])), str(rng.choice([*ITEMS, "gone"]))) for _ in range(size)]
        plan, block, theirs = read_both(store, end, pairs)
        assert_equal_values(plan, block, theirs)
    assert (block.status == OK).mean() > 0.5
    assert set(block.status.ravel().tolist()) == {OK, MISSING, STALE}


def test_serialized_entity_keys_are_feasts(store):
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    plan = ReadPlan.from_dict(store.compile_plan())
    keys = {"shop": ["a", "", "ß" * 40, "\U0001f600"], "item": ["x", "y\0", "", "z"]}
    for view in plan.views:
        for row, ours in enumerate(view.entity_keys(keys)):
            names = view.join_keys[::-1]
            proto = EntityKey(join_keys=names, entity_values=[Value(string_val=keys[name][row]) for name in names])
            assert ours == serialize_entity_key(proto, entity_key_serialization_version=3)


def test_ten_thousand_reads_give_the_same_answer(store):
    end = START + timedelta(hours=50)
    store.materialize(START, end)
    reader = store.online.open(ReadPlan.from_dict(store.compile_plan()))
    keys, at = {"shop": ["s1"], "item": ["i1"]}, np.array([int(end.timestamp())])
    first = reader.read(keys, at)
    for _ in range(10_000):
        again = reader.read(keys, at)
        assert again.values.tobytes() == first.values.tobytes()
        assert again.status.tobytes() == first.status.tobytes()
    reader.close()


def test_advancing_hour_by_hour_ends_where_materialization_ends(store, place, tmp_path):
    end = START + timedelta(hours=30)
    other = place.make(tmp_path, project="other" + uuid.uuid4().hex[:6])
    other.apply()
    other.materialize(START, end)
    for hour in range(31):
        store.advance(START + timedelta(hours=hour))
    assert without_project(place, store) == without_project(place, other)
    assert sum(map(len, place.stored(store).values())) > 100


def without_project(place, store):
    stored = place.stored(store)
    return {k.removesuffix(store.project.encode()) if isinstance(k, bytes) else k: row for k, row in stored.items()}


def test_advance_writes_the_rows_of_that_hour_and_says_how_many(store):
    hour = START + timedelta(hours=5)
    expected = sum(
        pq.read_table(store.tables / f"{view}.parquet", filters=[("event_timestamp", "==", hour)]).num_rows
        for view in ("sales", "rates")
    )
    assert store.advance(hour) == expected
    assert store.advance(START + timedelta(days=300)) == 0


def test_advance_catches_up_with_hours_that_were_left_out(store, place, tmp_path):
    other = place.make(tmp_path / "other", project="other" + uuid.uuid4().hex[:6])
    other.tables = store.tables
    other.apply()
    other.materialize(START, START + timedelta(hours=60))
    for hours in (0, 1, 7, 7, 20, 60):  # the last step is longer than a day
        store.advance(START + timedelta(hours=hours))
    assert without_project(place, store) == without_project(place, other)


def test_another_process_goes_on_where_the_last_one_stopped(store, place, tmp_path):
    for hours in (0, 1, 2):
        store.advance(START + timedelta(hours=hours))
    expected = place.stored(store)
    place.lose(store, "rates", int((START + timedelta(hours=2)).timestamp()))
    assert place.stored(store) != expected
    again = place.make(tmp_path)
    with pytest.raises(Conflict, match="already online"):
        again.advance(START)
    again.advance(START + timedelta(hours=2))
    assert place.stored(again) == expected


def test_a_store_that_was_emptied_is_filled_again_with_all_that_still_counts(store, place):
    end = START + timedelta(hours=40)
    store.materialize(START, end)
    pairs = [(shop, item) for shop in SHOPS for item in ITEMS]
    _, before, _ = read_both(store, end, pairs)
    assert store.online.problem(ReadPlan.from_dict(store.compile_plan()), filled_through(store.folder.parent)) == ""
    place.empty(store)
    _, gone, _ = read_both(store, end, pairs)
    assert set(gone.status.ravel().tolist()) == {MISSING}
    assert store.restore() == end
    _, restored, _ = read_both(store, end, pairs)
    fresh = before.status == OK
    assert fresh.any()
    assert (restored.status[fresh] == OK).all()
    assert restored.values.tobytes() == before.values.tobytes()
    # The next advance does the same without being asked, also in a process that never wrote before.
    place.empty(store)
    hour = end + timedelta(hours=1)
    place.make(store.folder.parent).advance(hour)
    _, block, _ = read_both(store, hour, pairs)
    assert (block.status == OK).mean() > 0.5


def test_nothing_is_restored_where_nothing_was_written(store):
    assert store.restore() is None
    store.advance(START)
    store.clear_online()
    assert store.restore() is None


def test_advance_sees_tables_that_were_built_anew(store):
    store.advance(START)
    write_tables(store.tables, seed=9)
    hour = START + timedelta(hours=1)
    store.advance(hour)
    rows = pq.read_table(store.tables / "rates.parquet", filters=[("event_timestamp", "==", hour)]).to_pylist()
    newest = next(row for row in rows if row["rate_0"] is not None)
    plan, block, _ = read_both(store, hour, [(newest["shop"], "i0")])
    assert block.values[0, plan.columns.index("rates__rate_0")] == newest["rate_0"]


def test_advance_refuses_to_go_back_until_the_store_is_cleared(store):
    store.advance(START + timedelta(hours=5))
    with pytest.raises(Conflict, match="already online"):
        store.advance(START + timedelta(hours=4))
    store.clear_online()
    assert store.advance(START + timedelta(hours=4)) > 0
    _, block, _ = read_both(store, START + timedelta(hours=4), [(s, "i0") for s in SHOPS])
    assert 3 not in block.status  # nothing of the later hour is left


@pytest.mark.parametrize("hour", [datetime(2013, 3, 1), datetime(2013, 3, 1, 0, 30, tzinfo=UTC)])
def test_advance_takes_full_hours_with_a_zone_only(store, hour):
    with pytest.raises(InvalidInput, match="full hour"):
        store.advance(hour)


def test_timestamps_survive_pandas_writing_sql_in_the_same_process(store, place):
    frame = pd.DataFrame({"at": [pd.Timestamp("2013-01-01")]})
    with sqlite3.connect(":memory:") as db:
        frame.to_sql("t", db)  # registers adapters of its own
    store.advance(START)
    assert place.stamps(store, "rates") == {int(START.timestamp())}


def test_timestamps_are_utc_whatever_the_machines_zone(store, place, tmp_path):
    code = f"""
        import sys; sys.path[:0] = [{os.path.dirname(__file__)!r}, {os.path.dirname(os.path.dirname(__file__))!r}]
        from pathlib import Path
        from test_features import *
        place = {"Files()" if isinstance(place, Files) else f"Servers({place.valkey!r}, {place.postgres!r})"}
        place.project = {place.project!r}
        store = place.make(Path({str(tmp_path)!r}))
        end = START + timedelta(hours=9, days=2)
        store.materialize(START, end)
        store.advance(end)
        plan, block, theirs = read_both(store, end, [("s1", "i1"), ("s2", "i0"), ("s3", "i0")])
        assert_equal_values(plan, block, theirs)
        assert (block.status[:, [v.name for v in plan.views].index("rates")] == 0).any(), block.status
        assert 3 not in block.status
    """
    env = {**os.environ, "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], check=True, env=env, timeout=120)
    assert max(place.stamps(store, "rates")) == int((START + timedelta(hours=9, days=2)).timestamp())


def test_threads_may_share_the_store(store):
    store.materialize(START, START + timedelta(hours=20))
    errors = []

    def work(number):
        try:
            for _ in range(5):
                store.get_online_features([{"shop": f"s{number}", "item": "i0"}])
                store.advance(START + timedelta(hours=20))
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must show it
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_online_and_offline_agree_and_a_change_between_them_is_found(store):
    rows = some_rows(2000, seed=4)
    found = sample(store, rows, stretches=2, hours=6)
    plan = ReadPlan.from_dict(store.compile_plan())
    assert len(found.positions) > 50
    report = compare(found.online.values, found.offline.values, plan.columns)
    assert report.differences == ()
    # The tables change behind the store's back: the same check sees it.
    table = pq.read_table(store.tables / "rates.parquet")
    column = pa.compute.add(table["rate_0"], pa.scalar(1.0, pa.float32()))
    offline = found.offline
    pq.write_table(
        table.set_column(table.column_names.index("rate_0"), "rate_0", column), store.tables / "rates.parquet"
    )
    again = sample(store, rows, stretches=2, hours=6)
    report = compare(again.online.values, offline.values, plan.columns)
    assert {difference.feature for difference in report.differences} == {"rates__rate_0"}


def test_features_that_were_not_applied_are_not_found(place, tmp_path):
    with pytest.raises(NotFound, match="not been applied"):
        place.make(tmp_path).compile_plan()


def test_a_missing_table_is_named(store):
    (store.tables / "rates.parquet").unlink()
    with pytest.raises(NotFound, match="rates"):
        store.historical(some_rows(5))
    with pytest.raises(NotFound, match="rates"):
        store.advance(START)


def test_a_missing_entity_column_is_named(store):
    with pytest.raises(InvalidInput, match="item"):
        store.historical(some_rows(5).drop(columns="item"))


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no such limit")
def test_feasts_connection_to_a_registry_elsewhere_gives_up_on_a_silent_network(tmp_path, servers_place):
    write_tables(tmp_path / "features")
    store = servers_place.make(tmp_path)
    store.apply()
    with (
        store._repository.opened().registry.write_engine.connect() as connection,
        socket.socket(fileno=os.dup(connection.connection.driver_connection.fileno())) as line,
    ):
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5000


def test_applying_twice_keeps_what_is_online(store):
    store.materialize(START, START + timedelta(hours=3))
    _, before, _ = read_both(store, START + timedelta(hours=3), [("s1", "i1")])
    store.apply()
    _, after, _ = read_both(store, START + timedelta(hours=3), [("s1", "i1")])
    assert before.values.tobytes() == after.values.tobytes()


def test_the_plan_is_plain_json_with_owners_defaults_and_ttls(store):
    import json

    plan = json.loads(json.dumps(store.compile_plan()))
    sales = next(view for view in plan["views"] if view["name"] == "sales")
    assert sales["join_keys"] == ["item", "shop"]
    assert sales["ttl_seconds"] == 3 * 3600
    assert sales["features"][0] == {"name": "sold", "dtype": "int64", "default": -1.0}
    assert plan["store"] == {"type": "sqlite"}
