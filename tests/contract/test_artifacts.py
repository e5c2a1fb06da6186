"""One suite over the artefact stores: a folder, and a bucket of a real S3 server."""

import os
import secrets
import subprocess
import sys
import threading
import time

import pytest
from pydantic import SecretStr

from faults.proxy import FaultProxy
from plinth.core.digests import digest_bytes
from plinth.core.findings import violations
from plinth.errors import Corrupt, InvalidInput, NotFound, PlinthError, Unavailable
from plinth.ledger import object_artifacts, obstore
from plinth.ledger.artifacts import ArtifactStore
from plinth.ledger.intact import check_artifacts
from plinth.ledger.object_artifacts import MARKS, STORED, ObjectArtifacts
from plinth.ledger.obstore import Objects
from plinth.ledger.store import Ledger

BOUND = 60.0
"""No call of a dead server takes as long; that none takes for ever is what is tested."""


class Folder:
    """What the suite does to a folder from outside."""

    def __init__(self, root):
        self.root = root

    def store(self):
        return ArtifactStore(self.root)

    def place(self, digest):
        return self.root / digest[:2] / digest

    def content(self, digest):
        return self.place(digest).read_bytes()

    def overwrite(self, digest, data):
        self.place(digest).chmod(0o644)
        self.place(digest).write_bytes(data)

    def delete(self, digest):
        self.place(digest).unlink()

    def age(self, digests):
        for digest in digests:
            os.utime(self.place(digest), (0, 0))
        return 1.0

    def environment(self):
        return {"ROOT": str(self.root)}


class Bucket:
    """What the suite does to a bucket from outside."""

    def __init__(self, s3, cache, prefix=None, endpoint=None):
        self.endpoint, self.key, self.secret = s3
        self.cache, self.prefix = cache, prefix or f"test-{secrets.token_hex(6)}"
        self.through = endpoint or self.endpoint

    def objects(self, **options):
        given = {"url": f"s3://plinth/{self.prefix}", "endpoint": self.through, "key": self.key, **options}
        return Objects(given["url"], given["endpoint"], given["key"], SecretStr(given.get("secret", self.secret)))

    def store(self, **options):
        return ObjectArtifacts(self.objects(**options), self.cache)

    def name(self, digest):
        return f"{STORED}/{digest[:2]}/{digest}"

    def content(self, digest):
        return self.objects().read(self.name(digest))

    def overwrite(self, digest, data):
        self.objects().put(self.name(digest), data)
        self.forget(digest)

    def delete(self, digest):
        self.objects().delete(self.name(digest))
        self.forget(digest)

    def forget(self, digest):
        """Take it out of the cache."""
        (self.cache / digest[:2] / digest).unlink(missing_ok=True)

    def age(self, digests):
        """Nobody can set an object's time: wait till its second is over."""
        time.sleep(2.1)
        return time.time() - 1.0

    def environment(self):
        return {
            "S3_URL": f"s3://plinth/{self.prefix}", "S3_ENDPOINT": self.endpoint, "S3_KEY": self.key,
            "S3_SECRET": self.secret, "S3_CACHE": str(self.cache),
        }  # fmt: skip


@pytest.fixture(params=["folder", "s3"])
def world(request, tmp_path):
    if request.param == "folder":
        return Folder(tmp_path / "artifacts")
    return Bucket(request.getfixturevalue("s3"), tmp_path / "cache")


@pytest.fixture
def bucket(s3, tmp_path):
    return Bucket(s3, tmp_path / "cache")


def test_content_is_stored_under_its_digest_and_comes_back(world, tmp_path):
    (tmp_path / "model").write_bytes(b"weights")
    store = world.store()
    digest = store.put_file(tmp_path / "model")
    assert digest == digest_bytes(b"weights")
    assert store.path(digest).read_bytes() == b"weights"
    assert world.content(digest) == b"weights"
    assert store.exists(digest)
    store.verify(digest)


def test_a_large_file_and_an_empty_one_come_back(world):
    store = world.store()
    for data in (secrets.token_bytes(9 << 20), b""):
        digest = store.put_bytes(data)
        assert world.store().path(digest).read_bytes() == data


def test_the_same_content_is_stored_once(world):
    store = world.store()
    assert store.put_bytes(b"x") == store.put_bytes(b"x")
    (one,) = store.stored()
    assert (one.digest, one.size) == (digest_bytes(b"x"), 1)
    assert abs(one.at - time.time()) < 3600
    assert list(store.leftovers()) == []


