"""Deleting a tenant: everything of it goes, in any order of interruptions, and what is claimed is proven."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexes import CountingEmbedder, MemoryStore, Words, chunk, corpus
from plinth.assistants import builds, checks, records, removal, tenants
from plinth.assistants.canaries import Canaries
from plinth.assistants.tombstones import deleted_tenants, refuse_deleted
from plinth.core.assistants import Chunking
from plinth.errors import InvalidInput, NotFound, RefusedByPolicy
from plinth.ledger.store import Ledger

SECRET = "The harvest of Acme will be sold to the baker at the harbour for nine hundred crowns."


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


@pytest.fixture
def engine():
    return builds.Engine(CountingEmbedder(), Words, MemoryStore())


@pytest.fixture
def state(tmp_path, engine):
    """Two builds that hold a tenant, its key, an answer it got, a cached file."""
    state = tmp_path / "state"
    own = {"acme": ("acme", 2), "docs": ("public", 3)}
    sources = {
        name: records.SourceRecord(as_of="2026-01-01T00:00:00+00:00", documents=n, chunks=n, tenant=tenant)
        for name, (tenant, n) in own.items()
    }
    refused = (records.RefusedRecord(source="acme", path="secret plan.md", digest="d", kind="secret", reason="a key"),)
    for size in (3, 4):
        chunks = [
            *corpus(size),
            chunk(90, SECRET, tenant="acme", source="acme"),
            chunk(91, tenant="acme", source="acme"),
        ]
        documents = {"fingerprint": "f", "documents": {item.document: {"stamp": "s"} for item in chunks}}
        contents = builds.Contents(chunks, sources, refused, documents)
        with builds.alone(state):
            builds.make_build(state, contents, engine, Chunking().digest)
    tenants.add(state, "acme")
    answers = state / "answers" / "date=2026-01-01"
    answers.mkdir(parents=True)
    rows = [{"tenant": "acme", "answer": SECRET}, {"tenant": "public", "answer": "Roses are cut."}]
    pq.write_table(pa.Table.from_pylist(rows), answers / "part-1.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:1]), answers / "part-2.parquet")
    (state / "runs" / "1").mkdir(parents=True)
    (state / "runs" / "1" / "run.log").write_text(f"quoted: {SECRET}")
    (state / "runs" / "1" / "run.json").write_text("{}")
    return state


def remove(ledger, engine, state, tenant="acme", **more):
    return removal.remove_tenant(
        ledger, engine.store, "helper", state, tenant, replace=lambda: pytest.fail("nothing serves"), actor="tester",
        **more,
    )  # fmt: skip


def test_nothing_of_the_tenant_is_left_and_everything_else_is(ledger, engine, state):
    removed = remove(ledger, engine, state)
    assert removed.findings == ()
    assert removed.windows > 0
    assert sorted(removed.builds.values()) == [2, 2]
    assert removed.answers == 2
    for record in records.described(state):
        assert record.without == ("acme",)
        assert set(record.sources) == {"docs"}
        assert record.refused == ()
        found = {check.check for check in checks.check_build(record, engine) if not check.passed}
        assert not found
        documents = json.loads((records.build_folder(state, record.index.build) / "documents.json").read_text())
        assert {id.partition("/")[0] for id in documents["documents"]} == {"docs"}
    assert tenants.tenants(state) == []
    assert not (state / "runs" / "1" / "run.log").exists()
    assert (state / "runs" / "1" / "run.json").exists()
    left = pq.ParquetFile(state / "answers" / "date=2026-01-01" / "part-1.parquet").read().to_pylist()
    assert left == [{"tenant": "public", "answer": "Roses are cut."}]
    assert not list((state / "removals").iterdir())


def test_the_deletion_is_remembered_and_the_name_is_not_given_again(ledger, engine, state):
    remove(ledger, engine, state)
    assert deleted_tenants(ledger, "helper") == {"acme"}
    with pytest.raises(RefusedByPolicy, match="was deleted"):
        refuse_deleted(ledger, "helper", "acme")
    refuse_deleted(ledger, "helper", "globex")
    (proof,) = ledger.events("helper", removal.EVENT)
    assert proof.payload["findings"] == 0
    assert proof.payload["files"] > 0
    assert [entry.action for entry in ledger.audit()] == ["tenant.delete"]
    assert SECRET[:24] not in json.dumps([entry.payload for entry in ledger.audit()])


def test_deleting_again_does_nothing_and_proves_again(ledger, engine, state):
    remove(ledger, engine, state)
    again = remove(ledger, engine, state)
    assert (again.builds, again.answers, again.findings) == ({}, 0, ())


def test_answers_that_a_running_service_has_not_written_yet_are_taken_out_too(ledger, engine, state):
    late = state / "answers" / "date=2026-01-01" / "part-3.parquet"

    def flush():
        assert tenants.tenants(state) == [], "its key is gone: nothing is asked any more"
        pq.write_table(pa.Table.from_pylist([{"tenant": "acme", "answer": "short"}]), late)

    assert remove(ledger, engine, state, flush=flush).answers == 3
    assert not late.exists() or pq.ParquetFile(late).metadata.num_rows == 0


@pytest.mark.parametrize("step", ["_scrub_builds", "_scrub_record", "_scrub_answers", "_scrub_caches"])
def test_a_deletion_that_was_interrupted_goes_on_and_still_knows_what_to_look_for(
    ledger, engine, state, monkeypatch, step
):
    done = getattr(removal, step)

    def dies(*arguments):
        done(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(removal, step, dies)
    with pytest.raises(KeyboardInterrupt):
        remove(ledger, engine, state)
    monkeypatch.undo()
    removed = remove(ledger, engine, state)
    assert removed.windows > 0
    assert removed.findings == ()
    assert all(record.without == ("acme",) for record in records.described(state))


def test_a_file_that_still_holds_a_text_is_named_and_the_deletion_is_no_success(ledger, engine, state):
    (state / "notes.txt.gz").write_bytes(gzip.compress(f"... {SECRET} ...".encode()))
    with pytest.raises(RefusedByPolicy, match=r"1 files still: .*notes\.txt\.gz"):
        remove(ledger, engine, state)
    (state / "notes.txt.gz").unlink()
    assert remove(ledger, engine, state).findings == ()


def test_a_text_that_others_have_too_is_not_looked_for(ledger, engine, state):
    with builds.alone(state):
        shared = [chunk(1, SECRET), chunk(90, SECRET, tenant="acme", source="acme")]
        builds.make_build(state, builds.Contents(shared, {}, (), {"documents": {}}), engine, Chunking().digest)
    (state / "notes.txt").write_text(SECRET)
    assert remove(ledger, engine, state).findings == ()


@pytest.mark.parametrize("tenant", ["public", "plinth-probe"])
def test_everybody_and_the_probes_are_not_deleted(ledger, engine, state, tenant):
    with pytest.raises(InvalidInput):
        remove(ledger, engine, state, tenant)


def test_a_tenant_that_never_was_is_not_found(ledger, engine, state):
    with pytest.raises(NotFound):
        remove(ledger, engine, state, "globex")


# Canaries -------------------------------------------------------------------------------------------------------------


def canaries(*texts):
    made = Canaries()
    for text in texts:
        made.add(text)
    return made


@pytest.mark.parametrize(
    "text",
    [
        "a quiet evening at the harbour wall",
        'he said "no"\nand then he "left" the "old" house',
        "für größere Gärten 日本語",
    ],
    ids=["plain", "quotes", "no ASCII"],
)
def test_a_text_is_found_at_any_place_and_only_there(text, tmp_path):
    looked = canaries(text)
    path = tmp_path / "file"
    for before in (0, 1, 1000, (1 << 20) - 10):
        path.write_bytes(b"x" * before + text.encode() + b"y" * 50)
        assert looked.in_file(path), before
    path.write_bytes(b"x" * 3000 + text.encode().swapcase()[::-1])
    assert not looked.in_file(path)


def test_what_is_remembered_is_no_text():
    kept = json.dumps(canaries(SECRET).as_dict())
    assert not any(word in kept for word in SECRET.split() if len(word) > 3)
    assert Canaries.from_dict(json.loads(kept)).in_bytes(SECRET.encode())


def test_short_texts_and_empty_files_are_nothing_to_find(tmp_path):
    (tmp_path / "empty").touch()
    found = canaries("short").search([tmp_path])
    assert (found.files, found.findings) == (1, ())
    assert not canaries(SECRET).in_bytes(b"")
