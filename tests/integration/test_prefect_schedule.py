"""A schedule really fires: the server, the worker and a product's pipeline, through `plinth up`'s own processes.

This is what broke silently with SQLAlchemy 2.1 (the scheduler's loop threw) and loudly with FastAPI 0.151 (the server
did not import).
"""

import os
import subprocess
import sys
import time

import httpx

from patience import PATIENCE
from plinth.runtime import leftovers
from plinth.runtime.services import environment

PIPELINE = """
from plinth.pipelines.port import PipelineContext
from plinth.pipelines.step import step

@step(version="1", cache=False)
def tick() -> int:
    return 1

def train(context: PipelineContext[object]) -> int:
    (context.state / "ticks").open("a").write(context.run_id + "\\n")
    return tick()
"""

# What the worker does (plinth.runtime.prefect.main), with an interval in place of the manifest's cron expression,
# whose shortest step is a minute.
WORKER = """
from prefect import serve
from plinth.runtime.prefect import deployments
from plinth.wiring import Platform

spec = Platform.from_settings().products.get("ticker").spec
serve(*deployments(spec, interval=2), limit=1, pause_on_shutdown=False, print_starting_message=False)
"""


def test_a_schedule_fires_and_its_run_is_the_pipeline_s(prefect_platform, tmp_path, make_product_manifest):
    settings = prefect_platform.settings
    product = settings.home / "services" / "ticker"
    product.mkdir()
    (product / "product.yaml").write_text(make_product_manifest("ticker", entry="ticker_pipeline:train"))
    (tmp_path / "ticker_pipeline.py").write_text(PIPELINE)
    env = {
        **os.environ, **environment(settings), "PYTHONPATH": str(tmp_path),
        "PREFECT_HOME": str(settings.state_dir / "prefect"), "PREFECT_API_URL": settings.prefect_api_url,
        "PREFECT_RUNNER_POLL_FREQUENCY": "1", leftovers.MARKER: str(tmp_path),
    }  # fmt: skip
    log = tmp_path / "worker.log"
    with log.open("wb") as out:
        subprocess.Popen([sys.executable, "-P", "-c", WORKER], env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + PATIENCE
        finished = []
        while not finished and time.monotonic() < until:
            time.sleep(1)
            body = {
                "flows": {"name": {"any_": ["ticker.train"]}},
                "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
            }
            finished = httpx.post(f"{settings.prefect_api_url}/flow_runs/filter", json=body).json()
    finally:
        # The worker and the processes of the runs it started: all carry the mark of this test's folder.
        leftovers.end_all(tmp_path)
    assert finished, log.read_text()[-3000:]
    assert finished[0]["auto_scheduled"]
    ticks = (settings.product_dir("ticker") / "ticks").read_text().split()
    assert finished[0]["id"] in ticks
    body = {"flow_runs": {"id": {"any_": [finished[0]["id"]]}}}
    tasks: list[dict] = []
    until = time.monotonic() + PATIENCE
    while not tasks and time.monotonic() < until:  # the server records task runs a moment after they happened
        time.sleep(0.5)
        tasks = httpx.post(f"{settings.prefect_api_url}/task_runs/filter", json=body).json()
    assert [task["name"].rpartition("-")[0] for task in tasks] == ["tick"]
