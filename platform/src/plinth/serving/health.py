"""Readiness: can this service answer a prediction now, and if not, why."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from plinth.errors import PlinthError
from plinth.serving.inference_log import InferenceLog
from plinth.serving.releases import ReleaseHolder
from plinth.serving.requests import RequestLog


class Health:
    """Answers /readyz.

    Args:
        releases: Ready only with a release loaded.
        log: Reported, not required: a full disk stops no prediction.
        requests: The same.
        probe: Reads the online store; raises when it cannot be read.
    """

    def __init__(
        self, releases: ReleaseHolder, log: InferenceLog, requests: RequestLog, probe: Callable[[], None]
    ) -> None:
        self._releases = releases
        self._log = log
        self._requests = requests
        self._probe = probe
        self._instance = os.urandom(8).hex()

    def state(self) -> dict[str, Any]:
        """`ready`, `reasons` (why not), `warnings` (serving, but look), `release` and `generation` that serve, `route`
        (as it is applied, or None), `loaded` (digests in memory), `instance` (another one after a restart),
        `inference_log`.

        Reads the online store; call it outside the event loop.
        """
        routing = self._releases.routing
        reasons: list[str] = []
        warnings: list[str] = []
        problem = self._releases.problem
        if routing is None:
            reasons.append(problem or "no release is loaded")
        elif problem:
            warnings.append(f"the last good release serves on: {problem}")
        if routing is not None:
            try:
                self._probe()
            except PlinthError as error:
                reasons.append(str(error))
            except Exception as error:  # noqa: BLE001  (whatever the store throws, the answer is "not ready")
                reasons.append(f"the online store cannot be read: {error}")
        warnings += [
            f"the {log.name} cannot be written: {log.failing}" for log in (self._log, self._requests) if log.failing
        ]
        return {
            "ready": not reasons,
            "reasons": reasons,
            "warnings": warnings,
            "release": routing.serving.digest if routing else None,
            "generation": routing.route.generation if routing else None,
            "route": asdict(routing.route) if routing else None,
            "loaded": [release.digest for release in routing.loaded] if routing else [],
            "instance": self._instance,
            "inference_log": self._log.stats(),
        }