@pytest.mark.parametrize("damage", [b"", b"weightz", b"weights and more"], ids=["truncated", "changed", "appended"])
def test_damaged_content_is_refused_and_restored_by_storing_again(world, damage):
    store = world.store()
    digest = store.put_bytes(b"weights")
    world.overwrite(digest, damage)
    for look in (store.path, store.verify):
        with pytest.raises(Corrupt, match="does not match its digest") as error:
            look(digest)
        assert digest in error.value.where
    assert store.put_bytes(b"weights") == digest
    assert store.path(digest).read_bytes() == b"weights"
    store.verify(digest)


def test_a_corrupt_one_can_be_put_aside_and_is_listed(world):
    store = world.store()
    digest = store.put_bytes(b"weights")
    world.overwrite(digest, b"other")
    assert digest in store.set_aside(digest)
    (left,) = store.leftovers()
    assert (left.kind, left.size) == ("corrupt", 5)
    store.put_bytes(b"weights")
    assert len(list(store.stored())) == 1
    assert store.discard(left)
    assert list(store.leftovers()) == []


def test_what_is_not_stored_is_not_found(world):
    store = world.store()
    assert not store.exists("0" * 64)
    for look in (store.path, store.verify):
        with pytest.raises(NotFound, match="not stored"):
            look("0" * 64)
    assert store.collect("0" * 64, time.time()) == 0
    assert list(store.stored()) == []


@pytest.mark.parametrize("bad", ["../../etc/passwd", "", "A" * 64, "0" * 63, "0" * 62 + "/.", "0" * 63 + "\n"])
def test_a_name_that_is_no_digest_is_refused(world, bad):
    store = world.store()
    for call in (store.path, store.exists, store.verify, store.set_aside, lambda name: store.collect(name, 1.0)):
        with pytest.raises(InvalidInput, match="no sha256"):
            call(bad)


def test_only_what_is_old_is_collected(world):
    store = world.store()
    old, young = store.put_bytes(b"old"), store.put_bytes(b"young")
    assert store.collect(old, time.time() - 3600) == 0
    before = world.age([old, young])
    if isinstance(world, Folder):
        store.put_bytes(b"young")
    else:
        aged(store).put_bytes(b"young")
    assert store.collect(young, before) == 0
    assert store.collect(old, before) == 3
    assert [store.exists(digest) for digest in (old, young)] == [False, True]
    assert store.collect(old, before) == 0
    assert list(store.leftovers()) == []


def aged(store):
    """The same store, for which everything that is stored is an hour old: nobody can set an object's time."""
    return ObjectArtifacts(store.objects, store.cache, clock=lambda: time.time() + 3600)


PUT = """
import os, sys
from pathlib import Path
if "ROOT" in os.environ:
    from plinth.ledger.artifacts import ArtifactStore
    store = ArtifactStore(Path(os.environ["ROOT"]))
else:
    from pydantic import SecretStr
    from plinth.ledger.obstore import Objects
    from plinth.ledger.object_artifacts import ObjectArtifacts
    url, endpoint, key, secret = (os.environ[f"S3_{name}"] for name in ("URL", "ENDPOINT", "KEY", "SECRET"))
    objects = Objects(url, endpoint, key, SecretStr(secret))
    store = ObjectArtifacts(objects, Path(os.environ["S3_CACHE"]))
from plinth.core import failpoints
failpoints.arm(os.environ.get("AT", ""))
for number in range(20):
    digest = store.put_bytes(b"content %d" % number * 1000)
    assert store.path(digest).read_bytes() == b"content %d" % number * 1000
if "COLLECT" in os.environ:
    store.collect(digest, float(os.environ["COLLECT"]))
"""


def process(world, **environment):
    return subprocess.Popen([sys.executable, "-c", PUT], env={**os.environ, **world.environment(), **environment})


def test_several_processes_store_the_same_at_once(world):
    running = [process(world) for _ in range(3)]
    assert [one.wait(120) for one in running] == [0, 0, 0]
    store = world.store()
    assert len(list(store.stored())) == 20
    for one in store.stored():
        store.verify(one.digest)
    assert list(store.leftovers()) == []


def test_a_writer_that_is_killed_leaves_the_artefact_whole_or_not_there(world):
    assert process(world, AT="artifact.before-rename:kill").wait(60) != 0
    store = world.store()
    digest = digest_bytes(b"content 0" * 1000)
    if store.exists(digest):
        store.verify(digest)
    assert {left.kind for left in store.leftovers()} <= {"writing"}
    store.put_bytes(b"content 0" * 1000)
    store.verify(digest)


# Collectors and writers -----------------------------------------------------------------------------------------------


