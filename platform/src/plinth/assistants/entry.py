"""What the entry file of an assistant's service is made of: the service of a profile, and the process it runs in."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from plinth.assistants.log import answer_sink, redactor
from plinth.assistants.pages import make_pages
from plinth.assistants.port import Tools
from plinth.assistants.service import AnswerService
from plinth.core.products import Product
from plinth.errors import PlinthError
from plinth.ledger.port import Artifacts
from plinth.ledger.store import Ledger
from plinth.serving.access import guarded, host_names, open_access
from plinth.serving.asgi import App
from plinth.serving.ledger import LedgerReleases
from plinth.serving.pyarrow import ParquetRequests
from plinth.settings import Settings
from plinth.telemetry import logs, traces
from plinth.telemetry.answers import AnswerMetrics, AnswerObserver, answer_readings


def make_service(product: Product, settings: Settings, artifacts: Artifacts, tools: Tools) -> AnswerService:
    """The service of an assistant in a profile.

    Args:
        product: The product.
        settings: Of the profile.
        artifacts: Where releases keep their configuration.
        tools: The adapters of the profile.

    Raises:
        RefusedByPolicy: The product is no assistant.
        Unavailable: The ledger cannot be opened.
        InvalidInput: The key of the tokens is too short.
    """
    name, folder = product.name, settings.product_dir(product.name)
    handler = logs.configure(name, settings.log_level, otlp_url=settings.otlp_url)
    tracing = traces.configure(settings, name)

    def scraped() -> Any:
        exporter = tracing.exporter
        return answer_readings(service.stats(), *((exporter.exported, exporter.failed) if exporter else ()))

    def stop_telemetry() -> None:
        tracing.close()
        handler.flush()  # uvicorn ends the process by the signal it got: nothing after this is certain to run

    # create=False: a service must neither create nor migrate the ledger. It reads it, and adds to the audit log.
    ledger = Ledger(settings.database_url, create=False)
    observer = AnswerObserver(name, AnswerMetrics(name, scraped, product.latency_thresholds), tracing)
    service = AnswerService(
        product,
        folder,
        LedgerReleases(ledger, artifacts, name),
        tools,
        sink=answer_sink(folder, redactor((tools.secrets, tools.personal_data))),
        request_sink=ParquetRequests(folder / "requests"),
        observer=observer,
        pages=make_pages(product.title, product.description),
        on_stop=stop_telemetry,
        max_body=product.serving.max_body_bytes,
        allowed_hosts=host_names(settings),
        access=open_access(settings, name, ledger, observer),
    )
    return service


def serve(
    front: Callable[[], App],
    module: str,
    port: int,
    settings: Callable[[], Settings],
    argv: Sequence[str] | None = None,
) -> int:
    """Serve in this process until SIGTERM.

    Args:
        front: Makes the application.
        module: Name of the entry file's module, for the help.
        port: Where to listen unless the command line says something else.
        settings: Reads those of the profile.
        argv: The command line; default that of the process.

    Returns:
        The exit code.
    """
    from plinth.serving.uvicorn import bind, run

    parser = argparse.ArgumentParser(prog=f"python -m {module}", description="Serve in this process until SIGTERM.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=port)
    args = parser.parse_args(argv)
    try:
        listener = bind(args.host, args.port, setting="PLINTH_SERVICE_PORTS", guarded=guarded(settings()))
        run(front(), listener)
    except PlinthError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0
