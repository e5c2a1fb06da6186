import sqlite3
import threading

import pytest
import sqlalchemy as sa

from plinth.errors import Conflict, Corrupt, InvalidInput, NotFound, RefusedByPolicy, Unavailable
from plinth.ledger import database, schema
from plinth.ledger.audit import first_broken
from plinth.ledger.store import Ledger


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'state' / 'ledger.db'}")
    yield ledger
    ledger.close()


def serve(ledger, manifest, generation=0, **options):
    digest = ledger.register_release(manifest, "ada")
    return ledger.promote(
        manifest.product, digest, expected_generation=generation, actor="ada", reason="test", **options
    )


def test_a_registered_release_comes_back_as_it_was(ledger, make_manifest):
    manifest = make_manifest()
    digest = ledger.register_release(manifest, "ada")
    record = ledger.release(digest)
    assert record.manifest == manifest
    assert record.manifest.digest == digest == record.digest
    assert (record.status, record.created_by) == ("accepted", "ada")


def test_registering_twice_is_one_effect(ledger, make_manifest):
    assert ledger.register_release(make_manifest(), "ada") == ledger.register_release(make_manifest(), "bob")
    assert len(ledger.releases("flight-delays")) == 1
    assert len(ledger.audit()) == 1


def test_a_release_is_found_by_its_first_characters(ledger, make_manifest):
    digest = ledger.register_release(make_manifest(), "ada")
    assert ledger.release(digest[:8]).digest == digest


@pytest.mark.parametrize("bad", ["", "abc", "zzzzzzzz", "%" * 8])
def test_what_is_no_digest_is_bad_input(ledger, bad):
    with pytest.raises(InvalidInput, match="no release digest"):
        ledger.release(bad)


def test_an_unknown_release_is_not_found(ledger):
    with pytest.raises(NotFound, match="no release"):
        ledger.release("0" * 64)


def test_promotions_count_generations_and_keep_history(ledger, make_manifest):
    assert ledger.current("flight-delays") is None
    first = serve(ledger, make_manifest(1))
    second = serve(ledger, make_manifest(2), 1)
    assert (first.generation, second.generation) == (1, 2)
    assert ledger.current("flight-delays") == second
    assert [entry.digest for entry in ledger.history("flight-delays")] == [second.digest, first.digest]


def test_a_stale_generation_is_a_conflict_and_changes_nothing(ledger, make_manifest):
    serve(ledger, make_manifest(1))
    current = serve(ledger, make_manifest(2), 1)
    audited = len(ledger.audit())
    with pytest.raises(Conflict):
        ledger.promote("flight-delays", current.digest, expected_generation=1, actor="bob", reason="stale")
    assert ledger.current("flight-delays") == current
    assert len(ledger.audit()) == audited
    assert len(ledger.history("flight-delays")) == 2


def test_a_rejected_release_is_never_promoted(ledger, make_manifest):
    with pytest.raises(RefusedByPolicy, match="beats-baseline"):
        serve(ledger, make_manifest(passed=False))
    assert ledger.current("flight-delays") is None


def test_a_release_without_verdicts_counts_as_rejected(ledger, make_manifest):
    manifest = make_manifest().model_copy(update={"verdicts": ()})
    with pytest.raises(RefusedByPolicy, match="no gate has judged"):
        serve(ledger, manifest)


def test_a_release_of_another_product_is_refused(ledger, make_manifest):
    digest = ledger.register_release(make_manifest(product="other"), "ada")
    with pytest.raises(RefusedByPolicy, match="belongs to other"):
        ledger.promote("flight-delays", digest, expected_generation=0, actor="ada", reason="")


def test_a_rollback_needs_a_release_that_served(ledger, make_manifest):
    first = serve(ledger, make_manifest(1))
    serve(ledger, make_manifest(2), 1)
    never = ledger.register_release(make_manifest(3), "ada")
    with pytest.raises(RefusedByPolicy, match="never served"):
        ledger.promote("flight-delays", never, expected_generation=2, actor="ada", reason="", kind="rollback")
    back = ledger.promote("flight-delays", first.digest, expected_generation=2, actor="ada", reason="", kind="rollback")
    assert (back.generation, back.digest) == (3, first.digest)


def test_of_twenty_concurrent_promotions_one_wins_and_the_others_conflict(ledger, make_manifest):
    serve(ledger, make_manifest(0))
    digests = [ledger.register_release(make_manifest(n), "ada") for n in range(1, 21)]
    outcomes = []

    def attempt(digest):
        try:
            ledger.promote("flight-delays", digest, expected_generation=1, actor="ada", reason="race")
            outcomes.append("won")
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=attempt, args=(digest,)) for digest in digests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict"] * 19 + ["won"]
    assert ledger.current("flight-delays").generation == 2
    assert first_broken(ledger.audit()) is None


