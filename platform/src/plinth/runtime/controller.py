"""The controller as a process: the loop around rollouts.controller.

    python -P -m plinth.runtime.controller

Any number may run; the one that holds the lease acts, and another takes over when it dies. Nothing is imported that a
quiet platform does not need: DuckDB comes with the first rollout, MLflow with the first effect on it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from plinth.core.basic_auth import authorization
from plinth.core.products import Product
from plinth.core.rollout_gates import judge
from plinth.errors import PlinthError
from plinth.ledger.leases import Candidate
from plinth.models.mlflow_http import version_at
from plinth.rollouts.controller import Controller
from plinth.rollouts.projection import INDEX, LEASE, PROMPT, Alias, Projector, process_name
from plinth.rollouts.targets import index_alias
from plinth.runtime.evidence import Collector
from plinth.runtime.exporter import Exporter
from plinth.runtime.log_watch import LogWatch
from plinth.runtime.services import CONTROLLER_READY
from plinth.telemetry import logs
from plinth.wiring import Platform

log = logging.getLogger(__name__)

INTERVAL = 1.0
LONGEST_PAUSE = 5.0
"""Seconds between two ticks while the ledger cannot be used, at most."""
WATCH_SECONDS = 30.0
"""Between two looks at how fresh the sources of assistants are."""
ENDING_SECONDS = 5.0


class Manifests:
    """Products' manifests as they are now; parsed again only when the file changed."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._known: dict[str, tuple[tuple[int, int], Product]] = {}

    def __call__(self, name: str) -> Product:
        """The product's manifest; raises as `Products.get`."""
        path = self._platform.products.services / name / "product.yaml"
        with contextlib.suppress(OSError):
            state = path.stat()
            stamp = state.st_mtime_ns, state.st_size
            known = self._known.get(name)
            if known is None or known[0] != stamp:
                known = self._known[name] = stamp, self._platform.products.get(name).spec
            return known[1]
        return self._platform.products.get(name).spec


def build(platform: Platform) -> Controller:
    """The controller of a platform, with the profile's adapters."""
    settings, manifest = platform.settings, Manifests(platform)
    actor = "controller"
    return Controller(
        platform.ledger,
        Candidate(platform.ledger, LEASE, process_name()),
        backend=platform.backend,
        evidence=Collector(
            lambda: platform.signals,
            ledger=platform.ledger,
            artifacts=platform.artifacts,
            folder_of=settings.product_dir,
            product=manifest,
        ),
        judge=judge,
        product=manifest,
        products=platform.products.names,
        projector=Projector(
            platform.ledger,
            platform.aliases_for,
            actor=actor,
            glance=lambda name, alias: _glance(platform, name, alias),
        ),
        actor=actor,
    )


