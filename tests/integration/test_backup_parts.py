"""What each server holds goes into a backup and comes back, on the real servers; and a backup that was touched."""

import json
import os
import tarfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pytest
from pydantic import SecretStr

import servers
from plinth.errors import Conflict, Corrupt, InvalidInput, NotFound, Unavailable
from plinth.ledger.obstore import Objects
from plinth.runtime.backup import manifest
from plinth.runtime.backup.folder import StatePart
from plinth.runtime.backup.manifest import BackupManifest, BackupPart
from plinth.runtime.backup.objects import ObjectsPart
from plinth.runtime.backup.postgres import PostgresPart
from plinth.runtime.backup.qdrant import QdrantPart
from plinth.runtime.backup.redis import ValkeyPart


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "backup" / "part"
    made.mkdir(parents=True)
    return made


@pytest.fixture(scope="module")
def databases():
    """A PostgreSQL server with the stack's own init script: its container, and how to ask a database of it."""
    if why := servers.reason("postgres"):
        pytest.skip(why)
    import psycopg

    names = ("POSTGRES", "LEDGER_DB", "MLFLOW_DB", "PREFECT_DB", "FEAST_DB")
    env = {f"{name}_PASSWORD": f"secret-of-{name.lower()}" for name in names}
    scripts = servers.ROOT / "infra" / "compose" / "postgres"
    volumes = [(str(scripts), "/docker-entrypoint-initdb.d", "ro")]
    with servers.container(servers.image("postgres"), 5432, env=env, volumes=volumes) as (made, port):

        def ask(text, user="ledger", database="ledger"):
            password = env["POSTGRES_PASSWORD" if user == "postgres" else f"{user.upper()}_DB_PASSWORD"]
            with psycopg.connect(
                host="127.0.0.1", port=port, user=user, password=password, dbname=database, connect_timeout=2
            ) as connection:
                found = connection.execute(text)
                return found.fetchall() if found.description else None

        servers.ready(lambda: ask("SELECT 1", "feast", "feast"), "PostgreSQL")
        yield made.get_wrapped_container().id, ask


def test_a_database_comes_back_as_it_was_without_the_tables_of_a_newer_schema(databases, folder):
    import psycopg

    container, ask = databases
    part = PostgresPart(lambda _, *command: ["docker", "exec", "-i", container, *command], ["ledger"])
    ask("CREATE TABLE releases (id int PRIMARY KEY, name text); INSERT INTO releases VALUES (1, 'größe')")
    assert part.dump(folder) == 1
    ask("CREATE TABLE of_a_newer_schema (id int REFERENCES releases); DELETE FROM releases")
    for _ in range(2):
        assert part.restore(folder) == 1
    tables = ask("SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'public'")
    assert tables == [("releases", "ledger")], "or the migration to that schema would find its table there"
    assert ask("SELECT * FROM releases") == [(1, "größe")]
    ask("DELETE FROM releases; DROP TABLE releases")
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        ask("SELECT 1", "feast", "ledger")
    names = ask("SELECT datname FROM pg_database WHERE NOT datistemplate")
    assert {name for (name,) in names} == {"postgres", "ledger", "mlflow", "prefect", "feast"}


def test_a_dump_that_cannot_be_read_leaves_the_database_as_it_was(databases, folder):
    container, ask = databases
    part = PostgresPart(lambda _, *command: ["docker", "exec", "-i", container, *command], ["mlflow"])
    ask("CREATE TABLE kept (id int)", "mlflow", "mlflow")
    assert part.dump(folder) == 1
    whole = (folder / "mlflow.dump").read_bytes()
    (folder / "mlflow.dump").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Unavailable, match="pg_restore failed"):
        part.restore(folder)
    assert ask("SELECT * FROM kept", "mlflow", "mlflow") == []


def test_every_key_of_valkey_comes_back_with_what_was_left_of_its_life(valkey_url, folder):
    import redis

    client = redis.Redis.from_url(valkey_url)
    client.flushdb()
    client.mset({f"text-{n}": os.urandom(20) for n in range(1200)})
    client.hset(b"\x00\xffbinary", mapping={b"\x01": b"\x02", b"_ts": b"\x80"})
    client.set("mortal", "soon", ex=3600)
    before = {key: client.dump(key) for key in client.scan_iter()}
    part = ValkeyPart(valkey_url)
    assert part.dump(folder) == 1202
    client.flushdb()
    client.set("of-another-time", 1)
    assert part.restore(folder) == 1202
    assert {key: client.dump(key) for key in client.scan_iter()} == before
    assert 0 < client.ttl("mortal") <= 3600
    assert client.ttl("text-1") == -1


def test_a_wrong_password_of_valkey_is_an_error_that_does_not_tell_it(valkey_url, folder):
    with pytest.raises(Unavailable) as error:
        ValkeyPart(valkey_url.replace(":", ":not-", 2).replace("redis:not-", "redis:")).dump(folder)
    assert "not-" not in str(error.value)


