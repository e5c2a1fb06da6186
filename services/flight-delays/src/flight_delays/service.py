"""The product's service: its parts wired together, and the BentoML service they run in.

`python -m flight_delays.service --host 127.0.0.1 --port 3001` serves in one process, as the supervisor wants it;
`bentoml serve flight_delays.service:FlightDelays` serves the same under BentoML's own process manager.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, cast

import bentoml

from plinth.errors import PlinthError
from plinth.serving.bentoml import CONFIG, Front
from plinth.serving.service import LazyService, Service

if TYPE_CHECKING:
    from plinth.serving.port import FeatureReader

PRODUCT = "flight-delays"


def build() -> Service:
    """The service of the profile that the environment describes.

    Raises:
        NotFound, InvalidInput: The product's manifest is missing or does not fit.
        Unavailable: The ledger cannot be opened.
    """
    from flight_delays import vector
    from flight_delays.api import FlightApi
    from plinth.ledger.store import Ledger
    from plinth.serving.access import host_names, open_access
    from plinth.serving.ledger import LedgerReleases
    from plinth.serving.onnxruntime import OnnxScorer
    from plinth.serving.pages import make_pages
    from plinth.serving.pyarrow import ParquetRequests, ParquetSink
    from plinth.telemetry import logs, traces
    from plinth.telemetry.observer import ServiceObserver
    from plinth.telemetry.prometheus import Metrics, service_readings
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    settings = platform.settings
    handler = logs.configure(PRODUCT, settings.log_level, otlp_url=settings.otlp_url)
    spec = platform.products.get(PRODUCT).spec
    api = FlightApi(
        vector.assemble,
        vector.FEATURES,
        carriers=vector.CARRIERS,
        origins=vector.ORIGINS,
        dests=vector.DESTS,
        max_batch=spec.serving.max_batch,
    )
    folder = settings.product_dir(PRODUCT)
    tracing = traces.configure(settings, PRODUCT)

    def open_reader(plan: dict[str, Any]) -> FeatureReader:
        # The event loop never waits, for a lock or a server: serving/predictor.py tries the request again instead.
        return platform.open_reader(PRODUCT, plan)

    def scraped() -> Any:
        exporter = tracing.exporter
        return service_readings(service.stats(), *((exporter.exported, exporter.failed) if exporter else ()))

    def stop_telemetry() -> None:
        tracing.close()
        handler.flush()  # uvicorn ends the process by the signal it got: nothing after this is certain to run

    # create=False: a service must neither create nor migrate the ledger. It reads it, and adds to the audit log.
    ledger = Ledger(settings.database_url, create=False)
    observer = ServiceObserver(PRODUCT, Metrics(PRODUCT, scraped, spec.latency_thresholds), tracing)
    service = Service(
        api,
        LedgerReleases(ledger, platform.artifacts, PRODUCT),
        make_scorer=OnnxScorer,
        open_reader=open_reader,
        sink=ParquetSink(folder / "inference", api.feature_names),
        request_sink=ParquetRequests(folder / "requests"),
        observer=observer,
        pages=make_pages(api, spec.title, spec.description),
        on_stop=stop_telemetry,
        max_body=spec.serving.max_body_bytes,
        allowed_hosts=host_names(settings),
        access=open_access(settings, PRODUCT, ledger, observer),
    )
    return service


running = LazyService(build)


@bentoml.service(name="FlightDelays", **CONFIG)
class FlightDelays:
    """Will this flight arrive 15 or more minutes late? Asked two hours before its scheduled departure."""

    def __init__(self) -> None:
        running.start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def stop(self) -> None:
        """Write what is left of the inference log."""
        running.stop()


# The decorator makes a bentoml.Service of the class, but is typed as returning the class.
cast(Any, FlightDelays).add_asgi_middleware(Front, serve=running)


def main(argv: list[str] | None = None) -> int:
    """Serve in this process until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m flight_delays.service", description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3001)
    args = parser.parse_args(argv)
    from plinth.serving.access import guarded
    from plinth.serving.uvicorn import bind, run
    from plinth.wiring import Platform

    try:
        asks = guarded(Platform.from_settings().settings)
        listener = bind(args.host, args.port, setting="PLINTH_SERVICE_PORTS", guarded=asks)
        # Outermost, so that a request passes none of the framework's layers; BentoML keeps the lifespan.
        run(Front(cast(Any, FlightDelays).to_asgi(), running), listener)
    except PlinthError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
