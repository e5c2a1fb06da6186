"""`plinth rollout`, `approve`, `rollback` and `release promote` on a real SQLite ledger; services are in memory."""

import contextlib
import json
import logging
import os
import pty
import re
import sys
import threading
from pathlib import Path

import pytest

from plinth.cli import rollout_view
from plinth.cli.main import main
from plinth.core.rollouts import RolloutVerdict, State
from plinth.errors import Unavailable
from plinth.ledger.leases import Candidate
from plinth.models.memory import MemoryRegistry
from plinth.rollouts.projection import LEASE
from plinth.serving.memory_backend import MemoryBackend
from plinth.wiring import Platform

MANIFEST = Path(__file__).parents[4] / "services" / "flight-delays" / "product.yaml"
NAME = "flight-delays"


def tier(number, rollout=""):
    """The product's manifest with another tier and another rollout part."""
    text = re.sub(r"^rollout:\n(?:[ #].*\n|\n)*", "", MANIFEST.read_text(), flags=re.MULTILINE)
    return re.sub(r"^tier: \d", f"tier: {number}", text, flags=re.MULTILINE) + rollout


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    folder = tmp_path / "services" / NAME
    folder.mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    (folder / "product.yaml").write_text(tier(3))
    monkeypatch.setenv("PLINTH_HOME", str(tmp_path))
    monkeypatch.setenv("PLINTH_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PLINTH_ACTOR", "sam")
    monkeypatch.setattr(Platform, "registry", MemoryRegistry())
    return tmp_path


@pytest.fixture
def backend(monkeypatch):
    backend = MemoryBackend()
    monkeypatch.setattr(Platform, "backend", backend)
    return backend


@pytest.fixture
def platform(workspace, backend):
    platform = Platform.from_settings()
    yield platform
    platform.ledger.close()


@pytest.fixture
def digests(platform, make_manifest):
    """Three releases that maya made; the first served, the second serves."""
    made = [platform.ledger.register_release(make_manifest(n), "maya") for n in (1, 2, 3)]
    for generation, digest in enumerate(made[:2]):
        platform.ledger.promote(NAME, digest, expected_generation=generation, actor="maya", reason="test")
    return made


@pytest.fixture
def run(capsys):
    def run(*words):
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def read(run):
    def read(*words):
        code, out, err = run(*words, "--json")
        assert code == 0, out + err
        return json.loads(out)

    return read


def to(platform, phase, stage=0, verdicts=None, reason="the controller says so"):
    """The product's newest rollout, moved by a controller."""
    (newest, *_) = platform.rollouts.of(NAME)
    state = State(phase, stage, baked=4.0, waited=5.0)
    return platform.rollouts.save(newest, state, actor="controller", reason=reason, verdicts=verdicts)


def verdict(gate="compare-errors", outcome="no-harm", **evidence):
    facts = {
        "points": {"candidate": 120, "serving": 1080}, "observed": {"candidate": 0.01, "serving": 0.005},
        "minimum_detectable_effect": 0.034,
    }  # fmt: skip
    return RolloutVerdict(gate=gate, outcome=outcome, reason="nothing bad seen", evidence={**facts, **evidence})


# Starting -------------------------------------------------------------------------------------------------------


def test_a_rollout_starts_with_what_the_command_line_says(run, platform, digests):
    code, out, err = run(
        "rollout", "start", NAME, "--to", digests[2][:12], "--steps", "1,10,100", "--bake", "60s", "--reason", "better"
    )
    assert code == 0
    assert "1% -> 10% -> all" in out
    assert "plinth rollout status flight-delays --watch" in out
    assert "no controller runs" in err
    assert "the service of flight-delays does not answer" in err
    rollout = platform.rollouts.active(NAME)
    assert (rollout.started_by, rollout.reason, rollout.candidate) == ("sam", "better", digests[2])
    assert [stage.bake for stage in rollout.plan.stages] == [60.0, 60.0, 60.0]