class FreshnessWatch:
    """Looks whether the sources of assistants are beyond their objectives: a refresh that stopped says nothing itself.

    Args:
        platform: Whose assistants.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._manifest = Manifests(platform)
        self._problems: dict[str, str] = {}

    def __call__(self) -> None:
        """Look once at every assistant. What fails on one stops no other, and is logged when it changes."""
        for name in self._platform.products.names():
            problem = ""
            try:
                self._look(name)
            except (PlinthError, OSError, ValueError) as error:
                problem = str(error)
            if problem and problem != self._problems.get(name):
                log.warning("freshness cannot be watched", extra={"product": name, "reason": problem})
            self._problems[name] = problem

    def _look(self, name: str) -> None:
        from plinth.assistants import indexing

        product = self._manifest(name)
        if product.assistant is not None:
            indexing.watch(self._platform.ledger, product, self._platform.settings.product_dir(name))


def _glance(platform: Platform, name: str, alias: Alias) -> str | None:
    """Which version carries an alias. MLflow keeps prompts as it keeps models, so its server tells of both."""
    if name.startswith(INDEX):
        return platform.assistants.store(name.removeprefix(INDEX)).alias(index_alias(name, alias))
    settings = platform.settings
    headers = authorization(settings.mlflow_username, settings.mlflow_password)
    return version_at(settings.mlflow_url, name.removeprefix(PROMPT), alias, headers)


def run(
    platform: Platform,
    *,
    once: bool = False,
    interval: float = INTERVAL,
    on_ready: Callable[[], None] = lambda: None,
) -> bool:
    """Move rollouts until SIGTERM or SIGINT comes; the tick at work is ended and the lease given up.

    Args:
        platform: Whose rollouts.
        once: One look at everything instead, without waiting for a lease that somebody else holds.
        interval: Seconds between two looks.
        on_ready: Called after the first look.

    Returns:
        Whether this process held the lease at its last look.

    Raises:
        Unavailable, Corrupt: With `once`, the ledger cannot be used.
    """
    controller = build(platform)
    if once:
        leads = controller.tick()
        if leads:
            _project_once(controller)
            controller.tick()  # what only waited for its projection ends
            controller.step_down()
        return leads
    stop = threading.Event()
    exporter = Exporter(platform, Manifests(platform), controller.leads)
    exporter.start()
    try:
        with _until_signalled(stop):
            LogWatch(platform, controller.leads).start(stop)
            return _Loop(controller, stop, interval, on_ready, FreshnessWatch(platform), exporter.metrics.tick).run()
    finally:
        exporter.close()


def _project_once(controller: Controller) -> None:
    """Keeps the lease meanwhile: building the registry alone may take longer than a lease is trusted."""
    from concurrent.futures import ThreadPoolExecutor, wait

    with ThreadPoolExecutor(1, "plinth-projection") as pool:
        work = pool.submit(controller.project)
        while not wait([work], timeout=INTERVAL / 2).done:
            controller.keep()
        work.result()


class _Loop:
    """Ticks in this thread, projects in another, so that a registry that hangs holds up no rollback, and looks at
    freshness in a third."""

    def __init__(
        self,
        controller: Controller,
        stop: threading.Event,
        interval: float,
        on_ready: Callable[[], None],
        watch: Callable[[], None] = lambda: None,
        tell: Callable[[str, float], None] = lambda _result, _seconds: None,
    ) -> None:
        self._controller = controller
        self._stop = stop
        self._interval = interval
        self._on_ready = on_ready
        self._broken: BaseException | None = None
        self._look = watch
        self._tell = tell
        self._thread = threading.Thread(target=self._project, name="plinth-projection", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="plinth-freshness", daemon=True)

    def run(self) -> bool:
        self._thread.start()
        self._watcher.start()
        leads, pause, problem = False, self._interval, ""
        ready = False
        while True:
            began = time.perf_counter()
            try:
                leads = self._controller.tick()
                pause, problem = self._interval, ""
                self._tell("leads" if leads else "follows", time.perf_counter() - began)
            except PlinthError as error:  # the ledger is away: services serve on, and so do we
                self._tell("failed", time.perf_counter() - began)
                if str(error) != problem:
                    log.error("the ledger cannot be used", extra={"reason": str(error)})
                pause, problem = min(pause * 2, max(LONGEST_PAUSE, self._interval)), str(error)
            if not ready:
                ready = True
                self._on_ready()
            if self._stop.wait(pause):
                break
        self._thread.join(ENDING_SECONDS)
        if not self._thread.is_alive():
            # Else it still writes to the registry: nobody else should before the lease has run out.
            with contextlib.suppress(PlinthError):
                self._controller.step_down()
        if self._broken is not None:
            raise self._broken
        return leads

    def _project(self) -> None:
        try:
            while not self._stop.wait(self._interval / 2):
                # The ledger or the workspace is away for a moment; `tick` says so.
                with contextlib.suppress(PlinthError, OSError):
                    self._controller.project()
        except BaseException as error:  # noqa: BLE001  (out of memory, or a bug: the process ends, and is started again)
            self._broken = error
            self._stop.set()

    def _watch(self) -> None:
        """Nothing waits for this: its events are told once, whoever else looks."""
        while not self._stop.wait(WATCH_SECONDS):
            try:
                if self._controller.leads():
                    self._look()
            except Exception:  # a bug here must stop no rollout
                log.exception("freshness cannot be watched")


@contextlib.contextmanager
def _until_signalled(stop: threading.Event) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tell_ready(state: Path) -> None:
    """Leave this process's id where `plinth status` looks for it."""
    with contextlib.suppress(OSError):
        (state / "run" / CONTROLLER_READY).write_text(str(os.getpid()))


def main() -> None:
    """The supervised process."""
    platform = Platform.from_settings()
    settings = platform.settings
    handler = logs.configure("controller", settings.log_level, otlp_url=settings.otlp_url)
    try:
        run(platform, on_ready=lambda: tell_ready(platform.settings.state_dir))
    finally:
        handler.close()


if __name__ == "__main__":
    main()
