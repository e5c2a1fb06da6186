"""`plinth audit` on a real SQLite ledger, whole and tampered with."""

import json

import pytest

from plinth.cli import audit
from plinth.cli.main import main
from plinth.ledger.audit import AuditEntry, first_broken
from plinth.wiring import Platform


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("PLINTH_HOME", str(tmp_path))
    monkeypatch.setenv("PLINTH_STATE", str(tmp_path / "state"))
    (tmp_path / "services").mkdir()
    ledger = Platform.from_settings().ledger
    for number in range(1, 6):
        subject = "flight-delays" if number % 2 else "other"
        ledger.append_audit(
            f"person{number}", "release.promote", subject, {"digest": "d" * 64, "reason": f"no. {number}"}
        )
    yield ledger
    ledger.close()


@pytest.fixture
def run(capsys):
    def run(*words):
        code = main(["audit", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def tamper(ledger, statement):
    with ledger.write() as connection:
        connection.exec_driver_sql(statement)


def test_tail_shows_the_newest_entries_newest_last(run, ledger):
    code, out, _ = run("tail", "-n", 2)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["4", "5"]
    assert "person5" in out
    assert "digest=dddddddddddd " in out
    assert 'reason="no. 5"' in out
    document = json.loads(run("tail", "-n", 2, "--json")[1])
    assert [entry["seq"] for entry in document["entries"]] == [4, 5]
    assert document["entries"][1]["payload"]["digest"] == "d" * 64


def test_tail_of_one_subject(run, ledger):
    out = run("tail", "--subject", "other", "-n", 9)[1]
    assert [line.split()[0] for line in out.splitlines()] == ["2", "4"]
    assert run("tail", "--subject", "nothing")[1:] == ("", "no entries of nothing\n")
    assert run("tail", "-n", 0)[1] == ""


def test_tail_follows_what_is_added(run, ledger, monkeypatch):
    added = [
        lambda: None,
        lambda: [ledger.append_audit("late", "a", "flight-delays", {"number": n}) for n in range(100)],
        lambda: ledger.append_audit("later", "b", "other", {}),
    ]

    def wait(seconds):
        if not added:
            raise KeyboardInterrupt
        added.pop(0)()

    monkeypatch.setattr("time.sleep", wait)
    code, out, _ = run("tail", "-n", 1, "--follow")
    assert code == 130
    assert [int(line.split()[0]) for line in out.splitlines()] == [5, *range(6, 107)]


def test_following_one_subject_leaves_the_others_out(run, ledger, monkeypatch):
    added = [lambda: [ledger.append_audit("x", "a", subject, {}) for subject in ("other", "flight-delays", "other")]]

    def wait(seconds):
        if not added:
            raise KeyboardInterrupt
        added.pop()()

    monkeypatch.setattr("time.sleep", wait)
    out = run("tail", "-n", 0, "--follow", "--subject", "other")[1]
    assert [line.split()[0] for line in out.splitlines()] == ["6", "8"]


@pytest.mark.parametrize("words", [["-n", "-1"], ["--follow", "--json"]])
def test_tail_with_what_cannot_be_is_bad_use(run, ledger, words):
    assert run("tail", *words)[0] == 2


def test_tail_of_more_entries_than_a_database_can_count_is_all_of_them(run, ledger):
    assert len(run("tail", "-n", 10**20)[1].splitlines()) == 5


def test_an_entry_cannot_steer_the_terminal(run, ledger):
    ledger.append_audit("mallory", "a", "flight-delays", {"reason": "\x1b[2J\n     7 all is well"})
    out = run("tail", "-n", 1)[1]
    assert "\x1b" not in out
    assert len(out.splitlines()) == 1


def test_a_long_value_is_cut_in_tail_and_whole_in_export(run, ledger):
    ledger.append_audit("x", "a", "flight-delays", {"reason": "r" * 5000})
    assert len(run("tail", "-n", 1)[1]) < 400
    assert "r" * 5000 in run("export")[1]


def test_a_whole_chain_is_verified(run, ledger):
    code, out, _ = run("verify")
    assert (code, out) == (0, "the audit chain is whole: 5 entries\n")
    assert json.loads(run("verify", "--json")[1]) == {
        "whole": True, "entries": 5, "first_broken": None, "problem": "", "entry": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "first", "problem"),
    [
        ("UPDATE audit SET actor = 'nobody' WHERE seq = 3", 3, "edited"),
        ("""UPDATE audit SET payload = '{"digest": "e"}' WHERE seq = 3""", 3, "edited"),
        ("UPDATE audit SET hash = 'f' WHERE seq = 3", 3, "edited"),
        ("DELETE FROM audit WHERE seq = 3", 4, "an entry before it was removed"),
        ("DELETE FROM audit WHERE seq = 1", 2, "an entry before it was removed"),
        ("DELETE FROM audit WHERE seq > 3", 4, "removed from the end"),
        ("DELETE FROM audit", 1, "removed from the end"),
    ],
)
def test_verify_names_the_first_entry_that_was_tampered_with(run, ledger, statement, first, problem):
    tamper(ledger, statement)
    code, out, err = run("verify")
    assert code == 1
    assert f"broken at entry {first}: " in out
    assert problem in out
    assert "backup" in err
    code, out, _ = run("verify", "--json")
    document = json.loads(out)
    assert (code, document["whole"], document["first_broken"]) == (1, False, first)
    left = [entry.seq for entry in ledger.audit()]
    assert (document["entry"] or {}).get("seq") == (first if first in left else None)


def test_an_export_can_be_verified_without_the_ledger(run, ledger, tmp_path):
    path = tmp_path / "audit.jsonl"
    code, out, _ = run("export", "--output", path)
    assert (code, out) == (0, f"wrote 5 entries to {path}\n")
    lines = path.read_text().splitlines()
    assert run("export")[1].splitlines() == lines
    entries = [AuditEntry(**json.loads(line)) for line in lines]
    assert first_broken(entries) is None
    entries[2].payload["reason"] = "another"
    assert first_broken(entries).seq == 3
    document = json.loads(run("export", "--json")[1])
    assert document["entries"] == [json.loads(line) for line in lines]


def test_an_export_of_a_broken_chain_says_so(run, ledger):
    tamper(ledger, "UPDATE audit SET actor = 'nobody' WHERE seq = 3")
    code, out, err = run("export")
    assert (code, len(out.splitlines())) == (0, 5)
    assert "broken at entry 3" in err


def test_an_export_that_cannot_be_written_leaves_nothing(run, ledger, tmp_path):
    code, _, err = run("export", "--output", tmp_path / "none" / "audit.jsonl")
    assert (code, "another --output" in err) == (1, True)
    (tmp_path / "taken").mkdir()
    assert run("export", "--output", tmp_path / "taken")[0] == 1
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_an_export_replaces_the_one_before(run, ledger, tmp_path):
    path = tmp_path / "audit.jsonl"
    path.write_text("old\n")
    run("export", "--output", path)
    assert len(path.read_text().splitlines()) == 5
    assert audit._after(ledger, 3, None)[0].seq == 4
