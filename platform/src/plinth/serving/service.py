"""One running service: its parts, started and stopped in order. Built when it starts, so importing it does no work."""

from __future__ import annotations

import gc
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from plinth.errors import Unavailable
from plinth.serving.asgi import Receive, Scope, Send, ServingApp
from plinth.serving.health import Health
from plinth.serving.inference_log import InferenceLog, Sink
from plinth.serving.port import Observer, ReleaseSource, ServedProduct
from plinth.serving.predictor import Predictor
from plinth.serving.releases import LoadedRelease, ReaderFactory, ReleaseHolder, ScorerFactory, load_release


class Service:
    """The parts of one product's service.

    Args:
        product: Reads requests and makes vectors.
        source: Says which release is wanted.
        make_scorer: A model's bytes to a scorer.
        open_reader: A read plan to a feature reader.
        sink: Where the inference log goes.
        observer: Where metrics, logs and traces go.
        pages: Static pages by path.
        on_stop: Called last when the service stops.
        options: Passed on to ServingApp (`max_body`, `body_timeout`, `allowed_hosts`).
    """

    def __init__(
        self,
        product: ServedProduct,
        source: ReleaseSource,
        *,
        make_scorer: ScorerFactory,
        open_reader: ReaderFactory,
        sink: Sink,
        observer: Observer,
        pages: dict[str, tuple[bytes, str]],
        on_stop: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> None:
        width = len(product.feature_names)
        self._product = product
        self._on_stop = on_stop

        def load(wanted: Any, artifacts: Mapping[str, Any]) -> LoadedRelease:
            return load_release(wanted, artifacts, make_scorer=make_scorer, open_reader=open_reader, width=width)

        self.observer = observer
        self.releases = ReleaseHolder(source, load, on_event=observer.event)
        self.log = InferenceLog(sink, on_event=observer.event)
        health = Health(self.releases, self.log, self.probe)
        self.app = ServingApp(Predictor(product, self.releases, self.log, observer), health, pages, **options)

    def start(self) -> None:
        """Load the promoted release, if any, and start the watcher and the log's writer."""
        self.releases.start()
        self.log.start()
        self._warm_up()
        # What is alive now stays alive: the collector need not walk it again in the middle of a request.
        gc.collect()
        gc.freeze()

    def _warm_up(self) -> None:
        """The product's example once through everything but the log: the first request then opens and imports nothing.

        Called in the thread that serves, because that is the thread whose store connection it opens.
        """
        release = self.releases.current
        if release is None:
            return
        try:
            instances = self._product.parse(json.dumps(self._product.openapi()["example"]).encode())
            block = release.reader().read(instances.keys, instances.at)
            release.scorer.score(self._product.assemble(instances, block.values))
        except Exception as error:  # noqa: BLE001  (a warm-up is a help: whatever it meets, the service starts)
            self.observer.event("warm-up failed", logging.WARNING, reason=str(error))

    def stop(self) -> None:
        """Stop watching and write what is left of the inference log."""
        self.releases.stop()
        self.log.close()
        self._on_stop()

    def stats(self) -> dict[str, Any]:
        """What the metrics scrape: the inference log's counts, and the state of the release."""
        release = self.releases.current
        return {
            **self.log.stats(),
            "release": release.digest if release else "",
            "generation": release.generation if release else 0,
            "stale": bool(release and self.releases.problem),
            "release_failures": self.releases.failures,
        }

    def probe(self) -> None:
        """Read one row that does not exist from the online store.

        Raises:
            Unavailable: It cannot be read.
        """
        release = self.releases.current
        if release is not None:
            keys: dict[str, Sequence[str | None]] = {
                key: [""] for view in release.plan["views"] for key in view["join_keys"]
            }
            release.reader().read(keys, np.array([int(time.time())], dtype=np.int64))


class LazyService:
    """An ASGI application that is built when it is started: module level may hold it without doing work."""

    def __init__(self, build: Callable[[], Service]) -> None:
        self._build = build
        self._service: Service | None = None

    @property
    def service(self) -> Service:
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