def test_every_change_extends_one_unbroken_audit_chain(ledger, make_manifest):
    serve(ledger, make_manifest(1))
    for effect in ledger.pending_effects("flight-delays"):
        ledger.effect_done(effect, "ada")
    ledger.append_audit("ada", "product.note", "flight-delays", {"text": "hello"})
    actions = [entry.action for entry in ledger.audit()]
    assert actions == ["release.register", "release.promote", "effect.registry-alias", "product.note"]
    assert first_broken(ledger.audit()) is None
    assert [entry.action for entry in ledger.audit(limit=1)] == ["product.note"]


@pytest.mark.parametrize(
    "tamper",
    ["UPDATE audit SET actor = 'eve' WHERE seq = 2", "DELETE FROM audit WHERE seq = 2"],
    ids=["edited", "removed"],
)
def test_a_tampered_audit_log_names_the_first_broken_entry(ledger, make_manifest, tamper):
    serve(ledger, make_manifest(1))
    ledger.append_audit("ada", "product.note", "flight-delays", {})
    with ledger.engine.begin() as connection:
        connection.execute(sa.text(tamper))
    assert first_broken(ledger.audit()).seq == (2 if "UPDATE" in tamper else 3)


def test_the_ledger_names_the_first_audit_entry_that_is_not_what_was_written(ledger, make_manifest):
    assert ledger.broken_entry() is None
    serve(ledger, make_manifest(1))
    ledger.append_audit("ada", "product.note", "flight-delays", {})
    assert ledger.broken_entry() is None
    with ledger.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM audit WHERE seq = 3"))
    assert ledger.broken_entry() == 3  # cut off at its end, where no later entry could tell


def test_an_effect_is_done_once(ledger, make_manifest):
    serve(ledger, make_manifest(1))
    (effect,) = ledger.pending_effects("flight-delays")
    ledger.effect_done(effect, "ada")
    ledger.effect_done(effect, "ada")
    assert ledger.pending_effects("flight-delays") == []
    assert [entry.action for entry in ledger.audit()].count("effect.registry-alias") == 1


def test_events_come_back_in_the_order_of_their_time(ledger):
    ledger.record_event("flight-delays", "retrain-trigger", {"n": 2}, at="2013-07-01T00:00:00+00:00")
    ledger.record_event("flight-delays", "retrain-trigger", {"n": 1}, at="2013-06-01T00:00:00+00:00")
    ledger.record_event("flight-delays", "openlineage", {"n": 3})
    assert [event.payload["n"] for event in ledger.events("flight-delays", "retrain-trigger")] == [1, 2]


def test_migrations_build_the_schema_that_the_code_uses(ledger):
    ledger.releases("flight-delays")
    migrated = sa.MetaData()
    migrated.reflect(ledger.engine)
    migrated.remove(migrated.tables["alembic_version"])
    assert set(migrated.tables) == set(schema.metadata.tables)
    for name, table in schema.metadata.tables.items():
        assert {c.name: (str(c.type), c.nullable) for c in migrated.tables[name].columns} == {
            c.name: (str(c.type), c.nullable) for c in table.columns
        }
        assert {index.name for index in migrated.tables[name].indexes} == {index.name for index in table.indexes}


def test_the_newest_revision_is_the_one_the_code_expects():
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(database.Path(database.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [database.HEAD]


def test_a_locked_database_is_unavailable_after_a_bounded_wait(ledger, make_manifest, monkeypatch, tmp_path):
    ledger.register_release(make_manifest(1), "ada")
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    impatient = Ledger(str(ledger.engine.url))
    holder = sqlite3.connect(tmp_path / "state" / "ledger.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        assert impatient.current("flight-delays") is None  # readers are not blocked by a writer
        with pytest.raises(Unavailable, match="locked"):
            impatient.register_release(make_manifest(2), "ada")
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    impatient.register_release(make_manifest(2), "ada")
    assert len(ledger.releases("flight-delays")) == 2
    impatient.close()


def test_a_file_that_is_no_database_is_corrupt(tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"not a database" * 500)
    with pytest.raises(Corrupt, match="damaged"):
        Ledger(f"sqlite:///{tmp_path / 'ledger.db'}").releases("flight-delays")


def test_a_reader_that_may_not_create_says_that_nothing_is_there(tmp_path):
    with pytest.raises(Unavailable, match="cannot be used"):
        Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", create=False).current("flight-delays")


@pytest.mark.parametrize(
    "url",
    ["secret", "postgresql://u:secret@host:port/x", "mysql://u:secret@host/x", "postgresql+asyncpg://u:secret@h/x"],
)
def test_an_address_that_is_none_is_bad_use_and_not_repeated(url):
    with pytest.raises(InvalidInput) as refusal:
        Ledger(url)
    assert refusal.value.where == "PLINTH_LEDGER_URL"
    assert "secret" not in str(refusal.value)