def test_whoever_stores_while_a_collector_is_at_work_finds_it_stored(world):
    """Both at once, on twenty artefacts: none that was stored again is missing afterwards."""
    content = [b"artefact %d" % number for number in range(20)]
    store = world.store()
    digests = [store.put_bytes(data) for data in content]
    before = world.age(digests)
    writer = aged(store) if isinstance(world, Bucket) else world.store()
    problems = []

    def put():
        try:
            for data in content:
                writer.put_bytes(data)
        except PlinthError as error:
            problems.append(error)

    thread = threading.Thread(target=put)
    thread.start()
    for digest in digests:
        store.collect(digest, before)
    thread.join(BOUND)
    assert problems == []
    assert [store.exists(digest) for digest in digests] == [True] * 20
    for digest in digests:
        store.verify(digest)


def test_what_is_stored_between_a_collectors_look_and_its_delete_is_there_afterwards(bucket, monkeypatch):
    store = bucket.store()
    digest = store.put_bytes(b"spare")
    before = bucket.age([digest])
    writer = aged(bucket.store())
    thread = threading.Thread(target=writer.put_bytes, args=(b"spare",))
    delete = store.objects.delete

    def meanwhile(key):
        if key == bucket.name(digest):
            thread.start()
            deadline = time.monotonic() + 20
            while store.objects.head(key).at < before and time.monotonic() < deadline:
                time.sleep(0.02)  # it is written anew, and goes all the same
        delete(key)

    monkeypatch.setattr(store.objects, "delete", meanwhile)
    assert store.collect(digest, before) == 5
    thread.join(BOUND)
    assert store.exists(digest)
    store.verify(digest)


def test_a_killed_collector_stops_nobody_for_good(bucket, monkeypatch):
    digest = digest_bytes(b"content 19" * 1000)
    assert process(bucket).wait(60) == 0
    before = bucket.age([])
    assert process(bucket, AT="artifact.marked:kill", COLLECT=str(before)).wait(60) != 0
    store = bucket.store()
    assert store.exists(digest)
    assert store.collect(digest, before) == 0  # somebody else is at it, as far as anybody knows
    monkeypatch.setattr(object_artifacts, "PATIENCE_SECONDS", 0.2)
    with pytest.raises(Unavailable, match="being collected"):
        store.put_bytes(b"content 19" * 1000)
    time.sleep(2.1)
    monkeypatch.setattr(object_artifacts, "STALE_SECONDS", 1.0)
    (left,) = store.leftovers()
    assert left.kind == "collecting"
    store.put_bytes(b"content 19" * 1000)
    assert list(store.leftovers()) == []
    store.verify(digest)


def test_marks_of_killed_collectors_are_put_back(bucket, monkeypatch):
    store = bucket.store()
    digest = store.put_bytes(b"x")
    store.objects.put(f"{MARKS}/{digest}", b"")
    assert store.put_back() == 0  # young: it may be at work
    before = bucket.age([digest])
    monkeypatch.setattr(object_artifacts, "STALE_SECONDS", 1.0)
    assert store.put_back() == 1
    assert store.collect(digest, before) == 1


# The cache ------------------------------------------------------------------------------------------------------------


def test_a_corrupt_file_of_the_cache_is_fetched_again(bucket):
    store = bucket.store()
    digest = store.put_bytes(b"weights")
    cached = store.path(digest)
    cached.chmod(0o644)
    cached.write_bytes(b"wei")
    assert store.path(digest).read_bytes() == b"weights"


def test_what_is_corrupt_never_enters_the_cache(bucket):
    store = bucket.store()
    digest = store.put_bytes(b"weights")
    bucket.overwrite(digest, b"poison!")
    with pytest.raises(Corrupt):
        store.path(digest)
    assert [path for path in bucket.cache.rglob("*") if path.is_file()] == []


def test_a_lost_object_can_be_restored_from_the_cache(bucket):
    store = bucket.store()
    digest = store.put_bytes(b"weights")
    bucket.objects().delete(bucket.name(digest))
    assert not store.exists(digest)
    assert store.copy_of(digest) == b"weights"
    bucket.forget(digest)
    assert store.copy_of(digest) is None


def test_a_full_disk_stops_no_upload_and_is_told_when_a_file_is_wanted(bucket):
    bucket.cache.parent.mkdir(exist_ok=True)
    bucket.cache.write_text("a file where the folder should be")
    store = bucket.store()
    digest = store.put_bytes(b"weights")
    assert store.exists(digest)
    with pytest.raises(Unavailable, match="cannot be kept on this machine"):
        store.path(digest)


# A server that is away ------------------------------------------------------------------------------------------------


