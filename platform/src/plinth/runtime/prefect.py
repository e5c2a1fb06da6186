"""The Prefect server of the embedded profile, and the process that serves the products' pipelines as deployments.

    python -m plinth.runtime.prefect

waits for the server, makes one deployment a pipeline (with its schedule where product.yaml has one), and carries out
their runs, each in a process of its own. In a container it takes all from the settings (PLINTH_PREFECT_SERVER,
PLINTH_PREFECT_AUTH, PLINTH_STATE); PREFECT_HOME may name a folder for Prefect's own files that need not be kept. It
says that it is ready by its process id in `<state>/run/pipelines.ready`. SIGTERM ends it, and the runs at work with it:
30 s are enough. The server in a container: plinth.runtime.prefect_server.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from plinth.core.products import Product
from plinth.errors import Unavailable
from plinth.runtime.port import Service
from plinth.runtime.prefect_server import environment
from plinth.settings import Settings

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment

READY_FILE = "pipelines.ready"
ZOMBIES = "plinth: runs whose process died"
HEARTBEAT_SECONDS = 30
RUNS_AT_ONCE = 2
"""Each scheduled run is a process of its own, of at least 150 MiB and several seconds of start."""


def server(settings: Settings) -> Service:
    """How the Prefect server is started. One process: without `--workers` it does not fork."""
    home = settings.state_dir / "prefect"
    url = settings.prefect_api_url.removesuffix("/api")
    command = ("prefect", "server", "start", "--host", settings.host, "--port", str(settings.prefect_port))
    return Service(
        name="prefect",
        argv=(sys.executable, "-P", "-m", *command),
        url=url,
        health=f"{settings.prefect_api_url}/health",
        port=settings.prefect_port,
        setting="PLINTH_PREFECT_PORT",
        env={
            **environment(home, settings.prefect_api_url, url),
            # Kept on disk, the slots of killed runs are given back after a restart of the server too.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            # A database transaction for each event of each task is what locks SQLite; batches of a second do not.
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
            "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "50",
            "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
            "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "2",
            "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "50",
        },
    )


def worker(settings: Settings) -> Service:
    """How the process that carries out scheduled runs is started."""
    return Service(
        name="pipelines",
        argv=(sys.executable, "-P", "-m", "plinth.runtime.prefect"),
        url=f"{settings.prefect_api_url.removesuffix('/api')}/deployments",
        health=READY_FILE,
        env={
            "PREFECT_HOME": str(settings.state_dir / "prefect"),
            "PREFECT_API_URL": settings.prefect_api_url,
            "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
            "PREFECT_LOGGING_LEVEL": "INFO",
            "DO_NOT_TRACK": "1",
        },
    )


def _flow(name: str) -> Flow[..., None]:
    import prefect

    def scheduled(product: str, pipeline: str, params: dict[str, Any]) -> None:
        """A pipeline as product.yaml declares it. The runner turns this flow run into the pipeline's own."""
        from plinth.runtime.pipelines import run
        from plinth.wiring import Platform

        run(Platform.from_settings(), product, pipeline, params, wait=600.0)

    return prefect.flow(name=name, persist_result=False)(scheduled)


def __getattr__(name: str) -> Any:
    """`scheduled`, the flow that a run's own process finds by this module and that name; made when asked for."""
    if name != "scheduled":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _flow("scheduled")


def deployments(product: Product, **schedule: Any) -> list[RunnerDeployment]:
    """A deployment for each pipeline of a product. `schedule` replaces the declared ones (`interval=2` in tests)."""
    from prefect.types.entrypoint import EntrypointType

    made = []
    for pipeline in product.pipelines:
        when = schedule or ({"cron": pipeline.schedule} if pipeline.schedule else {})
        flow = _flow(f"{product.name}.{pipeline.name}")
        made.append(
            cast(  # a coroutine only under a running event loop
                "RunnerDeployment",
                flow.to_deployment(
                    name="plinth",
                    parameters={"product": product.name, "pipeline": pipeline.name, "params": {}},
                    description=pipeline.description,
                    tags=[product.name],
                    entrypoint_type=EntrypointType.MODULE_PATH,
                    **when,
                ),
            )
        )
    return made


def install_zombie_automation() -> None:
    """Mark runs as crashed when their process stopped telling that it lives (Prefect docs, "detect zombie flows")."""
    from prefect.automations import Automation
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture

    with get_client(sync_client=True) as client:
        known = client.request("POST", "/automations/filter", json={"automations": {"name": {"any_": [ZOMBIES]}}})
        if known.json():
            return
    Automation(
        name=ZOMBIES,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{end}" for end in _ENDS)},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=3 * HEARTBEAT_SECONDS,  # type: ignore[arg-type]  # coerced to a timedelta
        ),
        actions=[
            ChangeFlowRunState(name=None, state=StateType.CRASHED, message="its process stopped answering", force=False)
        ],
    ).create()


_ENDS = ("Completed", "Cancelled", "Crashed", "Failed")


def main(patience: float = 120.0) -> None:
    """Serve every product's pipelines until a signal comes."""
    from plinth.pipelines.prefect_client import check_server, prepare_environment, server_answers
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    settings = platform.settings
    home = Path(os.environ.get("PREFECT_HOME") or settings.state_dir / "prefect")
    prepare_environment(home, settings.prefect_api_url, settings.prefect_auth)
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "INFO"  # this process's output is its log
    until = time.monotonic() + patience
    while not server_answers(settings.prefect_api_url):
        if time.monotonic() > until:
            raise Unavailable("no Prefect server answers", where=settings.prefect_api_url)
        time.sleep(0.5)
    check_server(settings.prefect_api_url, settings.prefect_auth)
    from prefect import serve  # reads its settings when it is imported

    # The automation is a help, not a condition: without it a killed run stays "Running" in the UI.
    try:
        install_zombie_automation()
    except Exception as error:  # noqa: BLE001  (whatever it is, the runs go on)
        sys.stderr.write(f"the automation {ZOMBIES!r} was not made: {type(error).__name__}: {error}\n")
    products = [product.spec for product in platform.products.all()]
    if settings.prefect_server is not None and any(_embeds_offline(product) for product in products):
        _make_embedder(settings.state_dir / "models" / "minilm")
    made = [item for product in products for item in deployments(product)]
    _tell_ready(settings.state_dir)
    serve(*made, limit=RUNS_AT_ONCE, pause_on_shutdown=False, print_starting_message=False)


def _embeds_offline(product: Product) -> bool:
    return product.assistant is not None and product.assistant.embedding.provider == "minilm"


def _make_embedder(folder: Path) -> None:
    """The offline embedding model, for services in containers of their own: these hold neither its weights nor onnx.

    In a process of its own: this one waits for runs, and would keep the memory.
    """
    code = "import pathlib, sys; from plinth.retrieval.minilm import make_minilm as m; m(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-P", "-c", code, str(folder)], check=False)
    if done.returncode:  # the runs of others go on; a build of an index says the same
        sys.stderr.write("the embedding model was not made\n")


def _tell_ready(state: Path) -> None:
    with contextlib.suppress(OSError):
        (state / "run").mkdir(parents=True, exist_ok=True)
        (state / "run" / READY_FILE).write_text(str(os.getpid()))


if __name__ == "__main__":
    # By its importable name: a run's own process finds `scheduled` by the module it was defined in.
    from plinth.runtime import prefect as this_module

    this_module.main()
