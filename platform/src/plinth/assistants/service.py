"""One running assistant: its parts, started and stopped in order. Built when it starts: importing it does no work."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plinth.assistants.answerer import Answerer, Releases, record
from plinth.assistants.answering import find
from plinth.assistants.app import AnswerApp
from plinth.assistants.loading import Loader
from plinth.assistants.log import AnswerLog, AnswerRecord
from plinth.assistants.port import AnswerObserver, Tools
from plinth.assistants.shadow import AnswerShadow
from plinth.assistants.staleness import Staleness
from plinth.assistants.tenants import Door
from plinth.core.answers import Answer
from plinth.core.corpus import PROBE_TENANT, Scope
from plinth.core.products import Product
from plinth.core.routes import Route
from plinth.serving.buffer import Sink
from plinth.serving.health import Health
from plinth.serving.port import ReleaseSource
from plinth.serving.requests import RequestLog, RequestRecord


class AnswerService:
    """The parts of one assistant's service.

    Args:
        product: The product.
        state: Its state folder, for tenants and freshness.
        source: Says how traffic is to be split.
        tools: The adapters of the profile.
        sink: Where the answer log goes.
        request_sink: Where the request log goes.
        observer: Where metrics, logs and traces go.
        pages: Static pages by path.
        on_stop: Called last when the service stops.
        running: Questions that are answered at once.
        options: Passed on to the application (`max_body`, `body_timeout`, `allowed_hosts`, `access`).
    """

    def __init__(
        self,
        product: Product,
        state: Path,
        source: ReleaseSource,
        tools: Tools,
        *,
        sink: Sink[AnswerRecord],
        request_sink: Sink[RequestRecord],
        observer: AnswerObserver,
        pages: dict[str, tuple[bytes, str]],
        on_stop: Callable[[], None] = lambda: None,
        running: int | None = None,
        **options: Any,
    ) -> None:
        self.observer = observer
        self._on_stop = on_stop
        self.staleness = Staleness(state, product.answers().sources)
        loader = Loader(product.name, tools, without=self.staleness.without)
        self.releases: Releases = Releases(source, loader.load, on_event=observer.event)
        self.log = AnswerLog(sink, on_event=observer.event)
        self.requests = RequestLog(request_sink, on_event=observer.event)
        self.shadow = AnswerShadow(self.releases, self._shadowed, observer)
        self.answerer = Answerer(
            product.name, self.releases, self.log, self.requests, self.shadow, observer, self.staleness,
            **({} if running is None else {"running": running}),
        )  # fmt: skip
        logs = (self.log, self.requests)
        health = Health(self.releases, logs, self.probe, store="index", warn=self._warnings)
        self.app = AnswerApp(
            self.answerer, Door(state), health, pages, model=product.name, created=int(time.time()), **options
        )

    def start(self) -> None:
        """Load what the route names, if there is one, and start what runs in the background."""
        self.staleness.start()
        self.releases.start()
        self.log.start()
        self.requests.start()
        self.shadow.start()
        self.app.start()
        self._warm_up()
        # What is alive now stays alive: the collector need not walk it again in the middle of an answer.
        gc.collect()
        gc.freeze()

    def stop(self) -> None:
        """Stop watching and write what is left of the logs."""
        self.releases.stop()
        self.shadow.stop()
        self.staleness.stop()
        self.answerer.close()
        self.log.close()
        self.requests.close()
        self.app.close()
        self._on_stop()

    def stats(self) -> dict[str, Any]:
        """What the metrics scrape; `plinth.telemetry.answers.answer_readings` says what is in it."""
        routing = self.releases.routing
        build = routing.serving.config.index if routing else None
        made_at = self.staleness.made_at(build.build) if build else None
        sources = self.staleness.sources(build.build) if build else {}
        return {
            **self.log.stats(),
            **self.releases.stats(),
            "shadow_dropped": self.shadow.dropped,
            "running": self.answerer.running,
            "shed": self.answerer.shed,
            "chunks": sum(build.chunks.values()) if build else 0,
            "index_age": (datetime.now(UTC) - made_at).total_seconds() if made_at else None,
            "sources": {name: (state.age, state.lag, bool(state.late)) for name, state in sources.items()},
        }

    def probe(self) -> None:
        """Look into the index that serves.

        Raises:
            PlinthError: It cannot be read.
        """
        routing = self.releases.routing
        if routing is not None:
            routing.serving.index.count(Scope(PROBE_TENANT))

    def _warm_up(self) -> None:
        """A question through everything but the generator and the logs: the first one then loads nothing."""
        routing = self.releases.routing
        if routing is None:
            return
        try:
            for release in routing.loaded:
                find(release, "What is this?", Scope())
        except Exception as error:  # noqa: BLE001  (a warm-up is a help: whatever it meets, the service starts)
            self.observer.event("warm-up failed", logging.WARNING, reason=str(error))

    def _warnings(self) -> list[str]:
        routing = self.releases.routing
        states = self.staleness.sources(routing.serving.config.index.build) if routing else {}
        return [f"the source {name} is stale: {state.late}" for name, state in sorted(states.items()) if state.late]

    def _shadowed(
        self, route: Route, release: str, request_id: str, entity: str, seconds: float, whole: Answer | None, code: int
    ) -> None:
        record(
            self.requests, self.observer, route, "shadow", release, request_id, entity, seconds, whole, code
        )  # fmt: skip