def test_start_warns_of_nothing_where_service_and_controller_run(run, platform, backend, digests):
    assert Candidate(platform.ledger, LEASE, "a controller").hold()
    backend.apply(NAME, platform.rollouts.route(NAME))
    assert run("rollout", "start", NAME, "--to", digests[2])[2] == ""


def test_start_prints_stable_json(read, digests):
    started = read("rollout", "start", NAME, "--to", digests[2])
    assert {key: started[key] for key in ("product", "rollout", "phase", "step", "candidate", "replaces")} == {
        "product": NAME, "rollout": 1, "phase": "canary", "step": 1, "candidate": digests[2], "replaces": digests[1],
    }  # fmt: skip
    assert started["plan"]["stages"][-1] == {"kind": "full", "percent": 100, "bake": 60.0}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["no-such", "--to", "{third}"], 2, "no product 'no-such'"),
        ([NAME, "--to", "{third}", "--steps", "10,5"], 2, "steps rise from 1 or more to 100"),
        ([NAME, "--to", "{third}", "--steps", "10,50"], 2, "steps rise from 1 or more to 100"),
        ([NAME, "--to", "{third}", "--steps", "ten"], 2, "are no percentages"),
        ([NAME, "--to", "{third}", "--steps", ""], 2, "are no percentages"),
        ([NAME, "--to", "{third}", "--steps", "10,100", "--strategy", "blue-green"], 2, "has no steps"),
        ([NAME, "--to", "{third}", "--bake", "a minute"], 2, "is no duration"),
        ([NAME, "--to", "abcdef123456"], 2, "no release abcdef123456"),
        ([NAME, "--to", "xyz"], 2, "is no release digest"),
        ([NAME, "--to", "{second}"], 3, "already"),
    ],
)
def test_wrong_input_is_told_and_starts_nothing(run, platform, digests, words, code, said):
    names = dict(zip(("first", "second", "third"), digests, strict=True))
    got, _, err = run("rollout", "start", *(word.format(**names) for word in words))
    assert (got, said in err) == (code, True), err
    assert platform.rollouts.of(NAME) == []
    assert platform.ledger.current(NAME).generation == 2


def test_a_strategy_that_does_not_exist_is_bad_use(digests, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["rollout", "start", NAME, "--to", digests[2], "--strategy", "yolo"])
    assert stop.value.code == 2


def test_where_nothing_serves_the_way_to_begin_is_told(run, platform, make_manifest):
    digest = platform.ledger.register_release(make_manifest(1), "maya")
    code, _, err = run("rollout", "start", NAME, "--to", digest)
    assert code == 2
    assert f"plinth release promote {NAME} {digest[:12]}" in err
    assert "serves nothing yet" in run("rollout", "status", NAME)[1]


def test_a_second_rollout_waits_for_the_first(run, digests, platform, make_manifest):
    assert run("rollout", "start", NAME, "--to", digests[2])[0] == 0
    fourth = platform.ledger.register_release(make_manifest(4), "maya")
    code, _, err = run("rollout", "start", NAME, "--to", fourth)
    assert code == 1
    assert "is running" in err


# Status ---------------------------------------------------------------------------------------------------------


def test_without_a_rollout_status_says_so_with_what_serves(run, read, digests):
    code, out, _ = run("rollout", "status", NAME)
    assert code == 0
    assert "has had no rollout yet" in out
    assert f"all to {digests[1][:12]}, generation 2" in out
    document = read("rollout", "status", NAME)
    assert (document["rollout"], document["phase"], document["serving"]) == (None, None, digests[1])


