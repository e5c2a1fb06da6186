"""Every invariant of the ledger holds after a long life, and each is seen when it is broken."""

import sqlite3

import pytest

from plinth.core.findings import violations
from plinth.ledger.invariants import READABLE, RULES, check_ledger
from plinth.ledger.store import Ledger

# Name of the invariant, and what somebody did to the database. {r1} and so on are digests.
BREACHES = [
    ("ledger.sound", "DELETE FROM release WHERE digest = '{r2}'"),
    ("audit.chain", "UPDATE audit SET actor = 'eve' WHERE seq = 5"),
    ("audit.chain", "UPDATE audit SET payload = 'no json' WHERE seq = 5"),
    ("audit.chain", "UPDATE audit SET payload = '{{\"a\": NaN}}' WHERE seq = 5"),
    ("audit.chain", 'UPDATE audit SET payload = \'{{"a": "\\ud800"}}\' WHERE seq = 5'),
    ("audit.chain", "UPDATE audit SET payload = '[]' WHERE seq = 5"),
    ("audit.chain", "DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)"),
    ("audit.chain", "DELETE FROM audit_head"),
    ("release.manifest", "UPDATE release SET manifest = replace(manifest, '2013', '2014') WHERE digest = '{r5}'"),
    ("release.manifest", "UPDATE release SET manifest = '{{}}' WHERE digest = '{r5}'"),
    ("release.manifest", "UPDATE release SET product = 'other' WHERE digest = '{r5}'"),
    ("release.status", "UPDATE release SET status = 'accepted' WHERE digest = '{bad}'"),
    ("release.status", "UPDATE release SET status = 'accepted' WHERE digest = '{drill}'"),
    ("release.status", "UPDATE release SET status = 'retired' WHERE digest = '{r5}'"),
    ("release.status", "UPDATE release SET status = 'drill' WHERE digest = '{r5}'"),
    ("release.audited", "DELETE FROM release WHERE digest = '{r5}'"),
    ("release.audited", "UPDATE release SET created_by = 'eve' WHERE digest = '{r5}'"),
    ("release.audited", "UPDATE audit SET action = 'x' WHERE subject = '{r5}'"),
    ("generation.sequence", "DELETE FROM promotion WHERE generation = 3"),
    ("generation.serving", "UPDATE serving SET digest = '{r5}'"),
    ("generation.serving", "UPDATE serving SET generation = generation - 1"),
    ("generation.serving", "DELETE FROM serving"),
    ("generation.serving", "DELETE FROM promotion WHERE generation = (SELECT max(generation) FROM promotion)"),
    ("generation.audited", "UPDATE promotion SET reason = 'a nicer one' WHERE generation = 1"),
    ("generation.audited", "UPDATE audit SET actor = 'eve' WHERE action = 'release.promote'"),
    ("generation.allowed", "UPDATE promotion SET digest = '{drill}' WHERE generation = 3"),
    ("generation.allowed", "UPDATE promotion SET digest = '{bad}' WHERE generation = 3"),
    ("generation.allowed", "UPDATE release SET status = 'retired' WHERE digest = '{r1}'"),
    ("generation.allowed", "UPDATE release SET product = 'other' WHERE digest = '{r1}'"),
    ("generation.rollback", "UPDATE promotion SET digest = '{r5}' WHERE generation = 5"),
    ("rollout.state", "UPDATE rollout SET active = 1 WHERE id = 1"),
    ("rollout.state", "UPDATE rollout SET active = 0 WHERE id = 5"),
    ("rollout.state", "UPDATE rollout SET ended_at = NULL WHERE id = 1"),
    ("rollout.state", "UPDATE rollout SET stage = 9 WHERE id = 1"),
    ("rollout.state", "UPDATE rollout SET plan = '{{}}' WHERE id = 1"),
    ("rollout.state", "UPDATE rollout SET resumes = 'canary' WHERE id = 1"),
    ("rollout.state", "UPDATE rollout SET phase = 'done' WHERE id = 3"),
    ("rollout.generation", "UPDATE rollout SET generation = 99 WHERE id = 1"),
    ("rollout.generation", "UPDATE rollout SET serving = '{r5}' WHERE id = 1"),
    ("rollout.generation", "UPDATE serving SET generation = 99"),
    ("rollout.generation", "DELETE FROM rollout WHERE id = 4"),
    ("rollout.outcome", "UPDATE rollout SET candidate = '{r5}' WHERE id = 1"),
    ("rollout.outcome", "UPDATE rollout SET phase = 'rolled-back' WHERE id = 1"),
    ("rollout.outcome", "UPDATE rollout SET phase = 'done' WHERE id = 2"),
    ("rollout.audited", "UPDATE rollout SET phase = 'full', stage = 1 WHERE id = 5"),
    ("rollout.audited", "UPDATE rollout SET started_by = 'eve' WHERE id = 2"),
    ("rollout.audited", "UPDATE audit SET action = 'x' WHERE action LIKE 'rollout.%'"),
    ("rollout.audited", "DELETE FROM rollout WHERE id = 4"),
    ("rollout.candidate", "UPDATE release SET status = 'rejected' WHERE digest = '{r3}'"),
    ("rollout.candidate", "UPDATE rollout SET candidate = '{drill}' WHERE id = 5"),
    ("rollout.verdicts", "UPDATE verdict SET revision = 99 WHERE id = 1"),
    ("outbox.generation", "DELETE FROM outbox WHERE generation = 2"),
    ("outbox.generation", "UPDATE outbox SET payload = '{{}}' WHERE generation = 2"),
    ("outbox.generation", "UPDATE outbox SET generation = 99 WHERE generation = 2"),
    ("outbox.audited", "UPDATE outbox SET done_at = created_at WHERE done_at IS NULL"),
    ("outbox.audited", "UPDATE outbox SET done_at = NULL WHERE generation = 1"),
    ("approval.audited", "UPDATE approval SET actor = 'eve'"),
    ("approval.audited", "DELETE FROM approval"),
    ("approval.audited", "UPDATE release SET product = 'other' WHERE digest = '{r3}'"),
    ("lease.counters", "UPDATE lease SET token = 0"),
    ("lease.counters", "UPDATE lease SET beat = -1"),
]


