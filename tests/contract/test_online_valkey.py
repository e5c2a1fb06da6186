"""Features on Valkey with Feast's registry in PostgreSQL: what only servers can do wrong."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from datetime import timedelta
from urllib.parse import urlsplit

import numpy as np
import pytest

from contract.test_features import (
    HOURS,
    SHOPS,
    START,
    Servers,
    assert_equal_values,
    read_both,
    write_tables,
)
from faults.proxy import FaultProxy
from plinth.errors import Corrupt, InvalidInput, Unavailable
from plinth.features.online import filled_through
from plinth.features.readplan import MISSING, OK, ReadPlan

END = START + timedelta(hours=50)


@pytest.fixture
def place(valkey_url, postgres_url):
    return Servers(valkey_url, postgres_url)


@pytest.fixture
def store(tmp_path, place):
    write_tables(tmp_path / "features")
    store = place.make(tmp_path)
    store.apply()
    return store


@pytest.fixture
def filled(store):
    store.materialize(START, END)
    return store


@pytest.fixture
def proxy(valkey_url):
    with FaultProxy(urlsplit(valkey_url).port) as proxy:
        yield proxy


def through(proxy, url):
    """The server's address by way of the proxy."""
    parts = urlsplit(url)
    return f"redis://:{parts.password}@127.0.0.1:{proxy.port}{parts.path}"


def ask(reader, shops=("s1",), at=END):
    keys = {"shop": list(shops), "item": ["i1"] * len(shops)}
    return reader.read(keys, np.full(len(shops), int(at.timestamp())))


def eventually(attempt, seconds=20.0):
    """What `attempt` returns when it no longer raises Unavailable."""
    until = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except Unavailable:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def on(url, project, plan, patient=False):
    from plinth.features.online import online_store

    return online_store(None, project, url).open(plan, patient=patient)


# One server, several products ------------------------------------------------------------------------------------


def test_two_projects_on_one_server_do_not_see_each_other(filled, place, tmp_path):
    write_tables(tmp_path / "other" / "features", seed=5)
    other = place.make(tmp_path / "other", project="my_" + place.project)  # its keys end like the other's
    other.apply()
    pairs = [(shop, "i1") for shop in SHOPS]
    _, nothing, _ = read_both(other, END, pairs)
    assert set(nothing.status.ravel().tolist()) == {MISSING}
    other.materialize(START, END)
    before = read_both(filled, END, pairs)[1]
    assert before.values.tobytes() != read_both(other, END, pairs)[1].values.tobytes()
    kept = place.stored(other)
    filled.clear_online()
    assert read_both(other, END, pairs)[1].status.tolist() != nothing.status.tolist()
    assert {key: row for key, row in place.stored(other).items() if key in kept} == kept
    assert set(read_both(filled, END, pairs)[1].status.ravel().tolist()) == {MISSING}


def test_clearing_leaves_no_key_of_the_project(filled, place):
    client = filled.online.client
    assert place.stored(filled)
    filled.clear_online()
    assert list(client.scan_iter(f"*{place.project}*")) == []


def test_the_plan_is_the_same_on_files_and_on_servers(store, place, tmp_path):
    from contract.test_features import definitions
    from plinth.features.feast import FeastFeatures

    files = FeastFeatures(tmp_path, place.project, "shops_v1", definitions)
    files.apply()
    assert files.compile_plan() == store.compile_plan()


def test_entities_are_the_same_on_files_and_on_servers(filled, place, tmp_path):
    from contract.test_features import definitions
    from plinth.features.feast import FeastFeatures

    files = FeastFeatures(tmp_path, place.project, "shops_v1", definitions)
    files.apply()
    files.materialize(START, END)
    plan = ReadPlan.from_dict(filled.compile_plan())
    for view in plan.views:
        found = list(filled.online.entities(plan, view))
        assert found == list(files.online.entities(plan, view))
        assert found