def test_status_shows_step_traffic_gates_with_evidence_budget_and_what_it_waits_for(run, platform, backend, digests):
    run("rollout", "start", NAME, "--to", digests[2], "--steps", "10,50,100", "--bake", "60s")
    to(platform, "canary", 1, [verdict(), verdict("compare-latency", "inconclusive", points=7, observed=3.25)])
    backend.apply(NAME, platform.rollouts.route(NAME))
    code, out, _ = run("rollout", "status", NAME)
    assert code == 0
    for said in (
        f"rollout 1 of {digests[2][:12]} over {digests[1][:12]} is canary",
        "canary: 10% -> [50%] -> all",
        f"50% to {digests[2][:12]}, 50% to {digests[1][:12]}, generation 3",
        "5 s in this step, 56 s to all traffic, if the gates agree",
        "memory:flight-delays follows: generation 3, step 2",
        "availability 0.995: 100% left by the candidate, 0 of 0 requests bad",
        "plinth rollout pause flight-delays",
    ):
        assert said in out
    assert re.search(r"compare-errors +no-harm +120 / 1,080 +0\.01 +0\.005 +0\.034 +nothing bad seen", out)
    assert re.search(r"compare-latency +inconclusive +7 +3\.25 +0\.034", out)


def test_the_documented_keys_of_status_are_there(read, platform, backend, digests):
    read("rollout", "start", NAME, "--to", digests[2], "--bake", "60s")
    to(platform, "canary", 1, [verdict()])
    document = read("rollout", "status", NAME)
    assert document["step"] == 2
    assert document["traffic"] == {
        "generation": 3, "step": 2, "serving_percent": 50.0, "candidate_percent": 50.0, "shadow": False,
    }  # fmt: skip
    assert [(step["percent"], step["state"]) for step in document["steps"]] == [
        (10, "passed"), (50, "here"), (100, "ahead"),
    ]  # fmt: skip
    assert document["stage"] == {
        "kind": "canary", "percent": 50, "baked_seconds": 4.0, "waited_seconds": 5.0, "bake_seconds": 60.0,
        "bake_left_seconds": 56.0, "patience_left_seconds": 655.0, "held_by": ["compare-errors"], "judged": True,
        "then": {"kind": "full", "percent": 100},
    }  # fmt: skip
    assert document["gates"][0]["evidence"]["minimum_detectable_effect"] == 0.034
    assert document["approvals"] == {"needed": 0, "given": [], "own_approval": True}
    assert {level["name"] for level in document["error_budget"]} == {"availability", "latency"}
    assert document["services"][0]["follows"] is False  # nothing was applied there
    page = (Path(__file__).parents[4] / "docs" / "how-to" / "roll-out-a-release.md").read_text()
    assert [key for key in document if f"`{key}`" not in page] == []


def test_what_holds_a_baked_step_is_named(run, platform, digests):
    run("rollout", "start", NAME, "--to", digests[2], "--bake", "1s")
    to(platform, "canary", 1, [verdict(), verdict("compare-latency", "pass"), verdict("quality", "not-applicable")])
    out = run("rollout", "status", NAME)[1]
    assert "baked; all traffic waits for proof: compare-errors (for 9 min 56 s at most)" in out
    to(platform, "canary", 0, [verdict()])  # a larger share needs no proof: no harm will do
    assert "waits for proof" not in run("rollout", "status", NAME)[1]


def test_a_service_that_does_not_answer_is_shown_and_does_not_matter(run, read, backend, digests):
    read("rollout", "start", NAME, "--to", digests[2])
    backend.down = True
    code, out, _ = run("rollout", "status", NAME)
    assert code == 0
    assert "memory:flight-delays: does not answer" in out


def test_evidence_that_cannot_be_read_is_said_and_does_not_matter(monkeypatch, run, read, digests):
    class Broken:
        def cells(self, product, generation, *, window=None):
            raise Unavailable("the request log cannot be read")

    read("rollout", "start", NAME, "--to", digests[2])
    monkeypatch.setattr(Platform, "signals", Broken())
    assert "not known: the request log cannot be read" in run("rollout", "status", NAME)[1]
    document = read("rollout", "status", NAME)
    assert (document["error_budget"], document["evidence_problem"]) == (None, "the request log cannot be read")


def test_a_rollout_that_nobody_moves_asks_for_a_controller(run, platform, digests):
    run("rollout", "start", NAME, "--to", digests[2])
    assert "does a controller run?" not in run("rollout", "status", NAME)[1]
    with platform.ledger.write() as connection:
        connection.exec_driver_sql("UPDATE rollout SET changed_at = '2013-01-01T00:00:00.000000+00:00'")
    assert "does a controller run?" in run("rollout", "status", NAME)[1]


