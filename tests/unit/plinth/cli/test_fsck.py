"""`plinth fsck` and `plinth gc`: what they print, and with which exit code."""

import io
import json
import os
import time

import pytest

from ledgers import PRODUCT
from plinth.cli import fsck
from plinth.cli.main import main
from plinth.cli.output import Output
from plinth.wiring import Platform


@pytest.fixture
def platform(tmp_path, monkeypatch, make_manifest):
    """Five releases with a file each; the last one serves. The registry is not there."""
    monkeypatch.setenv("PLINTH_HOME", str(tmp_path))
    monkeypatch.setenv("PLINTH_STATE", str(tmp_path / "state"))
    (tmp_path / "services").mkdir()
    platform = Platform.from_settings()
    platform.digests = []
    for number in range(1, 6):
        artifacts = {"model.onnx": platform.artifacts.put_bytes(b"model %d" % number)}
        platform.digests.append(platform.ledger.register_release(make_manifest(number, artifacts=artifacts), "ada"))
    yield platform
    platform.ledger.close()


@pytest.fixture
def run(capsys):
    def run(*words):
        code = main(list(words))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_clean_platform_exits_with_0_and_says_how_much_was_looked_at(run, platform):
    code, out, _ = run("fsck")
    assert code == 0
    assert "invariants looked at: 0 violations, 0 warnings, 0 repaired" in out
    assert "generation.sequence" not in out
    assert "generation.sequence" in run("fsck", "--all")[1]


def test_a_violation_exits_with_1_and_says_what_to_do(run, platform):
    platform.ledger.promote(PRODUCT, platform.digests[0], expected_generation=0, actor="ada", reason="")
    code, out, _ = run("fsck")
    assert code == 1
    assert "registry.readable" in out
    assert "restore it from a backup" in out
    code, out, _ = run("fsck", "--json")
    document = json.loads(out)
    assert code == 1
    violations = [found["invariant"] for found in document["findings"] if found["level"] == "violation"]
    assert violations == ["registry.readable", "features.plan"]  # the test's releases carry no read plan
    assert document["violations"] == 2
    assert {"invariant", "level", "subject", "what", "next"} == set(document["findings"][0])


def test_a_warning_exits_with_0_and_repair_says_what_it_did(run, platform):
    path = platform.artifacts.root / "aa" / ".writing-x"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.utime(path, (0, 0))
    assert run("fsck")[0] == 0
    document = json.loads(run("fsck", "--repair", "--json")[1])
    assert document["repaired"] == 1
    assert not path.exists()
    assert json.loads(run("fsck", "--json")[1])["warnings"] == 0


def test_a_quick_check_hashes_nothing(run, platform):
    path = next(platform.artifacts.root.glob("??/*"))
    path.chmod(0o644)
    path.write_bytes(b"another")
    assert run("fsck", "--quick")[0] == 0
    assert run("fsck")[0] == 1


def test_a_collection_changes_nothing_until_it_is_applied(run, platform, monkeypatch):
    for path in platform.artifacts.root.glob("??/*"):
        os.utime(path, (0, 0))
    monkeypatch.setattr(time, "time", lambda: later)
    later = time.monotonic() + 4e9  # the year 2096: everything is older than the grace period
    code, out, err = run("gc")
    assert code == 0
    assert "2 releases would be retired, 14 bytes would be freed; 3 releases keep their artefacts" in out
    assert "plinth gc --apply" in err
    assert len(list(platform.artifacts.stored())) == 5
    document = json.loads(run("gc", "--apply", "--json")[1])
    assert (document["applied"], document["bytes"], len(document["retired"])) == (True, 14, 2)
    assert len(list(platform.artifacts.stored())) == 3
    assert "0 releases retired, 0 bytes freed" in run("gc", "--apply")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--keep", "2"), "too few"), (("--grace", "soon"), "is no time"), (("--grace", "30m"), "running pipeline")],
)
def test_what_would_be_dangerous_is_refused(run, platform, words, said):
    code, _, err = run("gc", *words)
    assert code == 2
    assert said in err


@pytest.mark.parametrize(("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (5e12, "5000.0 GB")])
def test_sizes_are_said_in_words(size, text):
    assert fsck._size(int(size)) == text


def test_what_waits_without_a_word_shows_itself_after_a_while(monkeypatch):
    from rich.console import Console

    monkeypatch.setattr(fsck, "PATIENCE_SECONDS", 0.05)
    shown = io.StringIO()
    out = Output()
    out._console = Console(file=shown, force_terminal=True)
    with fsck._progress(out) as tell:
        tell("services", 0, 1)
        until = time.monotonic() + 10
        while "services" not in shown.getvalue() and time.monotonic() < until:
            time.sleep(0.02)
    assert "services" in shown.getvalue()


def test_where_nobody_watches_nothing_is_written_beside_the_answer(run, platform):
    assert run("fsck")[2] == ""
