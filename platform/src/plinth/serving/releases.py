"""Which release serves: loaded from the ledger's wish, checked by digest, swapped atomically, never older.

A watcher thread asks the release source every half second. Requests take `current` once and keep that reference, so
a swap drops no request, and the old release's memory goes when its last request lets go of it. When the source cannot
be reached or the new bundle is damaged, the last good release goes on serving and `problem` says why.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plinth.core.digests import digest_bytes
from plinth.core.formats import check_model_file
from plinth.errors import Corrupt, PlinthError
from plinth.serving.port import FeatureReader, ReleaseSource, Scorer, Wanted

ReaderFactory = Callable[[dict[str, Any]], FeatureReader]
ScorerFactory = Callable[[bytes], Scorer]
EventSink = Callable[..., None]

MAX_BACKOFF = 8.0
"""Seconds between two tries of a bundle that did not load; a damaged file is hashed again only this often."""


@dataclass(frozen=True)
class LoadedRelease:
    """A release in memory: model, read plan and the feature reader of each thread that serves it."""

    digest: str
    generation: int
    scorer: Scorer
    views: tuple[str, ...]
    plan: dict[str, Any]
    open_reader: ReaderFactory
    _local: threading.local = field(default_factory=threading.local, repr=False)

    def reader(self) -> FeatureReader:
        """The calling thread's feature reader: SQLite connections stay in the thread that opened them."""
        reader: FeatureReader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = self.open_reader(self.plan)
        return reader


def read_artifact(artifacts: Mapping[str, tuple[Path, str]], name: str) -> bytes:
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


def load_release(
    wanted: Wanted,
    artifacts: Mapping[str, tuple[Path, str]],
    *,
    make_scorer: ScorerFactory,
    open_reader: ReaderFactory,
    width: int,
) -> LoadedRelease:
    """A release from its artefacts: digests, format, model (warmed up) and read plan.

    Args:
        wanted: Its digest and generation.
        artifacts: File name to path and sha256.
        make_scorer: A model's bytes to a scorer.
        open_reader: A read plan to a feature reader.
        width: Features that the product's code assembles.

    Raises:
        Corrupt: An artefact is missing or damaged, or the model takes another number of features than `width`.
        RefusedByPolicy: The model file is not of an allowed format.
    """
    model = read_artifact(artifacts, "model.onnx")
    check_model_file(artifacts["model.onnx"][0], "model.onnx")
    try:
        plan = json.loads(read_artifact(artifacts, "read_plan.json"))
        views = tuple(str(view["name"]) for view in plan["views"])
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"the read plan does not fit: {error}", where="read_plan.json", hint="release again") from error
    scorer = make_scorer(model)
    if scorer.features != width:
        raise Corrupt(
            f"the model takes {scorer.features} features, the product's code makes {width}",
            where="model.onnx",
            hint="deploy the code that the release was made with (`plinth release show`)",
        )
    open_reader(plan)  # a plan that cannot be opened is refused here, not at the first request
    return LoadedRelease(wanted.digest, wanted.generation, scorer, views, plan, open_reader)


class ReleaseHolder:
    """Holds the release that serves, and watches for the next one.

    Args:
        source: Says which release is wanted, and where its artefacts are.
        load: Makes a loaded release of the wanted one and its artefacts.
        on_event: Called with a name, a level and fields when a release is taken over or refused.
        interval: Seconds between two looks at the source.
        clock: Monotonic seconds; tests give their own.
    """

    def __init__(
        self,
        source: ReleaseSource,
        load: Callable[[Wanted, Mapping[str, tuple[Path, str]]], LoadedRelease],
        *,
        on_event: EventSink,
        interval: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current: LoadedRelease | None = None
        self.problem: str | None = None
        self.failures = 0
        self._source = source
        self._load = load
        self._on_event = on_event
        self._interval = interval
        self._clock = clock
        self._retry_at = 0.0
        self._backoff = interval
        self._failed: Wanted | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Load the wanted release if there is one, and start watching."""
        self.poll()
        self._thread = threading.Thread(target=self._watch, name="plinth-releases", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching. The loaded release stays."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def poll(self) -> bool:
        """Look once; take a newer release over. Returns whether one was taken over. Never raises."""
        wanted = None
        try:
            wanted = self._source.current()
            if not self._news(wanted):
                return False
            assert wanted is not None  # noqa: S101  (_news says no to None)
            self._take_over(wanted)
        except PlinthError as error:
            self._failed_with(wanted, str(error))
        except Exception as error:  # noqa: BLE001  (a watcher that died would leave an old release serving in silence)
            self._failed_with(wanted, f"{type(error).__name__}: {error}")
        else:
            self.problem, self._failed, self._backoff = None, None, self._interval
            return True
        return False

    def _news(self, wanted: Wanted | None) -> bool:
        current = self.current
        if wanted is None or (current is not None and wanted.generation == current.generation):
            self.problem = None if current else "no release has been promoted yet"
            if current is not None and wanted is not None and wanted.digest != current.digest:
                # A generation names one release for good: this is another ledger, such as a new one in its place.
                self.problem = f"the ledger has another release of generation {current.generation}: restart the service"
            return False
        if current is not None and wanted.generation < current.generation:
            # Somebody restored an old ledger, or a stale leader wrote: every effect carries its generation.
            self.problem = f"the ledger is at generation {wanted.generation}, older than ours ({current.generation})"
            return False
        return wanted != self._failed or self._clock() >= self._retry_at

    def _take_over(self, wanted: Wanted) -> None:
        before = self.current
        started = self._clock()
        self.current = self._load(wanted, self._source.artifacts(wanted.digest))
        self._on_event(
            "release taken over",
            logging.INFO,
            release=wanted.digest,
            generation=wanted.generation,
            before=before.digest if before else "",
            seconds=round(self._clock() - started, 3),
        )

    def _failed_with(self, wanted: Wanted | None, reason: str) -> None:
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