def test_a_reason_cannot_steer_the_terminal(run, digests):
    run("rollout", "start", NAME, "--to", digests[2], "--reason", "\x1b[2Jgone\nserving: all well")
    out = run("rollout", "status", NAME)[1]
    assert "\x1b" not in out
    assert not any(line.startswith("serving") for line in out.splitlines())
    for words in (["list", NAME], ["pause", NAME, "--reason", "\x1b[2J"]):
        out = run("rollout", *words)[1]
        assert "\x1b" not in out
        assert "\N{REPLACEMENT CHARACTER}[2J" in out


def test_list_shows_every_rollout_newest_first(run, read, platform, digests, make_manifest):
    assert "has had no rollout yet" in run("rollout", "list", NAME)[1]
    read("rollout", "start", NAME, "--to", digests[2])
    to(platform, "aborting")
    to(platform, "rolled-back", reason="compare-errors: worse")
    read("rollout", "start", NAME, "--to", platform.ledger.register_release(make_manifest(4), "maya"))
    rollouts = read("rollout", "list", NAME)["rollouts"]
    assert [(item["rollout"], item["phase"]) for item in rollouts] == [(2, "canary"), (1, "rolled-back")]
    assert "compare-errors: worse" in run("rollout", "list", NAME)[1]


# Watching -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decided", "ended", "code"), [("promoting", "done", 0), ("aborting", "rolled-back", 3)])
def test_without_a_terminal_watch_prints_a_line_for_each_change_until_the_end(
    monkeypatch, run, platform, digests, decided, ended, code
):
    run("rollout", "start", NAME, "--to", digests[2])
    moves = [
        lambda: None,
        lambda: to(platform, "canary", 1, [verdict()], "the gates let it take 50%"),
        lambda: None,
        lambda: to(platform, decided, 2, reason="decided"),
        lambda: to(platform, ended, 2, reason="seen everywhere"),
    ]
    monkeypatch.setattr(rollout_view.time, "sleep", lambda seconds: moves.pop(0)())
    got, out, _ = run("rollout", "status", NAME, "--watch")
    assert got == code
    assert not moves
    told = [re.sub(r"^\d\d:\d\d:\d\d ", "", line).split(":")[0] for line in out.splitlines()]
    assert told == ["canary, step 1 of 3, 10%", "canary, step 2 of 3, 50%", decided, ended]
    assert "(compare-errors no-harm)" in out


def test_watch_with_json_prints_the_last_document_only(monkeypatch, run, platform, digests):
    run("rollout", "start", NAME, "--to", digests[2])
    moves = [lambda: to(platform, "aborting"), lambda: to(platform, "rolled-back")]
    monkeypatch.setattr(rollout_view.time, "sleep", lambda seconds: moves.pop(0)())
    code, out, _ = run("rollout", "status", NAME, "--watch", "--json")
    assert code == 3
    assert json.loads(out)["phase"] == "rolled-back"


def test_watch_goes_on_while_the_ledger_is_away_for_a_moment(monkeypatch, run, platform, digests):
    run("rollout", "start", NAME, "--to", digests[2])
    to(platform, "aborting")
    newest, moves = type(platform.rollouts).newest, []

    def away(self, product):
        moves.append(product)
        if len(moves) in (3, 4):
            raise Unavailable("the database is locked")
        return newest(self, product)

    monkeypatch.setattr(type(platform.rollouts), "newest", away)
    ends = [lambda: None, lambda: None, lambda: to(platform, "rolled-back")]
    monkeypatch.setattr(rollout_view.time, "sleep", lambda seconds: ends.pop(0)())
    code, _, err = run("rollout", "status", NAME, "--watch")
    assert code == 3
    assert "the database is locked" in err


def test_watch_without_a_rollout_ends_at_once(run, digests):
    code, out, _ = run("rollout", "status", NAME, "--watch")
    assert code == 0
    assert "no rollout yet" in out


