"""One contract for every vector store: the embedded engine, and Qdrant through its client.

The client runs in its local mode, and on a server with an API key where its image can be had (tests/servers.py).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import uuid
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from openai_server import OpenAIServer
from plinth.core.corpus import PROBE_TENANT, SHARED_TENANT, Chunk, Scope
from plinth.errors import Conflict, Corrupt, InvalidInput, NotFound, Unavailable
from plinth.retrieval import directories
from plinth.retrieval.bm25 import Bm25Encoder
from plinth.retrieval.port import Point, Query, SparseVector
from plinth.retrieval.qdrant import QdrantStore
from plinth.retrieval.qdrant_edge import EdgeStore

DIMENSION = 8
BUILD, OTHER = "0123456789abcdef", "fedcba9876543210"
TENANTS = (SHARED_TENANT, "acme", "globex", PROBE_TENANT)
WORDS = (
    "wing", "flow", "drag", "lift", "plate", "shock", "layer", "body", "heat", "jet", "cone", "panel", "flutter", "gas",
)  # fmt: skip
SEED = int(os.environ.get("PLINTH_TEST_SEED", "20"))
ADAPTERS = ["edge", "qdrant-local", "qdrant-server"]


def make_store(kind, folder, server=None):
    if kind == "edge":
        return EdgeStore(folder)
    from qdrant_client import QdrantClient

    prefix = f"t{uuid.uuid4().hex[:8]}"
    if kind == "qdrant-server":
        url, key = server
        return QdrantStore(url, prefix, key)
    return QdrantStore(QdrantClient(":memory:"), prefix)


@pytest.fixture(params=ADAPTERS)
def store(request, tmp_path):
    with warnings.catch_warnings():
        # The local mode says that it has neither payload indexes nor graphs; it answers all the same.
        for message in ("Payload indexes have no effect", "Local mode performs exact"):
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        server = request.getfixturevalue("qdrant_server") if request.param == "qdrant-server" else None
        made = make_store(request.param, tmp_path / "index", server)
        yield made
        for build in made.builds():
            made.drop(build)


def chunk(number, *, tenant=SHARED_TENANT, labels=(), modified=0.0, text=None):
    words = random.Random(number)
    text = text or " ".join(words.choices(WORDS, k=words.randint(3, 20)))
    return Chunk(f"docs/{number}.md", "v1", "docs", f"Title {number}", ("A", "B"), text, 0, tenant, labels, modified)


def point(one):
    vector = np.random.default_rng(zlib.crc32(one.document.encode())).normal(size=DIMENSION)
    vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    return Point(one, vector, Bm25Encoder(10.0).encode_document(one.indexed_text))


def some_points(count=30, **options):
    return [point(chunk(number, **options)) for number in range(count)]


def built(store, points, build=BUILD):
    store.create(build, DIMENSION)
    store.add(build, points)
    store.complete(build)
    return store.open(build)


def ask(text="wing flow", seed=1):
    vector = np.random.default_rng(seed).normal(size=DIMENSION)
    vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    return Query(vector, Bm25Encoder(10.0).encode_query(text))


def ids(hits):
    return [hit.chunk.id for hit in hits]


def test_a_build_gives_back_what_was_written(store):
    points = some_points()
    index = built(store, points)
    assert (index.build, index.dimension, index.count()) == (BUILD, DIMENSION, 30)
    found = {one.chunk.id: one for one in index.points()}
    assert set(found) == {one.chunk.id for one in points}
    for one in points:
        back = found[one.chunk.id]
        assert back.chunk == one.chunk
        assert back.dense.dtype == np.float32
        np.testing.assert_allclose(back.dense, one.dense, atol=1e-6)
        assert back.sparse.indices == one.sparse.indices
        np.testing.assert_allclose(back.sparse.values, one.sparse.values, rtol=1e-6)


def test_points_are_read_in_pages_whatever_their_number(store, monkeypatch):
    monkeypatch.setattr("plinth.retrieval.qdrant_edge.PAGE", 7)
    monkeypatch.setattr("plinth.retrieval.qdrant.PAGE", 7)
    index = built(store, [*some_points(21), *(point(chunk(100 + n, tenant="acme")) for n in range(14))])
    assert len({one.chunk.id for one in index.points()}) == 35
    assert {one.chunk.tenant for one in index.points("acme")} == {"acme"}
    assert len(list(index.points("acme"))) == 14
    assert list(index.points("nobody")) == []


def test_the_dense_side_ranks_by_cosine_and_the_sparse_side_by_bm25(store):
    points = some_points(60)
    index, query = built(store, points), ask()
    sides = index.search(query, Scope(), 10)
    cosine = sorted(points, key=lambda one: -float(one.dense @ query.dense))
    assert ids(sides.dense) == [one.chunk.id for one in cosine[:10]]
    for hit, one in zip(sides.dense, cosine, strict=False):
        assert hit.dense == hit.score == pytest.approx(float(one.dense @ query.dense), abs=1e-5)
        assert hit.sparse is None
    expected = bm25(points, query.sparse)
    scored = {hit.chunk.id: hit.score for hit in sides.sparse}
    best = sorted(expected.values(), reverse=True)[:10]
    assert sorted(scored.values(), reverse=True) == pytest.approx(best, rel=1e-4)
    assert scored == pytest.approx({one: expected[one] for one in scored}, rel=1e-4)
    assert all(hit.sparse == hit.score and hit.dense is None for hit in sides.sparse)


def bm25(points, query):
    """By hand: term weights of the documents times Lucene's IDF."""
    weights = {one.chunk.id: dict(zip(one.sparse.indices, one.sparse.values, strict=True)) for one in points}
    scores = dict.fromkeys(weights, 0.0)
    for term in query.indices:
        holders = [name for name in weights if term in weights[name]]
        idf = np.log((len(points) - len(holders) + 0.5) / (len(holders) + 0.5) + 1)
        for name in holders:
            scores[name] += idf * weights[name][term]
    return {name: score for name, score in scores.items() if score}