def _bucket(address, name="plinth"):
    endpoint, key, secret = address
    return Objects(f"s3://{name}", endpoint, key, SecretStr(secret))


def test_every_object_comes_back_and_what_came_after_the_backup_goes(s3, folder):
    bucket = _bucket(s3)
    for meta in list(bucket.list("")):
        bucket.delete(meta.key)
    held = {f"artifacts/{n:02}": os.urandom(1000 * n) for n in range(20)} | {"logs/größe ü": b"x", "twin": b"x"}
    for key, data in held.items():
        bucket.put(key, data)
    part = ObjectsPart({"plinth": bucket})
    assert part.dump(folder) == len(held)
    assert len(list(folder.iterdir())) == len(set(held.values())) + 1, "the same content is written once"
    for key in list(held)[:10]:
        bucket.delete(key)
    bucket.put("twin", b"changed")
    bucket.put("later", b"later")
    assert part.restore(folder) == len(held)
    assert {meta.key: bucket.read(meta.key) for meta in bucket.list("")} == held


def test_an_s3_server_that_is_away_is_an_error_that_says_so(folder):
    with pytest.raises(Unavailable):
        ObjectsPart({"plinth": _bucket(("http://127.0.0.1:9", "key", "secret"))}).dump(folder)


def test_the_working_files_come_back_without_caches_and_half_written_ones(tmp_path, folder):
    state = tmp_path / "state"
    for path in ("products/a/lake/x.parquet", "cache/steps/y", "run/z.pid", "products/a/.writing-1"):
        (state / path).parent.mkdir(parents=True, exist_ok=True)
        (state / path).write_text(path)
    part = StatePart(state)
    assert part.dump(folder) == 1
    (state / "products/a/lake/x.parquet").write_text("changed")
    (state / "products/b").mkdir()
    assert part.restore(folder) == 1
    assert (state / "products/a/lake/x.parquet").read_text() == "products/a/lake/x.parquet"
    assert not (state / "products/b").exists()
    assert (state / "cache/steps/y").exists(), "a cache is left as it is"


def test_files_that_come_and_go_meanwhile_do_not_end_a_backup(tmp_path, folder):
    state = tmp_path / "state"
    (state / "products").mkdir(parents=True)
    for n in range(50):
        (state / "products" / f"stays-{n}").write_text("x")
    over = Event()

    def write():
        while not over.is_set():
            for n in range(50):
                (state / "products" / f"goes-{n}").write_text("x")
            for n in range(50):
                (state / "products" / f"goes-{n}").unlink()

    writer = Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            assert StatePart(state).dump(folder) >= 50
    finally:
        over.set()
        writer.join()


def test_no_link_of_the_state_is_followed(tmp_path, folder):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("key")
    state = tmp_path / "state"
    (state / "products").mkdir(parents=True)
    (state / "products" / "folder").symlink_to(tmp_path / "secret")
    (state / "products" / "file").symlink_to(tmp_path / "secret" / "key")
    assert StatePart(state).dump(folder) == 0
    with tarfile.open(folder / "state.tar.gz") as archive:
        assert archive.getnames() == ["products"]


