"""Drift of 1,000,000 rows x 50 features against Evidently's PSI: `python tests/bench/bench_drift.py`.

Target 8 of the performance page: at least 30 times as fast, at most 0.2 of the memory, at most 3 times one NumPy pass,
the same verdicts. Every run is a process of its own that loads float32 columns and times the comparison alone, in CPU
seconds (all of it is one thread's work); rounds are interleaved. Peers: an Evidently report of
`ValueDrift(method="psi")` a column, without rendering (a minute a run, so 3 rounds instead of 7), and Evidently's PSI
function called bare. Floor: `np.histogram` with a given range on every column, the one pass NumPy offers.

Ours compares with the histograms stored with the release; Evidently has to read the reference again, so a line with
the reference counted anew in the same run stands beside it. Memory is the peak of a process that begins with the
files: ours reads them in chunks, Evidently needs both tables whole.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROWS, COLUMNS, BOUND = 1_000_000, 50, 0.2
ROUNDS, PEER_ROUNDS = 7, 3

COMMON = """
import json, re, sys, time
from pathlib import Path
import numpy as np
folder, rows, columns, bound = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
names = [f"f{index:02d}" for index in range(columns)]
def load(name):  # one column after the other on disk, as Parquet and pandas hold them
    return np.fromfile(folder / name, np.float32).reshape(columns, rows).T
def done(seconds, drifted):
    # Not ru_maxrss: a child begins with its parent's.
    peak = int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    print(json.dumps({"seconds": seconds, "drifted": sorted(drifted), "peak_mb": peak}))
"""

OURS = """
from plinth.monitoring.drift import compare
from plinth.monitoring.reference import Reference
current = load("current")
started = time.process_time()
reference = Reference.load(folder / "reference.json").features
counted = reference.count(current)
results = [compare(a, b, bound) for a, b in zip(reference.columns, counted.columns)]
done(time.process_time() - started, [r.name for r in results if r.status == "drift"])
"""

OURS_ANEW = """
from plinth.monitoring.drift import compare
from plinth.monitoring.histogram import fit
before, current = load("before"), load("current")
started = time.process_time()
reference = fit(before, names)
counted = reference.count(current)
results = [compare(a, b, bound) for a, b in zip(reference.columns, counted.columns)]
done(time.process_time() - started, [r.name for r in results if r.status == "drift"])
"""

OURS_FROM_FILES = """
from plinth.monitoring.drift import compare
from plinth.monitoring.reference import Reference
started = time.process_time()
reference = Reference.load(folder / "reference.json").features
def chunks(size=65536):
    with (folder / "current").open("rb") as file:
        for start in range(0, rows, size):
            block = np.empty((columns, min(size, rows - start)), np.float32)
            for index in range(columns):
                file.seek((index * rows + start) * 4)
                file.readinto(block[index].data)
            yield block.T
counted = reference.count_chunks(chunks())
results = [compare(a, b, bound) for a, b in zip(reference.columns, counted.columns)]
done(time.process_time() - started, [r.name for r in results if r.status == "drift"])
"""

EVIDENTLY = """
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.metrics import ValueDrift
definition = DataDefinition(numerical_columns=names)
before, current = (pd.DataFrame(load(name), columns=names) for name in ("before", "current"))
started = time.process_time()
report = Report([ValueDrift(column=name, method="psi", threshold=bound) for name in names])
run = report.run(Dataset.from_pandas(current, definition), Dataset.from_pandas(before, definition))
values = [metric["value"] for metric in run.dict()["metrics"]]
done(time.process_time() - started, [name for name, value in zip(names, values) if value >= bound])
"""

EVIDENTLY_FUNCTION = """
import pandas as pd
from evidently.legacy.calculations.stattests.psi import _psi
from evidently.legacy.core import ColumnType
before, current = (pd.DataFrame(load(name), columns=names) for name in ("before", "current"))
started = time.process_time()
results = {n: _psi(before[n].dropna(), current[n].dropna(), ColumnType.Numerical, bound)[1] for n in names}
done(time.process_time() - started, [name for name, drifted in results.items() if drifted])
"""

FLOOR = """
current = load("current")
started = time.process_time()
for index in range(columns):
    np.histogram(current[:, index], bins=30, range=(-6, 6))