def test_a_side_that_is_not_asked_finds_nothing(store):
    index, query = built(store, some_points()), ask()
    assert index.search(Query(None, query.sparse), Scope(), 5).dense == ()
    assert index.search(Query(query.dense, None), Scope(), 5).sparse == ()
    assert len(index.search(Query(query.dense, SparseVector((), ())), Scope(), 5).dense) == 5
    assert index.search(Query(None, SparseVector((), ())), Scope(), 5).sparse == ()


def test_words_that_no_chunk_has_find_nothing_on_the_sparse_side(store):
    index = built(store, some_points())
    assert index.search(ask("unheard zebra"), Scope(), 5).sparse == ()


def test_chunks_without_words_are_found_by_their_vector(store):
    empty = Point(chunk(1), ask().dense, SparseVector((), ()))
    index = built(store, [empty])
    assert ids(index.search(ask(), Scope(), 5).dense) == [empty.chunk.id]
    assert next(iter(index.points())).sparse == SparseVector((), ())


def test_an_empty_build_is_one(store):
    index = built(store, [])
    assert index.count() == 0
    assert index.search(ask(), Scope(), 5).dense == ()


def test_adding_twice_is_adding_once(store):
    points = some_points()
    store.create(BUILD, DIMENSION)
    store.add(BUILD, points)
    store.add(BUILD, points[:10])
    store.add(BUILD, [])
    store.complete(BUILD)
    assert store.open(BUILD).count() == 30


def test_a_build_that_is_not_complete_is_not_opened(store):
    store.create(BUILD, DIMENSION)
    store.add(BUILD, some_points())
    assert store.builds() == {BUILD: False}
    with pytest.raises(Conflict):
        store.open(BUILD)
    with pytest.raises(Conflict):
        store.set_alias("live", BUILD)


def test_a_build_begun_again_starts_empty(store):
    store.create(BUILD, DIMENSION)
    store.add(BUILD, some_points(30))
    index = built(store, some_points(3))
    assert index.count() == 3


def test_a_complete_build_is_not_written_to(store):
    built(store, some_points(3))
    with pytest.raises(Conflict):
        store.create(BUILD, DIMENSION)
    with pytest.raises(Conflict):
        store.add(BUILD, some_points(5))
    assert store.open(BUILD).count() == 3


