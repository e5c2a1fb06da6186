"""The acceptance suite that every profile has to pass: the same commands, the same checks, only the addresses differ.

Each scenario is a function of a `Stand` that says in a line what it saw, or raises. They build on each other in order.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

MODEL, ASSISTANT = "flight-delays", "docs-assistant"
UNTIL = "2013-06-05"
QUESTION = "How many releases does garbage collection keep?"
EXTRA = "# The parity suite\n\nThe lighthouse keeper of the parity suite is paid in herring.\n"
ASKED_EXTRA = "What is the lighthouse keeper of the parity suite paid in?"


@dataclass
class Stand:
    """A running profile, as its user has it.

    Attributes:
        profile: `embedded` or `compose`.
        command: The command line of `plinth` in it.
        home: The workspace.
        env: Its environment.
        folder: A scratch folder that the profile's processes can read.
        seen: What earlier scenarios leave for later ones.
    """

    profile: str
    command: tuple
    home: Path
    env: dict
    folder: Path
    seen: dict = field(default_factory=dict)

    def plinth(self, *words, timeout=900, check=True):
        done = subprocess.run(
            [*self.command, *words], cwd=self.home, env=self.env, capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode:
            raise AssertionError(f"plinth {' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def json(self, *words, timeout=900, check=True):
        return json.loads(self.plinth(*words, "--json", timeout=timeout, check=check).stdout)


def demo(stand):
    """Train, serve, replay days of flights, and a drill of a bad model that has to be taken back."""
    told = stand.seen.get("told") or stand.json("demo", MODEL, "--until", UNTIL, "--keep-up", timeout=1800)
    drill = told["drill"]
    assert told["predictions"] > 1000, told
    assert drill["detected"], drill
    assert drill["rolled_back"], drill
    return f"{told['predictions']:,} predictions; bad model taken back after {drill['seconds_to_detect']:.1f} s"


def predict(stand):
    """A prediction of the release that the ledger says serves."""
    answer = stand.json("predict", MODEL, "--example")
    (score,) = [one["probability"] for one in answer["predictions"]]
    serving = next(one["digest"] for one in stand.json("release", "list", MODEL)["releases"] if one["serving"])
    assert 0 < score < 1, answer
    assert answer["release"] == serving, (answer["release"], serving)
    return f"probability {score:.3f} of release {serving[:12]}"


def drift(stand):
    """A drift report of the replayed days."""
    first, last = stand.seen.get("days", ("2013-06-01", UNTIL))
    drift = stand.json("drift", "report", MODEL, "--from", first, "--to", last, "--as-of", last)["drift"]
    assert drift["rows"] > 100, drift
    return f"{drift['rows']:,} rows, {len(drift['drifted'])} of {len(drift['features'])} features drifted"


def drill(stand):
    """A release that fails is found and taken back by its gates, under generated traffic."""
    found = stand.json("rollout", "drill", MODEL, "--fault", "errors")
    assert found["detected"], found
    assert found["rolled_back"], found
    return f"found after {found['seconds_to_detect']:.1f} s, {found['requests_harmed']} requests harmed"


def ask(stand):
    """An index build of the documents is promoted, and a question answered from it with citations."""
    built = stand.json("index", "build", ASSISTANT)
    stand.seen["first"] = built["release"]
    stand.plinth("release", "promote", ASSISTANT, built["release"], "--reason", "parity")
    answer = _ask(stand, QUESTION, built["release"])
    assert answer["citations"], answer
    stand.seen["request"] = answer["request_id"]
    return f"{len(answer['citations'])} citations, release {built['release'][:12]}"


def trace(stand):
    """Everything that answer was made of."""
    for _ in range(20):
        done = stand.plinth("trace", stand.seen["request"], "--json", check=False)
        if done.returncode == 0:
            break
        time.sleep(0.5)
    traced = json.loads(done.stdout)
    assert stand.seen["first"] in json.dumps(traced), traced
    return f"request {stand.seen['request'][:12]} traced to its release and chunks"


def rollout(stand):
    """A second index is rolled out step by step under traffic, judged, and ends serving everybody."""
    folder = stand.folder / "extra"
    folder.mkdir(exist_ok=True)
    (folder / "parity.md").write_text(EXTRA)
    built = stand.json("index", "build", ASSISTANT, "--source", f"extra={folder}")
    stand.seen["second"] = built["release"]
    with _traffic(stand) as counts:
        stand.plinth("rollout", "start", ASSISTANT, "--to", built["release"], "--reason", "parity")
        ended = _until_ended(stand, 480)
    assert ended["phase"] == "done", (ended, counts)
    answer = _ask(stand, ASKED_EXTRA, built["release"])
    assert "herring" in answer["answer"], answer
    assert counts[1] == 0, f"{counts[1]} of {counts[0]} questions failed"
    return f"done; {counts[0]} questions of traffic, none failed"


def rollback(stand):
    """The release before serves again."""
    stand.plinth("rollback", ASSISTANT, "--reason", "parity")
    answer = _ask(stand, ASKED_EXTRA, stand.seen["first"])
    assert "herring" not in answer["answer"], answer
    return f"release {stand.seen['first'][:12]} answers again"


def audit(stand):
    """The hash chain is whole and has the decisions."""
    found = stand.json("audit", "verify")
    actions = [entry["action"] for entry in stand.json("audit", "tail", "-n", "500")["entries"]]
    assert any("rollback" in action or "rolled" in action for action in actions), sorted(set(actions))
    return f"{found['entries']} entries, whole"


def fsck(stand):
    """No invariant is broken anywhere."""
    for _ in range(10):  # what was decided a moment ago is carried out first
        found = stand.json("fsck", check=False)
        if not found["violations"]:
            break
        time.sleep(3)
    assert not found["violations"], found
    return "clean"


SCENARIOS = (demo, predict, drift, drill, ask, trace, rollout, rollback, audit, fsck)


def _ask(stand, question, release):
    """An answer of a release; a service takes up to a few seconds to follow the ledger."""
    for _ in range(40):
        answer = stand.json("ask", question, "--product", ASSISTANT, "--no-stream", check=False)
        if answer.get("release") == release:
            return answer
        time.sleep(0.5)
    raise AssertionError(f"release {release[:12]} does not answer: {answer}")


TRAFFIC = """
import itertools, sys
from docs_assistant import traffic
from plinth.runtime.traffic import Traffic
from plinth.wiring import Platform

