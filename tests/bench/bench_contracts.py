"""How much memory and time a contract check of 10 million flights takes: `python tests/bench/bench_contracts.py`.

Target (issue, data contracts): 10 million rows are checked within 1 GiB of memory. The year's real flights are repeated
with other years in their ids, written once as Parquet and once as CSV; each check runs in a process of its own, whose
peak resident memory the kernel reports. The floor is one pass of DuckDB over the same
values (a hash of each, so that no statistic of the file can answer instead).
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "services" / "flight-delays" / "contracts" / "flights.odcs.yaml"
LIMIT_MB = 1024

# The kernel's high-water mark of this process alone: ru_maxrss would carry the parent's over exec.
PEAK = """
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
"""

CHECK = """
import json, sys, time
from pathlib import Path
from plinth.contracts.duckdb import DuckDBEngine
from plinth.contracts.odcs import load
started = time.perf_counter()
result = DuckDBEngine().check(load(Path(sys.argv[1])), Path(sys.argv[2]))
print(json.dumps({"rows": result.rows, "rules": result.rules, "passed": result.passed,
    "violations": [[item.rule, item.column, item.count] for item in result.violations],
    "seconds": time.perf_counter() - started, "peak_mb": peak()}))
"""

FLOOR = """
import json, sys, time
import duckdb
started = time.perf_counter()
with duckdb.connect(config={"memory_limit": "512MB", "threads": 2}) as db:
    db.execute("SET enable_progress_bar = false")
    names = [row[0] for row in db.execute("DESCRIBE SELECT * FROM '" + sys.argv[2] + "'").fetchall()]
    counted = ", ".join(f'bit_xor(hash("{name}"))' for name in names)
    rows = db.execute(f"SELECT count(*), {counted} FROM '{sys.argv[2]}'").fetchone()[0]
print(json.dumps({"rows": rows, "seconds": time.perf_counter() - started,
    "peak_mb": peak()}))
"""


def write_flights(folder: Path, rows: int) -> tuple[Path, Path]:
    """`rows` flights (at least) as Parquet, and a tenth of them as CSV; and the ids stay unique."""
    import duckdb

    from flight_delays.data import prepare_raw

    prepare_raw(folder / "raw")
    source = f"'{folder}/raw/flights/*.parquet'"
    with duckdb.connect(config={"memory_limit": "1GB", "temp_directory": str(folder)}) as db:
        db.execute("SET TimeZone = 'UTC'")
        db.execute("SET preserve_insertion_order = false")
        times = -(-rows // db.execute(f"SELECT count(*) FROM {source}").fetchone()[0])
        unique = "replace(replace(flight_id, '-2013', '-' || (1000 + 2 * i)), '-2014', '-' || (1001 + 2 * i))"
        for name, count in (("flights.parquet", times), ("flights.csv", max(1, times // 10))):
            query = f"SELECT flights.* REPLACE ({unique} AS flight_id) FROM {source} flights, range({count}) years(i)"
            db.execute(f"COPY ({query}) TO '{folder / name}'")
    return folder / "flights.parquet", folder / "flights.csv"


def in_process(code: str, contract: Path, data: Path) -> dict:
    """Run `code` in a fresh interpreter; its one line of JSON."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK + code, contract, data], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def measure(rows: int = 10_000_000, rounds: int = 3) -> list[dict]:
    """One line a measure: what was done, on how many rows, seconds (median) and peak memory (largest), in MiB."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="plinth-bench-") as name:
        folder = Path(name)
        parquet, csv = write_flights(folder, rows)
        contract = folder / "contract.odcs.yaml"
        contract.write_text(
            re.sub(r"mustBeBetween: \[23000.*", f"mustBeBetween: [1, {rows * 2}]", CONTRACT.read_text())
        )
        plans = (
            ("check, parquet", CHECK, parquet),
            ("one bare pass, parquet", FLOOR, parquet),
            ("check, csv", CHECK, csv),
        )
        for label, code, data in plans:
            runs = [in_process(code, contract, data) for _ in range(rounds)]
            if code is CHECK:
                assert all(run["passed"] for run in runs), runs[0]
            lines.append(
                {
                    "measure": label,
                    "rows": runs[0]["rows"],
                    "rules": runs[0].get("rules", 0),
                    "seconds": round(statistics.median(run["seconds"] for run in runs), 2),
                    "peak_mb": round(max(run["peak_mb"] for run in runs)),
                    "file_mb": round(data.stat().st_size / 2**20),
                }
            )
    return lines


def run() -> list[dict]:
    """Lines for the page of `make bench`: the memory of each check, and its time."""
    lines = measure()
    floor = next((line for line in lines if not line["rules"]), None)
    found = []
    for line in lines:
        if not line["measure"].startswith("check"):
            continue
        found.append(
            {
                "target": 0, "unit": "MiB",
                "measure": f"{line['measure']}, {line['rows']:,} rows, {line['rules']} rules",
                "peer": None, "ours": line["peak_mb"], "floor": floor["peak_mb"] if floor else None, "ratio": None,
                "bound": f"<= {LIMIT_MB} MiB", "reached": line["peak_mb"] <= LIMIT_MB,
                "note": f"{line['seconds']:.1f} s; floor: one bare pass of DuckDB over the values",
            }
        )  # fmt: skip
    return found


def main() -> None:
    """Print the table."""
    lines = measure()
    print("| measure | rows | rules | file MiB | seconds | peak MiB |\n| --- | --- | --- | --- | --- | --- |")
    for line in lines:
        cells = (line["measure"], f"{line['rows']:,}", line["rules"], line["file_mb"], line["seconds"], line["peak_mb"])
        print("| " + " | ".join(str(cell) for cell in cells) + " |")
    peak = max(line["peak_mb"] for line in lines if line["measure"].startswith("check"))
    print(f"\npeak of the checks {peak} MiB, target {LIMIT_MB} MiB: {'reached' if peak <= LIMIT_MB else 'missed'}")


if __name__ == "__main__":
    main()