def drain(screen, said):
    """Everything that a terminal is told, until it is closed."""
    with contextlib.suppress(OSError):
        while part := os.read(screen, 65536):
            said.append(part)


def test_on_a_terminal_watch_is_live(monkeypatch, platform, digests):
    main(["rollout", "start", NAME, "--to", digests[2]])
    to(platform, "canary", 1, [verdict()])
    moves = [lambda: to(platform, "aborting"), lambda: to(platform, "rolled-back", reason="seen everywhere")]
    monkeypatch.setattr(rollout_view.time, "sleep", lambda seconds: moves.pop(0)())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("LINES", "50")
    screen, terminal = pty.openpty()
    said = []
    reader = threading.Thread(target=lambda: drain(screen, said), daemon=True)
    reader.start()
    with os.fdopen(terminal, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["rollout", "status", NAME, "--watch"]) == 3
        monkeypatch.undo()
    reader.join(10)
    os.close(screen)
    seen = b"".join(said).decode()
    assert "is canary" in seen
    assert "compare-errors" in seen
    assert "is rolled-back" in seen
    assert "seen everywhere" in seen


# Wishes ---------------------------------------------------------------------------------------------------------


def test_pause_resume_and_abort_say_what_they_did(run, read, platform, digests):
    read("rollout", "start", NAME, "--to", digests[2])
    code, out, _ = run("rollout", "pause", NAME, "--reason", "lunch")
    assert (code, "is paused: paused by hand: lunch" in out) == (0, True)
    assert "plinth rollout resume" in run("rollout", "status", NAME)[1]
    assert read("rollout", "resume", NAME)["phase"] == "canary"
    code, out, _ = run("rollout", "abort", NAME)
    assert code == 0
    assert f"{digests[1][:12]} answers everything again" in out
    assert platform.rollouts.route(NAME).candidate is None


def test_a_wish_that_does_not_fit_is_told(run, digests):
    for wish in ("pause", "resume", "abort"):
        code, _, err = run("rollout", wish, NAME)
        assert (code, "no rollout of flight-delays is running" in err) == (2, True)
    run("rollout", "start", NAME, "--to", digests[2])
    code, _, err = run("rollout", "resume", NAME)
    assert (code, "the rollout is canary: there is nothing to resume" in err) == (1, True)
    assert run("rollout", "pause", "no-such")[0] == 2


@pytest.mark.parametrize("words", [["rollback"], ["release", "rollback"]])
def test_rollback_ends_the_rollout_that_runs(run, read, platform, digests, words):
    read("rollout", "start", NAME, "--to", digests[2])
    done = read(*words, NAME, "--reason", "bad")
    assert (done["digest"], done["previous"], done["generation"], done["rollout"]) == (digests[1], digests[2], 4, 1)
    assert platform.rollouts.get(1).state.phase == "aborting"
    code, _, err = run(*words, NAME)
    assert (code, "was rolled back already" in err) == (1, True)


@pytest.mark.parametrize("words", [["rollback"], ["release", "rollback"]])
def test_rollback_without_a_rollout_serves_the_release_before(read, digests, words):
    done = read(*words, NAME)
    assert (done["digest"], done["previous"], done["generation"], done["rollout"]) == (digests[0], digests[1], 3, None)


def test_rollback_to_a_release_that_never_served_is_refused(run, digests):
    code, _, err = run("rollback", NAME, "--to", digests[2])
    assert (code, "has never served" in err) == (3, True)


# Tier 1 ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def critical(workspace):
    manifest = workspace / "services" / NAME / "product.yaml"
    manifest.write_text(tier(1))
    return manifest


def test_on_tier_1_direct_promotion_is_refused_with_the_way_that_is_open(run, critical, platform, digests):
    code, _, err = run("release", "promote", NAME, digests[2])
    assert code == 3
    assert f"plinth rollout start {NAME} --to {digests[2][:12]}" in err
    assert platform.ledger.current(NAME).digest == digests[1]


