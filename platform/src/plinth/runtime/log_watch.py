"""When the logs are looked after: a thread of the controller, which imports no tool and starts a process to work."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from plinth.errors import PlinthError

if TYPE_CHECKING:
    from plinth.wiring import Platform

log = logging.getLogger(__name__)

PASS_SECONDS = 300.0
"""Between two looks: an hour is merged a few minutes after it has settled."""


class LogWatch:
    """Starts `plinth.runtime.log_archive` when a log has a closed hour to be merged or archived.

    Args:
        platform: Whose logs.
        leads: Whether this controller is the one that acts.
    """

    def __init__(self, platform: Platform, leads: Callable[[], bool]) -> None:
        self._platform = platform
        self._leads = leads
        self._problem = ""

    def start(self, stop: threading.Event) -> None:
        """Watch in a thread of its own until the event."""
        threading.Thread(target=self._run, args=(stop,), name="plinth-logs", daemon=True).start()

    def look(self, stop: threading.Event) -> None:
        """One look, and the work if there is any; it is broken off by the event, which does no harm."""
        from plinth.runtime.log_archive import due

        problem = ""
        try:
            if due(self._platform):
                problem = self._work(stop)
        except (PlinthError, OSError) as error:
            problem = str(error)
        if problem and problem != self._problem:
            log.warning("logs cannot be looked after", extra={"reason": problem})
        self._problem = problem

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(PASS_SECONDS):
            try:
                if self._leads():
                    self.look(stop)
            except Exception:  # a bug here must stop no rollout
                log.exception("logs cannot be looked after")

    def _work(self, stop: threading.Event) -> str:
        settings = self._platform.settings
        places = {"PLINTH_HOME": str(settings.home), "PLINTH_STATE": str(settings.state_dir)}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "plinth.runtime.log_archive"],
            env={**os.environ, **places}, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None:
            if stop.wait(0.5):
                process.terminate()
                process.wait()
                return ""
        return f"plinth.runtime.log_archive ended with {process.returncode}" if process.returncode else ""
