"""Drill the flight-delays product with every fault, and roll an identical release out as the control: `make drills`.

Real processes and a really trained release. Where the platform runs already (after `plinth demo flight-delays
--keep-up`), it is drilled as it is; else one is started in a temporary folder on free ports, which takes two minutes
to train. Writes docs/evidence/: one JSON file a drill, and a page with the table.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from flight_delays import traffic as requests
from flight_delays.replay import Replay
from plinth.core.rollouts import ENDED
from plinth.ledger.rollouts import Rollouts
from plinth.models.faulty import FAULTS
from plinth.rollouts import commands, release
from plinth.runtime import embedded, pipelines
from plinth.runtime.drill import describe_code, drill, machine
from plinth.runtime.traffic import Traffic, get_json
from plinth.settings import Settings
from plinth.wiring import LoadedProduct, Platform

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "docs" / "evidence"
PRODUCT = "flight-delays"
DAY = date(2013, 6, 1)
CONTROL = "same"
RATE = 20.0
CONTROL_SECONDS = 300.0


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*FAULTS, CONTROL]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(names)}")
    chosen = parser.parse_args().names or names
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"no drill {', '.join(unknown)}; there are: {', '.join(names)}")
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    failed, results = [], {}
    try:
        with _platform() as platform:
            product = platform.products.get(PRODUCT)
            for place, name in enumerate(chosen, 1):
                say(f"[{place}/{len(chosen)}] {name}")
                if name == CONTROL:
                    found = control(platform, product)
                    good = found["done"]
                else:
                    fault = next(fault for fault in FAULTS if fault == name)
                    found = drill(platform, product, fault, rate=RATE, on_progress=say)
                    good = found["detected"] and found["rolled_back"]
                if not good:
                    failed.append(name)
                results[name] = found
    finally:  # not before: a file that is written makes the commit of the next drill one "with changes"
        for name, found in results.items():
            _file(name).write_text(json.dumps(found, indent=1) + "\n")
    (EVIDENCE / "README.md").write_text(page())
    say(f"wrote {EVIDENCE.relative_to(ROOT)}" + (f"; NOT as it should be: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def say(line: str) -> None:
    """A line, at once."""
    print(f"  {line}", flush=True)


def _file(name: str) -> Path:
    return EVIDENCE / (f"rollout-{name}.json" if name == CONTROL else f"drill-{name}.json")


@contextlib.contextmanager
def _platform() -> Iterator[Platform]:
    """The one that runs, or one of our own."""
    running = Platform.from_settings()
    if embedded.running(running):
        yield running
        return
    folder = Path(tempfile.mkdtemp(prefix="plinth-drills-"))
    prefect, mlflow, controller, service = _free_ports(4)
    settings = Settings(
        home=ROOT,
        state=folder,
        prefect_port=prefect,
        mlflow_port=mlflow,
        controller_port=controller,
        service_ports={PRODUCT: service},
    )  # type: ignore[call-arg]
    platform = Platform(settings)
    try:
        say("starting the platform and training the release, about two minutes ...")
        embedded.up(platform)
        _serve(platform)
        yield platform
    finally:
        embedded.down(platform)
        shutil.rmtree(folder, ignore_errors=True)


def _serve(platform: Platform) -> None:
    """Train, promote, and fill the online store as of the first day of the story."""
    trained: Any = pipelines.run(platform, PRODUCT, "train", {}).output
    release.promote(
        platform.ledger, platform.registry, PRODUCT, trained.release, actor=platform.actor, reason="to drill with"
    )
    folder = platform.settings.product_dir(PRODUCT)
    url = _url(platform)
    while get_json(url, "/readyz")[0] != 200:  # the service takes a release over within a second
        time.sleep(0.2)
    replay = Replay(folder / "lake", platform.features(PRODUCT), folder / "labels", url)
    replay.prepare(DAY)
    replay.day(DAY)
    replay.close()


def _url(platform: Platform) -> str:
    return platform.service_urls(PRODUCT)[0]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def control(platform: Platform, product: LoadedProduct) -> dict[str, Any]:
    """A release that differs in nothing but its manifest: a rollout that must not be rolled back."""
    ledger = platform.ledger
    before = ledger.current(PRODUCT)
    assert before is not None  # noqa: S101 - drills need one, too
    good = ledger.release(before.digest).manifest
    at = datetime.now(UTC).isoformat(timespec="microseconds")
    same = good.model_copy(update={"created_at": at, "pipeline_run": f"control-{at}"})
    digest = ledger.register_release(same, platform.actor)
    bodies = list(itertools.islice(requests.requests(platform), 5_000))
    started = time.monotonic()
    with Traffic(_url(platform), bodies, RATE) as traffic:
        rollout = commands.start(
            ledger, product.spec, digest, actor=platform.actor, reason="control: the same release", steps=(50, 100)
        )
        shown: tuple[str, int] | None = None
        while time.monotonic() - started < CONTROL_SECONDS:
            rollout = Rollouts(ledger).get(rollout.id)
            if (rollout.state.phase, rollout.state.stage) != shown:
                shown = rollout.state.phase, rollout.state.stage
                say(f"{rollout.state.phase}: {rollout.reason}; {len(traffic.answers())} requests")
            if rollout.state.phase in ENDED or rollout.state.phase == "paused":
                break
            time.sleep(0.2)
        seconds = time.monotonic() - started
    answers = traffic.answers()
    moves = Rollouts(ledger).verdicts(rollout.id)
    last = max((item.revision for item in moves), default=0)
    if rollout.active:
        commands.abort(ledger, PRODUCT, actor=platform.actor, reason="the control did not end")
    elif rollout.state.phase == "done":
        release.rollback(
            ledger, platform.registry, PRODUCT, before.digest, actor=platform.actor, reason="the control has ended"
        )
    return {
        "product": PRODUCT,
        "release": digest,
        "rollout": rollout.id,
        "phase": rollout.state.phase,
        "done": rollout.state.phase == "done",
        "reason": rollout.reason,
        "seconds": round(seconds, 1),
        "steps": [stage.percent for stage in rollout.plan.stages],
        "requests_total": len(answers),
        "requests_failed": sum(answer.code != 200 for answer in answers),
        "verdicts": [
            {"gate": item.verdict.gate, "outcome": item.verdict.outcome, "reason": item.verdict.reason}
            for item in moves
            if item.revision == last
        ],
        "rate": RATE,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": describe_code(platform),
        "machine": machine(),
    }


def page() -> str:
    """docs/evidence/README.md, from the files beside it."""
    lines = [
        "# Evidence: drills",
        "",
        "Written by `make drills`: a real rollout of a release with the fault, on running services, under generated",
        f"traffic of {RATE:g} requests a second, measured by the client. Detected: from the first bad request to the",
        "decision in the ledger. Recovered: from the first bad request to the last one. After the decision: from the",
        "decision to the last request that the bad release answered or failed. Harmed: requests that failed or were",
        "answered by the bad release. [How to run a drill](../how-to/run-a-drill.md) says what each fault is.",
        "",
        "| fault | detected | recovered | after the decision | requests | harmed | failed | decided by | when |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    machines = set()
    for fault in FAULTS:
        if not _file(fault).is_file():
            continue
        found = json.loads(_file(fault).read_text())
        machines.add(found["machine"])
        failed = [verdict["gate"] for verdict in found["verdicts"] if verdict["outcome"] == "fail"]
        cells = [
            f"[{fault}](drill-{fault}.json)",
            _seconds(found["seconds_to_detect"], found["detected"]),
            _seconds(found["seconds_to_recover"], found["rolled_back"]),
            _seconds(found["decision_to_last_bad_answer_seconds"], True),
            f"{found['requests_total']:,}",
            f"{found['requests_harmed']:,}",
            f"{found['requests_failed']:,}",
            ", ".join(failed) or found["reason"],
            _when(found),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if _file(CONTROL).is_file():
        found = json.loads(_file(CONTROL).read_text())
        machines.add(found["machine"])
        lines += [
            "",
            f"The control, [the same release again](rollout-{CONTROL}.json): {found['phase']} after "
            f"{found['seconds']:.0f} s and {found['requests_total']:,} requests, {found['requests_failed']:,} failed "
            f"({_when(found)}).",
        ]
    return "\n".join([*lines, "", f"Machine: {'; '.join(sorted(machines))}.", ""])


def _when(found: dict[str, Any]) -> str:
    commit, _, changes = found["commit"].partition(" ")
    return f"{found['at'][:10]}, {commit[:12]} {changes}".rstrip()


def _seconds(value: float | None, happened: bool) -> str:
    return f"{value:.1f} s" if happened and value is not None else "**no**"


if __name__ == "__main__":
    sys.exit(main())
