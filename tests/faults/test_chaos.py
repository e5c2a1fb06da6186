"""1,000 times kill -9, or 100 of them: nothing is violated, nothing acknowledged is lost, everything converges."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults.postgres import why_not

TESTS = Path(__file__).parents[1]
KILLS = int(os.environ.get("CHAOS_KILLS", "100"))
"""Of controllers, service and pipelines, half of it on each database. `make faults` asks for all of them."""


@pytest.mark.timeout(180 + 4 * KILLS)
def test_row_1_nothing_is_lost_or_mixed_however_often_everything_is_killed():
    if reason := why_not():
        pytest.skip(reason)
    command = [sys.executable, "-c", "from faults.chaos import main; main()", "--kills", str(KILLS)]
    done = subprocess.run(
        command, cwd=TESTS, env={**os.environ, "PYTHONPATH": str(TESTS)}, capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-6000:]}"
    both = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [summary["database"] for summary in both] == ["sqlite", "postgresql"]
    for summary in both:
        assert summary["kills"] >= KILLS // 2
        assert set(summary["by_role"]) >= {"controller", "service", "pipeline"}
        assert summary["convergence_seconds"]["max"] <= 30
