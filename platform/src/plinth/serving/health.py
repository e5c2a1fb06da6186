"""Readiness: can this service answer now, and if not, why."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from plinth.errors import PlinthError
from plinth.serving.buffer import BufferedLog
from plinth.serving.releases import ReleaseHolder


class Health:
    """Answers /readyz.

    Args:
        releases: Ready only with a release loaded.
        logs: Reported, not required: a full disk stops no answer. The first one's counts are in the state, under its
            name.
        probe: Reads what answers are made of; raises when it cannot be read.
        store: What that is, for people.
        warn: More that is to be looked at, though the service answers.
    """

    def __init__(
        self,
        releases: ReleaseHolder[Any],
        logs: Sequence[BufferedLog[Any]],
        probe: Callable[[], None],
        *,
        store: str = "online store",
        warn: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._releases = releases
        self._logs = tuple(logs)
        self._probe = probe
        self._store = store
        self._warn = warn
        self._instance = os.urandom(8).hex()

    def state(self) -> dict[str, Any]:
        """`ready`, `reasons` (why not), `warnings` (serving, but look), `release` and `generation` that serve, `route`
        (as it is applied, or None), `loaded` (digests in memory), `instance` (another one after a restart),
        and the first log's counts, such as `inference_log`.

        Reads the store; call it outside the event loop.
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
                reasons.append(f"the {self._store} cannot be read: {error}")
        warnings += [f"the {log.name} cannot be written: {log.failing}" for log in self._logs if log.failing]
        warnings += self._warn()
        return {
            "ready": not reasons,
            "reasons": reasons,
            "warnings": warnings,
            "release": routing.serving.digest if routing else None,
            "generation": routing.route.generation if routing else None,
            "route": asdict(routing.route) if routing else None,
            "loaded": [release.digest for release in routing.loaded] if routing else [],
            "instance": self._instance,
            self._logs[0].name.replace(" ", "_"): self._logs[0].stats(),
        }
