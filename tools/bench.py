"""Measure side by side and write docs/benchmarks.md.

Each `tests/bench/bench_*.py` has `run()`, which returns lines of one shape: `target` (number of the performance page,
0 for the issue's own), `measure`, `unit`, `peer`, `ours`, `floor`, `ratio`, `bound`, `reached`, `note`. Each runs in a
process of its own, one after the other. An absolute time never fails anything.

    python tools/bench.py                 all of them (about 20 minutes)
    python tools/bench.py cli features    some; the other rows of the page stay
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BENCHES = sorted(path.stem.removeprefix("bench_") for path in (ROOT / "tests" / "bench").glob("bench_*.py"))
RESULTS = ROOT / "docs" / "benchmarks.json"
PAGE = ROOT / "docs" / "benchmarks.md"
VERSIONS = (
    "bentoml", "duckdb", "evidently", "feast", "haystack-ai", "lightgbm", "mlflow", "numpy", "onnxruntime", "prefect",
    "qdrant-client", "qdrant-edge-py",
)  # fmt: skip

SCRIPT = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("bench", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["bench"] = module
sys.path.insert(0, sys.argv[1].rsplit("/", 1)[0])
spec.loader.exec_module(module)
lines = module.run()
with open(sys.argv[2], "w") as file:
    json.dump(lines, file, default=float)
"""


def measure(name: str) -> list[dict[str, Any]]:
    """Run one benchmark in a process of its own; its own tables go to standard output."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "lines.json"
        script = ROOT / "tests" / "bench" / f"bench_{name}.py"
        subprocess.run([sys.executable, "-c", SCRIPT, str(script), str(output)], cwd=ROOT, check=True)
        lines: list[dict[str, Any]] = json.loads(output.read_text())
    return lines


def machine() -> str:
    """The machine in a line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, Python {platform.python_version()}"


def versions() -> dict[str, str]:
    """Versions of what was measured."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def number(value: Any, unit: str) -> str:
    """A measured value for people."""
    if value is None:
        return ""
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}".strip()


def page(results: dict[str, Any]) -> str:
    """docs/benchmarks.md."""
    text = [
        "# Benchmarks",
        "",
        "Written by `make bench`. Both sides run on one machine in one run, in interleaved rounds; the numbers",
        "are medians, and each benchmark asserts that both sides give the same answer before it times them. The first",
        "lines of each `tests/bench/bench_*.py` say how it measures. The targets are those of the performance design;",
        "target 0 marks a number that the issue asks for by itself. A missed target says why in its note.",
        "",
    ]
    for name, result in sorted(results.items()):
        rows = [
            "| # | measure | peer | ours | floor | ratio | target | reached | note |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for line in sorted(result["lines"], key=lambda line: line["target"]):
            cells = [
                str(line["target"]),
                line["measure"],
                *(number(line[side], line["unit"]) for side in ("peer", "ours", "floor")),
                "" if line["ratio"] is None else f"{line['ratio']:.2f}x",
                line["bound"],
                "yes" if line["reached"] else "**no**",
                line["note"],
            ]
            rows.append(f"| {' | '.join(cells)} |")
        text += [
            f"## {name}",
            "",
            *rows,
            "",
            f"{result['at'][:10]}, {result['machine']}, {result['seconds']:.0f} s.",
            "",
        ]
    found = {name: number for result in results.values() for name, number in result["versions"].items()}
    text += ["Versions: " + ", ".join(f"{name} {number}" for name, number in sorted(found.items())) + ".", ""]
    return "\n".join(text)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(BENCHES)}")
    names = parser.parse_args().names or BENCHES
    unknown = sorted(set(names) - set(BENCHES))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHES)}")
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    failed = []
    for place, name in enumerate(names, 1):
        print(f"[{place}/{len(names)}] {name} ...", flush=True)
        started = time.monotonic()
        try:
            lines = measure(name)
        except subprocess.CalledProcessError as error:
            failed.append(name)
            print(f"benchmark {name} failed with {error.returncode}; its old rows stay", flush=True)
            continue
        results[name] = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(),
            "seconds": round(time.monotonic() - started, 1),
            "lines": lines,
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        PAGE.write_text(page(results))
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
