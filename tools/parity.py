"""Play the acceptance suite on every profile and write docs/evidence/parity.md: `make parity`.

The embedded profile runs on this machine; the compose profile wherever a Docker engine answers. A profile that could
not be played is a column that says so.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from parity import SCENARIOS  # noqa: E402  (the suite itself: what is played, and what has to hold)

PAGE = ROOT / "docs" / "evidence" / "parity.md"
SUITES = {"embedded": "tests/e2e/test_story_parity.py", "compose": "tests/compose/test_parity.py"}


def main() -> int:
    """Command line."""
    profiles = sys.argv[1:] or list(SUITES)
    results, failed = [], False
    for profile in profiles:
        print(f"{profile} ...", flush=True)
        played, code = play(profile)
        results += played
        failed |= code != 0
    PAGE.write_text(page(results, describe()))
    print(f"wrote {PAGE.relative_to(ROOT)}")
    # A stack that did not start plays nothing, which is no success; one that cannot be had was skipped, with a reason.
    return 0 if results and not failed and all(result["passed"] for result in results) else 1


def play(profile: str) -> tuple[list[dict[str, Any]], int]:
    """The results of one profile's suite, and pytest's exit code."""
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        env = os.environ | {"PARITY_RESULTS": file.name}
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", SUITES[profile]], cwd=ROOT, env=env, check=False)
        return [json.loads(line) for line in Path(file.name).read_text().splitlines()], done.returncode


def describe() -> str:
    """The machine, the day and the commit."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit.stdout.strip()[:12]}, {os.cpu_count()} cores, {gib:.0f} GiB, "
        f"{platform.system()}, Python {platform.python_version()}"
    )


def page(results: Iterable[dict[str, Any]], machine: str) -> str:
    """The page: each scenario, each profile, result and time, and what was seen."""
    found = {(result["scenario"], result["profile"]): result for result in results}
    lines = [
        "# Evidence: the same on every profile",
        "",
        "Written by `make parity`: one acceptance suite (`tests/parity.py`), played with the same commands in each",
        "profile; only the addresses differ. In the embedded profile `demo` is the whole story, told before (the",
        "time is not counted); in containers it is four days of it.",
        "",
        "| scenario | what has to hold | embedded | compose |",
        "| --- | --- | --- | --- |",
    ]
    for scenario in SCENARIOS:
        cells = [_cell(found.get((scenario.__name__, profile))) for profile in SUITES]
        lines.append(f"| {scenario.__name__} | {scenario.__doc__} | {' | '.join(cells)} |")
    lines += ["", "What was seen:", ""]
    for (name, profile), result in found.items():
        lines.append(f"- {profile}, {name}: {result['saw']}")
    lines += ["", f"Machine: {machine}.", ""]
    return "\n".join(lines)


def _cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return "not played here"
    return f"{'passed' if result['passed'] else '**failed**'}, {result['seconds']:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