def test_a_build_that_was_not_begun_is_neither_written_to_nor_completed(store):
    with pytest.raises(Conflict):
        store.add(BUILD, some_points(1))
    with pytest.raises(Conflict):
        store.complete(BUILD)
    with pytest.raises(NotFound):
        store.open(BUILD)
    with pytest.raises(NotFound):
        store.set_alias("live", BUILD)
    with pytest.raises(NotFound):
        store.remove_tenant(BUILD, "acme")
    assert store.builds() == {}


def test_builds_stand_side_by_side_and_a_dropped_one_is_gone(store):
    built(store, some_points(3))
    other = built(store, some_points(5), OTHER)
    assert store.builds() == {BUILD: True, OTHER: True}
    store.drop(BUILD)
    store.drop(BUILD)
    assert store.builds() == {OTHER: True}
    with pytest.raises(NotFound):
        store.open(BUILD)
    assert other.count() == 5


def test_an_alias_names_one_build_and_moves(store):
    built(store, some_points(3))
    built(store, some_points(5), OTHER)
    assert store.alias("live") is None
    store.set_alias("live", BUILD)
    store.set_alias("next", OTHER)
    assert (store.alias("live"), store.alias("next")) == (BUILD, OTHER)
    store.set_alias("live", OTHER)
    store.set_alias("live", OTHER)
    assert store.alias("live") == OTHER


@pytest.mark.parametrize("name", ["", "../up", "a/b", "UPPER", ".hidden", "a" * 200, "new\nline"])
def test_names_that_could_lead_elsewhere_are_refused(store, name):
    with pytest.raises(InvalidInput):
        store.create(name, DIMENSION)
    with pytest.raises(InvalidInput):
        store.drop(name)
    with pytest.raises(InvalidInput):
        store.alias(name)


def test_a_closed_index_is_not_searched(store):
    index = built(store, some_points(3))
    second = store.open(BUILD)
    index.close()
    index.close()
    with pytest.raises(InvalidInput):
        index.search(ask(), Scope(), 1)
    assert second.count() == 3


def test_many_threads_search_at_once(store):
    index, query = built(store, some_points(60)), ask()
    alone = index.search(query, Scope(), 10)
    with ThreadPoolExecutor(8) as pool:
        assert all(found == alone for found in pool.map(lambda _: index.search(query, Scope(), 10), range(64)))


def corpus_of_tenants(seed, count=240):
    rng = random.Random(seed)
    chunks = []
    for number in range(count):
        labels = tuple(sorted(rng.sample(["hr", "legal", "board"], rng.choice([0, 0, 1, 2]))))
        when = float(rng.choice([0, 10, 10.5, 20, 30, 1.7e9]))
        chunks.append(chunk(number, tenant=rng.choice(TENANTS), labels=labels, modified=when))
    return chunks


def random_scope(rng):
    return Scope(
        rng.choice([*TENANTS, "nobody", "*", ""]),
        frozenset(rng.sample(["hr", "legal", "board", "*", "none"], rng.randint(0, 3))),
        rng.choice([None, 0.0, 10.0, 10.25, 30.0]),
        rng.choice([None, 0.0, 10.5, 30.0, 1.8e9]),
    )


def test_a_scope_reads_what_it_holds_and_nothing_else(store):
    """Row 32: no rows of others, whatever is asked with; by brute force over random scopes."""
    print("seed", SEED)
    rng = random.Random(SEED)
    chunks = corpus_of_tenants(SEED)
    index = built(store, [point(one) for one in chunks])
    for round_ in range(60):
        scope = random_scope(rng)
        wanted = {one.id for one in chunks if scope.holds(one)}
        found = index.search(ask(" ".join(WORDS), seed=round_), scope, len(chunks))
        assert set(ids(found.dense)) == wanted, scope
        # Every chunk has one of the words.
        assert set(ids(found.sparse)) == wanted, scope
        assert index.count(scope) == len(wanted), scope


def test_the_scope_applies_before_the_best_are_cut(store):
    """A tenant with few chunks gets all of its own, however well those of others match."""
    query = ask()
    others = [
        Point(chunk(n, tenant="globex", text="wing flow"), query.dense, point(chunk(n, text="wing flow")).sparse)
        for n in range(50)
    ]
    mine = point(chunk(100, tenant="acme", text="wing"))
    found = built(store, [*others, mine]).search(query, Scope("acme"), 3)
    assert ids(found.dense) == ids(found.sparse) == [mine.chunk.id]