@pytest.fixture
def cut_off(s3, tmp_path):
    """A bucket behind a proxy that can break the line, with one artefact cached and one not."""
    with FaultProxy(int(s3[0].rpartition(":")[2])) as proxy:
        bucket = Bucket(s3, tmp_path / "cache", endpoint=f"http://127.0.0.1:{proxy.port}")
        bucket.proxy = proxy
        bucket.cached, bucket.away = bucket.store().put_bytes(b"cached"), bucket.store().put_bytes(b"away")
        bucket.forget(bucket.away)
        yield bucket
        proxy.fault = ""


@pytest.mark.parametrize("fault", ["cut", "silent"])
def test_without_the_server_every_call_says_so_in_time_and_the_cache_serves(cut_off, fault, monkeypatch):
    monkeypatch.setattr(obstore, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(obstore, "RETRY_SECONDS", 0.5)
    cut_off.proxy.fault = fault
    store = cut_off.store()
    assert store.path(cut_off.cached).read_bytes() == b"cached"
    calls = (
        lambda: store.put_bytes(b"new"), lambda: store.exists(cut_off.cached), lambda: store.path(cut_off.away),
        lambda: store.verify(cut_off.cached), lambda: list(store.stored()), lambda: list(store.leftovers()),
        lambda: store.collect(cut_off.cached, time.time() + 10), store.put_back,
    )  # fmt: skip
    for call in calls:
        began = time.monotonic()
        with pytest.raises(Unavailable) as error:
            call()
        assert time.monotonic() - began < BOUND
        assert error.value.what.endswith({"cut": "cannot be reached", "silent": "does not answer"}[fault])
        assert error.value.where.startswith("s3://plinth/")
        assert error.value.hint
    cut_off.proxy.fault = ""
    assert store.path(cut_off.away).read_bytes() == b"away"


def test_a_check_without_the_server_says_so_and_calls_nothing_corrupt(cut_off, tmp_path, make_manifest):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    digest = ledger.register_release(make_manifest(artifacts={"model.onnx": cut_off.cached}), "ada")
    ledger.promote("flight-delays", digest, expected_generation=0, actor="ada", reason="")
    store = cut_off.store()
    assert violations(check_artifacts(ledger, store)) == []
    cut_off.proxy.fault = "cut"
    (finding,) = violations(check_artifacts(ledger, store))
    assert "cannot be reached" in finding.what
    cut_off.proxy.fault = ""
    cut_off.objects().delete(cut_off.name(cut_off.cached))
    (finding,) = violations(check_artifacts(ledger, store))  # what the cache holds is not what is stored
    assert "missing" in finding.what
    ledger.close()


def test_nobody_at_the_address_is_said_at_once(tmp_path):
    objects = Objects("s3://plinth", "http://127.0.0.1:9", "key", SecretStr("hidden"))
    with pytest.raises(Unavailable, match=r"at http://127.0.0.1:9 cannot be reached"):
        ObjectArtifacts(objects, tmp_path).put_bytes(b"x")


@pytest.mark.parametrize("given", [{"key": "nobody"}, {"secret": "wrong-secret"}])
def test_wrong_keys_are_refused_with_the_settings_to_look_at_and_no_secret(bucket, given, caplog):
    store = bucket.store(**given)
    calls = (
        lambda: store.put_bytes(b"new"), lambda: store.exists("0" * 64), lambda: store.path("0" * 64),
        lambda: list(store.stored()),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(Unavailable, match="refuses the access key") as error:
            call()
        assert "PLINTH_OBJECT_KEY" in error.value.hint
        assert error.value.__cause__ is None
        told = f"{error.value} {error.value.as_dict()} {store.objects!r} {caplog.text}"
        assert not any(word in told for word in (bucket.secret, bucket.key, "wrong-secret", "nobody"))


def test_a_missing_bucket_is_named(bucket):
    store = bucket.store(url="s3://there-is-none")
    for call in (lambda: list(store.stored()), lambda: store.path("0" * 64)):
        with pytest.raises(Unavailable, match="no such bucket") as error:
            call()
        assert "there-is-none" in error.value.where


def test_the_environments_proxy_and_keys_are_not_used(bucket, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-somebody-else")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-somebody-else")
    assert bucket.store().exists(bucket.store().put_bytes(b"x"))


@pytest.mark.parametrize("url", ["plinth", "http://plinth", "s3://", "s3://user:word@plinth", "s3://plinth?a=b"])
def test_an_address_that_is_no_bucket_is_bad_input(url):
    with pytest.raises(InvalidInput, match="no bucket") as error:
        Objects(url, "", "", SecretStr(""))
    assert "word" not in str(error.value)


def test_a_forked_process_is_told_instead_of_waiting_for_ever(bucket):
    store = bucket.store()
    store.put_bytes(b"x")
    child = os.fork()
    if not child:
        try:
            store.exists("0" * 64)
        except Unavailable:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