def test_on_tier_1_somebody_else_approves(monkeypatch, run, read, critical, platform, digests):
    code, out, _ = run("rollout", "start", NAME, "--to", digests[2])
    assert code == 0
    assert "it waits for 1 approval" in out
    assert "0 of 1: nobody" in run("rollout", "status", NAME)[1]
    for who, why in (("sam", "started its rollout"), ("maya", "made this release")):
        monkeypatch.setenv("PLINTH_ACTOR", who)
        code, _, err = run("approve", NAME, digests[2][:12])
        assert (code, why in err) == (3, True)
    monkeypatch.setenv("PLINTH_ACTOR", "ines")
    approval = read("approve", NAME, digests[2][:12], "--reason", "read the card")
    assert (approval["actor"], approval["digest"], approval["rollout"], approval["counted"]) == (
        "ines", digests[2], 1, 1,
    )  # fmt: skip
    assert "1 of 1: ines" in run("rollout", "status", NAME)[1]
    assert "has 1 of 1 approvals" in run("approve", NAME, digests[2][:12])[1]
    refused = [entry.actor for entry in platform.ledger.audit() if entry.action == "release.approve-refused"]
    assert refused == ["sam", "maya"]


def test_a_changed_manifest_voids_approvals_and_status_says_what_to_do(monkeypatch, run, read, critical, digests):
    read("rollout", "start", NAME, "--to", digests[2])
    monkeypatch.setenv("PLINTH_ACTOR", "ines")
    read("approve", NAME, digests[2])
    critical.write_text(tier(1).replace("title: Flight delays", "title: Late flights"))
    document = read("rollout", "status", NAME)
    assert document["manifest_changed"] is True
    assert document["approvals"]["given"] == []
    out = run("rollout", "status", NAME)[1]
    assert "product.yaml changed since the start" in out
    assert "plinth rollout abort flight-delays" in out
    code, out, err = run("approve", NAME, digests[2])
    assert (code, "0 of 1" in out, "start it anew" in err) == (0, True, True)


def test_a_manifest_that_changes_after_the_start_does_not_rewrite_who_approved(
    monkeypatch, run, read, critical, platform, digests
):
    read("rollout", "start", NAME, "--to", digests[2])
    monkeypatch.setenv("PLINTH_ACTOR", "ines")
    read("approve", NAME, digests[2])
    to(platform, "canary", 1)
    critical.write_text(tier(1).replace("title: Flight delays", "title: Late flights"))
    out = run("rollout", "status", NAME)[1]
    assert "1 of 1: ines" in out
    assert "voids" not in out


