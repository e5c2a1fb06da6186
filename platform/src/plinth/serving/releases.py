"""Which releases serve: loaded as the ledger's route says, checked by digest, swapped atomically, never older.

A watcher thread asks the release source every half second. Requests take `routing` once and keep that reference, so a
swap drops no request, and a release's memory goes when its last request lets go of it. When the source cannot be
reached or a bundle is damaged, the last good release goes on serving and `problem` says why.

A route that takes traffic away from a candidate is applied before anything is loaded; only a route to a release that is
not in memory waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from plinth.core.digests import digest_bytes
from plinth.core.failpoints import failpoint
from plinth.core.routes import Route
from plinth.errors import Corrupt, PlinthError, Unavailable
from plinth.serving.port import ReleaseSource

EventSink = Callable[..., None]

MAX_BACKOFF = 8.0
"""Seconds between two tries of a bundle that did not load; a damaged file is hashed again only this often."""


LOAD_SECONDS = 30.0
"""How long the watcher waits for a release to load; what hangs longer must not keep it from a rollback."""

Artifacts = Mapping[str, tuple[Path, str]]


class Loaded(Protocol):
    """A release in memory, of whatever kind."""

    @property
    def digest(self) -> str:
        """Its digest."""


Release = TypeVar("Release", bound=Loaded)


def as_they_are(serving: Release, candidate: Release) -> tuple[Release, Release]:
    """Two releases that remember nothing of the requests they answered: neither is ahead of the other."""
    return serving, candidate


@dataclass(frozen=True, slots=True)
class Routing(Generic[Release]):
    """What is applied: a route and its releases in memory. `candidate` is None exactly when the route's is."""

    route: Route
    serving: Release
    candidate: Release | None = None

    @property
    def loaded(self) -> tuple[Release, ...]:
        """The releases held."""
        return (self.serving,) if self.candidate is None else (self.serving, self.candidate)


def read_artifact(artifacts: Artifacts, name: str) -> bytes:
    """The bytes of one file of the bundle, checked against their digest as they are used, not as they once were.

    Raises:
        Corrupt: The file is missing from the bundle, or its content does not match.
    """
    if name not in artifacts:
        raise Corrupt(f"the release has no {name}", where="manifest.artifacts", hint="release again")
    path, digest = artifacts[name]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Corrupt(f"{name} cannot be read: {error.strerror}", where=str(path)) from error
    if digest_bytes(data) != digest:
        raise Corrupt(
            f"{name} does not match its digest {digest[:12]}",
            where=str(path),
            hint="restore the file, or train and release again; the last good release goes on serving",
        )
    return data


class _Loading(Generic[Release]):
    """A release on its way into memory."""

    def __init__(self, load: Callable[[], Release]) -> None:
        self.done = threading.Event()
        self._load = load
        self._outcome: Release | Exception | None = None
        threading.Thread(target=self._work, name="plinth-load", daemon=True).start()

    def result(self) -> Release:
        """The release, or what was met instead, when it is done."""
        outcome = self._outcome
        if outcome is None:
            raise Unavailable("the release was not loaded")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _work(self) -> None:
        try:
            failpoint("route.before-load")
            self._outcome = self._load()
            failpoint("route.after-load")
        except Exception as error:  # noqa: BLE001  (raised by whoever waits for the result)
            self._outcome = error
        finally:
            self.done.set()


