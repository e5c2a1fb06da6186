"""The reader against tables laid out by hand as Feast's SQLite store lays them out."""

import sqlite3
import struct
import threading

import numpy as np
import pytest

from plinth.errors import Corrupt, InvalidInput, Unavailable
from plinth.features.readplan import FUTURE, MISSING, OK, STALE, ReadPlan

NOW = 1_370_000_000
PLAN = ReadPlan.from_dict(
    {
        "schema": 1,
        "feature_service": "s",
        "project": "p",
        "entity_key_version": 3,
        "store": {"type": "sqlite"},
        "views": [
            {
                "name": "rates",
                "table": "p_rates",
                "join_keys": ["carrier"],
                "ttl_seconds": 3600,
                # The stored order (by name) is not the plan's order.
                "features": [
                    {"name": "zeta", "dtype": "float32", "default": 0.25},
                    {"name": "alpha", "dtype": "float32", "default": 0.75},
                ],
            },
            {
                "name": "counts",
                "table": "p_counts",
                "join_keys": ["carrier"],
                "ttl_seconds": 3600,
                "features": [
                    {"name": "n", "dtype": "int64", "default": -1.0},
                    {"name": "mean", "dtype": "float64", "default": 9.0},
                ],
            },
        ],
    }
)


def f32(value):
    return b"\x35" + struct.pack("<f", value)


def f64(value):
    return b"\x29" + struct.pack("<d", value)


def i64(value):
    value &= (1 << 64) - 1
    out = bytearray(b"\x20")
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def put(path, table, carrier, values, at=NOW):
    view = next(view for view in PLAN.views if view.table == table)
    key = view.entity_keys({"carrier": [carrier]})[0]
    with sqlite3.connect(path) as db:
        rows = [(key, name, blob, at) for name, blob in values.items()]
        db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, NULL, NULL, ?, NULL)", rows)
    db.close()


def create(path):
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        for view in PLAN.views:
            db.execute(
                f"CREATE TABLE {view.table} (entity_key BLOB, feature_name TEXT, value BLOB, value_text TEXT, "
                "vector_value BLOB, event_ts timestamp, created_ts timestamp, PRIMARY KEY(entity_key, feature_name))"
            )
            db.execute(f"CREATE INDEX {view.table}_ek ON {view.table} (entity_key)")
    db.close()


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "online.db"
    create(path)
    put(path, "p_rates", "UA", {"zeta": f32(1.5), "alpha": f32(-2.0)})
    put(path, "p_counts", "UA", {"n": i64(7), "mean": f64(1e-300)})
    return path


def read(path, carriers, at=NOW):
    reader = PLAN.open(path)
    block = reader.read({"carrier": carriers}, np.full(len(carriers), at))
    reader.close()
    return block


def test_values_come_in_the_plans_order_whatever_the_stored_order(store):
    block = read(store, ["UA"])
    assert block.values.tolist() == [[1.5, -2.0, 7.0, 1e-300]]
    assert block.status.tolist() == [[OK, OK]]


def test_missing_rows_and_missing_keys_get_defaults_and_say_so(store):
    block = read(store, ["XX", None, "UA"])
    assert block.values[:2].tolist() == [[0.25, 0.75, -1.0, 9.0]] * 2
    assert block.status.tolist() == [[MISSING, MISSING], [MISSING, MISSING], [OK, OK]]


@pytest.mark.parametrize(("age", "status"), [(0, OK), (3600, OK), (3601, STALE), (-1, FUTURE)])
def test_age_decides_between_value_and_default(store, age, status):
    block = read(store, ["UA"], NOW + age)
    assert block.status.tolist() == [[status, status]]
    assert block.values[0, 0] == (1.5 if status == OK else 0.25)


def test_each_row_is_judged_at_its_own_time(store):
    reader = PLAN.open(store)
    block = reader.read({"carrier": ["UA", "UA"]}, np.array([NOW, NOW + 7200]))
    assert block.status.tolist() == [[OK, OK], [STALE, STALE]]
    reader.close()


def test_a_null_value_takes_its_default_and_leaves_the_rest(store):
    put(store, "p_rates", "AA", {"zeta": b"", "alpha": f32(3.0)})
    block = read(store, ["AA"])
    assert block.values[0, :2].tolist() == [0.25, 3.0]
    assert block.status[0, 0] == OK


@pytest.mark.parametrize("value", [0, 1, 127, 128, 2**31, 1370000000, 2**53, -1, -(2**40)])
def test_int64_of_any_size_and_sign_is_decoded(store, value):
    put(store, "p_counts", "AA", {"n": i64(value), "mean": f64(0.0)})
    assert read(store, ["AA"]).values[0, 2] == value


def test_a_table_with_another_set_of_features_still_reads_what_is_there(store):
    put(store, "p_rates", "AA", {"zeta": f32(4.0), "newer": f32(5.0)})
    assert read(store, ["AA", "UA"]).values[:, :2].tolist() == [[4.0, 0.75], [1.5, -2.0]]