platform = Platform.from_settings()
bodies = itertools.islice(traffic.requests(platform), 4000)  # each of another user: the split is even
headers = lambda: platform.service_headers("docs-assistant")
with Traffic(platform.service_urls("docs-assistant")[0], bodies, 8, path="/ask", headers=headers) as sent:
    sys.stdin.read()
answers = sent.answers()
print(len(answers), sum(answer.code != 200 for answer in answers))
"""


@contextmanager
def _traffic(stand):
    """Golden questions at eight a second while the block runs. Gives a list that has, afterwards, sent and failed."""
    counts = []
    sender = subprocess.Popen(
        [sys.executable, "-c", TRAFFIC],
        cwd=stand.home,
        env={**stand.env, "PLINTH_PROFILE": stand.profile},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield counts
    finally:
        try:
            out, problem = sender.communicate(timeout=60)
        finally:
            sender.kill()
        assert sender.returncode == 0, problem.decode()
        counts += map(int, out.split())


def _until_ended(stand, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        listed = stand.json("rollout", "list", ASSISTANT)["rollouts"]
        newest = listed[0]
        if newest["phase"] in {"done", "rolled-back"}:
            break
        # On a slow machine two minutes of traffic may prove too little: it says so, and waits to be told.
        if newest["phase"] == "paused":
            assert "inconclusive" in newest["reason"], newest
            stand.plinth("rollout", "resume", ASSISTANT)
        time.sleep(5)  # a command is a second of a core, which the service would miss
    return newest


@dataclass
class Result:
    """How a scenario ended in a profile."""

    scenario: str
    profile: str
    passed: bool
    seconds: float
    saw: str


def play(stand, scenario):
    """Run one; its result is also appended to the file PARITY_RESULTS names, for the page of evidence."""
    started = time.monotonic()
    try:
        result = Result(scenario.__name__, stand.profile, True, 0.0, scenario(stand))
    except Exception as error:
        result = Result(scenario.__name__, stand.profile, False, 0.0, f"{type(error).__name__}: {error}"[:300])
        raise
    finally:
        result.seconds = round(time.monotonic() - started, 1)
        if path := os.environ.get("PARITY_RESULTS"):
            with Path(path).open("a") as file:
                file.write(json.dumps(vars(result)) + "\n")
    return result
