"""Index builds: content-addressed, resumable, checked as they are read back."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from indexes import CountingEmbedder, MemoryStore, Words, chunk, corpus
from plinth.assistants import builds, checks, records
from plinth.assistants.pyarrow import read_chunks
from plinth.core.assistants import Chunking
from plinth.core.privacy import Finding
from plinth.errors import Conflict, Corrupt, InvalidInput, NotFound, RefusedByPolicy, Unavailable
from plinth.retrieval.qdrant_edge import EdgeStore

CHUNKING = Chunking().digest
SOURCES = {"docs": records.SourceRecord(as_of="2026-01-01T00:00:00+00:00", documents=1, chunks=1)}


@pytest.fixture
def engine():
    return builds.Engine(CountingEmbedder(), Words, MemoryStore())


def make(state, chunks, engine, **more):
    with builds.alone(state):
        return builds.make_build(state, builds.Contents(chunks, SOURCES), engine, CHUNKING, **more)


def failed(record, engine, **more):
    return {check.check: check.reason for check in checks.check_build(record, engine, **more) if not check.passed}


def test_the_same_chunks_give_the_same_build_which_is_made_once(tmp_path, engine):
    first = make(tmp_path, corpus(20), engine)
    again = make(tmp_path, list(reversed(corpus(20))), engine)
    assert first.made
    assert not again.made
    assert again.record == first.record
    assert len(engine.embedder.embedded) == 20


def test_row_6_a_damaged_build_is_made_again_under_its_id(tmp_path):
    """The same content is the same id: were it taken for made, no command could ever mend it."""
    engine = builds.Engine(CountingEmbedder(), Words, EdgeStore(tmp_path / "index"))
    first = make(tmp_path, corpus(5), engine)
    build = first.record.index.build
    assert not make(tmp_path, corpus(5), engine, previous=first.record).made
    path = next(path for path in (tmp_path / "index" / build).rglob("shard-*/**/*") if path.is_file())
    path.unlink()
    assert failed(first.record, engine)
    again = make(tmp_path, corpus(5), engine, previous=first.record)
    assert again.made
    assert again.record.index == first.record.index
    assert failed(again.record, engine) == {}


def test_another_place_with_the_same_chunks_gives_the_same_id(tmp_path, engine):
    other = builds.Engine(CountingEmbedder(), Words, MemoryStore())
    assert make(tmp_path / "a", corpus(5), engine).record.index == make(tmp_path / "b", corpus(5), other).record.index


@pytest.mark.parametrize(
    "change",
    [
        lambda chunks: [replace(chunks[0], text="something else"), *chunks[1:]],
        lambda chunks: chunks[1:],
        lambda chunks: [replace(chunks[0], labels=("staff",)), *chunks[1:]],
        lambda chunks: [replace(chunks[0], tenant="acme"), *chunks[1:]],
        lambda chunks: [replace(chunks[0], version="another"), *chunks[1:]],
    ],
    ids=["text", "deleted", "labels", "tenant", "version"],
)
def test_whatever_changes_gives_another_build(tmp_path, engine, change):
    assert (
        make(tmp_path, change(corpus(5)), engine).record.index.build
        != make(tmp_path, corpus(5), engine).record.index.build
    )


def test_another_model_or_chunking_gives_another_build(engine):
    chunks = corpus(5)
    ids = {
        builds.reference(chunks, embedder, chunking, 10.0).build
        for embedder in (CountingEmbedder(), CountingEmbedder(seed="b"), CountingEmbedder(dimension=32))
        for chunking in (CHUNKING, Chunking(max_tokens=100).digest)
    }
    assert len(ids) == 6


def test_unchanged_chunks_are_not_embedded_again(tmp_path, engine):
    first = make(tmp_path, corpus(20), engine).record
    engine.embedder.embedded.clear()
    changed = [replace(corpus(1)[0], text="Quite another text."), *corpus(22)[2:]]
    second = make(tmp_path, changed, engine, previous=first).record
    assert len(engine.embedder.embedded) == 3 == second.embedded  # one changed, two new, one deleted
    assert not failed(second, engine)


def test_a_chunk_that_only_moved_keeps_its_vector(tmp_path, engine):
    first = make(tmp_path, corpus(5), engine).record
    engine.embedder.embedded.clear()
    moved = [
        replace(item, document=f"docs/new/{item.position}", position=number) for number, item in enumerate(corpus(5))
    ]
    second = make(tmp_path, moved, engine, previous=first)
    assert second.made
    assert not engine.embedder.embedded
    assert not failed(second.record, engine)


def test_another_model_takes_no_vector_of_the_build_before(tmp_path, engine):
    first = make(tmp_path, corpus(5), engine).record
    other = replace(engine, embedder=CountingEmbedder(seed="b"))
    second = make(tmp_path, corpus(5), other, previous=first).record
    assert len(other.embedder.embedded) == 5
    assert not failed(second, other)


def test_equal_texts_are_embedded_once_and_all_of_them_are_in(tmp_path, engine):
    twins = [chunk(1, tenant=tenant, document=f"docs/{tenant}") for tenant in ("public", "acme", "globex")]
    record = make(tmp_path, twins, engine).record
    assert len(engine.embedder.embedded) == 1
    assert record.index.chunks == {"acme": 1, "globex": 1, "public": 1}
    assert not failed(record, engine)


def test_what_was_embedded_before_a_failure_is_not_embedded_again(tmp_path, monkeypatch):
    monkeypatch.setattr(builds, "SLICE", 4)
    engine = builds.Engine(CountingEmbedder(fails_after=8), Words, MemoryStore())
    with pytest.raises(Unavailable):
        make(tmp_path, corpus(20), engine)
    assert records.described(tmp_path) == []
    engine.embedder.fails_after = None
    record = make(tmp_path, corpus(20), engine).record
    assert len(engine.embedder.embedded) == 20 == len(set(engine.embedder.embedded))
    assert record.embedded == 12
    assert not failed(record, engine)
    assert not list((tmp_path / "cache").rglob("*.npz")), "what the store has is not kept twice"


def test_damaged_cached_vectors_are_computed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(builds, "SLICE", 4)
    engine = builds.Engine(CountingEmbedder(fails_after=8), Words, MemoryStore())
    with pytest.raises(Unavailable):
        make(tmp_path, corpus(12), engine)
    first, _ = sorted((tmp_path / "cache").rglob("*.npz"))
    first.write_bytes(first.read_bytes()[:100])
    engine.embedder.fails_after = None
    record = make(tmp_path, corpus(12), engine).record
    assert len(engine.embedder.embedded) == 16
    assert not failed(record, engine)


def test_the_description_is_written_last(tmp_path, engine, monkeypatch):
    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(builds, "write_chunks", dies)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, corpus(3), engine)
    monkeypatch.undo()
    assert records.described(tmp_path) == []
    engine.embedder.embedded.clear()
    assert make(tmp_path, corpus(3), engine).made
    assert not engine.embedder.embedded, "the store had it complete"


def test_two_builds_at_once_are_refused(tmp_path, engine):
    entered, leave = threading.Event(), threading.Event()

    def wait(verb, build):
        if verb == "complete":
            entered.set()
            assert leave.wait(10)

    engine.store.before = wait
    first = threading.Thread(target=make, args=(tmp_path, corpus(3), engine))
    first.start()
    assert entered.wait(10)
    try:
        with pytest.raises(Conflict, match="another index build"):
            make(tmp_path, corpus(4), builds.Engine(CountingEmbedder(), Words, MemoryStore()))
    finally:
        leave.set()
        first.join()
    assert make(tmp_path, corpus(4), engine).made


def test_progress_is_told_up_to_the_end(tmp_path, engine, monkeypatch):
    monkeypatch.setattr(builds, "SLICE", 8)
    told = []
    make(tmp_path, corpus(20), engine, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(8, 20), (16, 20), (20, 20)]


def test_the_rows_beside_the_build_have_everything_but_the_text(tmp_path, engine):
    chunks = [chunk(1, labels=("staff",)), chunk(2, tenant="acme")]
    record = make(tmp_path, chunks, engine).record
    path = records.build_folder(tmp_path, record.index.build) / "chunks.parquet"
    rows = {row["id"]: row for row in read_chunks(path)}
    assert set(rows) == {item.id for item in chunks}
    row = rows[chunks[0].id]
    assert (row["labels"], row["tenant"], row["modified"]) == (["staff"], "public", chunks[0].modified)
    assert chunks[0].text.encode() not in path.read_bytes()
    assert "text" not in row


def test_the_average_length_moves_in_steps():
    def average(chunks):
        return builds.average_length(chunks, Words(1.0).length)

    assert average(corpus(100)) == average(corpus(101))
    long = [replace(item, text=item.text * 3) for item in corpus(100)]
    assert average(long) > average(corpus(100)) * 2
    assert average([]) == 1.0


def test_a_build_without_chunks_is_a_build(tmp_path, engine):
    record = make(tmp_path, [], engine).record
    assert record.index.chunks == {}
    assert "self-retrieval" in failed(record, engine)


# Checks ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def built(tmp_path, engine):
    """A build of two tenants."""
    return make(tmp_path, [*corpus(30), chunk(99, tenant="acme")], engine).record


def test_a_good_build_passes_every_check(built, engine):
    found = checks.check_build(built, engine, golden=["page-3.md"])
    assert [check.check for check in found if check.passed] == [
        "complete", "count", "checksum", "model", "vectors", "embedding", "self-retrieval", "private", "golden"
    ]  # fmt: skip
    checks.require(built, found)


def test_a_missing_chunk_is_found(built, engine):
    gone = chunk(99, tenant="acme").id
    engine.store.damage(built.index.build, lambda point: None if point.chunk.id == gone else point)
    assert failed(built, engine)["count"] == "acme has 0 chunks instead of 1"


def test_an_exchanged_chunk_is_found(built, engine):
    def exchange(point):
        return replace(point, chunk=replace(point.chunk, version="x")) if point.chunk.tenant == "acme" else point

    engine.store.damage(built.index.build, exchange)
    assert failed(built, engine) == {"checksum": "the chunks of acme are not those that were written"}


def test_a_chunk_of_a_foreign_tenant_is_found(built, engine):
    def steal(point):
        return replace(point, chunk=replace(point.chunk, tenant="globex")) if point.chunk.tenant == "acme" else point

    engine.store.damage(built.index.build, steal)
    assert "globex" in failed(built, engine)["count"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3.0])
def test_vectors_that_are_not_of_length_1_are_found(built, engine, bad):
    engine.store.damage(built.index.build, lambda point: replace(point, dense=np.full_like(point.dense, bad)))
    assert "31 vectors" in failed(built, engine)["vectors"]


def test_shuffled_vectors_are_found(built, engine):
    points = list(engine.store.open(built.index.build).points())
    turned = dict(zip((p.chunk.id for p in points), (p.dense for p in points[1:] + points[:1]), strict=True))
    engine.store.damage(built.index.build, lambda point: replace(point, dense=turned[point.chunk.id]))
    assert set(failed(built, engine)) == {"embedding"}


def test_a_search_that_does_not_find_is_found(built, engine):
    opened = engine.store.open

    def blind(build):
        index = opened(build)
        search = index.search
        index.search = lambda query, scope, limit: search(replace(query, dense=-query.dense), scope, limit)
        return index

    engine.store.open = blind
    assert set(failed(built, engine)) == {"self-retrieval"}


def test_row_18_another_embedding_model_is_refused_by_digest_and_by_its_vectors(built, engine):
    swapped = replace(engine, embedder=CountingEmbedder(seed="b"))
    assert {"model", "embedding"} <= set(failed(built, swapped))
    swapped.embedder.digest = engine.embedder.digest  # it pretends to be the one
    assert set(failed(built, swapped)) == {"embedding"}


def test_row_18_another_dimension_is_refused(built, engine):
    other = replace(engine, embedder=CountingEmbedder(dimension=32))
    assert "64 numbers" in failed(built, other)["model"]
    with pytest.raises(RefusedByPolicy, match="64 numbers"):
        checks.require_complete(built, other)


def test_missing_documents_of_golden_questions_are_named(built, engine):
    assert "gone.md" in failed(built, engine, golden=["gone.md", "page-1.md"])["golden"]


def test_what_detectors_find_fails_the_check_without_showing_it(built, engine):
    class Names:
        def find(self, text):
            return [Finding("email", 0, 4)]

    reason = failed(built, engine, detectors=[Names()])["private"]
    assert "email" in reason
    assert "Page" not in reason


def test_row_16_a_build_that_is_not_complete_is_refused_with_the_reason(built, engine):
    engine.store.kept[built.index.build]["complete"] = False
    assert set(failed(built, engine)) == {"complete"}
    with pytest.raises(RefusedByPolicy, match="is not complete"):
        checks.require_complete(built, engine)
    engine.store.drop(built.index.build)
    with pytest.raises(RefusedByPolicy, match="is not in the vector store"):
        checks.require_complete(built, engine)
    with pytest.raises(RefusedByPolicy, match="failed 1 of its checks: complete"):
        checks.require(built, checks.check_build(built, engine))


def test_a_tenant_that_was_deleted_is_not_asked_for(built, engine):
    engine.store.remove_tenant(built.index.build, "acme")
    assert "count" in failed(built, engine)
    assert not failed(built.model_copy(update={"without": ("acme",)}), engine)


# Records --------------------------------------------------------------------------------------------------------------


def test_descriptions_are_read_newest_first_and_unfinished_ones_are_named(tmp_path, engine):
    first, second = make(tmp_path, corpus(2), engine).record, make(tmp_path, corpus(3), engine).record
    half = records.builds_folder(tmp_path) / ("0" * 16)
    half.mkdir()
    assert records.described(tmp_path) == [second, first]
    assert records.unfinished(tmp_path) == ["0" * 16]


def test_a_damaged_description_is_corrupt_and_a_missing_one_is_not_found(tmp_path, engine):
    folder = records.build_folder(tmp_path, make(tmp_path, corpus(2), engine).record.index.build)
    (folder / "build.json").write_text("{}")
    with pytest.raises(Corrupt):
        records.read_build(folder)
    records.forget(tmp_path, folder.name)
    with pytest.raises(NotFound):
        records.read_build(folder)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["", "..", "../../etc", "A" * 16, "0" * 15])
def test_what_is_no_id_leads_nowhere(tmp_path, name):
    with pytest.raises(InvalidInput):
        records.build_folder(tmp_path, name)