def tamper(past, statement):
    """Somebody with the database's file, who lets no rule of the schema stop them."""
    with sqlite3.connect(past.path) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("DROP INDEX rollout_active")
        assert connection.execute(statement.format(**past.named)).rowcount > 0
    connection.close()


def broken(findings):
    return {finding.invariant for finding in violations(findings)}


def test_everything_holds_after_a_long_life(past):
    found = check_ledger(past.ledger)
    assert [finding for finding in found if finding.level != "ok"] == []
    assert [finding.invariant for finding in found] == [READABLE, *(rule.name for rule in RULES.all)]


def test_an_empty_ledger_holds_everything(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    assert violations(check_ledger(ledger)) == []
    ledger.close()


@pytest.mark.parametrize(("invariant", "statement"), BREACHES, ids=[f"{name} {sql[:50]}" for name, sql in BREACHES])
def test_a_breach_is_seen(past, invariant, statement):
    tamper(past, statement)
    assert invariant in broken(check_ledger(past.ledger))
    assert (past.ledger.broken_entry() is not None) == (
        "audit.chain" in broken(check_ledger(past.ledger, thorough=False))
    )


def test_every_invariant_has_a_breach():
    assert {name for name, _ in BREACHES} | {"outbox.order"} == {rule.name for rule in RULES.all}


def test_an_effect_that_waits_behind_a_newer_one_is_a_warning(past):
    tamper(past, "UPDATE outbox SET done_at = NULL WHERE generation = 1")
    (finding,) = [finding for finding in check_ledger(past.ledger) if finding.invariant == "outbox.order"]
    assert (finding.level, finding.subject) == ("warning", "flight-delays")
    assert "generation 1 waits" in finding.what


def test_a_finding_names_what_is_wrong_and_what_to_do(past):
    tamper(past, "UPDATE serving SET digest = '{r5}'")
    (finding,) = [found for found in violations(check_ledger(past.ledger)) if found.invariant == "generation.serving"]
    assert past.named["r5"][:12] in finding.what
    assert past.named["r1"][:12] in finding.what
    assert "backup" in finding.next


def test_a_release_that_served_after_it_was_retired_is_seen(past):
    with past.ledger.write() as connection:
        past.ledger.seal(connection, "eve", "release.retire", past.named["r5"], {})
        past.ledger.swap(connection, "flight-delays", past.named["r5"], past.ledger.current("flight-delays").generation,
                         actor="eve", reason="", kind="promote")  # fmt: skip
    found = [finding.what for finding in violations(check_ledger(past.ledger))]
    assert any("retired before" in what for what in found)


def test_a_tail_that_was_rewritten_with_right_hashes_shows_in_the_other_tables(past):
    """Whoever computes every hash anew, to the end, has still to change what the entries are about."""
    from plinth.ledger.audit import seal

    entries = past.ledger.audit()
    wrong = next(entry for entry in entries if entry.action == "release.promote")
    previous = wrong.previous
    with sqlite3.connect(past.path) as connection:
        for entry in entries[wrong.seq - 1 :]:
            actor = "eve" if entry is wrong else entry.actor
            made = seal(entry.seq, entry.at, actor, entry.action, entry.subject, entry.payload, previous)
            connection.execute(
                "UPDATE audit SET actor = ?, previous = ?, hash = ? WHERE seq = ?",
                (actor, previous, made.hash, entry.seq),
            )
            previous = made.hash
        connection.execute("UPDATE audit_head SET hash = ?", (previous,))
    connection.close()
    assert past.ledger.broken_entry() is None
    assert broken(check_ledger(past.ledger)) == {"generation.audited"}


def test_a_damaged_or_missing_database_is_a_finding(past, tmp_path):
    past.ledger.close()
    data = past.path.read_bytes()
    past.path.write_bytes(data[:2000] + b"\xff" * (len(data) - 2000))
    for path in (past.path, tmp_path / "no" / "ledger.db"):
        ledger = Ledger(f"sqlite:///{path}", create=False)
        assert broken(check_ledger(ledger)) == {READABLE}
        ledger.close()


def test_a_ledger_that_others_write_to_is_never_wrong_meanwhile(past, make_manifest):
    """One snapshot: what is decided while we look is either all there or not at all."""
    import threading

    from plinth.core.rollouts import State

    stop, wrong = threading.Event(), []

    def write():
        rollout = past.running
        while not stop.is_set():
            rollout = past.rollouts.save(rollout, State("paused", 0, resumes="canary"), actor="ada", reason="wait")
            rollout = past.rollouts.save(rollout, State("canary", 0), actor="ada", reason="go on")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(30):
            wrong += violations(check_ledger(past.ledger, thorough=False))
    finally:
        stop.set()
        writer.join()
    assert wrong == []