def test_a_removed_tenant_is_gone_and_the_others_are_not(store):
    chunks = corpus_of_tenants(3, 90)
    index = built(store, [point(one) for one in chunks])
    store.set_alias("live", BUILD)
    theirs = [one for one in chunks if one.tenant == "acme"]
    before = {one.chunk.id: one for one in index.points()}
    assert store.remove_tenant(BUILD, "acme") == len(theirs) > 0
    again = store.open(BUILD)
    after = {one.chunk.id: one for one in again.points()}
    assert set(after) == set(before) - {one.id for one in theirs}
    assert all(after[name].sparse == before[name].sparse for name in after)
    assert all((after[name].dense == before[name].dense).all() for name in after)
    assert store.builds() == {BUILD: True}
    assert store.alias("live") == BUILD
    assert store.remove_tenant(BUILD, "acme") == 0
    assert again.count() == len(chunks) - len(theirs)
    store.drop(BUILD)
    assert store.builds() == {}


def test_a_reader_survives_the_removal_of_a_tenant(store):
    index = built(store, [*some_points(5), *(point(chunk(50 + n, tenant="acme")) for n in range(5))])
    store.remove_tenant(BUILD, "acme")
    assert len(index.search(ask(), Scope(), 20).dense) == 5


def test_a_tenant_is_not_removed_from_a_build_in_the_making(store):
    store.create(BUILD, DIMENSION)
    with pytest.raises(Conflict):
        store.remove_tenant(BUILD, "acme")