@pytest.fixture
def root_logger():
    """The controller sends every log line of the process to itself: put back what was there."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


def test_the_controller_begins_an_approved_rollout_when_asked_to_look_once(
    monkeypatch, run, read, critical, platform, digests, root_logger
):
    read("rollout", "start", NAME, "--to", digests[2])
    assert read("controller", "--once") == {"led": True}
    assert platform.rollouts.active(NAME).reason == "0 of 1 approvals"
    monkeypatch.setenv("PLINTH_ACTOR", "ines")
    read("approve", NAME, digests[2])
    assert f"next       plinth rollout status {NAME} --watch" in run("rollout", "status", NAME)[1]
    code, out, _ = run("controller", "--once")
    assert (code, out) == (0, "looked at every rollout\n")
    rollout = platform.rollouts.active(NAME)
    assert (rollout.state.phase, rollout.reason) == ("shadow", "approved by ines")


def test_one_controller_acts_and_the_other_says_so(run, platform, digests, root_logger):
    assert Candidate(platform.ledger, LEASE, "another").hold()
    assert run("controller", "--once")[:2] == (0, "another controller acts: nothing was done\n")


def test_what_may_not_serve_cannot_be_approved(run, critical, platform, make_manifest):
    rejected = platform.ledger.register_release(make_manifest(9, passed=False), "maya")
    assert run("approve", NAME, rejected)[0] == 3
    assert run("approve", NAME, "abcdef123456")[0] == 2


# Drills ---------------------------------------------------------------------------------------------------------

FOUND = {
    "detected": True, "rolled_back": True, "seconds_to_detect": 12.34, "seconds_to_recover": 14.0,
    "requests_total": 412, "requests_harmed": 31,
    "verdicts": [{"gate": "compare-latency", "outcome": "fail", "reason": "worse than the tolerance"}],
}  # fmt: skip


@pytest.fixture
def drilled(monkeypatch):
    """What the drill was asked for; what it finds can be changed. The real one runs in tests/integration."""
    from plinth.runtime import drill

    asked, found = {}, dict(FOUND)

    def fake(platform, product, fault, **options):
        asked.update(product=product.spec.name, fault=fault, **options)
        options["on_progress"]("canary 25%")
        return found

    monkeypatch.setattr(drill, "drill", fake)
    return asked, found


def test_a_drill_is_asked_for_and_told(run, drilled, workspace):
    asked, _ = drilled
    code, out, err = run(
        "rollout", "drill", NAME, "--fault", "latency", "--steps", "50,100", "--bake", "5s", "--rate", "40"
    )
    assert code == 0
    assert (asked["fault"], asked["steps"], asked["bake"], asked["rate"]) == ("latency", (50, 100), "5s", 40.0)
    assert "after 12.3 s" in out
    assert "412, 31 of them harmed" in out
    assert "canary 25%" in err


def test_a_drill_prints_what_was_found_as_json(read, drilled, workspace):
    assert read("rollout", "drill", NAME, "--fault", "latency") == FOUND


def test_a_fault_that_is_not_found_fails_the_drill(run, drilled, workspace):
    _, found = drilled
    found.update(detected=False, seconds_to_detect=None, seconds_to_recover=None, rolled_back=False, verdicts=[])
    code, out, _ = run("rollout", "drill", NAME, "--fault", "skew")
    assert code == 1
    assert "detected     no" in out


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "5000"])
def test_a_rate_that_cannot_be_is_bad_use(run, drilled, workspace, rate):
    code, _, err = run("rollout", "drill", NAME, "--fault", "latency", f"--rate={rate}")
    assert (code, "--rate" in err) == (2, True)
    assert drilled[0] == {}


def test_every_fault_of_the_command_is_one_that_can_be_made():
    from plinth.cli.rollout import FAULTS
    from plinth.models.faulty import FAULTS as MADE

    assert FAULTS == MADE


# With a manifest that cannot be read -------------------------------------------------------------------------------


def test_a_broken_manifest_holds_up_no_way_back(run, read, workspace, platform, digests):
    read("rollout", "start", NAME, "--to", digests[2])
    manifest = workspace / "services" / NAME / "product.yaml"
    manifest.write_text("tier: [")
    assert run("rollout", "start", NAME, "--to", digests[2])[0] == 2
    assert read("rollout", "pause", NAME)["phase"] == "paused"
    assert read("rollout", "resume", NAME)["phase"] == "canary"
    assert read("rollout", "abort", NAME)["phase"] == "aborting"
    assert read("rollback", NAME, "--to", digests[0])["digest"] == digests[0]
    assert read("release", "list", NAME)["generation"] == 5
    assert [item["phase"] for item in read("rollout", "list", NAME)["rollouts"]] == ["aborting"]
    assert run("rollback", "nothing")[0] == 2


def test_a_reason_that_is_no_text_is_bad_use(run, digests):
    assert run("rollout", "start", NAME, "--to", digests[2], "--reason", "\udcff")[0] == 2


def test_without_a_product_the_one_is_meant_whose_rollout_runs_or_that_is_alone(run, workspace, digests):
    assert json.loads(run("rollout", "status", "--json")[1])["product"] == NAME
    other = workspace / "services" / "churn"
    other.mkdir()
    (other / "product.yaml").write_text(tier(3).replace(f"name: {NAME}", "name: churn", 1))
    code, _, err = run("rollout", "status")
    assert code == 2
    assert f"name one of: churn, {NAME}" in err
    run("rollout", "start", NAME, "--to", digests[2])
    assert json.loads(run("rollout", "status", "--json")[1])["product"] == NAME
    assert run("rollout", "abort")[0] == 0
