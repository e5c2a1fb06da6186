"""One running service: its parts, started and stopped in order. Built when it starts, so importing it does no work."""

from __future__ import annotations

import gc
import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from plinth.errors import Unavailable
from plinth.serving.asgi import App, Receive, Scope, Send
from plinth.serving.buffer import Sink
from plinth.serving.health import Health
from plinth.serving.inference_log import Entry, InferenceLog
from plinth.serving.port import Observer, ReleaseSource, ServedProduct
from plinth.serving.predictions import ServingApp
from plinth.serving.predictor import Predictor
from plinth.serving.releases import Artifacts, ReleaseHolder
from plinth.serving.requests import RequestLog, RequestRecord
from plinth.serving.shadow import Shadow
from plinth.serving.tabular import LoadedRelease, ReaderFactory, ScorerFactory, load_release, on_equal_terms


class Service:
    """The parts of one product's service.

    Args:
        product: Reads requests and makes vectors.
        source: Says how traffic is to be split.
        make_scorer: A model's bytes to a scorer.
        open_reader: A read plan to a feature reader.
        sink: Where the inference log goes.
        request_sink: Where the request log goes.
        observer: Where metrics, logs and traces go.
        pages: Static pages by path.
        on_stop: Called last when the service stops.
        options: Passed on to ServingApp (`max_body`, `body_timeout`, `allowed_hosts`, `access`).
    """

    def __init__(
        self,
        product: ServedProduct,
        source: ReleaseSource,
        *,
        make_scorer: ScorerFactory,
        open_reader: ReaderFactory,
        sink: Sink[Entry],
        request_sink: Sink[RequestRecord],
        observer: Observer,
        pages: dict[str, tuple[bytes, str]],
        on_stop: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> None:
        width = len(product.feature_names)
        self._product = product
        self._on_stop = on_stop

        def load(digest: str, artifacts: Artifacts) -> LoadedRelease:
            return load_release(digest, artifacts, make_scorer=make_scorer, open_reader=open_reader, width=width)

        self.observer = observer
        self.releases = ReleaseHolder(source, load, on_equal_terms=on_equal_terms, on_event=observer.event)
        self.log = InferenceLog(sink, on_event=observer.event)
        self.requests = RequestLog(request_sink, on_event=observer.event)
        self.shadow = Shadow(product, self.releases, self.requests, observer)
        self._predictor = Predictor(product, self.releases, self.log, self.requests, self.shadow, observer)
        health = Health(self.releases, (self.log, self.requests), self.probe)
        self.app = ServingApp(self._predictor, health, pages, **options)

    def start(self) -> None:
        """Load what the route names, if there is one, and start the watcher, the logs' writers and the shadow."""
        self.releases.start()
        self.log.start()
        self.requests.start()
        self.shadow.start()
        self.app.start()
        self._warm_up()
        # What is alive now stays alive: the collector need not walk it again in the middle of a request.
        gc.collect()
        gc.freeze()

    def _warm_up(self) -> None:
        """The product's example once through everything but the log: the first request then opens and imports nothing.

        Called in the thread that serves, because that is the thread whose store connection it opens.
        """
        routing = self.releases.routing
        if routing is None:
            return
        try:
            instances = self._product.parse(json.dumps(self._product.openapi()["example"]).encode())
            for release in routing.loaded:
                block = release.reader().read(instances.keys, instances.at)
                release.scorer.score(self._product.assemble(instances, block.values))
        except Exception as error:  # noqa: BLE001  (a warm-up is a help: whatever it meets, the service starts)
            self.observer.event("warm-up failed", logging.WARNING, reason=str(error))

    def stop(self) -> None:
        """Stop watching and write what is left of the logs."""
        self.releases.stop()
        self.shadow.stop()
        self._predictor.close()
        self.log.close()
        self.requests.close()
        self.app.close()
        self._on_stop()

    def stats(self) -> dict[str, Any]:
        """What the metrics scrape.

        The inference log's counts (`written`, `dropped`, `buffered`, `write_errors`, `failing`); the request log's
        (`requests_written`, `requests_dropped`, `requests_write_errors`); `release`, `generation`, `step` and `weight`
        (basis points) of the route that is applied; `stale`: it is not the wanted one; `release_failures`;
        `shadow_dropped`: requests that the shadow did not score.
        """
        return {
            **self.log.stats(),
            "requests_written": self.requests.written,
            "requests_dropped": self.requests.dropped,
            "requests_write_errors": self.requests.write_errors,
            **self.releases.stats(),
            "shadow_dropped": self.shadow.dropped,
        }

    def probe(self) -> None:
        """Read one row that does not exist from the online store.

        Raises:
            Unavailable: It cannot be read.
        """
        routing = self.releases.routing
        if routing is not None:
            release = routing.serving
            keys: dict[str, Sequence[str | None]] = {
                key: [""] for view in release.plan["views"] for key in view["join_keys"]
            }
            release.reader().read(keys, np.array([int(time.time())], dtype=np.int64))


class Startable(Protocol):
    """A service: an application that is started and stopped."""

    @property
    def app(self) -> App:
        """Answers requests while it runs."""

    def start(self) -> None:
        """Start it."""

    def stop(self) -> None:
        """Stop it."""


Built = TypeVar("Built", bound=Startable)


class LazyService(Generic[Built]):
    """An ASGI application that is built when it is started: module level may hold it without doing work."""

    def __init__(self, build: Callable[[], Built]) -> None:
        self._build = build
        self._service: Built | None = None

    @property
    def service(self) -> Built:
        """The running service.

        Raises:
            Unavailable: It was not started.
        """
        if self._service is None:
            raise Unavailable("the service is not started", hint="run its lifespan: `bentoml serve` or `python -m`")
        return self._service

    def start(self) -> None:
        """Build it and start it."""
        service = self._build()
        service.start()
        self._service = service

    def stop(self) -> None:
        """Stop it, if it runs."""
        service, self._service = self._service, None
        if service is not None:
            service.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to the running service."""
        await self.service.app(scope, receive, send)
