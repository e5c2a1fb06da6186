"""Watching the replayed product day by day: calibration against late labels, drift by month, the retraining trigger."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from flight_delays.request import midnight
from plinth.core.durations import seconds
from plinth.core.products import Product
from plinth.errors import NotFound
from plinth.ledger.store import Event, Ledger
from plinth.monitoring import latest, performance
from plinth.monitoring.assessment import Assessment, assess
from plinth.monitoring.duckdb import LogReader
from plinth.monitoring.reference import FILE, Reference
from plinth.monitoring.trigger import Decision, Signals, last_trigger, trigger

if TYPE_CHECKING:
    from plinth.wiring import Platform


class ReplayEvents:
    """The ledger's events of one replay: the triggers of an earlier one must not hold this one's back."""

    def __init__(self, ledger: Ledger) -> None:
        self.replay = uuid.uuid4().hex
        self._ledger = ledger

    def events(self, product: str, kind: str) -> list[Event]:
        """As the ledger's, of this replay only."""
        return [event for event in self._ledger.events(product, kind) if event.payload.get("replay") == self.replay]

    def record_event(self, product: str, kind: str, payload: dict[str, Any], *, at: str | None = None) -> None:
        """As the ledger's, marked as of this replay."""
        self._ledger.record_event(product, kind, {**payload, "replay": self.replay}, at=at)

    def record_event_once(
        self,
        product: str,
        kind: str,
        payload: dict[str, Any],
        *,
        at: str | None = None,
        unless: Callable[[list[Event]], bool],
    ) -> bool:
        """As the ledger's, of this replay only."""
        return self._ledger.record_event_once(
            product,
            kind,
            {**payload, "replay": self.replay},
            at=at,
            unless=lambda events: unless([event for event in events if event.payload.get("replay") == self.replay]),
        )


class Watch:
    """Looks at a product as its operator would, with only what is known at each time."""

    def __init__(self, platform: Platform, product: Product) -> None:
        self._platform = platform
        self._product = product
        self._folder = platform.settings.product_dir(product.name)
        self._events = ReplayEvents(platform.ledger)

    def cooling_down(self, as_of: date) -> bool:
        """Whether a trigger of this replay still holds any other back at the start of `as_of`."""
        now = midnight(as_of)
        last = last_trigger(self._events, self._product.name, now)
        return last is not None and now - last < timedelta(
            seconds=seconds(self._product.tabular().monitoring.cool_down)
        )

    def daily(self, as_of: date) -> Decision:
        """Calibration of the serving release over the trailing window, judged at the start of `as_of` (UTC)."""
        bounds = self._product.tabular().monitoring
        now = midnight(as_of)
        days = seconds(bounds.calibration_window) // 86_400
        end = performance.mature_end(np.datetime64(as_of, "us"))
        serving = self._platform.ledger.current(self._product.name)
        release = serving.digest if serving else ""
        log = LogReader(self._folder, now - timedelta(days=days + 2), now, release)
        point = performance.calibration_at(log.labelled(now), end, days, bounds.minimum_labels)
        return trigger(self._events, self._product.name, Signals(calibration=point), bounds, now)

    def month(self, start: date, end: date, *, quiet: bool = False) -> tuple[Assessment | None, Decision | None]:
        """What serves at the end of a month, over its own traffic of [start, end): drift, and what that triggers.

        None without a serving release, or when it has answered nothing yet; no decision where it has to be `quiet`.
        """
        serving = self._platform.ledger.current(self._product.name)
        if serving is None:
            return None, None
        try:
            seen = self.assess(serving.digest, start, end)
        except NotFound:
            return None, None
        latest.keep(seen, self._folder)
        if quiet:
            return seen, None
        now = midnight(end)
        signals = Signals(drift=seen.drift)
        return seen, trigger(self._events, self._product.name, signals, self._product.tabular().monitoring, now)

    def assess(self, release: str, start: date, end: date) -> Assessment:
        """One release over [start, end), with the labels known two days after.

        Raises:
            NotFound: The release answered nothing in this time.
        """
        manifest = self._platform.ledger.release(release).manifest
        reference = Reference.load(self._platform.artifacts.path(manifest.artifacts[FILE]))
        first, last = midnight(start), midnight(end)
        return assess(
            self._product, self._folder, release, reference, start=first, end=last, as_of=last + timedelta(days=2)
        )
