"""A ledger that was made before rollouts is brought up to date with all that it holds."""

import json
import sqlite3

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from plinth.core.findings import violations
from plinth.ledger import audit, database
from plinth.ledger.database import make_engine
from plinth.ledger.invariants import READABLE, check_ledger
from plinth.ledger.store import Ledger

PRODUCT = "flight-delays"
AT = "2026-01-01T00:00:00.000000+00:00"


@pytest.fixture
def old(tmp_path, make_manifest):
    """A database of revision 0001 with two releases, two generations and their audit entries."""
    path = tmp_path / "ledger.db"
    engine = make_engine(f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", str(database.Path(database.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    entries, previous = [], audit.GENESIS

    def seal(action, subject, payload):
        nonlocal previous
        entry = audit.seal(len(entries) + 1, AT, "ada", action, subject, payload, previous)
        entries.append(entry)
        previous = entry.hash

    manifests = [make_manifest(n) for n in (1, 2)]
    with engine.begin() as connection:
        for manifest in manifests:
            connection.execute(
                sa.text("INSERT INTO release VALUES (:digest, :product, 'accepted', :manifest, :at, 'ada')"),
                {"digest": manifest.digest, "product": PRODUCT, "manifest": manifest.model_dump_json(), "at": AT},
            )
            seal("release.register", manifest.digest, {"status": "accepted", "failed_gates": []})
        for number, manifest in enumerate(manifests, start=1):
            values = {"product": PRODUCT, "generation": number, "digest": manifest.digest, "at": AT}
            connection.execute(
                sa.text("INSERT INTO promotion VALUES (:generation, :product, :generation, :digest, 'promote', 'ada', "
                        "'why', :at)"), values,
            )  # fmt: skip
            connection.execute(
                sa.text("INSERT INTO outbox VALUES (:generation, :product, :generation, 'registry-alias', :payload, "
                        ":at, NULL)"), {**values, "payload": f'{{"digest": "{manifest.digest}"}}'},
            )  # fmt: skip
            payload = {"generation": number, "digest": manifest.digest, "reason": "why"}
            seal("release.promote", PRODUCT, payload)
        connection.execute(sa.text("INSERT INTO serving VALUES (:product, :digest, 2, :at)"), values)
        for entry in entries:
            connection.execute(
                sa.text("INSERT INTO audit VALUES (:seq, :at, :actor, :action, :subject, :payload, :previous, :hash)"),
                {**vars(entry), "payload": json.dumps(entry.payload)},
            )
        connection.execute(sa.text("UPDATE audit_head SET seq = :seq, hash = :hash"), vars(entries[-1]))
        connection.execute(
            sa.text("INSERT INTO event VALUES (1, :product, 'retrain-trigger', :at, '{}')"),
            {"product": PRODUCT, "at": AT},
        )
    engine.dispose()
    return path, manifests


def rows(path, table):
    with sqlite3.connect(path) as connection:
        found = connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
    connection.close()
    return found


def test_every_row_survives_and_every_invariant_holds(old):
    path, manifests = old
    tables = ("release", "serving", "promotion", "outbox", "audit", "audit_head", "event")
    before = {table: rows(path, table) for table in tables}
    assert all(before.values())
    ledger = Ledger(f"sqlite:///{path}")
    assert ledger.current(PRODUCT).digest == manifests[1].digest  # any use migrates
    assert {table: rows(path, table) for table in tables} == before
    assert violations(check_ledger(ledger)) == []
    ledger.close()


def test_foreign_keys_still_point_at_the_table_that_was_made_anew(old):
    path, manifests = old
    ledger = Ledger(f"sqlite:///{path}")
    ledger.current(PRODUCT)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        for table in ("serving", "promotion", "rollout", "approval"):
            assert {row[2] for row in connection.execute(f"PRAGMA foreign_key_list({table})")} == {"release"}
        connection.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
            connection.execute("DELETE FROM release WHERE digest = ?", (manifests[0].digest,))
    connection.close()
    with pytest.raises(sa.exc.IntegrityError, match="FOREIGN KEY"), ledger.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM release"))  # checked on the ledger's own connections too
    ledger.close()


def test_the_new_statuses_are_allowed_and_others_still_are_not(old, make_manifest):
    path, _ = old
    ledger = Ledger(f"sqlite:///{path}")
    digest = ledger.register_release(make_manifest(3), "ada", drill=True)
    assert ledger.release(digest).status == "drill"
    with pytest.raises(sa.exc.IntegrityError, match="CHECK"), ledger.engine.begin() as connection:
        connection.execute(sa.text("UPDATE release SET status = 'whatever'"))
    ledger.close()


def test_who_may_not_migrate_says_that_the_ledger_is_old(old):
    path, _ = old
    before = path.read_bytes()
    ledger = Ledger(f"sqlite:///{path}", create=False)
    (finding,) = check_ledger(ledger)
    ledger.close()
    assert (finding.invariant, finding.level) == (READABLE, "violation")
    assert "no such table" in finding.what
    assert path.read_bytes() == before