def test_both_adapters_answer_alike(tmp_path):
    """The same points and questions: the same rankings, and the same scores, IDF included."""
    print("seed", SEED)
    points = [point(one) for one in corpus_of_tenants(SEED)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        indexes = [built(make_store(kind, tmp_path / "index"), points) for kind in ADAPTERS[:2]]
    rng = random.Random(SEED)
    for number in range(40):
        scope = random_scope(rng)
        query = ask(" ".join(rng.sample(WORDS, rng.randint(1, 5))), seed=number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            first, *others = [index.search(query, scope, 20) for index in indexes]
        for other in others:
            assert ids(first.dense) == ids(other.dense)
            for side in ("dense", "sparse"):
                mine, theirs = getattr(first, side), getattr(other, side)
                assert [hit.score for hit in mine] == pytest.approx([hit.score for hit in theirs], rel=1e-4, abs=1e-6)
                last = mine[-1].score if mine else 0.0
                # Equal scores may stand in any order, and the last of them may be cut anywhere.
                above = [{hit.chunk.id for hit in hits if hit.score > last * 1.0001} for hits in (mine, theirs)]
                assert above[0] == above[1]


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_a_server_that_is_not_there_is_unavailable():
    store = QdrantStore("http://127.0.0.1:9", "docs", "secret")
    for call in (store.builds, lambda: store.create(BUILD, 3), lambda: store.open(BUILD), lambda: store.alias("live")):
        with pytest.raises(Unavailable) as caught:
            call()
        assert "secret" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_texts_and_key_of_a_server_on_this_machine_do_not_pass_a_proxy_of_the_environment(monkeypatch):
    with OpenAIServer() as proxy:  # it would say 501
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(Unavailable, match="does not answer"):
            QdrantStore("http://127.0.0.1:9", "docs", "secret").builds()


# The embedded engine's own: files, locks, crashes.


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "index"


def shard(folder, build=BUILD):
    (found,) = (folder / build).glob("shard-*")
    return found


def run_and_die(folder, *lines):
    """A process that runs lines and kills itself."""
    script = "\n".join(
        [
            "import os, signal, sys",
            "from pathlib import Path",
            f"sys.path[:0] = {[os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]!r}",
            "from test_vector_store import *",
            f"store = EdgeStore(Path({str(folder)!r}))",
            *lines,
            "os.kill(os.getpid(), signal.SIGKILL)",
        ]
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


CREATE, ADD = "store.create(BUILD, DIMENSION)", "store.add(BUILD, some_points())"
DIE = "lambda *a: os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    "lines",
    [
        [CREATE],
        [CREATE, ADD],
        [CREATE, ADD, f"directories.Directories.mark_complete = {DIE}", "store.complete(BUILD)"],
        [CREATE, ADD, f"directories.os.replace = {DIE}", "store.complete(BUILD)"],
    ],
)
def test_killed_before_the_card_is_there_a_build_is_incomplete_and_can_be_made_again(folder, lines):
    run_and_die(folder, *lines)
    store = EdgeStore(folder)
    assert store.builds() == {BUILD: False}
    with pytest.raises(Conflict):
        store.open(BUILD)
    assert built(store, some_points(4)).count() == 4
    assert [path.name for path in folder.glob(".*")] == []


def test_killed_after_the_card_is_there_a_build_is_complete(folder):
    run_and_die(folder, CREATE, ADD, "store.complete(BUILD)")
    assert EdgeStore(folder).open(BUILD).count() == 30


@pytest.mark.parametrize("at", ["directories.os.replace", "shutil_rmtree"])
def test_killed_while_a_tenant_is_removed_the_build_stays_complete_and_a_second_try_removes_all(folder, at):
    points = [*some_points(5), *(point(chunk(50 + n, tenant="acme", text=f"canarybird {n}")) for n in range(5))]
    built(EdgeStore(folder), points).close()
    where = "import plinth.retrieval.qdrant_edge as edge; edge.shutil.rmtree" if at == "shutil_rmtree" else at
    run_and_die(folder, f"{where} = {DIE}", "store.remove_tenant(BUILD, 'acme')")
    store = EdgeStore(folder)
    assert store.open(BUILD).count() in (5, 10)
    store.remove_tenant(BUILD, "acme")
    assert store.open(BUILD).count() == 5
    assert holding(folder, b"canarybird") == []


def holding(folder, text):
    return [path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


def test_no_byte_of_a_removed_tenant_stays(folder):
    store = EdgeStore(folder)
    secret = point(chunk(50, tenant="acme", text="canarybird in a mine"))
    index = built(store, [*some_points(5), secret])
    vector = secret.dense.tobytes()
    assert holding(folder, b"canarybird")
    assert holding(folder, vector)
    assert holding(folder, uuid.UUID(secret.chunk.id).bytes) or holding(folder, uuid.UUID(secret.chunk.id).bytes[::-1])
    assert store.remove_tenant(BUILD, "acme") == 1
    for trace in (b"canarybird", b"acme", vector, *(uuid.UUID(secret.chunk.id).bytes[::step] for step in (1, -1))):
        assert holding(folder, trace) == []
    assert index.count() == 6  # who has it open reads the old state, from files without a name


def test_a_reader_goes_on_when_its_build_is_dropped(folder):
    store = EdgeStore(folder)
    index, query = built(store, some_points()), ask()
    before = index.search(query, Scope(), 5)
    store.drop(BUILD)
    assert list(folder.iterdir()) == []
    assert index.search(query, Scope(), 5) == before
    assert built(store, some_points(3)).count() == 3
    assert index.search(query, Scope(), 5) == before


def test_one_process_writes_a_build_and_others_are_told_so(folder):
    store, other = EdgeStore(folder), EdgeStore(folder)
    store.create(BUILD, DIMENSION)
    for call in (lambda: other.create(BUILD, DIMENSION), lambda: other.drop(BUILD), lambda: other.add(BUILD, [])):
        with pytest.raises(Conflict):
            call()
    store.add(BUILD, some_points(3))
    store.complete(BUILD)
    assert other.open(BUILD).count() == 3
    other.drop(BUILD)
    assert store.builds() == {}


def test_reading_changes_no_file(folder):
    index = built(EdgeStore(folder), some_points())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    index.search(ask(), Scope(), 5)
    list(index.points())
    index.close()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_readers_of_a_process_share_a_shard_and_the_last_one_closes_it(folder, monkeypatch):
    built(EdgeStore(folder), some_points()).close()
    store, loads = EdgeStore(folder), []
    from plinth.retrieval import qdrant_edge

    load = qdrant_edge._load
    monkeypatch.setattr(qdrant_edge, "_load", lambda path: loads.append(path) or load(path))
    first, second = store.open(BUILD), store.open(BUILD)
    assert len(loads) == 1
    first.close()
    assert second.count() == 30
    second.close()
    assert store.open(BUILD).count() == 30
    assert len(loads) == 2


def test_every_damaged_file_is_found_before_the_engine_sees_it(folder):
    """The engine leaves out, deletes or panics at what it cannot read."""
    built(EdgeStore(folder), some_points()).close()
    home = shard(folder)
    for path in sorted(path for path in home.rglob("*") if path.is_file()):
        data = path.read_bytes()
        for damage in (data[:-1], bytes([data[0] ^ 1]) + data[1:]):
            path.write_bytes(damage)
            with pytest.raises(Corrupt, match=path.name):
                EdgeStore(folder).verify(BUILD)
            with pytest.raises(Corrupt, match=path.name):
                EdgeStore(folder).open(BUILD)
        path.unlink()
        with pytest.raises(Corrupt, match=path.name):
            EdgeStore(folder).open(BUILD)
        path.write_bytes(data)
    (home / "stranger").write_bytes(b"x")
    with pytest.raises(Corrupt, match="stranger"):
        EdgeStore(folder).open(BUILD)
    (home / "stranger").unlink()
    assert EdgeStore(folder).open(BUILD).count() == 30


@pytest.mark.parametrize("card", [b"", b"{", b"[]", b"null", b'{"shard": "x"}', b"\xff\xfe"])
def test_a_damaged_card_is_corrupt(folder, card):
    built(EdgeStore(folder), some_points(1)).close()
    (folder / BUILD / "complete.json").write_bytes(card)
    with pytest.raises(Corrupt):
        EdgeStore(folder).open(BUILD)


def test_a_panic_of_the_engine_is_corrupt_and_no_crash(folder, monkeypatch):
    built(EdgeStore(folder), some_points(1)).close()
    (status,) = shard(folder).rglob("vector_storage-dense/vectors/status.dat")
    status.write_bytes(status.read_bytes()[:4])
    monkeypatch.setattr(directories.Directories, "check", lambda self, build, card: self.home(build) / card.shard)
    with pytest.raises(Corrupt):
        EdgeStore(folder).open(BUILD)


def test_a_disk_without_room_is_said_before_it_kills_the_process(folder, monkeypatch):
    store = EdgeStore(folder)
    store.create(BUILD, DIMENSION)
    monkeypatch.setattr(directories, "SPARE_BYTES", 1 << 60)
    with pytest.raises(Unavailable, match="disk"):
        store.add(BUILD, some_points(1))
    with pytest.raises(Unavailable, match="disk"):
        store.complete(BUILD)
    monkeypatch.undo()
    store.add(BUILD, some_points(1))
    store.complete(BUILD)
    assert store.open(BUILD).count() == 1


def test_beyond_the_scan_limit_a_graph_is_made_and_finds_nearly_all(folder, monkeypatch):
    from plinth.retrieval import qdrant_edge

    monkeypatch.setattr(qdrant_edge, "SCAN_KB", 10)
    rng = np.random.default_rng(SEED)
    vectors = rng.normal(size=(2000, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store = EdgeStore(folder)
    store.create(BUILD, 32)
    tenants = ["acme", "globex"]
    chunks = [chunk(n, tenant=tenants[n % 2]) for n in range(2000)]
    store.add(BUILD, [Point(one, v, SparseVector((1,), (1.0,))) for one, v in zip(chunks, vectors, strict=True)])
    store.complete(BUILD)
    assert any(path.name.startswith("graph") or "links" in path.name for path in shard(folder).rglob("*"))
    index, found = store.open(BUILD), 0
    for n in range(50):
        hits = index.search(Query(vectors[n], None), Scope("acme"), 10).dense
        best = sorted(range(0, 2000, 2), key=lambda other: -float(vectors[other] @ vectors[n]))[:10]
        found += len({chunks[other].id for other in best} & set(ids(hits)))
        assert {hit.chunk.tenant for hit in hits} == {"acme"}
    assert found >= 485