def test_processes_that_apply_at_once_do_not_hurt_each_other(place, tmp_path, postgres_url):
    import sqlalchemy as sa

    database = f"fresh_{uuid.uuid4().hex[:8]}"  # Feast's own tables are not there yet
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", connect_args={"client_encoding": "utf8"})
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {database}"))
    place.postgres = postgres_url.rsplit("/", 1)[0] + f"/{database}"
    write_tables(tmp_path / "features")
    stores = [place.make(tmp_path, project=f"{place.project}_{number % 2}") for number in range(4)]
    errors = []

    def apply(store):
        try:
            store.apply()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must show it
            errors.append(error)

    threads = [threading.Thread(target=apply, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    plans = [store.compile_plan() for store in stores]
    assert plans[0] == plans[2]
    assert plans[1] == plans[3]
    stores[0].materialize(START, END)
    assert (read_both(stores[2], END, [("s1", "i1")])[1].status == OK).any()


def test_materialization_reads_ones_own_tables_whoever_applied_last(filled, place, tmp_path):
    write_tables(tmp_path / "elsewhere" / "features", seed=7)
    elsewhere = place.make(tmp_path / "elsewhere")  # the same definitions on another machine, over other tables
    pairs = [(shop, "i1") for shop in SHOPS]
    expected = read_both(filled, END, pairs)[1]
    elsewhere.apply()
    filled.clear_online()
    filled.materialize(START, END)
    assert read_both(filled, END, pairs)[1].values.tobytes() == expected.values.tobytes()


def test_tables_that_were_corrected_replace_rows_of_the_same_hours(filled, tmp_path):
    pairs = [(shop, "i1") for shop in SHOPS]
    before = read_both(filled, END, pairs)[1]
    write_tables(tmp_path / "features", seed=11)
    filled.materialize(START, END)
    plan, block, theirs = read_both(filled, END, pairs)
    assert block.values.tobytes() != before.values.tobytes()
    assert_equal_values(plan, block, theirs)


# Whole hours -----------------------------------------------------------------------------------------------------


def test_an_advance_that_is_killed_in_the_middle_has_written_nothing(store, place, tmp_path):
    for hours in range(3):
        store.advance(START + timedelta(hours=hours))
    before = place.stored(store)
    code = f"""
        import os, signal, sys
        sys.path[:0] = [{os.path.dirname(__file__)!r}, {os.path.dirname(os.path.dirname(__file__))!r}]
        from pathlib import Path
        from redis.connection import Connection
        from test_features import *
        place = Servers({place.valkey!r}, {place.postgres!r})
        place.project = {place.project!r}
        store = place.make(Path({str(tmp_path)!r}))
        store.compile_plan()
        def die(self, command, check_health=True):
            data = b"".join(command) if not isinstance(command, (bytes, str)) else command
            if b"MULTI" in data:
                self._sock.sendall(data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return send(self, command, check_health)
        send, Connection.send_packed_command = Connection.send_packed_command, die
        store.advance(START + timedelta(hours=3))
    """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert place.stored(store) == before
    assert store.advance(START + timedelta(hours=3)) > 0
    assert place.stored(store) != before


def test_a_materialization_that_was_killed_is_done_again_by_the_next_advance(filled, place, tmp_path):
    expected = place.stored(filled)
    filled.clear_online()
    filled.materialize(START, START + timedelta(hours=10))
    writer = filled._writer
    with pytest.raises(KeyboardInterrupt), writer.filling(None, END):
        raise KeyboardInterrupt  # nothing of it was written, as if it had died at once
    assert filled.online.written() is None
    plan = ReadPlan.from_dict(filled.compile_plan())
    assert "not filled to its end" in filled.online.problem(plan, filled_through(tmp_path))
    again = place.make(tmp_path)
    again.advance(END)
    assert again.online.written() == END
    pairs = [(shop, "i1") for shop in SHOPS]
    _, block, _ = read_both(again, END, pairs)
    assert (block.status == OK).any()
    assert set(place.stored(again)) <= set(expected)


def test_a_read_sees_an_hour_whole(store, place):
    """Both views say the hour; they are of different entities, so in different keys."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    views = {view.name: view for view in store._repository.views()}
    opened = store._repository.opened()
    keys = {
        "sales": EntityKey(join_keys=["item", "shop"], entity_values=[Value(string_val="i1"), Value(string_val="s1")]),
        "rates": EntityKey(join_keys=["shop"], entity_values=[Value(string_val="s1")]),
    }
    stop, errors = threading.Event(), []

    def write():
        try:
            number = 0
            while not stop.is_set():
                number += 1
                rows = [
                    (views["sales"], [(keys["sales"], {"sold": Value(int64_val=number)}, END, None)]),
                    (views["rates"], [(keys["rates"], {"rate_0": Value(float_val=number)}, END, None)]),
                ]
                store._writer.write(opened, rows, END)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must show it
            errors.append(error)

    plan = ReadPlan.from_dict(store.compile_plan())
    reader = store.online.open(plan)
    sold, rate = plan.columns.index("sales__sold"), plan.columns.index("rates__rate_0")
    thread = threading.Thread(target=write)
    thread.start()
    try:
        eventually(lambda: ask(reader))
        seen = set()
        for _ in range(3000):
            block = ask(reader)
            if (block.status == OK).all():
                assert block.values[0, sold] == block.values[0, rate]
                seen.add(block.values[0, sold])
    finally:
        stop.set()
        thread.join()
    assert errors == []
    assert len(seen) > 5


# Values ----------------------------------------------------------------------------------------------------------


def test_rows_with_gaps_nulls_and_new_features_are_read_as_feast_reads_them(filled, place):
    client, plan = filled.online.client, ReadPlan.from_dict(filled.compile_plan())
    from plinth.features.redis import feature_field

    view = next(view for view in plan.views if view.name == "rates")
    (key,) = view.entity_keys({"shop": ["s1"]})
    client.hdel(key + place.project.encode(), feature_field("rates", "rate_2"))  # a feature that is new in the view
    client.hset(key + place.project.encode(), feature_field("rates", "rate_0"), b"")  # a null
    client.hset(key + place.project.encode(), b"abcd", b"of another view")
    found = read_both(filled, END, [("s1", "i1"), ("s2", "i1"), ("s1", "gone"), ("gone", "i1")])
    assert_equal_values(*found)


def test_a_key_of_another_kind_is_said_to_be_corrupt(filled, place):
    plan = ReadPlan.from_dict(filled.compile_plan())
    view = next(view for view in plan.views if view.name == "rates")
    (key,) = view.entity_keys({"shop": ["s1"]})
    filled.online.client.delete(key + place.project.encode())
    filled.online.client.set(key + place.project.encode(), "no hash")
    reader = filled.online.open(plan)
    with pytest.raises(Corrupt):
        ask(reader)
    assert ask(reader, ["s2"]).status.shape == (1, 2)


# Faults ----------------------------------------------------------------------------------------------------------


def test_reads_go_on_after_a_server_was_away(filled, place, proxy):
    plan = ReadPlan.from_dict(filled.compile_plan())
    reader = on(through(proxy, place.valkey), place.project, plan)
    expected = eventually(lambda: ask(reader)).values.tobytes()
    for _ in range(3):
        proxy.fault = "cut"
        for _ in range(200):
            with pytest.raises(Unavailable, match="online store does not answer"):
                ask(reader)
        proxy.fault = ""
        assert eventually(lambda: ask(reader)).values.tobytes() == expected
        for _ in range(100):
            assert ask(reader).values.tobytes() == expected


def test_a_server_that_hangs_costs_one_wait_and_not_one_for_each_request(filled, place, proxy):
    plan = ReadPlan.from_dict(filled.compile_plan())
    reader = on(through(proxy, place.valkey), place.project, plan)
    expected = eventually(lambda: ask(reader)).values.tobytes()
    proxy.fault = "silent"
    waited = 0
    for _ in range(2000):
        started = time.perf_counter()
        with pytest.raises(Unavailable):
            ask(reader)
        waited += time.perf_counter() - started > 0.15
    assert waited <= 3  # of 2000
    proxy.fault = ""
    assert eventually(lambda: ask(reader)).values.tobytes() == expected


def test_connections_that_the_server_closed_are_replaced_for_patient_readers_unseen(filled):
    plan = ReadPlan.from_dict(filled.compile_plan())
    reader = filled.online.open(plan)
    expected = ask(reader).values.tobytes()
    for _ in range(5):
        filled.online.client.client_kill_filter(_type="normal", skipme=True)
        assert ask(reader).values.tobytes() == expected


def test_a_flushed_server_gives_defaults_until_it_is_filled_again(filled, place):
    plan = ReadPlan.from_dict(filled.compile_plan())
    reader = filled.online.open(plan)
    assert (ask(reader).status == OK).any()
    filled.online.client.flushall()
    block = ask(reader)
    assert set(block.status.ravel().tolist()) == {MISSING}
    assert block.values.tolist() == [plan.defaults.tolist()]
    assert "was emptied" in filled.online.problem(plan, filled_through(filled.folder.parent))
    filled.advance(END + timedelta(hours=1))
    assert (ask(reader, at=END + timedelta(hours=1)).status == OK).any()
    assert filled.online.problem(plan, filled_through(filled.folder.parent)) == ""


def test_readers_on_many_threads_share_few_connections(filled, place):
    plan = ReadPlan.from_dict(filled.compile_plan())
    reader = filled.online.open(plan)
    expected, errors = ask(reader, SHOPS).values.tobytes(), []

    def work():
        try:
            for _ in range(50):
                assert ask(reader, SHOPS).values.tobytes() == expected
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must show it
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert filled.online.connections._open <= 8


def test_a_wrong_password_is_said_without_the_password(filled, place, tmp_path):
    parts = urlsplit(place.valkey)
    place.valkey = f"redis://:not-{parts.password}@127.0.0.1:{parts.port}/0"
    plan = ReadPlan.from_dict(filled.compile_plan())
    wrong = place.make(tmp_path)
    for act in (
        lambda: ask(wrong.online.open(plan)),
        lambda: wrong.advance(END),
        lambda: wrong.materialize(START, END),
        wrong.clear_online,
        lambda: list(wrong.online.entities(plan, plan.views[0])),
        lambda: wrong.online.problem(plan, END),
    ):
        with pytest.raises(Unavailable, match="refuses the password") as caught:
            act()
        assert parts.password not in f"{caught.value!r} {caught.value} {caught.value.hint} {caught.value.where}"


def test_a_registry_that_refuses_is_said_without_the_password(place, tmp_path):
    write_tables(tmp_path / "features")
    parts = urlsplit(place.postgres)
    place.postgres = place.postgres.replace(parts.password, "not-the-password")
    with pytest.raises(Unavailable, match="feature registry") as caught:
        place.make(tmp_path).apply()
    assert "not-the-password" not in f"{caught.value!r} {caught.value} {caught.value.hint} {caught.value.where}"


def test_no_password_is_written_into_the_products_state(filled, place, tmp_path):
    secrets = [urlsplit(url).password.encode() for url in (place.valkey, place.postgres)]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets), path


def test_a_password_with_commas_reaches_feast(place, filled, tmp_path):
    parts = urlsplit(place.valkey)
    filled.online.client.acl_setuser("other", enabled=True, passwords=["+a,b=1"], keys=["*"], commands=["+@all"])
    place.valkey = f"redis://other:a%2Cb%3D1@127.0.0.1:{parts.port}/0"
    other = place.make(tmp_path)
    assert other.get_online_features([{"shop": "s1", "item": "i1"}])
    other.clear_online()
    filled.online.client.acl_deluser("other")


@pytest.mark.parametrize("url", ["http://:secret@127.0.0.1:1/0", "redis://:secret@127.0.0.1:port/0"])
def test_an_address_that_does_not_fit_is_said_without_the_password(url):
    from plinth.features.online import online_store

    with pytest.raises(InvalidInput, match="no redis:// URL") as caught:
        online_store(None, "p", url)
    assert "secret" not in f"{caught.value!r} {caught.value}"


def test_advances_by_two_processes_keep_to_the_order_of_hours(store, place, tmp_path):
    from plinth.errors import Conflict

    other = place.make(tmp_path)
    store.advance(START)
    other.advance(START + timedelta(hours=1))
    with pytest.raises(Conflict, match="already online"):
        store.advance(START)
    store.advance(START + timedelta(hours=2))
    assert other.advance(START + timedelta(hours=2)) == 0  # it is online already
    assert HOURS > 2