def test_more_keys_than_one_statement_takes_are_all_read(store):
    carriers = [f"C{number}" for number in range(1100)]
    view = PLAN.views[0]
    with sqlite3.connect(store) as db:
        for number, key in enumerate(view.entity_keys({"carrier": carriers})):
            for name in ("alpha", "zeta"):
                row = (key, name, f32(number), NOW)
                db.execute("INSERT INTO p_rates VALUES (?, ?, ?, NULL, NULL, ?, NULL)", row)
    db.close()
    block = read(store, carriers[::-1] + carriers[:3])
    assert block.values[:, 0].tolist() == [*range(1099, -1, -1), 0, 1, 2]


def test_no_row_gives_an_empty_block(store):
    block = read(store, [])
    assert block.values.shape == (0, 4)
    assert block.status.shape == (0, 2)


def test_a_value_that_is_no_feast_value_is_corrupt(store):
    put(store, "p_counts", "AA", {"n": b"\x12\x02hi", "mean": f64(0.0)})
    with pytest.raises(Corrupt, match="feature value"):
        read(store, ["AA"])


def test_a_store_that_is_not_there_is_unavailable_and_says_what_to_do(tmp_path):
    with pytest.raises(Unavailable, match="materialize"):
        read(tmp_path / "none.db", ["UA"])


def test_a_store_without_tables_is_unavailable(tmp_path):
    sqlite3.connect(tmp_path / "online.db").execute("CREATE TABLE other (x)").connection.close()
    with pytest.raises(Unavailable, match="apply and materialize"):
        read(tmp_path / "online.db", ["UA"])


def test_a_file_that_is_no_database_is_corrupt(tmp_path):
    (tmp_path / "online.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(Corrupt, match="damaged"):
        read(tmp_path / "online.db", ["UA"])


def test_keys_that_do_not_fit_are_refused(store):
    with pytest.raises(InvalidInput, match="keys"):
        PLAN.open(store).read({"origin": ["JFK"]}, np.array([NOW]))
    with pytest.raises(InvalidInput, match="keys"):
        PLAN.open(store).read({"carrier": ["UA", "AA"]}, np.array([NOW]))


def test_a_store_locked_for_long_is_unavailable_after_a_bounded_wait(store):
    reader = PLAN.open(store, busy_seconds=0.05, attempts=2)
    holder = sqlite3.connect(store, isolation_level=None)
    holder.execute("PRAGMA journal_mode = DELETE")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable, match="locked"):
        reader.read({"carrier": ["UA"]}, np.array([NOW]))
    holder.close()
    assert reader.read({"carrier": ["UA"]}, np.array([NOW])).values[0, 0] == 1.5


def test_what_another_process_writes_shows_at_the_next_read(store):
    """Decoded rows are remembered; a commit of anybody else makes them forgotten."""
    reader = PLAN.open(store)
    keys, at = {"carrier": ["UA"]}, np.array([NOW])
    assert reader.read(keys, at).values[0, 0] == reader.read(keys, at).values[0, 0] == 1.5
    for written in (2.5, 3.5):
        put(store, "p_rates", "UA", {"zeta": f32(written), "alpha": f32(0.0)})
        assert reader.read(keys, at).values[0, 0] == written


def test_a_row_that_appears_after_it_was_missed_is_found(store):
    reader = PLAN.open(store)
    keys, at = {"carrier": ["ZZ"]}, np.array([NOW])
    assert reader.read(keys, at).status[0, 0] == MISSING
    put(store, "p_rates", "ZZ", {"zeta": f32(4.0), "alpha": f32(0.0)})
    assert reader.read(keys, at).values[0, 0] == 4.0


def test_a_store_built_anew_in_place_is_read_without_a_restart(store):
    reader = PLAN.open(store)
    keys, at = {"carrier": ["UA"]}, np.array([NOW])
    assert reader.read(keys, at).values[0, 0] == 1.5
    for path in store.parent.glob("online.db*"):
        path.unlink()
    create(store)
    put(store, "p_rates", "UA", {"zeta": f32(8.0), "alpha": f32(0.0)})
    assert reader.read(keys, at).values[0, 0] == 8.0
    reader.close()


def test_threads_read_while_another_connection_writes(store):
    reader = PLAN.open(store)
    stop, wrong = threading.Event(), []

    def watch():
        while not stop.is_set():
            row = reader.read({"carrier": ["UA"]}, np.array([NOW])).values[0]
            if row[0] != row[1] and row[0] != 1.5:  # both features of a row change in one transaction
                wrong.append(row)
        reader.close()

    threads = [threading.Thread(target=watch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(60):
        put(store, "p_rates", "UA", {"zeta": f32(number), "alpha": f32(number)})
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