done(time.process_time() - started, [])
"""

LINES = {
    "Evidently report": EVIDENTLY,
    "Evidently PSI function alone": EVIDENTLY_FUNCTION,
    "Plinth": OURS,
    "Plinth, reference counted anew": OURS_ANEW,
    "Plinth, in chunks from the file": OURS_FROM_FILES,
    "floor: one NumPy pass": FLOOR,
}


def write_data(folder: Path, rows: int, columns: int) -> list[str]:
    """Two tables and the stored reference; names of the columns that were made to drift (every third)."""
    import numpy as np

    from plinth.monitoring.reference import Reference

    rng = np.random.default_rng(20130101)
    drifting = []
    with (folder / "before").open("wb") as before, (folder / "current").open("wb") as current:
        for index in range(columns):
            a, b = (rng.standard_normal(rows, dtype=np.float32) for _ in range(2))
            if index % 3 == 0:
                drifting.append(f"f{index:02d}")
                b = b * np.float32(1.5) + np.float32(1.2)
            if index % 5 == 1:
                a, b = (np.rint(values * 12 + 50) for values in (a, b))
            if index % 5 == 2:
                a[::50], b[::50] = np.nan, np.nan
            before.write(a.tobytes())
            current.write(b.tobytes())
    matrix = np.fromfile(folder / "before", np.float32).reshape(columns, rows).T
    names = [f"f{index:02d}" for index in range(columns)]
    (folder / "reference.json").write_bytes(Reference.build(matrix, names).to_json())
    return drifting


def in_process(code: str, folder: Path, rows: int, columns: int) -> dict:
    """Run `code` in a fresh interpreter; its one line of JSON."""
    # One thread each: the ratio is of work, and Evidently's does not spread either.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMMON + code, folder, str(rows), str(columns), str(BOUND)],
        capture_output=True, text=True, check=False, env={**os.environ, **threads, "DO_NOT_TRACK": "1"},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def measure(rows: int = ROWS, columns: int = COLUMNS, rounds: int = ROUNDS, peer_rounds: int = PEER_ROUNDS) -> dict:
    """Median CPU seconds and largest peak by line; asserts that all lines give the same verdicts."""
    runs: dict[str, list[dict]] = {label: [] for label in LINES}
    with tempfile.TemporaryDirectory(prefix="plinth-bench-") as name:
        folder = Path(name)
        drifting = write_data(folder, rows, columns)
        for turn in range(rounds):
            for label, code in LINES.items():
                if label == "Evidently report" and turn >= peer_rounds:
                    continue
                run = in_process(code, folder, rows, columns)
                assert label.startswith("floor") or run["drifted"] == drifting, (label, run["drifted"], drifting)
                runs[label].append(run)
    return {
        label: {
            "seconds": statistics.median(run["seconds"] for run in done),
            "spread": [min(run["seconds"] for run in done), max(run["seconds"] for run in done)],
            "peak_mb": max(run["peak_mb"] for run in done),
            "rounds": len(done),
        }
        for label, done in runs.items()
    }


def run(rows: int = ROWS, columns: int = COLUMNS, rounds: int = ROUNDS, peer_rounds: int = PEER_ROUNDS) -> list[dict]:
    """The table of target 8: one line a target, with what was reached."""
    lines = measure(rows, columns, rounds, peer_rounds)
    peer, ours, floor = lines["Evidently report"], lines["Plinth"], lines["floor: one NumPy pass"]
    anew, chunked = lines["Plinth, reference counted anew"], lines["Plinth, in chunks from the file"]
    function = lines["Evidently PSI function alone"]
    speed, memory = peer["seconds"] / ours["seconds"], chunked["peak_mb"] / peer["peak_mb"]
    guard = ours["seconds"] / floor["seconds"]
    scope = f"{rows:,} x {columns}"
    print_table(lines, scope)
    return [
        {
            "target": 8, "measure": f"drift on {scope} against Evidently PSI", "unit": "CPU s",
            "peer": peer["seconds"], "ours": ours["seconds"], "floor": floor["seconds"],
            "ratio": speed, "bound": ">= 30x", "reached": speed >= 30,
            "note": f"verdicts equal; {peer['seconds'] / anew['seconds']:.0f}x with the reference counted anew; "
            f"{function['seconds'] / ours['seconds']:.0f}x against Evidently's PSI function alone",
        },
        {
            "target": 8, "measure": f"peak memory of the same, {scope}", "unit": "MiB",
            "peer": peer["peak_mb"], "ours": chunked["peak_mb"], "floor": floor["peak_mb"],
            "ratio": memory, "bound": "<= 0.2x", "reached": memory <= 0.2,
            "note": f"ours in chunks from the file; {ours['peak_mb']:.0f} MiB with the current table in memory",
        },
        {
            "target": 8, "measure": "drift against one NumPy pass (np.histogram)", "unit": "CPU s",
            "peer": floor["seconds"], "ours": ours["seconds"], "floor": floor["seconds"],
            "ratio": guard, "bound": "<= 3x", "reached": guard <= 3, "note": "",
        },
    ]  # fmt: skip


def print_table(lines: dict, scope: str) -> None:
    """Every line measured."""
    print(f"| drift, {scope} | median CPU s | min to max | peak MiB | rounds |\n| --- | --- | --- | --- | --- |")
    for label, line in lines.items():
        low, high = line["spread"]
        print(
            f"| {label} | {line['seconds']:.3f} | {low:.3f} to {high:.3f} | {line['peak_mb']:.0f} | {line['rounds']} |"
        )


def main() -> None:
    """Print what was measured, and each target with what was reached."""
    for line in run():
        state = "reached" if line["reached"] else "missed"
        print(f"{line['measure']}: {line['ratio']:.2f}x, target {line['bound']}: {state}. {line['note']}")


if __name__ == "__main__":
    main()
