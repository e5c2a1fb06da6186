"""`plinth --help` answers without importing a tool. What it costs is measured in tests/bench/bench_cli.py."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

TOOLS = {
    "pydantic", "pydantic_core", "rich", "numpy", "yaml", "sqlalchemy", "alembic", "duckdb", "pyarrow", "pandas",
    "mlflow", "prefect", "feast", "bentoml", "lightgbm", "onnx", "onnxruntime", "sklearn", "matplotlib", "supervisor",
    "psutil", "httpx", "opentelemetry", "fastapi", "starlette", "flight_delays",
}  # fmt: skip

# What the command line may load of plinth itself to answer `--help`.
OURS = ("plinth", "plinth.cli")

PROBE = """
import json, sys
sys.argv = ["plinth", *json.loads(sys.argv[1])]
from plinth.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
sys.stderr.write(json.dumps(sorted(sys.modules)))
"""


def loaded_by(*argv: str) -> set[str]:
    """Names of the modules that a fresh interpreter has after the command."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(argv)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "usage: plinth" in done.stdout
    return set(json.loads(done.stderr))


@pytest.mark.parametrize("argv", [("--help",), (), ("drift", "report", "--help"), ("release", "promote", "--help")])
def test_help_imports_no_tool(argv: tuple[str, ...]) -> None:
    modules = loaded_by(*argv)
    assert {name.partition(".")[0] for name in modules} & TOOLS == set()


def test_help_imports_no_room_but_the_command_line() -> None:
    ours = {name for name in loaded_by("--help") if name.partition(".")[0] == "plinth"}
    assert {name for name in ours if name not in OURS and not name.startswith("plinth.cli.")} == set()


def test_the_probe_notices_a_tool_that_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.replace("import json, sys", "import json, sys, numpy"), '["--help"]'],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "numpy" in json.loads(done.stderr)
