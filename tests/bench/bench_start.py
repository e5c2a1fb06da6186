"""From a fresh clone to the first prediction: `python tests/bench/bench_start.py`. Target 11 of the performance page.

A clone of HEAD into an empty folder, an empty home folder, the package cache of this machine (warm: the packages are
installed once before the clock starts). Then what a newcomer types: `make install`, `plinth up --detach`, train,
promote, predict. Memory is the largest sum of resident memory of every process that this started, sampled twice a
second.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from story import free_ports

ROOT = Path(__file__).parents[2]


class Memory:
    """Largest sum of resident memory of the processes that carry a mark in their environment, in MiB."""

    def __init__(self, mark):
        self.peak = 0.0
        self._mark = mark
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()

    def _sample(self):
        while not self._stop.wait(0.5):
            total = 0
            for process in psutil.process_iter():
                try:
                    if process.environ().get("PLINTH_BENCH") == self._mark:
                        total += process.memory_info().rss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total / 2**20)


def run():
    """One line for the time, one for the memory."""
    with tempfile.TemporaryDirectory(prefix="plinth-start-") as folder:
        clone, home = Path(folder) / "plinth", Path(folder) / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        prefect, mlflow, controller, service, other = free_ports(5)
        env = {
            name: value for name, value in os.environ.items() if not name.startswith(("PLINTH_", "PYTHON", "VIRTUAL"))
        }
        env |= {
            "HOME": str(home),
            "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache" / "uv"),
            "PLINTH_BENCH": folder,
            "PLINTH_PREFECT_PORT": str(prefect),
            "PLINTH_MLFLOW_PORT": str(mlflow),
            "PLINTH_CONTROLLER_PORT": str(controller),
            "PLINTH_SERVICE_PORTS": json.dumps({"flight-delays": service, "docs-assistant": other}),
        }

        def go(*words):
            return subprocess.run(words, cwd=clone, env=env, check=True, capture_output=True, text=True).stdout

        go("make", "install")
        shutil.rmtree(clone / ".venv")
        stages, started = {}, time.monotonic()
        plinth = str(clone / ".venv" / "bin" / "plinth")
        try:
            with Memory(folder) as memory:

                def stage(name, *words):
                    clock = time.monotonic()
                    printed = go(*words)
                    stages[name] = time.monotonic() - clock
                    return printed

                stage("install", "make", "install")
                stage("up", plinth, "up", "--detach")
                trained = json.loads(stage("train", plinth, "pipeline", "run", "flight-delays", "train", "--json"))
                stage("promote", plinth, "release", "promote", "flight-delays", trained["output"]["release"])
                clock = time.monotonic()
                while subprocess.run(
                    [plinth, "predict", "flight-delays", "--example"], cwd=clone, env=env, capture_output=True
                ).returncode:
                    if time.monotonic() - clock > 30:
                        raise RuntimeError("the service does not answer")
                    time.sleep(0.2)
                stages["predict"] = time.monotonic() - clock
            total = time.monotonic() - started
        finally:
            subprocess.run([plinth, "down"], cwd=clone, env=env, check=False, capture_output=True)
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.items())
    return [
        {
            "target": 11, "measure": "clone to first prediction", "unit": "s", "peer": None, "ours": total,
            "floor": stages["install"], "ratio": None, "bound": "<= 60 s", "reached": total <= 60,
            "note": f"{parts}; training on the year's data is part of it: no release is shipped",
        },
        {
            "target": 11, "measure": "peak memory on the way", "unit": "MiB", "peer": None, "ours": memory.peak,
            "floor": None, "ratio": None, "bound": "<= 700 MiB", "reached": memory.peak <= 700,
            "note": "sum over all processes, shared pages counted each time; the Prefect and MLflow servers are in it",
        },
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
