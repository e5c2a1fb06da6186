"""Row 36: an audit log that was edited or shortened; the commands name the first entry that is not what was written."""

import json
import os
import sqlite3
import subprocess

import pytest

from ledgers import live
from patience import PATIENCE
from plinth.ledger.audit import seal
from plinth.ledger.invariants import check_ledger
from plinth.ledger.store import Ledger
from story import PLINTH


@pytest.fixture
def state(tmp_path, make_manifest):
    """A ledger with a past, as a workspace's state."""
    (tmp_path / "services").mkdir()
    ledger = Ledger(f"sqlite:///{tmp_path / 'state' / 'ledger.db'}")
    live(ledger, make_manifest)
    ledger.close()
    return tmp_path / "state"


def plinth(state, *words):
    env = {**os.environ, "PLINTH_HOME": str(state.parent), "PLINTH_STATE": str(state)}
    done = subprocess.run([PLINTH, *words, "--json"], env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def rows(state):
    with sqlite3.connect(state / "ledger.db") as connection:
        found = connection.execute("SELECT * FROM audit ORDER BY seq").fetchall()
    connection.close()
    return found


def change(state, *statements):
    """With the database's own tool, as somebody with access to the file would."""
    with sqlite3.connect(state / "ledger.db") as connection:
        for statement, *values in statements:
            assert connection.execute(statement, values).rowcount == 1
    connection.close()


def reseal(state, first, **values):
    """Change an entry, and compute every hash from there on anew; the remembered end stays as it was."""
    previous = rows(state)[first - 2][7]
    for row in rows(state)[first - 1 :]:
        entry = dict(zip(("seq", "at", "actor", "action", "subject", "payload"), row, strict=False))
        if row[0] == first:
            entry |= values
        made = seal(**{**entry, "payload": json.loads(entry["payload"])}, previous=previous)
        change(
            state,
            ("UPDATE audit SET actor = ?, payload = ?, previous = ?, hash = ? WHERE seq = ?", entry["actor"],
             entry["payload"], previous, made.hash, row[0]),
        )  # fmt: skip
        previous = made.hash
    return previous


def verdict(state):
    """What the command, the ledger and fsck's check say, which is the same: the first broken entry, or None."""
    code, verified = plinth(state, "audit", "verify")
    broken = verified["first_broken"]
    assert code == (1 if broken else 0)
    ledger = Ledger(f"sqlite:///{state / 'ledger.db'}", create=False)
    assert ledger.broken_entry() == broken
    (said,) = [finding for finding in check_ledger(ledger) if finding.invariant == "audit.chain"]
    ledger.close()
    assert (said.level, said.subject) == (("violation", f"entry {broken}") if broken else ("ok", ""))
    return broken


def test_row_36_a_whole_log_is_called_whole(state):
    assert verdict(state) is None


def test_row_36_fsck_names_the_entry_and_exits_with_1(state):
    change(state, ("UPDATE audit SET actor = 'eve' WHERE seq = 9",))
    code, checked = plinth(state, "fsck", "--quick")
    assert code == 1
    assert "entry 9" in {found["subject"] for found in checked["findings"] if found["invariant"] == "audit.chain"}


@pytest.mark.parametrize("column", ["at", "actor", "action", "subject", "payload", "previous", "hash"])
def test_row_36_an_edited_entry_is_named_whatever_was_edited(state, column):
    value = '{"digest": "0000"}' if column == "payload" else "0" * 64
    change(state, (f"UPDATE audit SET {column} = ? WHERE seq = 9", value))
    assert verdict(state) == 9


def test_row_36_of_an_entry_deleted_in_the_middle_the_one_after_it_is_named(state):
    change(state, ("DELETE FROM audit WHERE seq = 9",))
    assert verdict(state) == 10


def test_row_36_a_log_that_was_closed_up_after_a_deletion_is_broken_there(state):
    change(state, ("DELETE FROM audit WHERE seq = 9",))
    for seq, *_ in rows(state)[8:]:
        change(state, ("UPDATE audit SET seq = ? WHERE seq = ?", seq - 1, seq))
    assert verdict(state) == 9


def test_row_36_entries_that_were_swapped_are_named(state):
    change(
        state,
        ("UPDATE audit SET seq = 0 WHERE seq = 9",),
        ("UPDATE audit SET seq = 9 WHERE seq = 10",),
        ("UPDATE audit SET seq = 10 WHERE seq = 0",),
    )
    assert verdict(state) == 9


@pytest.mark.parametrize("count", [1, 5])
def test_row_36_of_a_log_cut_off_at_its_end_the_first_lost_entry_is_named(state, count):
    last = rows(state)[-1][0]
    for seq in range(last - count + 1, last + 1):
        change(state, ("DELETE FROM audit WHERE seq = ?", seq))
    assert verdict(state) == last - count + 1


def test_row_36_a_log_that_was_emptied_lost_its_first_entry(state):
    for row in rows(state):
        change(state, ("DELETE FROM audit WHERE seq = ?", row[0]))
    assert verdict(state) == 1


def test_row_36_an_entry_that_was_added_without_a_seal_is_named(state):
    last = rows(state)[-1]
    change(state, ("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", last[0] + 1, *last[1:6], last[7], "0" * 64))
    assert verdict(state) == last[0] + 1


def test_row_36_a_tail_with_hashes_computed_anew_does_not_reach_the_remembered_end(state):
    last = rows(state)[-1][0]
    reseal(state, 9, actor="eve")
    assert verdict(state) == last + 1


def test_row_36_a_tail_that_even_moves_the_end_contradicts_the_tables_it_is_about(state):
    """The chain alone cannot show this: whoever may write everything can compute everything. fsck compares."""
    ledger = Ledger(f"sqlite:///{state / 'ledger.db'}", create=False)
    first = next(entry.seq for entry in ledger.audit() if entry.action == "release.promote")
    ledger.close()
    end = reseal(state, first, actor="eve")
    change(state, ("UPDATE audit_head SET hash = ?", end))
    assert verdict(state) is None
    code, checked = plinth(state, "fsck", "--quick")
    assert code == 1
    assert "eve" in next(
        found["what"] for found in checked["findings"]
        if found["invariant"] == "generation.audited" and "history does not" in found["what"]
    )  # fmt: skip


def test_row_36_a_copy_that_was_kept_elsewhere_shows_what_was_changed(state):
    """`audit export` is the anchor outside: the entries of a whole copy are a prefix of the log, or it was changed."""
    env = {**os.environ, "PLINTH_HOME": str(state.parent), "PLINTH_STATE": str(state)}
    copy = state / "copy.jsonl"
    for name in (copy, state / "later.jsonl"):
        done = subprocess.run([PLINTH, "audit", "export", "--output", name], env=env, capture_output=True)
        assert done.returncode == 0, done.stderr
        if name == copy:
            end = reseal(state, 9, actor="eve")
            change(state, ("UPDATE audit_head SET hash = ?", end))
    kept, later = ([json.loads(line) for line in path.read_text().splitlines()] for path in (copy, name))
    assert next(before["seq"] for before, after in zip(kept, later, strict=True) if before != after) == 9