def test_an_archive_that_leads_out_of_the_state_is_refused(tmp_path, folder):
    state = tmp_path / "state"
    state.mkdir()
    with tarfile.open(folder / "state.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("../outside")
        archive.addfile(info)
    with pytest.raises(Corrupt):
        StatePart(state).restore(folder)
    assert not (tmp_path / "outside").exists()


class _Qdrant(BaseHTTPRequestHandler):
    """Answers as Qdrant's API reference documents them; it keeps what it is sent."""

    calls: list = []  # noqa: RUF012

    def _answer(self, result, raw=None):
        body = raw if raw is not None else json.dumps({"result": result, "status": "ok", "time": 0.01}).encode()
        self.send_response(200 if self.headers["api-key"] == "right" else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _handle(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.calls.append((self.command, self.path.partition("?")[0], self.rfile.read(length)))
        path = self.path.partition("?")[0]
        if path == "/aliases":
            self._answer({"aliases": [{"alias_name": "docs.champion", "collection_name": "docs-1"}]})
        elif path == "/collections":
            self._answer({"collections": [{"name": "docs-1"}, {"name": "docs-2"}]})
        elif path.endswith("/snapshots"):
            self._answer({"name": "snap.snapshot", "creation_time": None, "size": 4, "checksum": None})
        elif path.endswith("/snap.snapshot") and self.command == "GET":
            self._answer(None, raw=b"snap" + path.split("/")[2].encode())
        else:
            self._answer(True)

    do_GET = do_POST = do_DELETE = do_PUT = _handle  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def recorded_qdrant():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Qdrant)
    _Qdrant.calls = []
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_collections_are_kept_as_snapshots_and_uploaded_again_with_their_aliases(recorded_qdrant, folder):
    """No Qdrant server can be had here: these are the calls of its API reference, against recorded answers."""
    part = QdrantPart(recorded_qdrant, "right")
    assert part.dump(folder) == 2
    assert (folder / "docs-2.snapshot").read_bytes() == b"snapdocs-2"
    assert ("DELETE", "/collections/docs-1/snapshots/snap.snapshot", b"") in _Qdrant.calls
    _Qdrant.calls.clear()
    assert part.restore(folder) == 2
    uploads = [call for call in _Qdrant.calls if call[1].endswith("/snapshots/upload")]
    assert [path for _, path, _ in uploads] == [f"/collections/docs-{n}/snapshots/upload" for n in (1, 2)]
    assert all(b"snapdocs-" in body for _, _, body in uploads)
    assert json.loads(_Qdrant.calls[-1][2]) == {
        "actions": [{"create_alias": {"alias_name": "docs.champion", "collection_name": "docs-1"}}]
    }


def test_a_wrong_key_of_qdrant_is_an_error_that_does_not_tell_it(recorded_qdrant, folder):
    with pytest.raises(Unavailable) as error:
        QdrantPart(recorded_qdrant, "wrong-key").dump(folder)
    assert "wrong-key" not in str(error.value)


@pytest.fixture
def whole(tmp_path):
    root = tmp_path / "whole"
    (root / "valkey").mkdir(parents=True)
    (root / "valkey" / "keys.jsonl").write_text("{}\n")
    part = BackupPart(name="valkey", entries=1, seconds=0.1, files=tuple(manifest.files_of(root, root / "valkey")))
    manifest.write(
        root,
        BackupManifest(
            made_at="2026-01-01T00:00:00+00:00", plinth="0", project="p", ledger_revision="0002", audit_entries=0,
            audit_head="", vector_store="edge", parts=(part,),
        ),
    )  # fmt: skip
    return root


def test_a_whole_backup_passes_its_check(whole):
    assert manifest.check(whole).part("valkey").entries == 1


@pytest.mark.parametrize("damage", ["change", "remove", "truncate"])
def test_a_touched_backup_is_refused_and_the_file_is_named(whole, damage):
    path = whole / "valkey" / "keys.jsonl"
    path.unlink() if damage == "remove" else path.write_text("{ \n" if damage == "change" else "")
    with pytest.raises(Corrupt) as error:
        manifest.check(whole)
    assert "keys.jsonl" in error.value.where


def test_a_backup_that_was_not_ended_is_none(whole):
    (whole / manifest.MANIFEST).unlink()
    with pytest.raises(NotFound):
        manifest.check(whole)


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd"])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(whole, path):
    text = (whole / manifest.MANIFEST).read_text().replace("valkey/keys.jsonl", path)
    (whole / manifest.MANIFEST).write_text(text)
    with pytest.raises(Corrupt, match="outside of itself"):
        manifest.check(whole)


def test_a_folder_that_holds_something_is_not_written_into(tmp_path):
    from plinth.runtime.backup.run import back_up
    from plinth.settings import Settings
    from plinth.wiring import Platform

    platform = Platform.from_settings(Settings(home=tmp_path, state=tmp_path / "state"))
    platform.ledger.append_audit("ada", "product.note", "p", {})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "full").chmod(0o755)
    with pytest.raises(Conflict):
        back_up(platform, tmp_path / "full", [], project="p")
    assert (tmp_path / "full").stat().st_mode & 0o777 == 0o755, "somebody else's folder stays open to whom it was"
    assert (tmp_path / "full" / "mine").read_text() == "mine"


def test_a_backup_is_not_kept_in_the_folder_that_a_restore_and_a_reset_empty(tmp_path, whole):
    from plinth.runtime.backup.run import back_up, restore
    from plinth.settings import Settings
    from plinth.wiring import Platform

    platform = Platform.from_settings(Settings(home=tmp_path, state=whole.parent))
    with pytest.raises(InvalidInput, match="state folder"):
        back_up(platform, whole.parent / "backups" / "monday", [], project="p")
    with pytest.raises(InvalidInput, match="state folder"):
        restore(platform, whole, [], None)
    assert manifest.check(whole)


def test_a_part_that_fails_leaves_no_half_of_a_backup(tmp_path):
    from plinth.runtime.backup.run import back_up
    from plinth.settings import Settings
    from plinth.wiring import Platform

    platform = Platform.from_settings(Settings(home=tmp_path, state=tmp_path / "state"))
    platform.ledger.append_audit("ada", "product.note", "p", {})
    away = ValkeyPart("redis://:secret@127.0.0.1:9/0")
    with pytest.raises(Unavailable):
        back_up(platform, tmp_path / "to", [StatePart(tmp_path / "state"), away], project="p")
    assert not (tmp_path / "to").exists()
