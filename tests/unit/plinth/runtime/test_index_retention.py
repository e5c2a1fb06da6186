"""Index builds that no release needs go, and nothing else does; a kill in the middle loses and leaves nothing."""

import os
import time

import pytest

from assistant_releases import PRODUCT, as_bytes, config, manifest
from indexes import CountingEmbedder, MemoryStore, Words, corpus
from plinth.assistants import builds, records
from plinth.core.assistants import Chunking
from plinth.errors import Unavailable
from plinth.ledger.artifacts import ArtifactStore
from plinth.ledger.store import Ledger
from plinth.runtime.retention import collect

DAY = 86_400.0
SOURCES = {"docs": records.SourceRecord(as_of="2026-01-01T00:00:00+00:00", documents=1, chunks=1)}


class World:
    """Releases of an assistant, each over an index build of its own, all made a month ago."""

    def __init__(self, folder):
        self.state = folder / "state"
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
        self.artifacts = ArtifactStore(folder / "artifacts")
        self.index = MemoryStore()
        self.made = {}

    def build(self, number):
        engine = builds.Engine(CountingEmbedder(), Words, self.index)
        with builds.alone(self.state):
            made = builds.make_build(self.state, builds.Contents(corpus(number), SOURCES), engine, Chunking().digest)
        self.age(made.record.index.build)
        return made.record.index

    def age(self, build, days=30):
        at = time.time() - days * DAY
        folder = records.build_folder(self.state, build)
        for path in (folder, *folder.rglob("*")):
            os.utime(path, (at, at))

    def release(self, number, **options):
        index = self.build(number)
        made = config(1).model_copy(update={"index": index})
        digest = self.artifacts.put_bytes(as_bytes(made))
        at = time.time() - 30 * DAY
        os.utime(self.artifacts.root / digest[:2] / digest, (at, at))
        drill = options.pop("drill", False)
        self.made[number] = index.build
        return self.ledger.register_release(manifest(number, made=made, **options), "ada", drill=drill)

    def serve(self, digest):
        now = self.ledger.current(PRODUCT)
        self.ledger.promote(
            PRODUCT, digest, expected_generation=now.generation if now else 0, actor="ada", reason="", kind="promote"
        )

    def collect(self, **options):
        # The releases were registered now, so the collection happens a month later.
        options = {"now": time.time() + 29 * DAY, "apply": True, "actor": "janitor", **options}
        folders = {PRODUCT: self.state}
        return collect(self.ledger, self.artifacts, folders, indexes={PRODUCT: self.index}, **options)

    def there(self):
        """Numbers of the builds that are whole, in the store and described."""
        described = {record.index.build for record in records.described(self.state)}
        whole = {build for build, complete in self.index.builds().items() if complete}
        return {number for number, build in self.made.items() if build in described & whole}


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.ledger.close()


@pytest.fixture
def eight(world):
    """Eight accepted releases of which 1, 2, 3 and 4 served."""
    digests = [world.release(number) for number in range(1, 9)]
    for digest in digests[:4]:
        world.serve(digest)
    return digests


def test_builds_that_no_kept_release_pins_go_and_the_others_stay(world, eight):
    done = world.collect()
    assert world.there() == {2, 3, 4, 6, 7, 8}
    assert set(done.builds) == {(PRODUCT, world.made[number]) for number in (1, 5)}
    assert all(size > 0 for size in done.builds.values())
    assert world.collect().builds == {}
    collected = [entry.payload["build"] for entry in world.ledger.audit() if entry.action == "index.collect"]
    assert set(collected) == {world.made[1], world.made[5]}


def test_a_dry_run_says_the_same_and_deletes_nothing(world, eight):
    would = world.collect(apply=False)
    assert world.there() == set(range(1, 9))
    assert would.builds == world.collect().builds


def test_a_build_that_two_releases_share_stays_while_one_of_them_is_kept(world, eight):
    again = config(1, prompt=2).model_copy(update={"index": world.build(1)})
    world.artifacts.put_bytes(as_bytes(again))
    world.ledger.register_release(manifest(1, made=again, created="2026-02-01T00:00:00+00:00"), "ada")
    world.collect()
    assert 1 in world.there()


def test_a_young_build_stays_whether_it_was_made_or_found_again(world, eight):
    engine = builds.Engine(CountingEmbedder(), Words, world.index)
    with builds.alone(world.state):
        found = builds.make_build(world.state, builds.Contents(corpus(5), SOURCES), engine, Chunking().digest)
    assert not found.made
    world.collect(now=time.time())
    assert 5 in world.there()


def test_what_an_alias_names_stays(world, eight):
    world.index.set_alias(PRODUCT, world.made[1])
    world.index.set_alias(f"{PRODUCT}-candidate", world.made[5])
    world.collect()
    assert {1, 5} <= world.there()


def test_nothing_goes_while_somebody_makes_a_build(world, eight):
    with builds.alone(world.state):
        assert world.collect().builds == {}
    assert world.there() == set(range(1, 9))
    assert len(world.collect().builds) == 2


def test_a_kill_while_a_build_is_dropped_leaves_one_that_the_next_collection_finds(world, eight, monkeypatch):
    drop = world.index.drop

    def killed(build):
        raise Unavailable("killed")

    monkeypatch.setattr(world.index, "drop", killed)
    with pytest.raises(Unavailable):
        world.collect()
    assert {2, 3, 4, 6, 7, 8} <= world.there()
    monkeypatch.setattr(world.index, "drop", drop)
    edge = world.state / "index"  # where the embedded engine would keep it
    for build in world.index.builds():
        (edge / build).mkdir(parents=True)
        os.utime(edge / build, (0, 0))
    world.collect()
    assert world.there() == {2, 3, 4, 6, 7, 8}
    assert set(world.index.builds()) == {world.made[number] for number in (2, 3, 4, 6, 7, 8)}


def test_what_a_killed_build_left_goes_with_the_same_grace(world, eight):
    left = "f" * 16
    world.index.create(left, 8)
    folder = records.build_folder(world.state, left)
    folder.mkdir(parents=True)
    world.collect(now=time.time())
    assert left in world.index.builds()
    world.age(left)
    world.collect(now=time.time())
    assert left not in world.index.builds()
    assert not folder.exists()


def test_a_drills_build_goes_once_its_release_is_retired(world, eight):
    world.release(9, drill=True, passed=False)
    world.collect(now=time.time())
    assert 9 in world.there()
    world.collect()
    assert 9 not in world.there()