class ReleaseHolder(Generic[Release]):
    """Holds the routing that is applied, and watches for the next one.

    Args:
        source: Says how traffic is to be split, and where the releases' artefacts are.
        load: Makes a loaded release of its digest and artefacts.
        on_equal_terms: Makes serving and candidate releases ready to be compared, before the candidate is routed.
        on_event: Called with a name, a level and fields when a release is taken over or refused, or a route applied.
        interval: Seconds between two looks at the source.
        clock: Monotonic seconds; tests give their own.
    """

    def __init__(
        self,
        source: ReleaseSource,
        load: Callable[[str, Artifacts], Release],
        *,
        on_equal_terms: Callable[[Release, Release], tuple[Release, Release]] = as_they_are,
        on_event: EventSink,
        interval: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.routing: Routing[Release] | None = None
        self.problem: str | None = None
        self.failures = 0
        self._source = source
        self._load = load
        self._on_equal_terms = on_equal_terms
        self._on_event = on_event
        self._interval = interval
        self._clock = clock
        self._retry_at = 0.0
        self._backoff = interval
        self._failed: Route | None = None
        self._loading: dict[str, _Loading[Release]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Apply the wanted route if there is one, and start watching."""
        self.poll()
        self._thread = threading.Thread(target=self._watch, name="plinth-releases", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching. The loaded releases stay."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def poll(self) -> bool:
        """Look once; follow a newer route. Returns whether the routing changed. Never raises."""
        before, wanted = self.routing, None
        try:
            wanted = self._source.current()
            self._forget_but(wanted)
            if self._news(wanted):
                assert wanted is not None  # noqa: S101  (_news says no to None)
                self._follow(wanted)
                self.problem, self._failed, self._backoff = None, None, self._interval
        except PlinthError as error:
            self._failed_with(wanted, str(error))
        except Exception as error:  # noqa: BLE001  (a watcher that died would leave an old release serving in silence)
            self._failed_with(wanted, f"{type(error).__name__}: {error}")
        return self.routing is not before

    def stats(self) -> dict[str, Any]:
        """What is applied: `release`, `generation`, `step` and `weight` (basis points) of the route; `stale`: it is not
        the wanted one; `release_failures`."""
        route = self.routing.route if self.routing else None
        return {
            "release": route.serving if route else "",
            "generation": route.generation if route else 0,
            "step": route.step if route else 0,
            "weight": route.weight if route else 0,
            "stale": bool(route and self.problem),
            "release_failures": self.failures,
        }

    def _news(self, wanted: Route | None) -> bool:
        if self.routing is None:
            if wanted is None:
                self.problem = "no release has been promoted yet"
                return False
        elif wanted is None:
            self.problem = "the ledger says that nothing serves: it was lost or made anew"
            return False
        elif wanted == self.routing.route:
            self.problem = None
            return False
        elif (refusal := _refusal(wanted, self.routing.route)) is not None:
            self.problem = refusal
            return False
        return wanted != self._failed or self._clock() >= self._retry_at

    def _follow(self, wanted: Route) -> None:
        """Apply a newer route, as far as its releases can be loaded.

        While they load, and if they cannot be, the old serving release answers everything: what a newer generation
        does not know of any more gets no further traffic. If it is the candidate that cannot be loaded, the route is
        applied without it, as step 0 of its generation: a new serving release waits for no candidate.
        """
        before = self.routing
        held = {release.digest: release for release in before.loaded} if before else {}
        if before and before.candidate and wanted.generation > before.route.generation and wanted.serving not in held:
            self._apply(Routing(replace(before.route, candidate=None, weight=0, shadow=False), before.serving))
        serving = held.get(wanted.serving) or self._loaded(wanted.serving)
        if wanted.candidate is None:
            self._apply(Routing(wanted, serving))
            return
        candidate = held.get(wanted.candidate)
        if candidate is None:
            alone = Route(wanted.generation, 0, wanted.serving)
            if self.routing is None or alone.order > self.routing.route.order:
                self._apply(Routing(alone, serving))
            serving, candidate = self._on_equal_terms(serving, self._loaded(wanted.candidate))
        self._apply(Routing(wanted, serving, candidate))

    def _loaded(self, digest: str) -> Release:
        """The release, loaded in a thread of its own.

        Raises:
            Unavailable: It has not come back within LOAD_SECONDS; the next look goes on waiting for the same thread.
        """
        loading = self._loading.get(digest)
        if loading is None:
            loading = self._loading[digest] = _Loading(lambda: self._load(digest, self._source.artifacts(digest)))
        if not loading.done.wait(LOAD_SECONDS):
            raise Unavailable(
                f"it takes more than {LOAD_SECONDS:.0f} s to load", where=digest, hint="roll back; look at its model"
            )
        del self._loading[digest]
        return loading.result()

    def _forget_but(self, wanted: Route | None) -> None:
        """Let go of what came into memory after the ledger had given it up."""
        needed = wanted.releases if wanted is not None else ()
        for digest, loading in list(self._loading.items()):
            if digest not in needed and loading.done.is_set():
                del self._loading[digest]

    def _apply(self, routing: Routing[Release]) -> None:
        before, self.routing = self.routing, routing
        route = routing.route
        fields: dict[str, Any] = {"release": route.serving, "generation": route.generation}
        if before is None or before.serving.digest != route.serving:
            self._on_event("release taken over", logging.INFO, **fields, before=before.serving.digest if before else "")
        if route.candidate is not None or (before is not None and before.candidate is not None):
            self._on_event(
                "route applied", logging.INFO, **fields, step=route.step, candidate=route.candidate or "",
                weight=route.weight, shadow=route.shadow,
            )  # fmt: skip

    def _failed_with(self, wanted: Route | None, reason: str) -> None:
        self.failures += 1
        if wanted is not None:
            self._backoff = min(self._backoff * 2, MAX_BACKOFF) if wanted == self._failed else self._interval
            self._failed, self._retry_at = wanted, self._clock() + self._backoff
        if reason != self.problem:
            self._on_event("release refused" if wanted else "ledger unreachable", logging.ERROR, reason=reason)
        self.problem = reason

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self.poll()


def _refusal(wanted: Route, applied: Route) -> str | None:
    """Why a route is not to follow the applied one, if so."""
    if wanted.order < applied.order:
        # Somebody restored an old ledger, or a stale leader wrote: every effect carries its generation and step.
        return (
            f"the ledger is at generation {wanted.generation}, step {wanted.step}: older than ours "
            f"({applied.generation}, step {applied.step})"
        )
    if wanted.generation > applied.generation:
        return None
    candidates = {wanted.candidate, applied.candidate} - {None}
    if wanted.serving == applied.serving and len(candidates) < 2 and wanted.order != applied.order:
        return None
    # A generation names its releases, and a step its split, for good: this is another ledger, such as a new one in its
    # place.
    return f"the ledger has other releases of generation {wanted.generation}: restart the service"
